"""The log of a run: the log of its newest attempt."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.dispatched import DispatchFolder
from results_db.contract import ACTIVE, FAILURES, State, Store, StoreError
from results_db.files import Files
from results_db.text import short

_EVERY_S = 0.5
_OVER = frozenset({State.COMPLETED, State.DISCARDED, State.CANCELLED, *FAILURES})
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Log:
    """An attempt's log.

    Attributes:
        attempt: `number.restart`.
        state: the attempt's state.
        path: the path of its log, which may not exist yet.
        job_id: its job's id.
        tail: its last lines, which the store keeps if the attempt failed.
    """

    attempt: str
    state: State
    path: Path | None
    job_id: str | None
    tail: str | None


def log_path(folder: Path, *, log: str | None, job_name: str | None, job_id: str | None) -> Path | None:
    """The path of an attempt's log; None if it has none.

    The log of a job is only where its dispatch said that it is: its attempt's report may be forged.

    Args:
        folder: `Store.folder`.
        log: see `Provenance`; of an attempt without a dispatch.
        job_name: the name of the dispatch.
        job_id: the id of its task.
    """
    if job_name is None:
        return None if log is None else Files(folder).find(log)
    if job_id is None:
        return None
    from submitit.core.utils import JobPaths  # slow to import

    paths = JobPaths(_logs_of(DispatchFolder.beside(folder, job_name)), job_id=job_id)
    return paths.stdout if _exists(paths.stdout) and not _exists(paths.stderr) else paths.stderr


def _exists(path: Path) -> bool:
    with suppress(OSError):  # another user's folder
        return path.exists()
    return False


def _logs_of(own: DispatchFolder) -> Path:
    """The folder of a dispatch's logs. Versions before 0.3 kept them in the dispatch's own folder."""
    dispatch = own.dispatch()
    if dispatch is not None and dispatch.logs is not None:
        return Path(dispatch.logs)
    return own.logs if own.logs.exists() or dispatch is None else own.path


def newest_log(store: Store, run_id: str) -> Log:
    """The log of the run's newest attempt.

    Raises:
        StoreError: the run has no attempt yet.
    """
    attempts = store.attempts(run_id)
    if not attempts:
        raise StoreError(f"run {short(run_id)} was never trained, so it has no log; launch its sweep first")
    last: dict[str, Any] = attempts[-1]
    path = log_path(store.folder, log=last["log"], job_name=last["job_name"], job_id=last["job_id"])
    return Log(
        f"{last['number']}.{last['restart']}", State(last["state"]), path, last["job_id"], last["log_tail"]
    )


def read(store: Store, run_id: str) -> str:
    """The whole log; if its file is gone, the last lines from the store.

    Raises:
        StoreError: there is no log, or not yet.
    """
    log = newest_log(store, run_id)
    if log.path is not None:
        try:
            return log.path.read_text(errors="replace")
        except OSError as error:
            reason = f"{log.path}: {error.strerror}"
    else:
        reason = "its worker reported no log file"
    if log.tail:
        return log.tail + "\n"
    if log.state is State.PENDING:
        raise StoreError(
            f"run {short(run_id)} waits to start{_job(log)}, so it has no log yet; -f waits for it"
        )
    raise StoreError(f"the log of run {short(run_id)}{_job(log)} cannot be read: {reason}")


def follow(
    store: Store,
    run_id: str,
    *,
    note: Callable[[str], None],
    last: int | None = None,
    every_s: float = _EVERY_S,
) -> Iterator[str]:
    """The log as it grows, across attempts, until the run is over.

    Args:
        store: the store.
        run_id: the run.
        note: called with one line when the run waits, was interrupted, or is over.
        last: how many last lines to begin with; None means the whole log.
        every_s: how often to look.

    Raises:
        StoreError: the run has no attempt yet.
    """
    path = newest_log(store, run_id).path
    position = _start_of_last(path, last)
    said = ""
    while True:
        log = newest_log(store, run_id)
        if log.path != path:
            path, position = log.path, 0
        position, text = _from(path, position)
        if text:
            yield text
        elif log.state in _OVER:
            note(f"run {short(run_id)} is {log.state}")
            return
        status = _status(run_id, log)
        if status and status != said:
            note(status)
        said = status
        if not text:
            time.sleep(every_s)


def _status(run_id: str, log: Log) -> str:
    """Why the log does not grow; empty if it may."""
    if log.state is State.PENDING:
        return f"run {short(run_id)} waits to start{_job(log)}; Ctrl-C leaves"
    if log.state not in ACTIVE and log.state not in _OVER:
        stopped = f"run {short(run_id)} was interrupted ({log.state}){_job(log)}"
        return f"{stopped}; waiting for its next attempt; Ctrl-C leaves"
    return ""


def _job(log: Log) -> str:
    return f" (job {log.job_id})" if log.job_id else ""


def _start_of_last(path: Path | None, lines: int | None) -> int:
    """The position where the last lines of a file begin; 0 if it has fewer lines, or cannot be read."""
    if path is None or lines is None:
        return 0
    try:
        data = path.read_bytes()
    except OSError:
        return 0
    data = data.removesuffix(b"\n")
    return len(data) - len(b"\n".join(data.split(b"\n")[-lines:]))


def _from(path: Path | None, position: int) -> tuple[int, str]:
    """The new position, and the text after `position`; if the file became shorter, the text from its start."""
    if path is None:
        return 0, ""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(position if position <= size else 0)
            data = file.read(_CHUNK)
            return file.tell(), data.decode(errors="replace")
    except OSError:
        return position, ""
