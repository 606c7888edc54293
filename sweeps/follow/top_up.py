"""Top-up: more runs for cells that miss kept runs, by each cell's pass rate."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from results_db.text import counted
from sweeps.follow.coverage import next_runs, why_no_more
from sweeps.spec.expand import Expansion
from sweeps.status.blocked import lines as blocked_lines
from sweeps.status.cell import CellStatus

CAP = 2.0
"""Most runs of a cell by default, as a multiple of its wanted runs."""


def runs_needed(*, missing: int, stored: int, kept: int, active: int) -> int:
    """The number of runs to launch so that about `missing` of them and of the active runs pass the gate.

    A kept run costs `(stored + 1) / kept` runs: the posterior mean of 1 / pass rate under a uniform prior. This is
    slightly more than the observed `stored / kept`. Without a kept run that mean does not exist; a kept run then
    costs `stored + 1` runs, such as 17 after 16 that missed the gate. A cell without stored runs gets the runs that
    it wants. Active runs are expected to pass at the same rate, so their number is subtracted.
    """
    if missing == 0:
        return 0
    return max(math.ceil(missing * (stored + 1) / max(kept, 1)) - active, 0)


def make_top_up(cells: Sequence[CellStatus], *, cap: float = CAP) -> list[CellStatus]:
    """The cells with the runs that a top-up would launch: first their runs to submit, then those of unused seeds.

    A cell of needed runs gets those to submit that the others build on. A cell whose runs all build on a need that is
    not met gets no new seeds.

    Args:
        cells: all cells of the spec. A run is launched for only one of them.
        cap: most stored, active, failed, blocked and launched runs of a cell, as a multiple of its wanted runs.
    """
    taken = {run.run_id for cell in cells for run in cell.cell.runs}
    top_ups = []
    for cell in cells:
        if cell.cell.is_needed:
            top_ups.append(cell)
            continue
        counts = cell.counts
        needed = runs_needed(
            missing=cell.missing, stored=counts.stored, kept=cell.kept or 0, active=counts.active
        )
        most = math.floor(round(cap * cell.cell.wanted, 6))  # 1.15 * 20 is slightly below 23
        allowed = min(needed, max(most - counts.total + counts.to_submit, 0))
        unused = (run for run in next_runs(cell.cell) if run.run_id not in taken)
        following = () if _is_stuck(cell) else unused
        runs = list(itertools.islice(itertools.chain(cell.to_submit, following), allowed))
        taken |= {run.run_id for run in runs}
        top_ups.append(
            replace(cell, top_up=runs, held_back=needed - len(runs), ends_early=len(runs) < allowed)
        )
    launched = {run.run_id for run in to_launch(top_ups).runs}
    return [
        replace(cell, top_up=[run for run in cell.to_submit if run.run_id in launched])
        if cell.cell.is_needed
        else cell
        for cell in top_ups
    ]


def to_launch(cells: Sequence[CellStatus]) -> Expansion:
    """The runs to launch, and their cells. The runs that they need follow from them."""
    return Expansion(
        [replace(cell.cell, runs=cell.top_up) for cell in cells if cell.top_up and not cell.cell.is_needed]
    )


def _is_stuck(cell: CellStatus) -> bool:
    """Whether new seeds would be blocked like the cell's runs."""
    return bool(cell.blocked) and cell.cell.needs_are_shared


def remarks(cells: Sequence[CellStatus], *, cap: float) -> list[str]:
    """Lines for the user: what keeps cells from the runs that they need, and what to do."""
    held = [cell for cell in cells if cell.held_back and not _is_stuck(cell)]
    fixed = [cell for cell in held if cell.cell.next_seed is None]
    ended = [cell for cell in held if cell.ends_early and cell not in fixed]
    capped = [cell for cell in held if not cell.ends_early and cell not in fixed]
    failed = [cell for cell in cells if cell.missing and cell.counts.failed]
    lines = blocked_lines({run_id: why for cell in cells for run_id, why in cell.blocked.items()})
    if failed:
        runs = counted(sum(cell.counts.failed for cell in failed), "run")
        lines.append(f"{_named(failed)}: {runs} failed; first try imagine-sweep retry, top-up adds new seeds")
    if fixed:
        lines.append(f"{_held(fixed)}, because the seeds are fixed; give the spec `runs` instead")
    if ended:
        lines.append(f"{_held(ended)}, {why_no_more(ended[0].cell)}; change the values that the spec draws")
    if capped:
        lines.append(f"{_held(capped)} by the cap of {cap:g} times wanted; raise it with --cap")
    return lines


def _held(cells: Sequence[CellStatus]) -> str:
    return f"{_named(cells)}: {counted(sum(cell.held_back for cell in cells), 'run')} held back"


def _named(cells: Sequence[CellStatus]) -> str:
    return cells[0].label if len(cells) == 1 else counted(len(cells), "cell")
