"""The options of a launch, and the question before a large launch."""

import sys
from dataclasses import dataclass

import click

from results_db import console
from slurm.follow.hold import HOLD_AFTER


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How a launch trains.

    Attributes:
        db: the store; see `results_db.store.address`.
        retry_failed: also train failed runs again.
        limit: the number of runs from the start of the spec to consider; None: all.
        workers: number of local processes; None: one per GPU, or one per `launcher.cpus_per_task` cores.
        pack_size: most runs of a pack; None: 16 on a GPU, 1 on a CPU.
        check: on Slurm, check a node before submitting.
        hold_after: on Slurm, hold the launch if its first so many runs all fail with the same error; 0: never.
        ask_above: on Slurm, expected GPU-hours above which the launch asks first.
        snapshot: on Slurm, the jobs take a copy of the code as it is now.
        yes: ask nothing.
    """

    db: str | None
    retry_failed: bool = False
    limit: int | None = None
    workers: int | None = None
    pack_size: int | None = None
    check: bool = True
    hold_after: int = HOLD_AFTER
    ask_above: float = 100.0
    snapshot: bool = False
    yes: bool = False


def say(line: str) -> None:
    """Prints a line on standard error."""
    console.say(line, err=True)


def ask(what: str, why: str, *, then: str) -> None:
    """Says what would be done and why it asks, and asks the question `then`.

    Raises:
        click.UsageError: standard input is no terminal.
        click.Abort: the answer is no.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{what}: {why}, and there is no terminal to ask; give -y")
    say(f"{what}: {why}")
    click.confirm(f"{then}?", abort=True, err=True)
