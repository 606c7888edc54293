"""What `watch` shows: a screen that is drawn anew at every look, or lines where there is no terminal."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from jobs.progress import accuracies, duration
from results_db.contract import FAILURES, INTERRUPTED, State
from results_db.text import cell_text, counted, short
from sweeps.follow.watch import NEW, CellNow, RunNow, Snapshot
from sweeps.spec.stored import NO_SWEEP

_ORDER = (
    State.COMPLETED,
    State.RUNNING,
    State.PENDING,
    *sorted(FAILURES),
    *sorted(INTERRUPTED),
    State.STAGED,
    NEW,
)
_SHORT: dict[str, str] = {
    State.COMPLETED: "done",
    State.RUNNING: "running",
    State.PENDING: "waiting",
    State.OUT_OF_MEMORY: "no memory",
    State.NODE_FAIL: "node fail",
}
_STYLES: dict[str, str] = {State.COMPLETED: "green", State.RUNNING: "cyan", State.PENDING: "dim"}
_LINES_BESIDE_TABLES = 12
_WIDE = 120
_NUMBERS = ("step", "steps/s", "ETA")
_SHRINK = ("what", "accuracy")


def summary(snapshot: Snapshot) -> str:
    """One line: `table3: 12 of 48 completed, 4 running, 30 waiting, 2 failed; ETA 2:05 h`."""
    if not snapshot.cells:
        return NO_SWEEP
    states = snapshot.states
    total = sum(states.values())
    parts = [f"{states.get(State.COMPLETED, 0)} of {total} completed"]
    parts += [f"{count} {name}" for name, count in _grouped(states).items() if count]
    eta = f"; ETA {_eta(snapshot.eta_s)}" if snapshot.active else ""
    return f"{snapshot.name}: {', '.join(parts)}{eta}"


def _grouped(states: Mapping[str, int]) -> dict[str, int]:
    return {
        "running": states.get(State.RUNNING, 0),
        "waiting": states.get(State.PENDING, 0),
        "failed": sum(states.get(state, 0) for state in FAILURES),
        "interrupted": sum(states.get(state, 0) for state in INTERRUPTED),
        "not launched": states.get(State.STAGED, 0) + states.get(NEW, 0),
    }


class Lines:
    """For a log file: a line when something changed.

    Args:
        echo: prints a line.
    """

    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self._said: set[str] = set()
        self._summary = ""

    def show(self, snapshot: Snapshot) -> None:
        """What is new."""
        states = f"{sorted(snapshot.states.items())}"
        if states != self._summary:
            self._echo(f"{_now()} {summary(snapshot)}")
        self._summary = states
        for line in (*snapshot.found.lines, *notes(snapshot)):
            if line not in self._said:
                self._said.add(line)
                self._echo(f"{_now()} {line}")


_MOST_CAUSES = 5


def notes(snapshot: Snapshot) -> list[str]:
    """What a person should know beside the numbers: failures by cause, what is held, what could not be learned."""
    lines = [
        f"{len(cause.run_ids)} failed (imagine-sweep logs {short(cause.run_ids[0])}): {cause.example}"
        for cause in snapshot.causes[:_MOST_CAUSES]
    ]
    if more := len(snapshot.causes) - len(lines):
        lines.append(f"and {counted(more, 'other cause')}: imagine-sweep watch --once --json names all")
    return [*lines, *snapshot.held, *(f"not known: {line}" for line in snapshot.found.unknown)]


def screen(
    snapshot: Snapshot, *, width: int, height: int, recent: Sequence[str] = (), footer: str = ""
) -> RenderableType:
    """Everything, as much as fits.

    Args:
        snapshot: what to show.
        width: columns of the terminal.
        height: its lines.
        recent: what reconciling changed lately.
        footer: the last line.
    """
    remarks = [*notes(snapshot), *recent][:8]
    lines = sum(-(-len(line) // width) for line in remarks)
    rows = max(height - _LINES_BESIDE_TABLES - lines, 6)
    for_running = min(len(snapshot.running), max(rows // 2, rows - len(snapshot.cells) - 2))
    parts: list[RenderableType] = [Text(summary(snapshot), style="bold")]
    if snapshot.waiting:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in snapshot.waiting.items())
        parts.append(Text(f"waiting: {reasons}", style="dim"))
    if snapshot.cells:
        parts.append(_cells(snapshot.cells, limit=max(rows - for_running, 3)))
    if snapshot.running:
        parts.append(_running(snapshot.running, limit=for_running, wide=width >= _WIDE))
    # Folded, never cut: at their ends they say what to do.
    parts += [Text(line, style=_note_style(line), overflow="fold") for line in remarks]
    asked = ", ".join(f"{name} {count}" for name, count in sorted(snapshot.queries.items())) or "nothing"
    parts.append(Text(f"asked of Slurm in the last minute: {asked}{footer}", style="dim", no_wrap=True))
    return Group(*parts)


def show_once(snapshot: Snapshot, console: Console) -> None:
    """The whole of it, however long."""
    everything = len(snapshot.cells) + len(snapshot.running) + 40
    console.print(screen(snapshot, width=console.width, height=2 * everything, recent=snapshot.found.lines))


def _cells(cells: Sequence[CellNow], *, limit: int) -> Table:
    """The cells, those first in which something happens; a column for every state that occurs."""
    states = [state for state in _ORDER if any(cell.states.get(state) for cell in cells)]
    named = len({cell.sweep for cell in cells}) > 1
    columns = list(dict.fromkeys(key for cell in cells for key in cell.columns))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (*(["sweep"] if named else []), *columns):
        table.add_column(escape(name))
    for state in states:
        table.add_column(
            _SHORT.get(state, str(state).lower()), justify="right", style=_STYLES.get(state, "yellow")
        )
    table.add_column("ETA", justify="right")
    shown = cells if len(cells) <= limit else sorted(cells, key=_interest)[: limit - 1]
    for cell in shown:
        row = [cell.sweep] if named else []
        row += [cell_text(cell.columns.get(key)) for key in columns]
        row += [str(cell.states.get(state, "")) for state in states]
        table.add_row(*map(escape, row), _eta_of(cell))
    if len(shown) < len(cells):
        table.add_row(f"and {len(cells) - len(shown)} more")
    return table


def _interest(cell: CellNow) -> tuple[int, int]:
    """Cells that train first, then those that wait, then those that lack something."""
    return -cell.states.get(State.RUNNING, 0), -cell.states.get(State.PENDING, 0)


def _eta_of(cell: CellNow) -> str:
    active = cell.states.get(State.RUNNING, 0) + cell.states.get(State.PENDING, 0)
    return _eta(cell.eta_s) if active else ""


def _running(runs: Sequence[RunNow], *, limit: int, wide: bool) -> Table:
    """The runs that train. On a narrow terminal `what` and `accuracy` are cut; never a number."""
    shown = runs if len(runs) <= limit else runs[: limit - 1]
    rows = [_run(run, wide=wide) for run in shown]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if wide else (0, 1, 0, 0))
    for name in rows[0] if rows else ("run",):
        table.add_column(
            name,
            min_width=None if name in _SHRINK else max(len(row[name]) for row in rows),
            no_wrap=name not in _SHRINK,
            justify="right" if name in _NUMBERS else "left",
        )
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row.values()))
    if len(shown) < len(runs):
        table.add_row(f"and {len(runs) - len(shown)} more")
    return table


def _run(run: RunNow, *, wide: bool) -> dict[str, str]:
    """Column to cell."""
    now = run.running
    reached = accuracies(now.attempt.progress)
    return {
        "run": short(run.run_id),
        "what": run.label,
        "node": " ".join(word for word in (now.node, now.phase) if word),
        **({"device": run.device} if wide else {}),
        "step": f"{now.attempt.step}/{run.max_steps}",
        "steps/s": "" if now.steps_per_s is None else f"{now.steps_per_s:.1f}",
        "accuracy": reached if wide else reached.partition(" | ")[0].removeprefix("final "),
        "ETA": _eta(run.eta_s),
    }


def _note_style(line: str) -> str:
    return "red" if " is held: " in line else "yellow"


def _eta(seconds: float | None) -> str:
    return "?" if seconds is None else duration(math.ceil(seconds))


def _now() -> str:
    return time.strftime("%H:%M:%S")
