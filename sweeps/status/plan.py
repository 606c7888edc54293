"""The plan of a launch: the runs of a spec that are in the store, and those to train."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from results_db.contract import PlannedRun, Store
from sweeps.spec.expand import Expansion, in_breadth_first_order
from sweeps.status.blocked import blocked, lines
from sweeps.status.cell import CellStatus, Counts, read_cells, with_lost


@dataclass(frozen=True)
class Plan:
    """The status of every cell, the runs to submit in breadth-first order, and why others are blocked, by run id."""

    cells: Sequence[CellStatus]
    to_submit: Sequence[PlannedRun] = field(repr=False)
    blocked: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> Counts:
        """The numbers of runs of all cells."""
        return sum((cell.counts for cell in self.cells), Counts())

    def as_dict(self) -> dict[str, Any]:
        """The plan for `--json`."""
        cells = [{**cell.cell.columns, **cell.numbers, "states": dict(cell.states)} for cell in self.cells]
        return {**self.counts.as_dict(), "why_blocked": lines(self.blocked), "cells": cells}


def make_plan(
    expansion: Expansion,
    store: Store,
    *,
    dead: Collection[str] = (),
    retry_failed: bool = False,
    waits_for: Collection[str] | None = None,
) -> Plan:
    """Compares a spec's runs with the store, and writes nothing. See `dead_runs` for `dead`, `blocked` for the rest."""
    states = with_lost(store.states(run.run_id for run in expansion.runs), dead)
    reasons = blocked(
        expansion.runs,
        states,
        store,
        retry_failed=retry_failed,
        waits_for=waits_for,
        at_hand=expansion.files,
    )
    cells = read_cells(expansion, states, retry_failed=retry_failed, blocked=reasons)
    open_ids = {run.run_id for cell in cells for run in cell.to_submit}
    to_submit = [run for run in in_breadth_first_order(expansion) if run.run_id in open_ids]
    return Plan(cells, to_submit, reasons)
