"""Brings the store up to what happened: takes in the spool, asks the witnesses, ends what is over.

Holds the rest of launches that seem hopeless, too. May run at any time, as often as one likes, and twice at once: a
write that comes twice changes nothing.
"""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.dispatched import DispatchFolder
from jobs.provenance import dead_attempts
from results_db.contract import (
    INTERRUPTED,
    RESTARTABLE,
    Attempt,
    EndedAttempt,
    OpenAttempt,
    State,
    Store,
    StoreError,
)
from results_db.files import last_lines
from results_db.spool.ingest import Ingested, ingest
from results_db.spool.records import Spool
from results_db.text import counted, short
from slurm.client.client import Slurm
from slurm.client.commands import SlurmError
from slurm.client.parse import Answer, Job, Unknown
from slurm.follow.hold import Hold, hold_hopeless
from slurm.follow.logs import guess_log
from slurm.follow.verdicts import WAITS, Verdict, Word, judge, waits_again, with_log, word_on
from slurm.submit import recovery

ACCOUNTS_EVERY_S = 60.0
"""sacct is asked no more often, however often squeue is."""

MOST_RELEASED = 3
"""How often a job is let go that Slurm held because it could not start it: then somebody should look."""

_REFUSED = "launch failed requeued held"
_SLURMS_OWN = ("srun:", "slurmstepd", "submitit ", "/usr/bin/")


@dataclass(frozen=True)
class Ended:
    """An attempt that is over, though the store held it for open.

    Attributes:
        attempt: which.
        job_id: its job's id; None: it had none.
        verdict: how it ended.
    """

    attempt: Attempt
    job_id: str | None
    verdict: Verdict

    def describe(self) -> str:
        """One line, for a person."""
        job = f" (job {self.job_id})" if self.job_id else ""
        return f"run {short(self.attempt.run_id)}{job}: {self.verdict.state}: {self.verdict.why}"


@dataclass
class Reconciled:
    """What one look found and did.

    Attributes:
        ingested: what became of the spool's files; None: it was not looked into.
        recovered: what became of dispatches that a crash left unfinished; None: likewise.
        ended: attempts that are over.
        released: jobs that Slurm held because it could not start them, and that are let go.
        held: jobs that are held from now on.
        unknown: a line for everything that could not be learned.
        queue: squeue's answer.
        requeued: attempts that wait again, since their jobs do.
        open: the attempts that are open; those that ended just now are among them.
    """

    ingested: Ingested | None = None
    recovered: recovery.Recovered | None = None
    ended: list[Ended] = field(default_factory=list)
    requeued: list[Attempt] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    held: list[Hold] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    queue: Answer | Unknown = field(default_factory=Answer)
    open: Sequence[OpenAttempt] = ()

    @property
    def lines(self) -> list[str]:
        """What changed, for a person."""
        lines = []
        if self.ingested is not None and (self.ingested.stored or self.ingested.refused):
            lines.append(self.ingested.describe())
        if self.ingested is not None:
            lines += [*self.ingested.damaged, *self.ingested.left]
        if self.recovered is not None:
            lines += [
                f"job {job} was submitted before its launch died, and is ours again"
                for job in self.recovered.adopted
            ]
            if self.recovered.withdrawn:
                lines.append(
                    f"{counted(len(self.recovered.withdrawn), 'run')} never submitted, for the launch died: free again"
                )
        if self.requeued:
            lines.append(f"{counted(len(self.requeued), 'interrupted run')} in the queue again")
        if self.released:
            lines.append(f"{counted(len(self.released), 'job')} that Slurm could not start, and held, let go")
        lines += [one.describe() for one in self.ended]
        return lines + [hold.describe() for hold in self.held]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "ingested": (self.ingested or Ingested()).as_dict(),
            "adopted": [] if self.recovered is None else self.recovered.adopted,
            "withdrawn": [] if self.recovered is None else [one.run_id for one in self.recovered.withdrawn],
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
            "let_go": self.released,
            "requeued": [one.run_id for one in self.requeued],
            "held": [{"job_name": hold.job_name, "cause": hold.cause} for hold in self.held],
            "unknown": self.unknown,
        }


