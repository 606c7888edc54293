"""Shows training runs: a bar per run and a bar for all, or log lines without a terminal."""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column
from typing_extensions import override

from results_db.text import short

_LINE_EVERY_S = 15.0
_WIDE = 120  # columns of a terminal with room for run ids, units and longer bars
_STATE = re.compile(r"(adv_)?state(\d+)")  # the names of decoded states in traces


@dataclass(frozen=True)
class Training:
    """A run that trains. `share` is its share of its worker's time; `steps_per_s` is None if it is unknown."""

    run_id: str
    step: int
    max_steps: int
    steps_per_s: float | None
    share: float = 1.0

    @property
    def to_limit_s(self) -> float | None:
        """Seconds until the run reaches its step limit; None: unknown."""
        return max(self.max_steps - self.step, 0) / self.steps_per_s if self.steps_per_s else None


class Estimate(Protocol):
    """The part of `sweeps.status.estimate.Estimate` that the display uses."""

    def ended(self, run_id: str, seconds: float, steps: float) -> None:
        """Learns from a run that has just ended."""

    def left(
        self, training: Sequence[Training], waiting: Collection[str], *, workers: float | None = None
    ) -> float | None:
        """Seconds until the last of these runs ends; None: unknown."""


@dataclass
class _Running:
    """A running run. `since` and `line_at` are monotonic seconds: of its start here, and of its last log line."""

    step: int
    max_steps: int
    first_step: int
    since: float
    line_at: float
    task: TaskID | None = None

    @property
    def rate(self) -> float:
        """Steps per second since the start."""
        return (self.step - self.first_step) / max(time.monotonic() - self.since, 1e-9)


class _Console(Console):
    @override
    def on_broken_pipe(self) -> None:
        self.quiet = True  # as after `| head`; rich would end the process, and with it the training


