"""Shows training runs: a bar per run and a bar for all, or log lines without a terminal."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column
from typing_extensions import override

from imagination import registry
from imagination.declaration import Declaration
from imagination.schema import ConfigError
from results_db.text import cell_text, short

_LINE_EVERY_S = 15.0
_ESTIMATE_EVERY_S = 1.0
_WIDE = 120  # columns of a terminal with room for run ids, units and longer bars


@dataclass(frozen=True)
class Where:
    """What decides how fast a run trains: its device, and the number of runs in its pack."""

    device: str
    pack_size: int


@dataclass(frozen=True)
class Training:
    """A run that trains.

    Attributes:
        run_id: the run.
        step: training steps done.
        max_steps: its step limit.
        steps_per_s: its speed; None: unknown.
        share: its share of its worker's time.
        where: where it trains; None: unknown.
    """

    run_id: str
    step: int
    max_steps: int
    steps_per_s: float | None
    share: float = 1.0
    where: Where | None = None

    @property
    def to_limit_s(self) -> float | None:
        """Seconds until the run reaches its step limit; None: unknown."""
        return max(self.max_steps - self.step, 0) / self.steps_per_s if self.steps_per_s else None

    @property
    def done(self) -> float:
        """The share of the steps to its limit that it has done."""
        return _share(self.step, self.max_steps)


class Estimate(Protocol):
    """The part of `sweeps.status.estimate.Estimate` that the display uses."""

    def ended(self, run_id: str, where: Where, *, seconds: float, steps: float) -> None:
        """Learns from a run that has just ended."""

    def left(
        self,
        training: Sequence[Training],
        waiting: Mapping[str, Where | None],
        *,
        workers: float | None = None,
    ) -> float | None:
        """Seconds until the last of these runs ends; None: unknown."""


@dataclass
class _Running:
    """A running run.

    Attributes:
        since, line_at: monotonic seconds of its start here, and of its last log line.
        has_values: whether it has told any. A run of a pack that waits for a slot has not.
    """

    step: int
    max_steps: int
    first_step: int
    since: float
    line_at: float
    has_values: bool = False
    task: TaskID | None = None

    @property
    def rate(self) -> float:
        """Steps per second since the start."""
        return (self.step - self.first_step) / max(time.monotonic() - self.since, 1e-9)

    @property
    def done(self) -> float:
        """See `Training.done`."""
        return _share(self.step, self.max_steps)


class _Console(Console):
    @override
    def on_broken_pipe(self) -> None:
        self.quiet = True  # as after `| head`; rich would end the process, and with it the training


class Display:
    """Shows the events of workers (see `jobs.entry`). Use as a context manager.

    Args:
        packs: the ids of the runs to be trained, pack by pack.
        workers: the number of worker processes.
        device: what each of them trains on.
        estimate: estimates the time left; default: training runs go to their step limits.
        console: the terminal or log; default: standard error.
    """

    def __init__(
        self,
        packs: Sequence[Sequence[str]],
        *,
        workers: int = 1,
        device: str = "",
        estimate: Estimate | None = None,
        console: Console | None = None,
    ) -> None:
        self._console = console or _Console(stderr=True)
        self._is_live = self._console.is_terminal
        self._workers, self._estimate = workers, estimate
        self._pack_of = {run_id: pack for pack in packs for run_id in pack}
        self._where = {run_id: Where(device, len(pack)) for run_id, pack in self._pack_of.items()}
        self._waiting: dict[str, Where | None] = dict(self._where)
        self._running: dict[str, _Running] = {}
        self._ended: dict[str, float] = {}  # run id to how much of the run is done; 1: complete
        self._done = 0.0  # their sum
        self._estimated_at = -_ESTIMATE_EVERY_S
        self._is_stopping = False
        self._is_wide = self._console.width >= _WIDE
        step, rate = "{task.completed}/{task.total}", "{task.fields[rate]:.0f}/s"
        if self._is_wide:
            step, rate = "step {task.completed:>6.0f}/{task.total:.0f}", "{task.fields[rate]:>6.1f} steps/s"
        texts = [
            TextColumn(
                form, table_column=Column(no_wrap=form in (step, rate))
            )  # the others fold between words
            for form in ("{task.description}", step, rate, "{task.fields[values]}")
        ]
        bar = BarColumn(bar_width=20 if self._is_wide else 6)
        self._runs = Progress(texts[0], bar, *texts[1:], console=self._console)
        self._all = Progress(
            TextColumn("[bold]all runs"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[completed_runs]}/{task.total:.0f}"),
            TextColumn("[progress.remaining]{task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._overall = self._all.add_task("all", total=len(self._where), completed_runs=0, left="", note="")
        self._update_all()
        self._live = Live(Group(self._runs, self._all), console=self._console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Prints a line above the bars; on a terminal it is folded between words."""
        try:
            self._console.print(line, highlight=False, markup=False, soft_wrap=not self._is_live)
        except OSError:  # such as a full disk under a log
            self._console.quiet = True

    def stopping(self, line: str) -> None:
        """Prints a line, and shows no ETA any more, because the runs that wait will not train."""
        self._is_stopping = True
        self.say(line)

    def event(self, event: Mapping[str, Any], label: str) -> None:
        """Shows an event, which says its run's `experiment`. `label` describes the run, such as `gol=3 seed=1`."""
        run_id = str(event["run_id"])
        named = f"{time.strftime('%H:%M:%S')} {short(run_id)} {label}"
        match event["event"]:
            case "started":
                self._start(run_id, event, label, named)
            case "progress":
                self._progress(run_id, event, named)
            case "ended":
                self._end(run_id, event, named)
            case "skipped":
                self._count(run_id, f"{named}: complete, or running elsewhere", done=1.0)

    def _start(self, run_id: str, event: Mapping[str, Any], label: str, named: str) -> None:
        step, max_steps, now = int(event["step"]), int(event["max_steps"]), time.monotonic()
        run = _Running(step, max_steps, first_step=step, since=now, line_at=now)
        self._done -= self._ended.pop(run_id, 0.0)  # a run whose worker died starts again
        self._waiting.pop(run_id, None)
        self._running[run_id] = run
        if self._is_live:
            text = f"{short(run_id)} {label}" if self._is_wide else label
            run.task = self._runs.add_task(text, total=max_steps, completed=step, rate=0.0, values="")
            self._update_all(now=True)
        else:
            self.say(f"{named}: started at step {step}")

    def _progress(self, run_id: str, event: Mapping[str, Any], named: str) -> None:
        run = self._running.get(run_id)
        if run is None:
            return
        step = int(event["step"])
        if step == run.first_step and run_id not in self._begun():
            run.since = time.monotonic()  # it has waited until now
        run.step, run.has_values = step, True
        values = said(str(event["experiment"]), event["values"])
        if run.task is not None:
            self._runs.update(run.task, completed=run.step, rate=run.rate, values=values)
            self._update_all()
        elif time.monotonic() - run.line_at >= _LINE_EVERY_S:
            run.line_at = time.monotonic()
            self.say(f"{named}: step {run.step}/{run.max_steps} {run.rate:.1f} steps/s {values}")

    def _end(self, run_id: str, event: Mapping[str, Any], named: str) -> None:
        run = self._running.pop(run_id, None)
        if run is not None and run.task is not None:
            self._runs.remove_task(run.task)
        done = 0.0
        if event["state"] == "COMPLETED":
            done = 1.0
            if self._estimate is not None:
                seconds = self._seconds(run_id, run, event)
                steps = event["metrics"].get("steps") or 0
                self._estimate.ended(run_id, self._where[run_id], seconds=seconds, steps=steps)
        elif run is not None and event.get("step") is not None:  # saved
            run.step = int(event["step"])
            done = min(run.done, 0.99)
        self._count(run_id, f"{named}: {ending(event)}", done=done)

    def _seconds(self, run_id: str, run: _Running | None, event: Mapping[str, Any]) -> float:
        """A completed run's share of its worker's time, with its evaluation if it started here at its first step."""
        by_clock = 0.0
        if run is not None and run.first_step == 0:
            by_clock = (time.monotonic() - run.since) / self._where[run_id].pack_size
        return max(by_clock, float(event["seconds"]))

    def _count(self, run_id: str, line: str, *, done: float) -> None:
        self._waiting.pop(run_id, None)
        self._done += done - self._ended.get(run_id, 0.0)
        self._ended[run_id] = done
        if self._is_live:
            self._update_all(now=True)
        else:
            left = self._left()
            eta = "" if left is None else f", ETA {duration(left)}"
            line += f" ({len(self._ended)}/{len(self._where)}{eta})"
        self.say(line)

    def _update_all(self, *, now: bool = False) -> None:
        """Updates the bar over all runs, which moves with their steps; at most once a second, unless `now`."""
        if not now and time.monotonic() - self._estimated_at < _ESTIMATE_EVERY_S:
            return
        self._estimated_at = time.monotonic()
        left = self._left()
        eta = f"ETA {'?' if left is None else duration(left)}"
        completed = sum(done == 1.0 for done in self._ended.values())
        open_runs = len(self._ended) - completed
        self._all.update(
            self._overall,
            completed=self._done + sum(run.done for run in self._running.values()),
            completed_runs=completed,
            left=eta if (self._running or self._waiting) and not self._is_stopping else "",
            note=f"{open_runs} not completed" if open_runs else "",
        )

    def _left(self) -> float | None:
        """Seconds until the last run ends; None: unknown, or all have ended."""
        if self._is_stopping:
            return None
        begun = self._begun()
        together = Counter(id(self._pack_of[run_id]) for run_id in begun)
        training = [
            Training(
                *(run_id, run.step, run.max_steps, run.rate or None),
                share=1 / together[id(self._pack_of[run_id])],
                where=self._where[run_id],
            )
            for run_id, run in begun.items()
        ]
        if self._estimate is None:
            return max((left for run in training if (left := run.to_limit_s) is not None), default=None)
        waiting = {run_id: self._where[run_id] for run_id in self._running if run_id not in begun}
        return self._estimate.left(training, self._waiting | waiting, workers=self._workers)

    def _begun(self) -> dict[str, _Running]:
        """The running runs without those that wait for a slot of their pack.

        If no run of a pack has values, all of it count.
        """
        told = {id(self._pack_of[run_id]) for run_id, run in self._running.items() if run.has_values}
        return {
            run_id: run
            for run_id, run in self._running.items()
            if run.has_values or id(self._pack_of[run_id]) not in told
        }