class Reconciler:
    """Reconciles again and again; remembers when it asked sacct.

    Args:
        store: the store.
        slurm: the cluster.
        run_ids: look at these runs' attempts alone; None: at all. The spool is taken in whole.
        hold: hold launches that seem hopeless.
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
        self.run_ids = run_ids
        self._holds = hold
        self._accounts_at: float | None = None

    def look(self, *, dry_run: bool = False, now: datetime | None = None) -> Reconciled:
        """One look.

        Args:
            dry_run: write nothing; what it would do is in the answer.
            now: the time; default: this machine's.

        Raises:
            StoreError: the store is away.
        """
        found = Reconciled()
        self._take_in(found, dry_run=dry_run)
        found.open = self._open()
        if not dry_run and any(one.state is State.PENDING and one.job_id is None for one in found.open):
            found.recovered = recovery.recover(self._store)
            found.unknown += found.recovered.unclear
            found.open = self._open()
        if any(one.state is State.RUNNING and one.job_name is None for one in found.open):
            self._end_local(found, dry_run=dry_run)
        jobs = [one for one in found.open if one.job_id is not None and one.job_name is not None]
        interrupted = self._interrupted()
        if not jobs and not interrupted:
            return found
        found.queue = self._slurm.queue()
        if isinstance(found.queue, Unknown) and found.queue.lasting and not jobs:
            found.queue = Answer()  # a cluster that is left behind, and nobody waits for it
        self._requeue(interrupted, found, dry_run=dry_run)
        self._release(jobs, found, dry_run=dry_run)
        verdicts = self._verdicts(jobs, found, now=now or datetime.now(UTC))
        if verdicts and not dry_run:
            # A result that was written before its job ended goes before any word on that.
            found.ingested = (found.ingested or Ingested()) + ingest(self._store)
        for attempt, verdict in verdicts:
            self._end(attempt, verdict, found, dry_run=dry_run)
        if self._holds and isinstance(found.queue, Answer) and not dry_run:
            self._hold(found)
        return found

    def _open(self) -> list[OpenAttempt]:
        wanted = self.run_ids
        return [one for one in self._store.open_attempts() if wanted is None or one.attempt.run_id in wanted]

    def _interrupted(self) -> list[EndedAttempt]:
        """Attempts of dispatched jobs that may come back. One made by hand belongs to a job of some other purpose."""
        wanted = self.run_ids
        return [
            one
            for one in self._store.ended_attempts(RESTARTABLE & INTERRUPTED)
            if one.job_id is not None
            and one.job_name is not None
            and (wanted is None or one.attempt.run_id in wanted)
        ]

    def _requeue(self, interrupted: Sequence[EndedAttempt], found: Reconciled, *, dry_run: bool) -> None:
        queue = found.queue
        if isinstance(queue, Unknown):
            if interrupted:
                found.unknown.append(
                    f"{counted(len(interrupted), 'interrupted run')} may wait again: {queue.why}"
                )
            return
        found.requeued = [one.attempt for one in interrupted if waits_again(one, queue)]
        if found.requeued and not dry_run:
            found.requeued = self._store.requeue(found.requeued)
            found.open = self._open()

    def _release(self, jobs: Sequence[OpenAttempt], found: Reconciled, *, dry_run: bool) -> None:
        """Let go jobs that Slurm requeued and held, since a node refused them; a node that does so again is drained.

        A controller that was killed and forgot that a job started meets such a refusal: one id, one job a node.
        """
        if isinstance(found.queue, Unknown):
            return
        refused = {
            one.job_id: DispatchFolder.beside(self._store.folder, one.job_name)
            for one in jobs
            if one.job_id and one.job_name and _is_refused(word_on(one, found.queue))
        }
        try:
            for job_id, folder in sorted(refused.items()):
                index = int(job_id.partition("_")[2] or 0)
                if dry_run or folder.note_release(index) <= MOST_RELEASED:
                    found.released.append(job_id)
            if found.released and not dry_run:
                self._slurm.release(found.released)
        except (SlurmError, OSError) as error:
            found.unknown.append(f"jobs that Slurm held could not be let go: {error}")
            found.released = []

    def _take_in(self, found: Reconciled, *, dry_run: bool) -> None:
        spool = Spool(self._store.folder)
        waiting = len(spool.attempts())
        if dry_run:
            found.unknown += [f"{waiting} records in the spool would be taken in"] if waiting else []
        elif waiting or any(spool.folder.glob("alive/*.json")):
            found.ingested = ingest(self._store)

    def _end_local(self, found: Reconciled, *, dry_run: bool) -> None:
        """Attempts of this machine's own processes need no Slurm."""
        local = {one.attempt for one in found.open if one.job_name is None}
        verdict = Verdict(State.LOST, "its worker process is gone")
        for attempt in dead_attempts(self._store):
            if attempt in local and (dry_run or self._store.end(attempt, State.LOST, error=verdict.why)):
                found.ended.append(Ended(attempt, None, verdict))

    def _verdicts(
        self, jobs: Sequence[OpenAttempt], found: Reconciled, *, now: datetime
    ) -> list[tuple[OpenAttempt, Verdict]]:
        """The attempts that are over. Those of jobs that squeue does not show only when sacct may be asked, too."""
        queue = found.queue
        silent = {one.attempt: one for one in jobs if not isinstance(word_on(one, queue), Job)}
        said = {
            one.attempt: judge(one, word_on(one, queue), None, now=now)
            for one in jobs
            if one.attempt not in silent
        }
        if silent and (self._accounts_at is None or time.monotonic() - self._accounts_at >= ACCOUNTS_EVERY_S):
            said |= self._ask_further(list(silent.values()), queue, now=now)
            self._accounts_at = time.monotonic()
        elif isinstance(queue, Unknown):
            said |= {attempt: Verdict(None, queue.why, certain=False) for attempt in silent}
        unclear = Counter(verdict.why for verdict in said.values() if not verdict.certain)
        found.unknown += [f"{counted(count, 'run')}: {why}" for why, count in unclear.items()]
        return [(one, said[one.attempt]) for one in jobs if one.attempt in said and said[one.attempt].state]

    def _ask_further(
        self, silent: Sequence[OpenAttempt], queue: Answer | Unknown, *, now: datetime
    ) -> dict[Attempt, Verdict]:
        """On jobs that squeue does not show among the user's: those of others, and what sacct says."""
        ids = [one.job_id for one in silent if one.job_id]
        everybodys = self._slurm.queue(ids) if isinstance(queue, Answer) else queue
        accounts = self._slurm.accounts(ids, since=min(one.claimed_at for one in silent))
        return {
            one.attempt: judge(
                one,
                word_on(one, everybodys),
                word_on(one, accounts),
                now=now,
                array_known=isinstance(accounts, Answer)
                and accounts.knows_array(one.job_id or "", one.job_name),
            )
            for one in silent
        }

    def _end(self, one: OpenAttempt, verdict: Verdict, found: Reconciled, *, dry_run: bool) -> None:
        tail = log_tail(one, self._store.folder)
        verdict = with_log(verdict, tail)
        assert verdict.state is not None
        if dry_run or self._store.end(
            one.attempt,
            verdict.state,
            error=_error(verdict, tail),
            exit_code=verdict.exit_code,
            log_tail=tail,
        ):
            found.ended.append(Ended(one.attempt, one.job_id, verdict))

    def _hold(self, found: Reconciled) -> None:
        assert isinstance(found.queue, Answer)
        try:
            found.held = hold_hopeless(self._store, found.open, queue=found.queue, slurm=self._slurm)
        except (SlurmError, StoreError, OSError) as error:
            found.unknown.append(f"a hopeless launch could not be held: {error}")


def _is_refused(word: Word) -> bool:
    return isinstance(word, Job) and word.state in WAITS and word.reason.replace("_", " ") == _REFUSED


def log_tail(one: OpenAttempt, folder: Path) -> str | None:
    """The last lines of its log; None without any."""
    path = Path(one.log) if one.log else guess_log(folder, one.job_name, one.job_id)
    return None if path is None else last_lines(path)


def _error(verdict: Verdict, tail: str | None) -> str:
    """What is kept as the error: where its own job failed, the last that the job itself said tells most."""
    if verdict.state is State.FAILED:
        lines = [line.strip() for line in (tail or "").splitlines() if line.strip()]
        told = [line for line in lines if not line.startswith(_SLURMS_OWN)]
        if told:
            return f"{verdict.why}\n{told[-1]}"
    return verdict.why
