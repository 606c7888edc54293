"""Shows the snapshots of `watch`: as a screen, as lines without a terminal, or as JSON."""

import json
import math
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Self

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from jobs.progress import duration, said
from results_db.contract import StoreError
from results_db.text import cell_text, counted, short
from sweeps.follow.watch import RunNow, Snapshot
from sweeps.spec.stored import NO_SWEEP
from sweeps.status.cell import CellStatus, Status, count_by_status, describe

_STYLES = {Status.STORED: "green", Status.RUNNING: "cyan", Status.WAITING: "dim", Status.NEW: "dim"}
_LINES_BESIDE_TABLES = 14
_WIDE = 120
_BAR = 20
_LEAST = {"what": 0, "progress": 12}  # columns that may shrink to so many characters
_MOST_CAUSES = 5
_MOST_REMARKS = 8


def summary(snapshot: Snapshot) -> str:
    """One line: `table3: 12 of 48 stored, 4 running, 30 waiting, 2 failed; ETA 2:05 h`."""
    if not snapshot.cells:
        return NO_SWEEP
    counts = snapshot.counts
    parts = [f"{counts.pop(Status.STORED)} of {sum(snapshot.states.values())} stored"]
    parts += [f"{count} {status}" for status, count in counts.items() if count]
    eta = f"; ETA {_eta(snapshot.eta_seconds)}" if snapshot.active else ""
    return f"{snapshot.name}: {', '.join(parts)}{eta}"


def notes(snapshot: Snapshot) -> list[str]:
    """A line for each held dispatch, each reason of blocked runs, each cause of failures, and each silent source."""
    lines = [
        f"{failure['count']} failed (imagine-sweep logs {short(failure['runs'][0])}): {failure['cause']}"
        for failure in snapshot.failures[:_MOST_CAUSES]
    ]
    if more := len(snapshot.failures) - len(lines):
        lines.append(f"and {counted(more, 'other cause')}; imagine-sweep watch --once --json lists them all")
    return [
        *snapshot.held,
        *snapshot.blocked,
        *lines,
        *(f"unknown: {line}" for line in snapshot.changes.unknown),
    ]


class Lines:
    """Prints a line when something has changed."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._counts: dict[Status, int] = {}

    def show(self, snapshot: Snapshot) -> None:
        """Prints what is new since the last snapshot."""
        if snapshot.counts != self._counts:
            click.echo(f"{_now()} {summary(snapshot)}")
        self._counts = snapshot.counts
        for line in (*snapshot.changes.lines, *notes(snapshot)):
            if line not in self._said:
                self._said.add(line)
                click.echo(f"{_now()} {line}")

    def complain(self, error: StoreError) -> None:
        """Prints why there is no new snapshot."""
        click.echo(f"{error}; looking again", err=True)


class JsonLines(Lines):
    """Prints every snapshot as a line of JSON."""

    @override
    def show(self, snapshot: Snapshot) -> None:
        click.echo(json.dumps(snapshot.as_dict()))


class Screen:
    """Shows the newest snapshot on the whole terminal. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live("looking ...", console=console, screen=True, auto_refresh=False)
        self._recent: deque[str] = deque(maxlen=4)
        self._last: Snapshot | None = None

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._last is not None:
            self._console.print(summary(self._last), markup=False, highlight=False, soft_wrap=True)

    def show(self, snapshot: Snapshot) -> None:
        """Draws a snapshot."""
        self._last = snapshot
        self._draw(snapshot.changes.lines)

    def complain(self, error: StoreError) -> None:
        """Shows why there is no new snapshot."""
        self._draw([str(error)])

    def _draw(self, lines: Sequence[str]) -> None:
        self._recent.extend(f"{_now()} {line}" for line in lines)
        width, height = self._console.size
        if self._last is None:
            picture: RenderableType = Text("\n".join(self._recent), overflow="fold")
        else:
            footer = f"  ·  {_now()}  ·  Ctrl-C leaves"
            picture = screen(self._last, width=width, height=height, recent=list(self._recent), footer=footer)
        self._live.update(picture, refresh=True)


def show_once(snapshot: Snapshot, console: Console) -> None:
    """Prints the whole snapshot, however long it is."""
    console.print(screen(snapshot, width=console.width, recent=snapshot.changes.lines))