def _share(step: int, max_steps: int) -> float:
    return min(step / max(max_steps, 1), 1.0)


def said(experiment: str, values: Mapping[str, float]) -> str:
    """The progress values of a run: as its experiment declares, else `name value | name value`."""
    declared = _declared(experiment)
    if declared is not None and declared.progress:
        show = registry.load_or_warn(declared.progress, callable)
        text = show and registry.call_or_warn(declared.progress, lambda: show(values), str)
        if text is not None:
            return text
    return " | ".join(f"{name} {cell_text(value)}" for name, value in values.items())


def _declared(experiment: str) -> Declaration | None:
    """The declaration of an experiment; None if it cannot be had here."""
    try:
        return registry.declaration(experiment)
    except ConfigError:
        return None


def ending(event: Mapping[str, Any]) -> str:
    """How a run ended, in words."""
    if event.get("step") is not None:
        return f"stopped, saved at step {event['step']}"
    if event["state"] != "COMPLETED":
        return str(event["state"]) + (f": {event['error']}" if event.get("error") else "")
    metrics = event["metrics"]
    outcome = f"{event['outcome']} at step {metrics['steps']:.0f}" if "steps" in metrics else event["outcome"]
    parts = [outcome, f"in {duration(event['seconds'])}"]
    names = _judged(str(event["experiment"]))
    return ", ".join(
        [*parts, *(f"{name} {metrics[name]:.4f}" for name in names if metrics.get(name) is not None)]
    )


def _judged(experiment: str) -> list[str]:
    """The metric of the experiment's gate, and the first that tables show."""
    declared = _declared(experiment)
    if declared is None:
        return []
    first = (declared.shown or tuple(declared.metrics))[:1]
    return list(dict.fromkeys([*([declared.gate.metric] if declared.gate else []), *first]))


def duration(seconds: float) -> str:
    """`42 s`, `3:07 min`, `2:05 h` or `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 86_400:
        return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
