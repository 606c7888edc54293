"""The display of running runs: a bar per run and one over all, or log lines without a terminal."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column
from typing_extensions import override

from results_db.text import short

_LINE_EVERY_S = 15.0
_WIDE = 120  # columns from which there is room for run ids, units and longer bars
_STATE = re.compile(r"(adv_)?state(\d+)")  # the names of decoded states in traces


@dataclass
class _Running:
    """A running run: its last known step, and since when this display shows it (monotonic seconds)."""

    step: int
    max_steps: int
    first_step: int
    since: float
    line_at: float
    task: TaskID | None = None

    @property
    def rate(self) -> float:
        """Steps per second since it began here."""
        return (self.step - self.first_step) / max(time.monotonic() - self.since, 1e-9)


class _Console(Console):
    @override
    def on_broken_pipe(self) -> None:
        self.quiet = True  # as after `| head`; rich would end the process, and with it the training


class Display:
    """Shows the events of workers (see `jobs.entry`). Use as a context manager.

    Args:
        total: number of runs that this launch trains.
        workers: number of runs at once, for the ETA.
        expected_s: seconds that a run takes by past runs, if known; runs that end here correct it.
        console: where to print; the default is standard error, so that standard output holds results only.
    """

    def __init__(
        self, *, total: int, workers: int = 1, expected_s: float | None = None, console: Console | None = None
    ) -> None:
        self._console = console or _Console(stderr=True)
        self._is_live = self._console.is_terminal
        self._total, self._workers = total, max(workers, 1)
        self._expected_s = expected_s
        self._ended: dict[str, bool] = {}  # run id to whether the run completed
        self._took: list[float] = []
        self._running: dict[str, _Running] = {}
        self._is_wide = self._console.width >= _WIDE
        step, rate = (
            ("step {task.completed:>6.0f}/{task.total:.0f}", "{task.fields[rate]:>6.1f} steps/s")
            if self._is_wide
            else ("{task.completed}/{task.total}", "{task.fields[rate]:.0f}/s")
        )
        texts = [
            TextColumn(form, table_column=Column(no_wrap=True))
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
        self._overall = self._all.add_task("all", total=total, left="?", note="")
        self._update_all()
        self._live = Live(Group(self._runs, self._all), console=self._console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.__exit__(kind, error, trace)

    def say(self, line: str) -> None:
        """Prints a line above the bars."""
        try:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        except OSError:  # such as a full disk under a log
            self._console.quiet = True

    def event(self, event: Mapping[str, Any], label: str) -> None:
        """Shows an event of the run that `label` describes, such as `gol=3 seed=1`."""
        run_id = str(event["run_id"])
        named = f"{time.strftime('%H:%M:%S')} {short(run_id)} {label}"
        match event["event"]:
            case "started":
                self._start(run_id, event, label, named)
            case "progress":
                self._progress(run_id, event, named)
            case "ended":
                run = self._running.pop(run_id, None)
                if run is not None:
                    self._took.append(time.monotonic() - run.since)
                    if run.task is not None:
                        self._runs.remove_task(run.task)
                self._count(run_id, f"{named}: {ending(event)}", ok=event["state"] == "COMPLETED")
            case "skipped":
                self._count(run_id, f"{named}: complete, or running elsewhere")

    def _start(self, run_id: str, event: Mapping[str, Any], label: str, named: str) -> None:
        step, max_steps, now = int(event["step"]), int(event["max_steps"]), time.monotonic()
        run = _Running(step, max_steps, first_step=step, since=now, line_at=now)
        self._ended.pop(run_id, None)  # a run whose worker died is tried again
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
        left, ended = self._left(), len(self._ended)
        if self._is_live:
            self._update_all()
            self.say(line)
        else:
            eta = "" if left is None or ended >= self._total else f", ETA {duration(left)}"
            self.say(f"{line} ({ended}/{self._total}{eta})")

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
        """Seconds until the last run ends: the mean time of a run for each run left, shared by the workers."""
        mean = self._mean_run_s()
        if mean is None:
            return None
        running = sum(min(time.monotonic() - run.since, mean) for run in self._running.values())
        return max((self._total - len(self._ended)) * mean - running, 0.0) / self._workers

    def _mean_run_s(self) -> float | None:
        """Mean seconds of the runs that ended here, else of past runs, else of the running ones up to their limit."""
        if self._took:
            return sum(self._took) / len(self._took)
        if self._expected_s is not None:
            return self._expected_s
        limits = [run.max_steps / run.rate for run in self._running.values() if run.step > run.first_step]
        return sum(limits) / len(limits) if limits else None


def accuracies(values: Mapping[str, float]) -> str:
    """The accuracy of the final state, then of the states in between: `final 97.1% | s2 99.8% s3 98.6%`.

    A run that counts cells has `count` in front; the adversarial stage has `adversary: `.
    """
    found = [match for match in map(_STATE.fullmatch, values) if match]
    # state1 is the autoencoder's output; it is neither imagined nor predicted.
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
    for name in ("train_accuracy", "metric", "correlation"):
        if metrics.get(name) is not None:
            parts.append(f"{name} {metrics[name]:.4f}")
    return ", ".join(parts)


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
