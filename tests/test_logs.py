"""The log of the newest attempt, as a whole or as it grows, from one attempt to the next."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import start
from sweep_helpers import ME, answer, complete, opened, small, staged, wait_until

from jobs.dispatched import Dispatch, DispatchFolder
from results_db.contract import Attempt, Ending, RunRecord, State, StoreError
from results_db.files import own_tail
from results_db.store.sql import SqlStore
from slurm.follow.logs import _start_of_last, follow, log_path, read


def begin(store: SqlStore, log: Path, *, text: str) -> Attempt:
    staged(store, small())
    log.write_text(text)
    attempt = start(store, small().run_id, replace(ME, log=str(log)))
    assert attempt is not None
    return attempt


def test_the_newest_attempts_log(own, tmp_path) -> None:
    first = begin(own, tmp_path / "1.log", text="the first\n")
    assert own.end(first, Ending(State.LOST))
    begin(own, tmp_path / "2.log", text="one\ntwo\nthree\n")
    run_id = small().run_id
    said = answer("logs", run_id[:8], "--db", "a.db", folder=tmp_path)
    assert (said.code, said.out) == (0, "one\ntwo\nthree\n")
    assert answer("logs", run_id[:8], "-n", "2", "--db", "a.db", folder=tmp_path).out == "two\nthree\n"
    shown = answer("logs", run_id, "--json", "--db", "a.db", folder=tmp_path).json
    assert shown == {
        "run_id": run_id,
        "attempt": "2.0",
        "state": "RUNNING",
        "job_id": None,
        "log": str(tmp_path / "2.log"),
        "lines": ["one", "two", "three"],
    }


def test_of_a_deleted_log_the_store_keeps_the_last_lines(own, tmp_path) -> None:
    attempt = begin(own, tmp_path / "1.log", text="x")
    (tmp_path / "1.log").unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        read(own, attempt.run_id)
    assert own.end(attempt, Ending(State.FAILED, error="x", log_tail="the last line"))
    assert read(own, attempt.run_id) == "the last line\n"


def test_the_log_of_a_job_that_reported_nothing_is_found_where_submitit_writes_it(own, tmp_path) -> None:
    staged(own, small())
    (attempt,) = own.claim([small().run_id], job_name="s-1", launcher="slurm")
    own.note_jobs({attempt: "7_3"})
    with pytest.raises(StoreError, match=r"waits to start \(job 7_3\), so it has no log yet"):
        read(own, attempt.run_id)
    path = own.folder / "logs" / "s-1" / "7_3_0_log.err"
    path.parent.mkdir(parents=True)
    path.write_text("it could not start\n")
    assert read(own, attempt.run_id) == "it could not start\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["0000"], "no run begins with"),
        (["{run}"], "was never trained"),
        (["{run}", "-f", "--json"], "give one of them"),
    ],
)
def test_mistakes_are_one_line(own, tmp_path, arguments, said) -> None:
    staged(own, small())
    words = [word.replace("{run}", small().run_id) for word in arguments]
    got = answer("logs", *words, "--db", "a.db", folder=tmp_path)
    assert got.code == 2
    assert said in got.err
    assert got.err.count("\n") == 1


@pytest.mark.parametrize("name", ["8_3_0_log.err", "8_3_0_log.out"])
def test_the_log_is_found_in_a_folder_of_the_users(own, tmp_path, name) -> None:
    """`submitit_folder: .../%A/%a`, and with `stderr_to_stdout` there is one file alone."""
    files = tmp_path / "elsewhere" / "8" / "3"
    files.mkdir(parents=True)
    logs = str(tmp_path / "elsewhere/%A/%a")
    about = Dispatch("s-1", own.url, str(own.folder), None, "h", "1:1", "me", logs, 5)
    DispatchFolder.beside(own.folder, "s-1").begin(about)
    guessed = files / "8_3_0_log.err"
    job = {"log": None, "job_name": "s-1", "job_id": "8_3"}
    assert log_path(own.folder, **job) == guessed  # before it exists
    (files / name).touch()
    assert log_path(own.folder, **job) == files / name
    assert log_path(own.folder, **job | {"job_id": None}) is None


def test_a_log_of_an_older_store_is_found_where_it_was_and_where_it_moved(own, tmp_path) -> None:
    """Before 0.3 a store kept absolute paths."""
    log = tmp_path / "a.files" / "logs" / "1.log"
    log.parent.mkdir(parents=True)
    attempt = begin(own, log, text="as ever\n")
    assert own.attempts(attempt.run_id)[0]["log"] == str(log)
    assert read(own, attempt.run_id) == "as ever\n"
    own.close()
    (tmp_path / "moved").mkdir()
    for name in ("a.db", "a.files"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    with opened(tmp_path / "moved") as moved:
        assert read(moved, attempt.run_id) == "as ever\n"


def test_follow_goes_from_one_attempt_to_the_next_and_ends_with_the_run(own, tmp_path) -> None:
    first = begin(own, tmp_path / "1.log", text="one\n")
    heard: list[str] = []
    noted: list[str] = []
    thread = threading.Thread(
        target=lambda: heard.extend(follow(own, first.run_id, note=noted.append, every_s=0.01)), daemon=True
    )
    thread.start()
    wait_until(lambda: "one\n" in heard)
    with (tmp_path / "1.log").open("a") as log:
        log.write("two\n")
    wait_until(lambda: "two\n" in heard)
    assert own.end(first, Ending(State.PREEMPTED))
    wait_until(lambda: any("was interrupted (PREEMPTED)" in line for line in noted))
    second = begin(own, tmp_path / "2.log", text="three\n")
    wait_until(lambda: "three\n" in heard)
    assert own.finish(second, RunRecord(second.run_id, "reached", 1.0, {}))
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert "".join(heard) == "one\ntwo\nthree\n"
    assert noted[-1] == f"run {second.run_id[:10]} is COMPLETED"


@pytest.mark.parametrize(
    ("last", "begins"),
    [(1, "three\n"), (2, "two\nthree\n"), (3, "one\ntwo\nthree\n"), (9, "one\ntwo\nthree\n")],
)
def test_follow_begins_at_the_last_lines(own, tmp_path, last, begins) -> None:
    attempt = begin(own, tmp_path / "1.log", text="one\ntwo\nthree\n")
    parts = follow(own, attempt.run_id, note=lambda line: None, last=last, every_s=0.01)
    assert next(parts) == begins
    # All of the next attempt's log is new.
    assert own.end(attempt, Ending(State.PREEMPTED))
    begin(own, tmp_path / "2.log", text="four\nfive\n")
    assert next(parts) == "four\nfive\n"


@given(st.lists(st.text("ab\r ", max_size=3)), st.booleans(), st.integers(1, 5))
def test_the_last_lines_are_those_of_a_list(tmp_path_factory, lines, ended, last) -> None:
    path = tmp_path_factory.mktemp("log") / "x.log"
    data = "\n".join(lines).encode() + (b"\n" if ended else b"")
    path.write_bytes(data)
    wanted = data.split(b"\n")
    tail = wanted[-last - 1 :] if data.endswith(b"\n") else wanted[-last:]
    assert data[_start_of_last(path, last) :] == b"\n".join(tail)


def test_an_empty_log_is_called_empty(own, tmp_path) -> None:
    run_id = begin(own, tmp_path / "1.log", text="").run_id
    said = answer("logs", run_id, "--db", "a.db", folder=tmp_path)
    assert (said.code, said.out, said.err) == (0, "", f"the log of run {run_id[:10]} is empty\n")


def test_follow_starts_again_if_the_file_became_shorter(own, tmp_path) -> None:
    attempt = begin(own, tmp_path / "1.log", text="a long first line\n")
    parts = follow(own, attempt.run_id, note=lambda line: None, every_s=0.01)
    assert next(parts) == "a long first line\n"
    (tmp_path / "1.log").write_text("short\n")
    assert next(parts) == "short\n"


def test_a_complete_run_is_followed_to_its_end_at_once(own, tmp_path) -> None:
    complete(own, small())
    with pytest.raises(StoreError):
        read(own, small().run_id)  # its worker had no log
    assert answer("logs", small().run_id, "-f", "--db", "a.db", folder=tmp_path).code == 0


def test_the_store_keeps_no_lines_that_another_user_may_have_chosen(tmp_path) -> None:
    """Each folder has a log, and a link to a private file."""
    secret = tmp_path / "secret"
    secret.write_text("my private key")
    for name, owner, mode in (("mine", 0, 0o755), ("theirs", 65534, 0o755), ("shared", 0, 0o775)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "log").write_text("one\ntwo\n")
        (folder / "link").symlink_to(secret)
        folder.chmod(mode)
        if owner and os.geteuid() == 0:
            os.chown(folder, owner, owner)
    assert own_tail(tmp_path / "mine" / "log") == "one\ntwo"
    assert own_tail(tmp_path / "mine" / "link") is None
    assert own_tail(tmp_path / "shared" / "log") is None
    if os.geteuid() == 0:
        assert own_tail(tmp_path / "theirs" / "log") is None
    assert own_tail(tmp_path / "mine" / "missing") is None
    assert own_tail(None) is None
