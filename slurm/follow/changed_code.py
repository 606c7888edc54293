"""Waiting runs whose jobs will find other code than their launch had."""

from collections.abc import Iterable
from pathlib import Path

from jobs.code import this_code
from jobs.dispatched import DispatchFolder
from results_db.contract import OpenAttempt, State
from results_db.text import counted


def changed_code(folder: Path, active: Iterable[OpenAttempt]) -> list[str]:
    """A line for each launch with such runs, and other code than this process has; `folder` is `Store.folder`."""
    waiting: dict[str, int] = {}
    for one in active:
        if one.state is State.PENDING and one.job_name is not None:
            waiting[one.job_name] = waiting.get(one.job_name, 0) + 1
    changed: dict[str, int] = {}
    for name, runs in waiting.items():
        dispatch = DispatchFolder.beside(folder, name).dispatch()
        if dispatch is None or dispatch.code is None or dispatch.snapshot:
            continue
        if dispatch.code.digest != this_code().digest:
            then = dispatch.code.describe()
            changed[then] = changed.get(then, 0) + runs
    return [
        f"the code has changed: {counted(runs, 'waiting run')} launched with {then} will train with the code "
        "that their jobs find; launch --snapshot keeps it"
        for then, runs in changed.items()
    ]
