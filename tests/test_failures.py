"""Failures of one cause are counted together."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results_db.contract import Attempt, EndedAttempt, State
from results_db.query.failures import by_cause, key, reason


def failed(
    error: str | None, *, run: str = "ab", log: str | None = None, code: int | None = None
) -> EndedAttempt:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return EndedAttempt(Attempt(run, 1), State.FAILED, error, code, log, "j", "1_2", "n1", at)


TRACEBACK = """Traceback (most recent call last):
  File "/x/worker.py", line {line}, in train
    step()
{last}

"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CUDA error at 0x7f3a21 on device 0", "CUDA error at 0xdeadbeef on device 3"),
        ("Tried to allocate 2.50 GiB", "Tried to allocate 12 GiB"),
        ("loss is 1e-05", "loss is 3.5E+10"),
        ("No such file: '/scratch/job_12/data.bin'", "No such file: '/home/me/tmp9/data.bin'"),
        ("run 8de4bb2a0e is gone", "run 0123456789abcdef is gone"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "id 00000000-e89b-12d3-a456-42661417400a"),
        ("node017 is down", "node3 is down"),
        ("cannot open /a/b", "cannot open /c/d/b"),
    ],
)
def test_causes_that_are_the_same(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ValueError: bad board", "TypeError: bad board"),
        ("No such file: '/a/data.bin'", "No such file: '/a/weights.bin'"),
        ("the facade failed", "the decade failed"),  # words of the letters a to f are no ids
    ],
)
def test_causes_that_differ(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_a_key_is_readable() -> None:
    assert key("OSError: /tmp/x12/data.bin: 5 of 10 blocks") == "OSError: …/data.bin: # of # blocks"


@given(st.text())
def test_a_key_is_its_own_key(text: str) -> None:
    assert key(key(text)) == key(text)


def test_the_reason_is_the_last_line_of_the_traceback_or_log() -> None:
    trace = TRACEBACK.format(line=3, last="ValueError: small\n  board")
    assert reason(failed(trace, log="last words")) == "board"
    assert reason(failed(None, log="first\nslurmstepd: error: killed\n\n")) == "slurmstepd: error: killed"
    assert reason(failed(" \n", code=9)) == "FAILED with exit code 9"
    assert reason(failed(None)) == "FAILED"


def test_causes_are_counted_the_most_frequent_first() -> None:
    attempts = [
        failed(None, run="01"),
        *(failed(TRACEBACK.format(line=n, last=f"ValueError: {n} small"), run=f"0{n}") for n in (2, 3, 4)),
    ]
    first, second = by_cause(attempts)
    assert (first.key, first.count) == ("ValueError: # small", 3)
    assert first.example == "ValueError: 2 small"
    assert [one.attempt.run_id for one in first.attempts] == ["02", "03", "04"]
    assert (second.key, second.count) == ("FAILED", 1)
    assert by_cause([]) == []