class Display:
    """Shows the events of workers (see `jobs.entry`). Use as a context manager.

    Args:
        run_ids: the runs to be trained.
        workers: the number of worker processes.
        estimate: estimates the time left; default: training runs go to their step limits.
        console: the terminal or log; default: standard error.
    """

    def __init__(
        self,
        run_ids: Collection[str],
        *,
        workers: int = 1,
        estimate: Estimate | None = None,
        console: Console | None = None,
    ) -> None:
        self._console = console or _Console(stderr=True)
        self._is_live = self._console.is_terminal
        self._run_ids, self._workers, self._estimate = run_ids, workers, estimate
        self._ended: dict[str, bool] = {}  # run id to whether the run completed
        self._running: dict[str, _Running] = {}
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
            MofNCompleteColumn(),
            TextColumn("[progress.remaining]ETA {task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._overall = self._all.add_task("all", total=len(run_ids), left="?", note="")
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
        """Prints a line above the bars."""
        try:
            # A terminal gets the line folded between words; a log gets it whole.
            self._console.print(line, highlight=False, markup=False, soft_wrap=not self._is_live)
        except OSError:  # such as a full disk under a log
            self._console.quiet = True

    def event(self, event: Mapping[str, Any], label: str) -> None:
        """Shows an event. `label` describes its run, such as `gol=3 seed=1`."""
        run_id = str(event["run_id"])
        named = f"{time.strftime('%H:%M:%S')} {short(run_id)} {label}"
        match event["event"]:
            case "started":
                self._start(run_id, event, label, named)
            case "progress":
                self._progress(run_id, event, named)
            case "ended":
                run = self._running.pop(run_id, None)
                if run is not None and run.task is not None:
                    self._runs.remove_task(run.task)
                completed = event["state"] == "COMPLETED"
                if completed and self._estimate is not None:
                    self._estimate.ended(run_id, event["seconds"], event["metrics"].get("steps") or 0)
                self._count(run_id, f"{named}: {ending(event)}", ok=completed)
            case "skipped":
                self._count(run_id, f"{named}: complete, or running elsewhere")

    def _start(self, run_id: str, event: Mapping[str, Any], label: str, named: str) -> None:
        step, max_steps, now = int(event["step"]), int(event["max_steps"]), time.monotonic()
        run = _Running(step, max_steps, first_step=step, since=now, line_at=now)
        self._ended.pop(run_id, None)  # a run whose worker died starts again
        self._running[run_id] = run
        if self._is_live:
            text = f"{short(run_id)} {label}" if self._is_wide else label
            run.task = self._runs.add_task(text, total=max_steps, completed=step, rate=0.0, values="")
            self._update_all()
        else:
            self.say(f"{named}: started at step {step}")

    def _progress(self, run_id: str, event: Mapping[str, Any], named: str) -> None:
        run = self._running.get(run_id)
        if run is None:
            return
        run.step = int(event["step"])
        values = accuracies(event["values"])
        if run.task is not None:
            self._runs.update(run.task, completed=run.step, rate=run.rate, values=values)
            self._update_all()
        elif time.monotonic() - run.line_at >= _LINE_EVERY_S:
            run.line_at = time.monotonic()
            self.say(f"{named}: step {run.step}/{run.max_steps} {run.rate:.1f} steps/s {values}")

    def _count(self, run_id: str, line: str, *, ok: bool = True) -> None:
        self._ended[run_id] = ok
        if self._is_live:
            self._update_all()
        else:
            left, ended, total = self._left(), len(self._ended), len(self._run_ids)
            eta = "" if left is None or ended >= total else f", ETA {duration(left)}"
            line += f" ({ended}/{total}{eta})"
        self.say(line)

    def _update_all(self) -> None:
        ended, left = len(self._ended), self._left()
        not_ok = ended - sum(self._ended.values())
        self._all.update(
            self._overall,
            completed=ended,
            left="?" if left is None else duration(left),
            note=f"{not_ok} not completed" if not_ok else "",
        )

    def _left(self) -> float | None:
        """Seconds until the last run ends; None: unknown."""
        share = min(self._workers / max(len(self._running), 1), 1.0)
        training = [
            Training(run_id, run.step, run.max_steps, run.rate or None, share)
            for run_id, run in self._running.items()
        ]
        if self._estimate is None:
            return max((left for run in training if (left := run.to_limit_s) is not None), default=None)
        known = self._ended.keys() | self._running.keys()
        waiting = [run_id for run_id in self._run_ids if run_id not in known]
        return self._estimate.left(training, waiting, workers=self._workers)


def accuracies(values: Mapping[str, float]) -> str:
    """The accuracy of the final state, then of the states in between: `final 97.1% | s2 99.8% s3 98.6%`.

    A run of `life_count` has `count` first. A line of the adversary's stage starts with `adversary: `.
    """
    found = [match for match in map(_STATE.fullmatch, values) if match]
    # state1 is left out: it is the autoencoder's output and not predicted.
    states = sorted((int(match[2]), match[0]) for match in found if match[2] != "1")
    named = [f"s{number} {_percent(values[name])}" for number, name in states]
    if "count" in values:
        front = f"count {_percent(values['count'])}"
    elif found:
        front = f"final {_percent(values[states[-1][1]]) if states else '?'}"
        named = named[:-1]
    else:
        return ""
    adversary = "adversary: " if found and found[0][1] else ""
    return adversary + front + (" | " + " ".join(named) if named else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def ending(event: Mapping[str, Any]) -> str:
    """How a run ended, in words."""
    if event["state"] != "COMPLETED":
        return str(event["state"]) + (f": {event['error']}" if event.get("error") else "")
    metrics = event["metrics"]
    parts = [f"{event['outcome']} at step {metrics.get('steps', 0):.0f}", f"in {duration(event['seconds'])}"]
    shown = [name for name in ("train_accuracy", "metric", "correlation") if metrics.get(name) is not None]
    return ", ".join([*parts, *(f"{name} {metrics[name]:.4f}" for name in shown)])


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
