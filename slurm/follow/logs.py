"""The log of a run: that of its newest attempt, wherever it runs or ran."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.dispatched import DispatchFolder
from results_db.contract import ACTIVE, FAILURES, State, Store, StoreError
from results_db.text import short

_EVERY_S = 0.5
_OVER = frozenset({State.COMPLETED, State.CANCELLED, *FAILURES})
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Log:
    """An attempt's log.

    Attributes:
        attempt: `number.restart`, for a person.
        state: of the attempt.
        path: where its log is or will be.
        job_id: its job's id.
        tail: the last lines as the store keeps them of an attempt that failed.
    """

    attempt: str
    state: State
    path: Path | None
    job_id: str | None
    tail: str | None


def guess_log(folder: Path, job_name: str | None, job_id: str | None) -> Path | None:
    """Where submitit puts the standard error of a job that has not said so itself, or with it its output.

    Args:
        folder: `Store.folder`.
        job_name: of a dispatch.
        job_id: of its task.
    """
    if job_name is None or job_id is None:
        return None
    from submitit.core.utils import JobPaths  # slow to import

    own = DispatchFolder.beside(folder, job_name)
    dispatch = own.dispatch()
    paths = JobPaths(dispatch.logs if dispatch else own.path, job_id=job_id)
    return paths.stdout if paths.stdout.exists() and not paths.stderr.exists() else paths.stderr


def newest_log(store: Store, run_id: str) -> Log:
    """The log of the run's newest attempt.

    Raises:
        StoreError: it has none yet.
    """
    attempts = store.attempts(run_id)
    if not attempts:
        raise StoreError(f"run {short(run_id)} was never tried, so it has no log; launch its sweep")
    last: dict[str, Any] = attempts[-1]
    path = Path(last["log"]) if last["log"] else guess_log(store.folder, last["job_name"], last["job_id"])
    return Log(
        f"{last['number']}.{last['restart']}", State(last["state"]), path, last["job_id"], last["log_tail"]
    )


def read(store: Store, run_id: str) -> str:
    """The whole log; where its file is gone, the last lines that the store has.

    Raises:
        StoreError: there is none, or none yet.
    """
    log = newest_log(store, run_id)
    if log.path is not None:
        try:
            return log.path.read_text(errors="replace")
        except OSError as error:
            reason = f"{log.path}: {error.strerror}"
    else:
        reason = "its worker named none"
    if log.tail:
        return log.tail + "\n"
    if log.state is State.PENDING:
        raise StoreError(f"{_waits(run_id, log)}; with -f its log is shown as soon as it has one")
    job = f" in job {log.job_id}" if log.job_id else ""
    raise StoreError(f"run {short(run_id)} ({log.state}{job}) has no log here: {reason}")


def follow(
    store: Store,
    run_id: str,
    *,
    note: Callable[[str], None],
    last: int | None = None,
    every_s: float = _EVERY_S,
) -> Iterator[str]:
    """The log as it grows, of one attempt after the other, until the run is over.

    Args:
        store: the store.
        run_id: the run.
        note: told, in a line, what the log itself does not say.
        last: begin so many lines before the end of what there is; None: at its start.
        every_s: how often to look.

    Raises:
        StoreError: the run was never tried.
    """
    path = newest_log(store, run_id).path
    position = _start_of_last(path, last)
    said = ""
    while True:
        log = newest_log(store, run_id)
        if log.path != path:
            path, position = log.path, 0
        size, text = _from(path, position)
        position = size
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
    """What to tell who waits for the log to go on."""
    if log.state is State.PENDING:
        return f"{_waits(run_id, log)}; Ctrl-C leaves"
    if log.state not in ACTIVE and log.state not in _OVER:
        job = f" (job {log.job_id})" if log.job_id else ""
        return (
            f"run {short(run_id)} was interrupted ({log.state}){job}; waiting for it to go on; Ctrl-C leaves"
        )
    return ""


def _waits(run_id: str, log: Log) -> str:
    return f"run {short(run_id)} waits to start" + (f" (job {log.job_id})" if log.job_id else "")


def _start_of_last(path: Path | None, lines: int | None) -> int:
    """Where the last lines of a file begin; 0: it has no more, or none yet."""
    if path is None or lines is None:
        return 0
    try:
        data = path.read_bytes()
    except OSError:
        return 0
    start = len(data.removesuffix(b"\n"))
    for _ in range(lines):
        start = data.rfind(b"\n", 0, start)
        if start < 0:
            return 0
    return start + 1


def _from(path: Path | None, position: int) -> tuple[int, str]:
    """How far the file was read now, and what it has after `position`; from its start where it became shorter."""
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
