"""Brings the store up to date: ingests the spool, asks the sources, ends attempts, and holds failing launches.

It may run at any time, any number of times, and twice at once, because a repeated write changes nothing.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.dispatched import DispatchFolder
from jobs.provenance import dead_attempts
from jobs.run_log import unusual
from results_db.contract import (
    INTERRUPTED,
    RESTARTABLE,
    Attempt,
    EndedAttempt,
    Ending,
    OpenAttempt,
    State,
    Store,
    StoreError,
)
from results_db.files import own_tail
from results_db.query.failures import key
from results_db.spool.ingest import Ingested, ingest
from results_db.spool.records import Spool
from results_db.text import counted, short
from results_db.trust import is_anothers
from slurm.client.client import Slurm, SlurmError
from slurm.client.parse import Answer, Job, Unknown, base
from slurm.follow.hold import Hold, hold_failing
from slurm.follow.logs import log_path
from slurm.follow.verdicts import COULD_NOT_BEGIN, WAITS, Verdict, Word, judge, waits_again, with_log, word_on
from slurm.submit import recovery

ACCOUNTS_EVERY_S = 60.0
"""The least time between two calls of sacct."""

MOST_RELEASED = 3
"""Most releases of a job that Slurm held because it could not start it. After that the user must release it."""

_MOST_JOBS = 5
_REFUSED = "launch failed requeued held"
_SLURMS_OWN = ("srun:", "slurmstepd", "submitit ", "/usr/bin/")


@dataclass(frozen=True)
class Ended:
    """An attempt that was open in the store and is over. Without a Slurm job, `job_id` is None."""

    attempt: Attempt
    job_id: str | None
    verdict: Verdict


def describe(ended: Iterable[Ended]) -> list[str]:
    """A line for each cause, the most frequent first."""
    causes: dict[tuple[State | None, str], list[Ended]] = {}
    for one in ended:
        causes.setdefault((one.verdict.state, key(one.verdict.why)), []).append(one)
    return [_cause(together) for together in sorted(causes.values(), key=len, reverse=True)]


def _cause(together: Sequence[Ended]) -> str:
    first = together[0]
    jobs = list(dict.fromkeys(base(one.job_id) for one in together if one.job_id))
    named = ", ".join(jobs[:_MOST_JOBS]) + f" and {len(jobs) - _MOST_JOBS} more" * (len(jobs) > _MOST_JOBS)
    who, job = counted(len(together), "run"), f" (job {named})" if jobs else ""
    if len(together) == 1:
        who, job = f"run {short(first.attempt.run_id)}", f" (job {first.job_id})" if first.job_id else ""
    return f"{who}{job}: {first.verdict.state}: {first.verdict.why}"


@dataclass
class Reconciled:
    """What one look found and changed.

    Attributes:
        ingested: the records that were ingested.
        recovered: the dispatches of launches that died.
        ended: attempts that are over.
        requeued: attempts that wait again, because their jobs do.
        released: jobs that were released, after Slurm held them because it could not start them.
        held: dispatches that are now held.
        unknown: a line for each question without an answer.
        queue: squeue's answer.
        open: the open attempts, including those that this look ended.
    """

    ingested: Ingested = field(default_factory=Ingested)
    recovered: recovery.Recovered = field(default_factory=recovery.Recovered)
    ended: list[Ended] = field(default_factory=list)
    requeued: list[Attempt] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    held: list[Hold] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    queue: Answer | Unknown = field(default_factory=Answer)
    open: Sequence[OpenAttempt] = ()

    @property
    def lines(self) -> list[str]:
        """What changed, in lines for the user."""
        ingested, recovered = self.ingested, self.recovered
        lines = [ingested.describe()] if ingested.stored or ingested.refused else []
        lines += [*ingested.damaged, *ingested.left]
        lines += [f"job {job} was found: its launch died after submitting it" for job in recovered.adopted]
        if recovered.withdrawn:
            runs = counted(len(recovered.withdrawn), "run")
            lines.append(f"{runs} not submitted, because the launch died; the next launch submits them")
        if self.requeued:
            lines.append(f"{counted(len(self.requeued), 'interrupted run')} in the queue again")
        if self.released:
            lines.append(f"{counted(len(self.released), 'job')} released that Slurm could not start and held")
        return [*lines, *describe(self.ended), *(hold.describe() for hold in self.held)]

    def as_dict(self) -> dict[str, Any]:
        """The values for `--json`."""
        return {
            "ingested": self.ingested.as_dict(),
            "adopted": self.recovered.adopted,
            "withdrawn": [one.run_id for one in self.recovered.withdrawn],
            "ended": [
                {
                    "run_id": one.attempt.run_id,
                    "number": one.attempt.number,
                    "restart": one.attempt.restart,
                    "job_id": one.job_id,
                    "state": str(one.verdict.state),
                    "why": one.verdict.why,
                    "exit_code": one.verdict.exit_code,
                }
                for one in self.ended
            ],
            "released_jobs": self.released,
            "requeued": [one.run_id for one in self.requeued],
            "held": [{"job_name": hold.job_name, "cause": hold.cause} for hold in self.held],
            "unknown": self.unknown,
        }


class Reconciler:
    """Reconciles repeatedly, and asks sacct only now and then.

    Args:
        store: the store.
        slurm: the cluster.
        run_ids: the runs to look at; None means all. The whole spool is ingested in any case.
        hold: hold launches whose first runs all failed with the same error.
    """

    def __init__(
        self,
        store: Store,
        slurm: Slurm,
        *,
        run_ids: Collection[str] | None = None,
        hold: bool = True,
    ) -> None:
        self._store = store
        self._slurm = slurm
        self._run_ids = run_ids
        self._holds = hold
        self._accounts_at: float | None = None

    def look(self, *, dry_run: bool = False, now: datetime | None = None) -> Reconciled:
        """Compare the sources with the store once, and record what ended.

        Args:
            dry_run: write nothing, and return what would change.
            now: the time; by default this machine's.

        Raises:
            StoreError: the store cannot be reached.
        """
        found = Reconciled()
        self._ingest(found, dry_run=dry_run)
        found.open = self._open()
        if not dry_run and any(
            one.state is State.PENDING and one.job_id is None and one.job_name for one in found.open
        ):
            found.recovered = recovery.recover(self._store, self._slurm)
            found.unknown += found.recovered.unclear
            found.open = self._open()
        if any(one.job_name is None for one in found.open):
            self._end_local(found, dry_run=dry_run)
        jobs = [one for one in found.open if _is_dispatched(one)]
        ended = self._store.ended_attempts(RESTARTABLE & INTERRUPTED)
        interrupted = [one for one in ended if _is_dispatched(one) and self._wants(one)]
        if not jobs and not interrupted:
            return found
        found.queue = self._slurm.queue()
        if isinstance(found.queue, Unknown) and found.queue.lasting and not jobs:
            found.queue = Answer()  # no Slurm here, and no open attempt needs it
        self._requeue(interrupted, found, dry_run=dry_run)
        self._release(jobs, found, dry_run=dry_run)
        verdicts = self._verdicts(jobs, found, now=now or datetime.now(UTC))
        if verdicts and not dry_run:
            # A stored result outranks a verdict, so results are ingested again before verdicts are recorded.
            found.ingested += ingest(self._store)
        for attempt, verdict in verdicts:
            self._end(attempt, verdict, found, dry_run=dry_run)
        if self._holds and not dry_run:
            self._hold(found)
        return found

    def see(self) -> Reconciled:
        """The open attempts and squeue's answer, without comparing or recording anything, for who may only read."""
        found = Reconciled(open=self._open())
        if any(map(_is_dispatched, found.open)):
            found.queue = self._slurm.queue()
        return found

    def _open(self) -> list[OpenAttempt]:
        return [one for one in self._store.open_attempts() if self._wants(one)]

    def _wants(self, one: OpenAttempt | EndedAttempt) -> bool:
        return self._run_ids is None or one.attempt.run_id in self._run_ids

    def _ingest(self, found: Reconciled, *, dry_run: bool) -> None:
        spool = Spool(self._store.folder)
        waiting = len(spool.attempts())
        if dry_run:
            found.unknown += [f"{waiting} records in the spool would be ingested"] if waiting else []
        elif waiting or any(spool.folder.glob("alive/*.json")):
            found.ingested = ingest(self._store)

    def _end_local(self, found: Reconciled, *, dry_run: bool) -> None:
        """End attempts whose local worker process is gone; this needs no Slurm."""
        local = {one.attempt for one in found.open if one.job_name is None}
        verdict = Verdict(State.LOST, "its worker process is gone")
        for attempt in dead_attempts(self._store):
            if attempt in local and (dry_run or self._store.end(attempt, Ending(State.LOST, verdict.why))):
                found.ended.append(Ended(attempt, None, verdict))

    def _requeue(self, interrupted: Sequence[EndedAttempt], found: Reconciled, *, dry_run: bool) -> None:
        queue = found.queue
        if isinstance(queue, Unknown):
            if interrupted:
                runs = counted(len(interrupted), "interrupted run")
                found.unknown.append(f"{runs} may be in the queue again: {queue.why}")
            return
        found.requeued = [one.attempt for one in interrupted if waits_again(one, queue)]
        if found.requeued and not dry_run:
            found.requeued = self._store.requeue(found.requeued)
            found.open = self._open()

    def _release(self, jobs: Sequence[OpenAttempt], found: Reconciled, *, dry_run: bool) -> None:
        """Release jobs that Slurm requeued and held because a node refused them.

        A node refuses a job that it already runs. This happens when a killed controller forgot that the job started.
        Slurm drains a node that refuses again.
        """
        refused = {
            one.job_id: self._folder_of(one)
            for one in jobs
            if one.job_id and _is_refused(word_on(one, found.queue))
        }
        for job_id, folder in sorted(refused.items()):
            index = int(job_id.partition("_")[2] or 0)
            try:
                if dry_run or folder.note_release(index) <= MOST_RELEASED:
                    found.released.append(job_id)
            except OSError as error:
                found.unknown.append(f"job {job_id}, which Slurm held, could not be released: {error}")
        try:
            if found.released and not dry_run:
                self._slurm.release(found.released)
        except SlurmError as error:
            found.unknown.append(f"jobs that Slurm held could not be released: {error}")
            found.released = []

    def _verdicts(
        self, jobs: Sequence[OpenAttempt], found: Reconciled, *, now: datetime
    ) -> list[tuple[OpenAttempt, Verdict]]:
        """The attempts that are over. sacct is asked, at most once a minute, about jobs that squeue does not list."""
        words = [(one, word_on(one, found.queue)) for one in jobs]
        silent = [one for one, word in words if not isinstance(word, Job)]
        verdicts = [(one, judge(one, word, None, now=now)) for one, word in words if isinstance(word, Job)]
        if silent and (self._accounts_at is None or time.monotonic() - self._accounts_at >= ACCOUNTS_EVERY_S):
            verdicts += self._ask_further(silent, found.queue, now=now)
            self._accounts_at = time.monotonic()
        elif isinstance(found.queue, Unknown):
            verdicts += [(one, Verdict(None, found.queue.why, certain=False)) for one in silent]
        unclear = Counter(verdict.why for _, verdict in verdicts if not verdict.certain)
        found.unknown += [f"{counted(count, 'run')}: {why}" for why, count in unclear.items()]
        return [(one, verdict) for one, verdict in verdicts if verdict.state]

    def _ask_further(
        self, silent: Sequence[OpenAttempt], queue: Answer | Unknown, *, now: datetime
    ) -> list[tuple[OpenAttempt, Verdict]]:
        """Ask squeue about all users' jobs, and sacct, for attempts whose job is not in the user's own queue."""
        ids = [one.job_id for one in silent if one.job_id]
        if isinstance(queue, Answer):
            queue = self._slurm.queue(ids)
        accounts = self._slurm.accounts(ids, since=min(one.claimed_at for one in silent))
        verdicts = []
        for one in silent:
            known = isinstance(accounts, Answer) and accounts.knows_array(one.job_id or "", one.job_name)
            words = word_on(one, queue), word_on(one, accounts)
            foreign = is_anothers(self._folder_of(one).path)
            verdicts.append((one, judge(one, *words, now=now, array_known=known, foreign=foreign)))
        return verdicts

    def _folder_of(self, one: OpenAttempt) -> DispatchFolder:
        return DispatchFolder.beside(self._store.folder, one.job_name or "")

    def _end(self, one: OpenAttempt, verdict: Verdict, found: Reconciled, *, dry_run: bool) -> None:
        tail = own_tail(self._log_of(one))
        verdict = with_log(verdict, tail)
        assert verdict.state is not None
        if dry_run or self._store.end(
            one.attempt, Ending(verdict.state, _error(verdict, tail), verdict.exit_code, tail)
        ):
            found.ended.append(Ended(one.attempt, one.job_id, verdict))

    def _log_of(self, one: OpenAttempt) -> Path | None:
        return log_path(self._store.folder, log=one.log, job_name=one.job_name, job_id=one.job_id)

    def _hold(self, found: Reconciled) -> None:
        if isinstance(found.queue, Unknown):
            return
        try:
            found.held = hold_failing(self._store, found.open, queue=found.queue, slurm=self._slurm)
        except (SlurmError, StoreError, OSError) as error:
            found.unknown.append(f"a launch whose runs fail could not be held: {error}")


def _is_dispatched(one: OpenAttempt | EndedAttempt) -> bool:
    """Whether a dispatch made its job. A run that a user trains inside a job of another purpose has no job name."""
    return one.job_id is not None and one.job_name is not None


def _is_refused(word: Word) -> bool:
    return isinstance(word, Job) and word.state in WAITS and word.reason.replace("_", " ") == _REFUSED


def _error(verdict: Verdict, tail: str | None) -> str:
    """The error to store: the verdict's reason, and for a job at fault also the last line that it logged."""
    if verdict.state is State.FAILED or verdict.exit_code == COULD_NOT_BEGIN:
        told = [line.strip() for line in unusual(tail or "") if not line.strip().startswith(_SLURMS_OWN)]
        if told:
            return f"{verdict.why}\n{told[-1]}"
    return verdict.why
