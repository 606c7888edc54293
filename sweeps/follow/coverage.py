"""Coverage: what every cell of a spec wants, and what the store has of it."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from results_db.contract import ACTIVE, FAILURES, PlannedRun, State
from sweeps.spec.expand import Cell, Expansion

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class CellCoverage:
    """What the store has of a cell: of the spec's runs and of those that earlier top-ups added.

    Attributes:
        cell: the cell, with all of these runs.
        tried: COMPLETED runs, whatever accuracy they reached.
        reached: those of them that passed the gate.
        active: queued or training.
        failed: left alone unless a retry is asked for.
        open: never tried or interrupted, in seed order.
    """

    cell: Cell
    tried: int
    reached: int
    active: int
    failed: int
    open: Sequence[PlannedRun] = field(repr=False)

    @property
    def missing(self) -> int:
        """How many runs that passed the gate the cell lacks."""
        return max(self.cell.wanted - self.reached, 0)

    @property
    def pass_rate(self) -> float | None:
        """Share of the tried runs that passed the gate; None without any."""
        return self.reached / self.tried if self.tried else None

    @property
    def counts(self) -> dict[str, int]:
        """The columns of a listing."""
        return {
            "wanted": self.cell.wanted,
            "tried": self.tried,
            "reached": self.reached,
            "active": self.active,
            "failed": self.failed,
            "open": len(self.open),
            "missing": self.missing,
        }


def cover(
    expansion: Expansion,
    frame: "pd.DataFrame",
    *,
    dead: Collection[str] = (),
    min_accuracy: float | None = None,
) -> list[CellCoverage]:
    """What the store has of each cell.

    Args:
        expansion: the spec's cells and runs.
        frame: every run of the store.
        dead: run ids that the store holds for RUNNING though their worker is gone.
        min_accuracy: the gate; default: each experiment's (see `results_db.query.gate`).

    Raises:
        StoreError: an experiment has no gate of its own.
        ConfigError: a value drawn for a seed contradicts its cell's other values.
    """
    states = {run_id: State(state) for run_id, state in zip(frame["run_id"], frame["state"], strict=True)}
    states |= {run_id: State.LOST for run_id in dead if run_id in states}
    grown = with_top_ups(expansion, states.keys())
    reached = _reached(frame, {run.run_id for run in grown.runs}, min_accuracy=min_accuracy)
    return [_covered(cell, states, reached) for cell in grown.cells]


def with_top_ups(expansion: Expansion, known: Collection[str]) -> Expansion:
    """The cells with the runs that earlier top-ups added: those of the seeds after the spec's up to the first gap.

    Args:
        expansion: the spec's cells and runs.
        known: ids of the runs that the store holds.
    """
    taken = {run.run_id for run in expansion.runs}
    cells = []
    for cell in expansion.cells:
        added = list(itertools.takewhile(lambda run: run.run_id in known, following(cell)))
        own = [run for run in added if run.run_id not in taken]
        taken |= {run.run_id for run in own}
        if added and cell.next_seed is not None:
            cell = replace(cell, runs=[*cell.runs, *own], next_seed=cell.next_seed + len(added))
        cells.append(cell)
    return Expansion(cells)


def following(cell: Cell) -> Iterator[PlannedRun]:
    """The cell's runs of the seeds after those that it has, without end; none where the spec fixes its seeds."""
    if cell.next_seed is not None:
        yield from (cell.run(seed) for seed in itertools.count(cell.next_seed))


def _reached(frame: "pd.DataFrame", wanted: Collection[str], *, min_accuracy: float | None) -> set[str]:
    """Ids of the wanted runs that are COMPLETED and passed the gate."""
    from results_db.query.gate import completed, passed

    done = completed(frame[frame["run_id"].isin(wanted)])
    return set(done["run_id"][passed(done, min_accuracy=min_accuracy)])


def _covered(cell: Cell, states: dict[str, State], reached: set[str]) -> CellCoverage:
    kinds: Counter[str] = Counter()
    still_open = []
    for run in cell.runs:
        state = states.get(run.run_id, State.STAGED)
        if state is State.COMPLETED:
            kinds["tried"] += 1
        elif state in ACTIVE:
            kinds["active"] += 1
        elif state in FAILURES:
            kinds["failed"] += 1
        else:
            still_open.append(run)
    return CellCoverage(
        cell=cell,
        tried=kinds["tried"],
        reached=sum(run.run_id in reached for run in cell.runs),
        active=kinds["active"],
        failed=kinds["failed"],
        open=still_open,
    )
