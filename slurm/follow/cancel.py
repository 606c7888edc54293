"""Cancels runs: their attempts in the store, and the Slurm jobs that train no other runs.

It cancels only jobs whose ids it knows. A job trains a pack. If only some of its runs are cancelled, the job continues
for its other runs. A waiting job will skip the cancelled runs. A running job finishes them, and their results are
stored.

The store records the end of a training attempt before Slurm is told. So the attempt stays cancelled even if the signal
makes its worker requeue the job. The end of a waiting attempt is recorded after Slurm is told.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from results_db.contract import Attempt, EndedAttempt, Ending, OpenAttempt, State, Store
from results_db.text import counted
from slurm.client.client import Slurm, SlurmError
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.verdicts import ENDS, Word, word_on

_CANCELLED = Ending(State.CANCELLED, "cancelled with imagine-sweep cancel")


@dataclass
class Cancellation:
    """What a cancel does.

    Attributes:
        training: attempts that train.
        waiting: attempts whose job waits.
        claims: attempts that were claimed but not submitted; their claims are withdrawn.
        jobs: ids of the jobs to cancel: all of their runs are cancelled.
        shared: ids of the cancelled runs whose job goes on for other runs.
        local: ids of the cancelled runs that train without Slurm.
    """

    training: list[Attempt] = field(default_factory=list)
    waiting: list[Attempt] = field(default_factory=list)
    claims: list[Attempt] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    local: list[str] = field(default_factory=list)

    @property
    def run_ids(self) -> list[str]:
        """Every run that is cancelled."""
        return [one.run_id for one in (*self.training, *self.waiting, *self.claims)]

    def as_dict(self) -> dict[str, Any]:
        """The values for `--json`."""
        return {"runs": self.run_ids, "jobs": self.jobs, "shared": self.shared, "local": self.local}

    def lines(self) -> list[str]:
        """The lines for the user."""
        lines = [f"{counted(len(self.run_ids), 'run')} cancelled, and {counted(len(self.jobs), 'job')}"]
        if self.shared:
            lines.append(
                f"{len(self.shared)} of them share a job with runs that are not cancelled; the job goes on for those, "
                "skips the cancelled runs that wait, and finishes those that train"
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
    """What to cancel.

    Args:
        open_attempts: every open attempt of the store.
        queue: squeue's answer.
        run_ids: the chosen runs.
        states: only attempts in one of these states; empty means all.
    """
    found = Cancellation()
    jobs: dict[str | None, list[OpenAttempt]] = defaultdict(list)
    for one in open_attempts:
        # A run that a user trains inside a job of another purpose has no job name.
        jobs[one.job_id if one.job_name is not None else None].append(one)
    for job_id, together in jobs.items():
        chosen = [
            one for one in together if one.attempt.run_id in run_ids and (not states or one.state in states)
        ]
        for one in chosen:
            if one.state is State.RUNNING:
                found.training.append(one.attempt)
                if one.job_name is None:
                    found.local.append(one.attempt.run_id)
            else:
                (found.claims if one.job_id is None else found.waiting).append(one.attempt)
        if job_id is None or not chosen:
            continue
        if len(chosen) < len(together):
            found.shared += [one.attempt.run_id for one in chosen]
        elif any(_goes_on(word_on(one, queue)) for one in chosen):
            found.jobs.append(job_id)
    return found


def _goes_on(word: Word) -> bool:
    return isinstance(word, Job) and word.state not in ENDS


def needs_slurm(attempts: Iterable[OpenAttempt | EndedAttempt], run_ids: Collection[str]) -> bool:
    """Whether any of these runs has an attempt in a Slurm job."""
    return any(
        one.job_id is not None and one.job_name is not None and one.attempt.run_id in run_ids
        for one in attempts
    )


def carry_out(cancellation: Cancellation, store: Store, slurm: Slurm) -> None:
    """Carry out the plan. A repetition changes nothing.

    Raises:
        SlurmError: jobs are still in the queue; run the same command again.
        StoreError: the store cannot be reached.
    """
    withdrawn = set(store.withdraw(cancellation.claims))
    submitted_meanwhile = [attempt for attempt in cancellation.claims if attempt not in withdrawn]
    for attempt in (*submitted_meanwhile, *cancellation.training):
        store.end(attempt, _CANCELLED)
    jobs = cancellation.jobs
    try:
        if jobs:
            slurm.cancel(jobs)
    except SlurmError:
        # scancel fails for a job that has ended meanwhile.
        queue = slurm.queue()
        if isinstance(queue, Unknown) or any(_goes_on(queue.find(job_id)) for job_id in jobs):
            raise
    for attempt in cancellation.waiting:
        store.end(attempt, _CANCELLED)
