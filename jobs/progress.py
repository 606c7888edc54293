"""What a person sees while runs train: a bar per running run and one over all, or log lines without a terminal."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from results_db.text import short

_LINE_EVERY_S = 15.0
_WIDE = 120  # columns from which there is room for run ids, units and longer bars
_STATE = re.compile(r"(adv_)?state(\d+)")  # the names of decoded states in traces


@dataclass
class _Seen:
    """What was last heard of a running run."""

    label: str
    step: int
    max_steps: int
    first_step: int
    since: float = field(default_factory=lambda: time.monotonic())
    said: float = field(default_factory=lambda: time.monotonic())
    task: TaskID | None = None

    @property
    def rate(self) -> float:
        """Steps per second since it began here."""
        return (self.step - self.first_step) / max(time.monotonic() - self.since, 1e-9)


def _text(form: str) -> TextColumn:
    return TextColumn(form, table_column=Column(no_wrap=True))


class _Remaining(ProgressColumn):
    """Time left, from the launcher's own estimate."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text("ETA " + (duration(left) if left is not None else "?"), style="progress.remaining")


class _Console(Console):
    """Falls silent when nobody reads any more, as after `| head`: what is shown must not end what is trained."""

    def on_broken_pipe(self) -> None:
        """Rich would end the process."""
        self.quiet = True


class Display:
    """Shows the events of workers (see `jobs.entry`). Use as a context manager.

    Args:
        total: how many runs this launch will train.
        workers: how many at once, for the ETA.
        expected_s: seconds that a run takes by past ones, if known; runs that end here correct it.
        console: where to print; the default is standard error, so that standard output stays for results.
    """

    def __init__(
        self, *, total: int, workers: int = 1, expected_s: float | None = None, console: Console | None = None
    ) -> None:
        self._console = console or _Console(stderr=True)
        self._live_display = self._console.is_terminal
        self._total, self._workers = total, max(workers, 1)
        self._expected_s = expected_s
        self._ended: dict[str, bool] = {}  # run id to: did it complete?
        self._took: list[float] = []
        self._seen: dict[str, _Seen] = {}
        self._is_wide = self._console.width >= _WIDE
        self._runs = Progress(
            _text("{task.description}"),
            BarColumn(bar_width=20 if self._is_wide else 6),
            _text(
                "step {task.completed:>6.0f}/{task.total:.0f}"
                if self._is_wide
                else "{task.completed}/{task.total}"
            ),
            _text("{task.fields[rate]:>6.1f} steps/s" if self._is_wide else "{task.fields[rate]:.0f}/s"),
            _text("{task.fields[values]}"),
            console=self._console,
        )
        self._all = Progress(
            TextColumn("[bold]all runs"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _Remaining(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._overall = self._all.add_task("all", total=total, left=self._left(), note="")
        self._live = Live(Group(self._runs, self._all), console=self._console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._live_display:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live_display:
            self._live.__exit__(kind, error, trace)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        try:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        except OSError:  # such as a full disk under a log
            self._console.quiet = True

    def event(self, event: Mapping[str, Any], label: str) -> None:
        """Show an event of the run that `label` describes, such as `gol=3 seed=1`."""
        run_id = str(event["run_id"])
        match event["event"]:
            case "started":
                self._started(run_id, event, label)
            case "progress":
                self._progress(run_id, event)
            case "ended":
                self._has_ended(run_id, event, label)
            case "skipped":
                self._count(run_id, f"{_now()} {short(run_id)} {label}: complete, or running elsewhere")

    def _started(self, run_id: str, event: Mapping[str, Any], label: str) -> None:
        step, max_steps = int(event["step"]), int(event["max_steps"])
        seen = _Seen(label, step, max_steps, first_step=step)
        self._ended.pop(run_id, None)  # a run whose worker died is tried again
        self._seen[run_id] = seen
        if self._live_display:
            text = f"{short(run_id)} {label}" if self._is_wide else label
            seen.task = self._runs.add_task(text, total=max_steps, completed=step, rate=0.0, values="")
            self._update_all()
        else:
            self.say(f"{_now()} {short(run_id)} {label}: started at step {step}")

    def _progress(self, run_id: str, event: Mapping[str, Any]) -> None:
        seen = self._seen.get(run_id)
        if seen is None:
            return
        seen.step = int(event["step"])
        values = accuracies(event["values"])
        if seen.task is not None:
            self._runs.update(seen.task, completed=seen.step, rate=seen.rate, values=values)
            self._update_all()
        elif time.monotonic() - seen.said >= _LINE_EVERY_S:
            seen.said = time.monotonic()
            self.say(
                f"{_now()} {short(run_id)} {seen.label}: step {seen.step}/{seen.max_steps} "
                f"{seen.rate:.1f} steps/s {values}"
            )

    def _has_ended(self, run_id: str, event: Mapping[str, Any], label: str) -> None:
        seen = self._seen.pop(run_id, None)
        if seen is not None:
            if seen.task is not None:
                self._runs.remove_task(seen.task)
            self._took.append(time.monotonic() - seen.since)
        line = f"{_now()} {short(run_id)} {label}: {ending(event)}"
        self._count(run_id, line, ok=event["state"] == "COMPLETED")

    def _count(self, run_id: str, line: str, *, ok: bool = True) -> None:
        self._ended[run_id] = ok
        left, ended = self._left(), len(self._ended)
        if self._live_display:
            self._update_all()
            self.say(line)
        else:
            eta = "" if left is None or ended >= self._total else f", ETA {duration(left)}"
            self.say(f"{line} ({ended}/{self._total}{eta})")

    def _update_all(self) -> None:
        ended = len(self._ended)
        not_ok = ended - sum(self._ended.values())
        note = f"{not_ok} not completed" if not_ok else ""
        self._all.update(self._overall, completed=ended, left=self._left(), note=note)

    def _left(self) -> float | None:
        """Seconds until the last run ends: a mean run for each that is left, shared by the workers."""
        mean = self._mean_run_s()
        if mean is None:
            return None
        running = sum(min(time.monotonic() - seen.since, mean) for seen in self._seen.values())
        return max((self._total - len(self._ended)) * mean - running, 0.0) / self._workers

    def _mean_run_s(self) -> float | None:
        """Of the runs that ended here; before one has, of past ones; else of the running to their step limit."""
        if self._took:
            return sum(self._took) / len(self._took)
        if self._expected_s is not None:
            return self._expected_s
        limits = [seen.max_steps / seen.rate for seen in self._seen.values() if seen.step > seen.first_step]
        return sum(limits) / len(limits) if limits else None


def accuracies(values: Mapping[str, float]) -> str:
    """What is predicted, then the decoded states in between: `final 97.1% | s2 99.8% s3 98.6%`.

    Of a run that counts cells `count` stands in front, and of the adversarial stage `adversary: `.
    """
    found = [match for match in map(_STATE.fullmatch, values) if match]
    # state1 is what the autoencoder gives back; it is neither imagined nor predicted.
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


def _now() -> str:
    return time.strftime("%H:%M:%S")
