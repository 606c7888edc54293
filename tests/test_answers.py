"""The parser of squeue and sacct: waiting arrays, exit codes in three spellings, and lines that are no answer."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.client.parse import SEPARATOR, Answer, Job, Unknown, base, compress, expand, read

HEADER = "JOBID|STATE|REASON|NODELIST|EXIT_CODE|END_TIME|NAME"


def lines(*rows: str) -> str:
    """These lines, with a separator after every field."""
    return "".join(row.replace("|", SEPARATOR) + SEPARATOR + "\n" for row in rows)


def answer(*rows: str) -> Answer:
    """The jobs of these lines, which follow a header."""
    found = read(lines(HEADER, *rows), command="squeue")
    assert isinstance(found, Answer)
    return found


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
        ("12+1", ["12+1"]),  # a part of a heterogeneous job, which is never ours
        ("nonsense", ["nonsense"]),
        ("1_[0-99999999999]", ["1"]),  # too long to list
    ],
)
def test_expand(job_id, jobs) -> None:
    assert list(expand(job_id)) == jobs


def test_compress_names_the_given_jobs_and_no_others() -> None:
    assert compress(["7", "12_9", "12_4", "12_5", "12_6", "7", "13_0"]) == ["7", "12_[4-6,9]", "13_[0]"]


@given(st.sets(st.tuples(st.integers(1, 3), st.none() | st.integers(0, 40))))
def test_compressed_ids_are_the_same_jobs(jobs) -> None:
    ids = {f"{array}" if task is None else f"{array}_{task}" for array, task in jobs}
    assert {one for word in compress(ids) for one in expand(word)} == ids


def test_the_fields_of_squeue() -> None:
    found = answer(
        "3|FAILED|JobLaunchFailure|n1|9|1795159430|a name - of a kind",
        "1_[2-3%2]|PENDING|Priority||0|N/A|x",
        "1_0|RUNNING|None|n1|0|1795163030|x",
    )
    ended_at = datetime(2026, 11, 20, 7, 23, 50, tzinfo=UTC)
    assert found.jobs["3"] == Job("FAILED", "JobLaunchFailure", "a name - of a kind", "n1", -9, ended_at)
    assert found.jobs["1_2"] == found.jobs["1_3"] == Job("PENDING", "Priority", "x", "", 0)
    assert found.jobs["1_0"].reason == ""
    assert found.find("1_9") is None
    assert [found.knows_array(*one) for one in (("1_9", "x"), ("1_9", "y"), ("9_1", "x"))] == [
        True,
        False,
        False,
    ]


def test_the_fields_of_sacct() -> None:
    found = answer(
        "2_3|CANCELLED by 1000|JobArrayTaskLimit|n1|0:0|1795159462|x",
        "2_[5-7:2%1]|PENDING|None|None assigned|0:0|Unknown|x",
    )
    assert found.jobs["2_3"].state == "CANCELLED"
    assert found.jobs["2_3"].ended_at is not None
    assert found.jobs["2_7"] == Job("PENDING", "", "x", "", 0)


@pytest.mark.parametrize(
    ("printed", "code"),
    [
        # squeue: a status as wait(2) gives it. 35072 = 137 * 256: srun's 128 + 9; 139 = 11 + 128: a core was written.
        *(("0", 0), ("256", 1), ("9", -9), ("35072", -9), ("36608", -15), ("139", -11), ("N/A", None)),
        # sacct: seven bits of the code, so srun's 137 is printed as 9.
        *(("0:0", 0), ("1:0", 1), ("0:9", -9), ("9:0", -9), ("137:0", -9), ("a:b", None), ("", None)),
    ],
)
def test_exit_codes(printed, code) -> None:
    assert answer(f"3|FAILED|None|n1|{printed}|1795159430|x").jobs["3"].exit_code == code


def test_the_line_of_an_array_that_was_cancelled_as_a_whole_stands_for_all_its_tasks() -> None:
    found = answer("23|CANCELLED|None||0|1795159519|x", "23_1|RUNNING|None|n1|0|N/A|x")
    assert found.find("23_4") == found.jobs["23"]
    assert found.find("23_1") == found.jobs["23_1"]


ROW = "3|FAILED|None|n1|0|1795159430|x"


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "slurm_load_jobs error: something\n", "1|RUNNING\n"),
        lines(ROW),  # its header is missing, and so may be other lines
        lines(HEADER, ROW, "1|RUNNING"),
        lines(HEADER, ROW)[:-9],  # cut short
        lines(HEADER, "x" + ROW),
    ],
)
def test_unexpected_output_is_unknown_and_never_an_empty_answer(text) -> None:
    assert isinstance(read(text, command="squeue"), Unknown)


def test_lines_of_a_site_are_skipped() -> None:
    assert answer() == Answer()  # no job is an answer
    text = f"Welcome\nJOBID\n{lines(HEADER)}\nmaintenance on Monday\n{lines(ROW)}Bye\n"
    assert read(text, command="squeue") == answer(ROW)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["9" * 30, "²", "-1"]),
        max_size=10,
    )
)
def test_any_text_is_an_answer_or_unknown(fields) -> None:
    assert isinstance(read(SEPARATOR.join(fields), command="squeue"), Answer | Unknown)


def test_base() -> None:
    assert (base("12_4"), base("12")) == ("12", "12")
