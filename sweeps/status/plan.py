"""The plan of a launch: the runs of a spec that are in the store, and those to train."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from results_db.contract import PlannedRun, Store
from sweeps.spec.expand import Expansion, in_breadth_first_order
from sweeps.status.cell import CellStatus, Counts, read_cells, with_lost
from sweeps.status.estimate import Estimate


@dataclass(frozen=True)
class Plan:
    """The status of every cell, the runs to submit in breadth-first order, and how long runs take."""

    cells: Sequence[CellStatus]
    to_submit: Sequence[PlannedRun] = field(repr=False)
    estimate: Estimate = field(repr=False)

    @property
    def counts(self) -> Counts:
        """The numbers of runs of all cells."""
        return sum((cell.counts for cell in self.cells), Counts())

    @property
    def expected_seconds(self) -> float | None:
        """Training time of all runs to submit, one after the other; None if any cell's time is unknown."""
        times = [cell.expected_seconds for cell in self.cells]
        return None if None in times else sum(time for time in times if time is not None)

    @property
    def known_seconds(self) -> float | None:
        """The same sum over the cells whose time is known; None if no cell's time is known."""
        times = [cell.expected_seconds for cell in self.cells if cell.to_submit]
        known = [time for time in times if time is not None]
        return sum(known) if known or not times else None

    def as_dict(self) -> dict[str, Any]:
        """The plan for `--json`."""
        cells = [
            {
                **cell.cell.columns,
                **cell.numbers,
                "states": dict(cell.states),
                "expected_seconds": cell.expected_seconds,
            }
            for cell in self.cells
        ]
        return {**self.counts.as_dict(), "expected_seconds": self.expected_seconds, "cells": cells}


def make_plan(
    expansion: Expansion, store: Store, *, dead: Collection[str] = (), retry_failed: bool = False
) -> Plan:
    """Compares a spec's runs with the store, and writes nothing. See `dead_runs` for `dead`."""
    states = with_lost(store.states(run.run_id for run in expansion.runs), dead)
    cells = read_cells(expansion, states, retry_failed=retry_failed)
    open_ids = {run.run_id for cell in cells for run in cell.to_submit}
    if not open_ids:  # reading all runs for the estimate takes time
        return Plan(cells, [], Estimate([]))
    estimate = Estimate(expansion.cells, store.runs())
    return Plan(
        [replace(cell, seconds_per_run=estimate.seconds(cell.cell)) for cell in cells],
        [run for run in in_breadth_first_order(expansion) if run.run_id in open_ids],
        estimate,
    )
