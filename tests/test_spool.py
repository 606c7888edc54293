"""The spool's files: what is written is read, and damage is noticed."""

import hashlib
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import RUN, WHO

from results_db.contract import FAILURES, INTERRUPTED, OUTCOMES, Attempt, Ending, RunRecord, State
from results_db.files import attempts_of
from results_db.spool.records import (
    DamagedError,
    NewerFormatError,
    Spool,
    Spooled,
    decode,
    encode,
)

RECORD = RunRecord(
    RUN,
    "reached",
    2.5,
    {"metric": 0.1, "metric_adv": None},
    {"state1": ([0, 5], [0.5, 1e-300])},
    {"boards": bytes(range(256))},
)
DONE = Spooled(Attempt(RUN, 2, 1, "0123abcd"), RECORD, WHO, 7.5)
FAILED = Spooled(Attempt(RUN, 1), Ending(State.FAILED, "Traceback\nboom", 9, "last line"), WHO, 0.0)

names = st.text(max_size=5)
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(-(2**63) + 1, 2**63 - 1)  # what a database stores
records = st.builds(
    RunRecord,
    st.just(RUN),
    st.sampled_from(OUTCOMES),
    st.floats(0, 1e8),
    st.dictionaries(names, st.none() | numbers),
    st.dictionaries(names, st.tuples(st.lists(counts), st.lists(numbers))),
    st.dictionaries(names, st.binary()),
)
endings = st.builds(
    Ending, st.sampled_from(State), st.none() | st.text(), st.none() | counts, st.none() | st.text()
)
entries = st.builds(
    Spooled,
    st.builds(
        Attempt, st.just(RUN), st.integers(1, 2**31), st.integers(0, 2**31), st.sampled_from(["", "0123abcd"])
    ),
    records | endings,
    st.just(WHO),
    st.floats(0, 1e8),
)


@given(entries)
def test_what_is_written_is_read(entry: Spooled) -> None:
    assert decode(encode(entry)) == entry


def test_a_records_mappings_may_be_of_any_kind() -> None:
    traces: defaultdict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    traces["state1"][0].append(5)
    traces["state1"][1].append(0.5)
    entry = replace(DONE, ending=replace(RECORD, traces=traces))
    read = decode(encode(entry)).ending
    assert isinstance(read, RunRecord)
    assert read.traces == {"state1": ([5], [0.5])}


@given(st.binary())
def test_noise_is_damage(noise: bytes) -> None:
    with pytest.raises(DamagedError):
        decode(noise)


@given(st.data())
def test_any_change_of_a_byte_is_noticed(data: st.DataObject) -> None:
    good = encode(DONE)
    place = data.draw(st.integers(0, len(good) - 2))  # the last byte is the end of the line
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != good[place]))
    changed = good[:place] + bytes([byte]) + good[place + 1 :]
    try:
        assert decode(changed) == DONE  # as where a blank of the head became a tab
        assert place < good.index(b"\n")
    except (DamagedError, NewerFormatError):
        pass


@given(st.data())
def test_a_file_cut_anywhere_is_noticed(data: st.DataObject) -> None:
    good = encode(DONE)
    with pytest.raises(DamagedError):
        decode(good[: data.draw(st.integers(0, len(good) - 2))])


def test_deep_nesting_is_damage() -> None:
    with pytest.raises(DamagedError):
        decode(b"[" * 100_000)


def test_a_newer_format_is_not_damage() -> None:
    newer = encode(DONE).replace(b'"version": 2', b'"version": 3', 1)
    with pytest.raises(NewerFormatError, match="it has version 3, this one reads 2"):
        decode(newer)


@pytest.mark.parametrize("entry", [replace(DONE, attempt=Attempt(RUN, 2, 1)), FAILED])
def test_files_of_the_version_without_nonces_are_read(entry: Spooled) -> None:
    """A queued job of that version may end after the upgrade."""
    head, body, _ = encode(entry).split(b"\n")
    plain = json.loads(body)
    del plain["attempt"]["nonce"]
    ending = plain.pop("ending")
    if isinstance(entry.ending, RunRecord):
        plain |= {"record": ending, "state": "COMPLETED", "error": None, "exit_code": None, "log_tail": None}
    else:
        plain |= {"record": None, **ending}
    old = json.dumps(plain).encode()
    about = {**json.loads(head), "version": 1, "sha256": hashlib.sha256(old).hexdigest()}
    assert decode(json.dumps(about).encode() + b"\n" + old + b"\n") == entry


def test_there_is_one_file_per_attempt(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.attempts() == []
    for entry in (DONE, FAILED):
        assert spool.write(entry).is_file()
    assert {path.name for path in (tmp_path / "spool").iterdir()} == {
        f"{RUN}.1.0.json",
        f"{RUN}.2.1.0123abcd.json",
    }
    assert spool.attempts() == [FAILED.attempt, DONE.attempt]
    for _ in range(2):
        spool.remove(DONE.attempt)
    assert spool.attempts(RUN) == [FAILED.attempt]
    assert spool.attempts("cd") == []


def test_the_order_is_that_of_numbers() -> None:
    names = ["ab.10.0.12.json", "ab.9.11.json", "ab.9.2.json", "ab.9.2.json.f00.tmp", "damaged", "x.1.0.json"]
    wanted = [Attempt("ab", 9, 2), Attempt("ab", 9, 11), Attempt("ab", 10, nonce="12")]
    assert attempts_of(map(Path, names)) == wanted


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (replace(DONE, attempt=Attempt(RUN, 3)), "belongs to another attempt"),
        (replace(DONE, attempt=replace(DONE.attempt, nonce="4567abcd")), "belongs to another attempt"),
        (replace(DONE, ending=replace(RECORD, run_id="cd")), "its record belongs to run cd"),
        (replace(DONE, ending=Ending(State.COMPLETED)), "no attempt ends as COMPLETED without a record"),
        (replace(DONE, ending=Ending(State.RUNNING)), "no attempt ends as RUNNING"),
    ],
)
def test_a_file_that_contradicts_itself_is_damaged(tmp_path: Path, entry: Spooled, says: str) -> None:
    spool = Spool(tmp_path)
    spool.write(DONE).write_bytes(encode(entry))
    with pytest.raises(DamagedError, match=says):
        spool.read(DONE.attempt)


def test_every_ending_can_be_spooled(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for entry in (DONE, *(replace(FAILED, ending=Ending(state)) for state in FAILURES | INTERRUPTED)):
        spool.write(entry)
        assert spool.read(entry.attempt) == entry


def test_a_damaged_file_is_kept_elsewhere(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(DONE).write_bytes(b"half of it")
    moved = spool.set_aside(DONE.attempt)
    assert moved == tmp_path / "spool" / "damaged" / f"{RUN}.2.1.0123abcd.json"
    assert moved.read_bytes() == b"half of it"
    assert spool.attempts() == []
