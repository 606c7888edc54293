"""Cancels runs: their attempts in the store, and those of Slurm's jobs that train nothing else. By explicit ids alone.

A job trains a pack. One whose runs are not all cancelled goes on for the others; of the cancelled ones in it, those
that wait are left out when it starts, and those that train already do so until the pack is done (what they still reach
is stored, for it is a result).

Of a run that trains the store hears first, so that whatever its worker does with the signal, requeue itself included,
the attempt is over. Then Slurm is told, and then the store of those that waited.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from results_db.contract import Attempt, EndedAttempt, OpenAttempt, State, Store
from results_db.text import counted
from slurm.client.client import Slurm
from slurm.client.commands import SlurmError
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.verdicts import ENDS, Word, word_on

_WHY = "cancelled with imagine-sweep cancel"


@dataclass
class Cancellation:
    """What a cancel does.

    Attributes:
        training: attempts that train.
        waiting: attempts whose job waits.
        intents: attempts that were granted and never submitted; they are taken back.
        jobs: ids of the jobs that are cancelled, since all of their runs are.
        shared: run ids of those above whose job goes on, for the sake of other runs.
        local: run ids of those above that this or another machine trains without Slurm.
    """

    training: list[Attempt] = field(default_factory=list)
    waiting: list[Attempt] = field(default_factory=list)
    intents: list[Attempt] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    local: list[str] = field(default_factory=list)

    @property
    def run_ids(self) -> list[str]:
        """Every run that is cancelled."""
        return [one.run_id for one in (*self.training, *self.waiting, *self.intents)]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"runs": self.run_ids, "jobs": self.jobs, "shared": self.shared, "local": self.local}

    def lines(self) -> list[str]:
        """What happens, for a person."""
        lines = [f"{counted(len(self.run_ids), 'run')} cancelled, and {counted(len(self.jobs), 'job')}"]
        if self.shared:
            lines.append(
                f"{len(self.shared)} of them share a job with runs that are not cancelled, and it goes on for those: "
                "who waits is left out when it starts, who trains does so until it ends"
            )
        if self.local:
            lines.append(f"{len(self.local)} of them train without Slurm; their workers stop within a minute")
        return lines


def plan(
    open_attempts: Iterable[OpenAttempt],
    *,
    queue: Answer,
    run_ids: Collection[str],
    states: Collection[State] = (),
) -> Cancellation:
    """What there is to cancel.

    Args:
        open_attempts: every open attempt of the store.
        queue: squeue's answer.
        run_ids: the runs that were chosen.
        states: those alone that are in one of these; default: all.
    """
    found = Cancellation()
    jobs: dict[str | None, list[OpenAttempt]] = defaultdict(list)
    for one in open_attempts:
        # A run made by hand within a job is no job of ours.
        jobs[one.job_id if one.job_name is not None else None].append(one)
    for job_id, together in jobs.items():
        chosen = [
            one for one in together if one.attempt.run_id in run_ids and (not states or one.state in states)
        ]
        for one in chosen:
            _sort_in(one, found)
        if job_id is None or not chosen:
            continue
        if len(chosen) < len(together):
            found.shared += [one.attempt.run_id for one in chosen]
        elif any(_goes_on(word_on(one, queue)) for one in chosen):
            found.jobs.append(job_id)
    return found


def _goes_on(word: Word) -> bool:
    return isinstance(word, Job) and word.state not in ENDS


def _sort_in(one: OpenAttempt, found: Cancellation) -> None:
    if one.state is State.RUNNING:
        found.training.append(one.attempt)
    elif one.job_id is None:  # granted, and not submitted
        found.intents.append(one.attempt)
    else:
        found.waiting.append(one.attempt)
    if one.state is State.RUNNING and one.job_name is None:
        found.local.append(one.attempt.run_id)


def needs_slurm(attempts: Iterable[OpenAttempt | EndedAttempt], run_ids: Collection[str]) -> bool:
    """Whether any of these runs is, or may still be, a job's."""
    return any(
        one.job_id is not None and one.job_name is not None and one.attempt.run_id in run_ids
        for one in attempts
    )


def carry_out(cancellation: Cancellation, store: Store, slurm: Slurm) -> None:
    """Do it. Twice is as once.

    Raises:
        SlurmError: jobs are still in the queue; the same command again tries again.
        StoreError: the store is away.
    """
    withdrawn = set(store.withdraw(cancellation.intents))
    submitted_meanwhile = [attempt for attempt in cancellation.intents if attempt not in withdrawn]
    for attempt in (*submitted_meanwhile, *cancellation.training):
        store.end(attempt, State.CANCELLED, error=_WHY)
    if cancellation.jobs:
        _cancel_jobs(cancellation.jobs, slurm)
    for attempt in cancellation.waiting:
        store.end(attempt, State.CANCELLED, error=_WHY)


def _cancel_jobs(jobs: Sequence[str], slurm: Slurm) -> None:
    try:
        slurm.cancel(jobs)
    except SlurmError:
        # One that ended meanwhile is an error to scancel, and none to us.
        queue = slurm.queue()
        if isinstance(queue, Unknown) or any(_goes_on(queue.find(job_id)) for job_id in jobs):
            raise
