"""What squeue and sacct print, read: arrays that wait, exit codes in three spellings, lines of nobody's."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.client.parse import (
    SEPARATOR,
    Answer,
    Job,
    Unknown,
    base,
    compress,
    expand,
    read_accounts,
    read_queue,
)


def squeue(*rows: str) -> str:
    """Lines as squeue prints them: every field with the separator after it."""
    return "".join(row.replace("|", SEPARATOR) + SEPARATOR + "\n" for row in rows)


def sacct(*rows: str) -> str:
    return "".join(row.replace("|", SEPARATOR) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("job_id", "jobs"),
    [
        ("12", ["12"]),
        ("12_4", ["12_4"]),
        ("12_[4]", ["12_4"]),
        ("12_[4-6,9%3]", ["12_4", "12_5", "12_6", "12_9"]),
        ("2_[3-11:4%1]", ["2_3", "2_7", "2_11"]),
        ("12_[1,3,...]", ["12_1", "12_3", "12"]),  # cut short: the array's own id stands for any task
        ("12_[1,3,...", ["12_1", "12_3", "12"]),
        ("12+1", ["12+1"]),  # a part of a job of several kinds of node; never ours
        ("nonsense", ["nonsense"]),
    ],
)
def test_expand(job_id, jobs) -> None:
    assert list(expand(job_id)) == jobs


def test_compress_names_what_was_given_and_no_more() -> None:
    assert compress(["7", "12_9", "12_4", "12_5", "12_6", "7", "13_0"]) == ["7", "12_[4-6,9]", "13_[0]"]


@given(st.sets(st.tuples(st.integers(1, 3), st.none() | st.integers(0, 40))))
def test_compressed_ids_are_the_same_jobs(jobs) -> None:
    ids = {f"{array}" if task is None else f"{array}_{task}" for array, task in jobs}
    assert {one for word in compress(ids) for one in expand(word)} == ids


def test_squeue() -> None:
    answer = read_queue(
        squeue(
            "3|FAILED|JobLaunchFailure|n1|9|1795159430|a name | of a kind".replace(" | ", " - "),
            "1_[2-3%2]|PENDING|Priority||0|N/A|x",
            "1_0|RUNNING|None|n1|0|1795163030|x",
        )
    )
    assert isinstance(answer, Answer)
    assert answer.jobs["3"] == Job(
        "FAILED",
        "JobLaunchFailure",
        "a name - of a kind",
        "n1",
        -9,
        datetime(2026, 11, 20, 7, 23, 50, tzinfo=UTC),
    )
    assert answer.jobs["1_2"] == answer.jobs["1_3"]
    assert answer.jobs["1_2"].reason == "Priority"
    assert answer.jobs["1_2"].node == ""
    assert answer.jobs["1_0"].reason == ""
    assert answer.find("1_9") is None
    assert answer.knows_array("1_9", None)
    assert answer.knows_array("1_9", "x")
    assert not answer.knows_array("1_9", "y")
    assert not answer.knows_array("9_1", None)


@pytest.mark.parametrize(
    ("status", "code"),
    [("0", 0), ("256", 1), ("9", -9), ("35072", -9), ("36608", -15), ("139", -11), ("", None), ("N/A", None)],
)
def test_exit_codes_of_squeue_are_those_of_wait(status, code) -> None:
    """35072 = 137 * 256: srun's 128 + 9. 139 = 11 + 128: signal 11, and a core was written."""
    answer = read_queue(squeue(f"3|FAILED|None|n1|{status}|1795159430|x"))
    assert isinstance(answer, Answer)
    assert answer.jobs["3"].exit_code == code


@pytest.mark.parametrize(
    ("printed", "code"),
    [("0:0", 0), ("1:0", 1), ("0:9", -9), ("9:0", -9), ("137:0", -9), ("", None), ("a:b", None)],
)
def test_exit_codes_of_sacct(printed, code) -> None:
    """It prints seven bits of the code, so srun's 137 as 9."""
    answer = read_accounts(sacct(f"3|FAILED|None|n1|{printed}|1795159430|x"))
    assert isinstance(answer, Answer)
    assert answer.jobs["3"].exit_code == code


def test_sacct() -> None:
    answer = read_accounts(
        sacct(
            "2_3|CANCELLED by 1000|JobArrayTaskLimit|n1|0:0|1795159462|x",
            "2_[5-7:2%1]|PENDING|None|None assigned|0:0|Unknown|x",
        )
    )
    assert isinstance(answer, Answer)
    assert answer.jobs["2_3"].state == "CANCELLED"
    assert answer.jobs["2_3"].ended_at is not None
    assert answer.jobs["2_7"] == Job("PENDING", "", "x", "", 0)


def test_of_an_array_that_was_cancelled_as_a_whole_one_line_is_left_for_all_its_tasks() -> None:
    answer = read_queue(squeue("23|CANCELLED|None||0|1795159519|x", "23_1|RUNNING|None|n1|0|N/A|x"))
    assert isinstance(answer, Answer)
    assert answer.find("23_4") == answer.jobs["23"]
    assert answer.find("23_1") == answer.jobs["23_1"]


@pytest.mark.parametrize("read", [read_queue, read_accounts])
@pytest.mark.parametrize("text", ["slurm_load_jobs error: something\n", "1|RUNNING\n", "\n"])
def test_what_is_no_answer_is_unknown_and_never_an_empty_answer(read, text) -> None:
    assert isinstance(read(text), Unknown)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["9" * 30, "²", "-1"]),
        max_size=10,
    )
)
def test_any_text_is_an_answer_or_unknown(fields) -> None:
    text = SEPARATOR.join(fields)
    for read in (read_queue, read_accounts):
        assert isinstance(read(text), Answer | Unknown)


def test_an_array_of_absurd_length_is_not_written_out() -> None:
    assert list(expand("1_[0-99999999999]")) == ["1"]


def test_no_job_is_an_answer() -> None:
    assert read_queue("") == Answer() == read_accounts("")


def test_base() -> None:
    assert (base("12_4"), base("12")) == ("12", "12")
