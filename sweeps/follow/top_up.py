"""Top-up: as many more runs as a cell lacks that passed the gate, by how many of its runs have passed so far."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from results_db.contract import PlannedRun
from results_db.text import counted
from sweeps.follow.coverage import CellCoverage, following
from sweeps.spec.expand import Expansion

CAP = 2.0
"""Runs of a cell, in multiples of those that it wants, beyond which no more are launched on their own account."""


@dataclass(frozen=True)
class CellTopUp:
    """What a top-up would launch for a cell.

    Attributes:
        covered: what the cell has.
        runs: open ones first, then those of unused seeds, in seed order.
        held_back: how many more its pass rate asks for than the cap or its fixed seeds allow.
    """

    covered: CellCoverage
    runs: Sequence[PlannedRun] = field(repr=False)
    held_back: int


def runs_needed(*, missing: int, tried: int, reached: int, active: int) -> int:
    """How many more runs to launch so that about `missing` of them and of the active ones pass the gate.

    A pass costs `(tried + 1) / reached` runs: the mean of 1 / rate, given what was seen, if every rate was as likely
    before. That is a little more than `tried / reached`, so it never launches fewer than the observed rate asks for,
    and the more there was to see, the smaller the difference. Where none has passed that mean does not exist, and the
    next run is taken for the first that passes: `tried + 1` runs, 17 after 16 in vain, and not infinitely many. Of a
    cell without any tried run this is 1: it gets what it wants, as by `launch`. Active runs pass at the same rate, so
    they are as good as so many of these.
    """
    if missing == 0:
        return 0
    return max(math.ceil(missing * (tried + 1) / max(reached, 1)) - active, 0)


def make_top_up(cells: Sequence[CellCoverage], *, cap: float = CAP) -> list[CellTopUp]:
    """What a top-up would launch, cell by cell; the same store gives the same runs.

    Args:
        cells: what the cells have, all of them, since a run is launched for one cell only.
        cap: tried, active, failed and launched runs of a cell are together at most this many times what it wants.
    """
    taken = {run.run_id for covered in cells for run in covered.cell.runs}
    top_ups = []
    for covered in cells:
        needed = runs_needed(
            missing=covered.missing, tried=covered.tried, reached=covered.reached, active=covered.active
        )
        allowed = min(needed, _left(covered, cap))
        unused = (run for run in following(covered.cell) if run.run_id not in taken)
        runs = list(itertools.islice(itertools.chain(covered.open, unused), allowed))
        taken |= {run.run_id for run in runs}
        top_ups.append(CellTopUp(covered, runs, needed - len(runs)))
    return top_ups


def _left(covered: CellCoverage, cap: float) -> int:
    """How many runs the cap leaves."""
    most = math.floor(round(cap * covered.cell.wanted, 6))  # 1.15 * 20 is a little below 23
    return max(most - covered.tried - covered.active - covered.failed, 0)


def to_launch(top_ups: Sequence[CellTopUp]) -> Expansion:
    """The cells that get runs, with these runs alone."""
    return Expansion([replace(each.covered.cell, runs=each.runs) for each in top_ups if each.runs])


def why_held_back(top_up: CellTopUp, *, cap: float) -> str:
    """For a person, of a cell that gets fewer runs than it needs: what it needs, and what to do."""
    covered, given = top_up.covered, len(top_up.runs)
    said = (
        f"{covered.reached} of {counted(covered.tried, 'run')} reached the accuracy, "
        f"{covered.missing} more are wanted, and that takes about {counted(given + top_up.held_back, 'run')}"
    )
    if covered.cell.next_seed is None:
        return f"{said}, but its seeds are fixed and {given} of them open; give the spec `runs` instead"
    return f"{said}, but the cap of {cap:g} times {covered.cell.wanted} leaves {given}; raise it with --cap"
