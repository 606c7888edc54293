"""Coverage: the kept runs of every cell, and the runs of earlier top-ups."""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from results_db.contract import PlannedRun, State
from sweeps.spec.expand import Cell, Expansion
from sweeps.status.cell import CellStatus, read_cells, with_lost

if TYPE_CHECKING:
    import pandas as pd


def cover(
    expansion: Expansion,
    frame: "pd.DataFrame",
    *,
    sweep: str = "",
    dead: Collection[str] = (),
    min_accuracy: float | None = None,
) -> list[CellStatus]:
    """The status of every cell, with its number of kept runs and the runs of earlier top-ups.

    `frame` holds all runs of the store. `min_accuracy` is the gate; default: each experiment's own. See `dead_runs`
    for `dead`.

    Raises:
        StoreError: an experiment has no gate of its own.
        ConfigError: a value drawn for a seed contradicts its cell's other values.
    """
    from results_db.query.gate import completed, passed

    states = {run_id: State(state) for run_id, state in zip(frame["run_id"], frame["state"], strict=True)}
    grown = with_top_ups(expansion, states.keys())
    stored = completed(frame[frame["run_id"].isin({run.run_id for run in grown.runs})])
    kept = set(stored["run_id"][passed(stored, min_accuracy=min_accuracy)])
    return [
        replace(cell, kept=sum(run.run_id in kept for run in cell.cell.runs))
        for cell in read_cells(grown, with_lost(states, dead), sweep=sweep)
    ]


def with_top_ups(expansion: Expansion, known: Collection[str]) -> Expansion:
    """The cells with the runs of earlier top-ups: those of the next seeds, up to the first that is not in `known`."""
    taken = {run.run_id for run in expansion.runs}
    cells = []
    for cell in expansion.cells:
        added = list(itertools.takewhile(lambda run: run.run_id in known, next_runs(cell)))
        own = [run for run in added if run.run_id not in taken]
        taken |= {run.run_id for run in own}
        next_seed = None if cell.next_seed is None else cell.next_seed + len(added)
        cells.append(replace(cell, runs=[*cell.runs, *own], next_seed=next_seed))
    return Expansion(cells)


def next_runs(cell: Cell) -> Iterator[PlannedRun]:
    """The cell's runs with the seeds after its own, endlessly; none if the spec fixes its seeds."""
    if cell.next_seed is not None:
        yield from (cell.run(seed) for seed in itertools.count(cell.next_seed))