def screen(
    snapshot: Snapshot,
    *,
    width: int,
    height: int | None = None,
    recent: Sequence[str] = (),
    footer: str = "",
) -> RenderableType:
    """As much of the snapshot as fits.

    Args:
        snapshot: the snapshot.
        width: columns of the terminal.
        height: its lines; None: all of the snapshot is shown.
        recent: the newest changes.
        footer: the end of the last line.
    """
    remarks = [*notes(snapshot), *recent]
    for_cells, for_running = len(snapshot.cells), len(snapshot.running)
    if height is not None:
        remarks = _first(remarks, most=_MOST_REMARKS)
        folded = sum(math.ceil(len(line) / width) for line in remarks)
        rows = max(height - _LINES_BESIDE_TABLES - folded, 6)
        for_running = min(for_running, max(rows // 2, rows - for_cells - 2))
        for_cells = max(rows - for_running, 3)
    parts: list[RenderableType] = [Text(summary(snapshot), style="bold")]
    if snapshot.waiting:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in snapshot.waiting.items())
        parts.append(Text(f"waiting: {reasons}", style="dim"))
    if snapshot.cells:
        parts.append(_cells(snapshot.cells, limit=for_cells, wide=width >= _WIDE))
    if snapshot.running:
        parts.append(_running(snapshot.running, limit=for_running, wide=width >= _WIDE))
    # Folded and not cut, because the remedy is at the end of a line.
    parts += [
        Text(line, style="red" if line in snapshot.held else "yellow", overflow="fold") for line in remarks
    ]
    asked = ", ".join(f"{name} {count}" for name, count in sorted(snapshot.queries_per_minute.items()))
    parts.append(
        Text(f"Slurm queries in the last minute: {asked or 'none'}{footer}", style="dim", no_wrap=True)
    )
    return Group(*parts)


def _first(lines: list[str], *, most: int) -> list[str]:
    """The lines, of which at most so many are shown."""
    if len(lines) <= most:
        return lines
    return [
        *lines[: most - 1],
        f"and {len(lines) - most + 1} more; imagine-sweep watch --once shows them all",
    ]


def _cells(cells: Sequence[CellStatus], *, limit: int, wide: bool) -> RenderableType:
    """The cells, with a column for every status that occurs. If there are too many cells, the active ones.

    What all cells share is said once above them. On a narrow terminal the bar and long names shrink, but numbers are
    not cut.
    """
    counts = [count_by_status(cell.states) for cell in cells]
    statuses = [status for status in Status if any(each[status] for each in counts)]
    labels = [{"sweep": cell.sweep, **cell.cell.columns} for cell in cells]
    keys = dict.fromkeys(key for label in labels for key in label)
    values = {key: [cell_text(label.get(key)) for label in labels] for key in keys}
    shared = {key: of[0] for key, of in values.items() if len(cells) > 1 and len(set(of)) == 1}
    columns = [key for key in values if key not in shared and not (key == "sweep" and len(cells) == 1)]
    table = _table(wide=wide)
    for name in columns:
        table.add_column(escape(name))
    for status in statuses:
        style = _STYLES.get(status, "yellow")
        table.add_column(status, justify="right", style=style, no_wrap=True, min_width=len(status))
    table.add_column("done", max_width=_BAR)
    etas = [_eta(cell.eta_s) if cell.counts.active else "" for cell in cells]
    table.add_column("ETA", justify="right", no_wrap=True, min_width=max(map(len, (*etas, "ETA"))))
    rows = list(zip(cells, labels, counts, etas, strict=True))
    if len(rows) > limit:
        rows.sort(key=lambda row: (row[2][Status.RUNNING], row[2][Status.WAITING]), reverse=True)
        rows = rows[: limit - 1]
    for cell, label, count, eta in rows:
        names = [Text(cell_text(label.get(key)), no_wrap=True, overflow="ellipsis") for key in columns]
        numbers = [str(count[status] or "") for status in statuses]
        table.add_row(
            *names, *numbers, ProgressBar(total=max(cell.counts.total, 1), completed=cell.done), eta
        )
    if len(rows) < len(cells):
        table.add_row(f"and {len(cells) - len(rows)} more")
    same = describe({key: value for key, value in shared.items() if key != "sweep"})
    return Group(Text(f"cells, all: {same}", style="dim", overflow="fold"), table) if same else table


def _running(runs: Sequence[RunNow], *, limit: int, wide: bool) -> RenderableType:
    """The runs that train. On a narrow terminal `what` and `progress` are cut, but numbers are not.

    What all of them share is said once above them, so that the rest has room.
    """
    shared = _shared(runs)
    rows = [_run(run, shared, wide=wide) for run in (runs if len(runs) <= limit else runs[: limit - 1])]
    table = _table(wide=wide)
    for name in rows[0] if rows else ("run",):
        least = max(len(row[name]) for row in rows)
        least = min(least, _LEAST.get(name, least))
        table.add_column(
            name,
            min_width=least,
            no_wrap=name not in _LEAST,
            justify="right" if name in ("step", "steps/s", "ETA") else "left",
        )
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row.values()))
    if len(rows) < len(runs):
        table.add_row(f"and {len(runs) - len(rows)} more")
    if not shared:
        return table
    return Group(
        Text(f"running, all: {' '.join(shared)}", style="dim", no_wrap=True, overflow="ellipsis"), table
    )


def _shared(runs: Sequence[RunNow]) -> list[str]:
    """What several runs have in common: parts of their labels, and their node."""
    if len(runs) < 2:
        return []
    first, *others = ([*run.label.split(), f"on {_node(run)}"] for run in runs)
    return [part for part in first if all(part in other for other in others)]


def _run(run: RunNow, shared: Collection[str], *, wide: bool) -> dict[str, str]:
    """Column to text. The seed comes first, because the end of `what` may be cut."""
    values = said(run.experiment, run.progress)
    own = [part for part in run.label.split() if part not in shared]
    return {
        "run": short(run.run_id),
        "what": " ".join(sorted(own, key=lambda part: not part.startswith("seed="))),
        **({} if f"on {_node(run)}" in shared else {"node": _node(run)}),
        **({"device": run.device} if wide else {}),
        "step": f"{run.step}/{run.max_steps}",
        "steps/s": "" if run.steps_per_s is None else f"{run.steps_per_s:.1f}",
        "progress": values if wide else values.partition(" | ")[0],
        "ETA": _eta(run.eta_seconds),
    }


def _node(run: RunNow) -> str:
    return f"{run.node} {run.phase}".strip()


def _table(*, wide: bool) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if wide else (0, 1, 0, 0))


def _eta(seconds: float | None) -> str:
    return "?" if seconds is None else duration(math.ceil(seconds))


def _now() -> str:
    return time.strftime("%H:%M:%S")
