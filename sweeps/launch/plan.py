"""The plan: what of a spec the store already holds, and what is left to train."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imagination.schema import Scalar
from jobs.identity import canonical_json
from results_db.contract import ACTIVE, FAILURES, PlannedRun, State, Store
from sweeps.spec.expand import Cell, Expansion, in_breadth_first_order

if TYPE_CHECKING:  # takes half a second to import, and only the expected time of runs to submit needs it
    import pandas as pd


@dataclass(frozen=True)
class Counts:
    """total = stored + active + failed + to_submit, in runs.

    Attributes:
        stored: COMPLETED, whatever accuracy they reached.
        active: queued or training.
        failed: left alone unless a retry is asked for.
        to_submit: what `launch` takes: never tried, or interrupted.
    """

    stored: int = 0
    active: int = 0
    failed: int = 0
    to_submit: int = 0

    @property
    def total(self) -> int:
        """All runs."""
        return self.stored + self.active + self.failed + self.to_submit

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.stored + other.stored,
            self.active + other.active,
            self.failed + other.failed,
            self.to_submit + other.to_submit,
        )

    def as_dict(self) -> dict[str, int]:
        """For `--json`."""
        return {
            "total": self.total,
            "stored": self.stored,
            "active": self.active,
            "failed": self.failed,
            "to_submit": self.to_submit,
        }


@dataclass(frozen=True)
class CellPlan:
    """A cell's counts.

    Attributes:
        cell: the cell.
        counts: of its runs.
        states: how many runs are in which state; runs that the store does not know are `NEW`.
        seconds_per_run: mean training time of this cell's stored runs, whatever their seeds; None without any, or
            if nothing of the whole plan is to be submitted.
    """

    cell: Cell
    counts: Counts
    states: Mapping[str, int]
    seconds_per_run: float | None

    @property
    def expected_seconds(self) -> float | None:
        """Training time of the runs to submit, one after the other; None without past runs."""
        if self.counts.to_submit == 0:
            return 0.0
        return None if self.seconds_per_run is None else self.seconds_per_run * self.counts.to_submit

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **self.cell.columns,
            "wanted": self.cell.wanted,
            **self.counts.as_dict(),
            "states": dict(self.states),
            "expected_seconds": self.expected_seconds,
        }


@dataclass(frozen=True)
class Plan:
    """The counts of every cell, and the runs to submit in breadth-first order."""

    cells: Sequence[CellPlan]
    to_submit: Sequence[PlannedRun] = field(repr=False)

    @property
    def counts(self) -> Counts:
        """Over all cells."""
        return sum((cell.counts for cell in self.cells), Counts())

    @property
    def expected_seconds(self) -> float | None:
        """Training time of all runs to submit, one after the other; None if a cell with such runs has no past."""
        times = [cell.expected_seconds for cell in self.cells]
        return None if None in times else sum(time for time in times if time is not None)

    @property
    def known_seconds(self) -> float | None:
        """The same of the cells that have a past alone, so that it is at least this; None if none has."""
        times = [cell.expected_seconds for cell in self.cells if cell.counts.to_submit]
        known = [time for time in times if time is not None]
        return sum(known) if known or not times else None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **self.counts.as_dict(),
            "expected_seconds": self.expected_seconds,
            "cells": [cell.as_dict() for cell in self.cells],
        }


def make_plan(
    expansion: Expansion, store: Store, *, dead: Collection[str] = (), retry_failed: bool = False
) -> Plan:
    """Compare what should exist with what does. Reads the store, writes nothing.

    Args:
        expansion: the spec's cells and runs.
        store: may be empty.
        dead: run ids that the store holds for RUNNING though their worker is gone.
        retry_failed: failed runs are to be submitted, too.
    """
    states = store.states(run.run_id for cell in expansion.cells for run in cell.runs)
    states |= {run_id: State.LOST for run_id in dead if run_id in states}

    def kind(run: PlannedRun) -> str:
        state = states.get(run.run_id)
        if state is State.COMPLETED:
            return "stored"
        if state in ACTIVE:
            return "active"
        return "failed" if state in FAILURES and not retry_failed else "to_submit"

    to_submit = [run for run in in_breadth_first_order(expansion) if kind(run) == "to_submit"]
    past = _PastSeconds(store) if to_submit else None
    cells = [
        CellPlan(
            cell=cell,
            counts=Counts(**Counter(kind(run) for run in cell.runs)),
            states=Counter(str(states.get(run.run_id, "NEW")) for run in cell.runs),
            seconds_per_run=past.of(cell) if past is not None else None,
        )
        for cell in expansion.cells
    ]
    return Plan(cells, to_submit)


class _PastSeconds:
    """Mean training time of stored runs that differ from a cell in the seed and the sampled keys alone."""

    def __init__(self, store: Store) -> None:
        frame = store.runs()
        self._completed: pd.DataFrame = frame[frame["state"] == State.COMPLETED]
        self._means: dict[tuple[str, ...], Mapping[str, float]] = {}

    def of(self, cell: Cell) -> float | None:
        """Mean seconds per run of this cell, None without any."""
        keys = tuple(cell.config)
        if keys not in self._means:
            self._means[keys] = self._by_config(keys)
        return self._means[keys].get(canonical_json(cell.config))

    def _by_config(self, keys: tuple[str, ...]) -> Mapping[str, float]:
        """Canonical JSON of these keys' values to mean seconds."""
        if not set(keys) <= set(self._completed.columns):
            return {}
        seconds: dict[str, list[float]] = {}
        columns = [self._completed[key].tolist() for key in keys]
        for *values, took in zip(*columns, self._completed["seconds"].tolist(), strict=True):
            if not any(_is_missing(value) for value in values):
                config: dict[str, Scalar] = dict(zip(keys, values, strict=True))
                seconds.setdefault(canonical_json(config), []).append(took)
        return {config: sum(took) / len(took) for config, took in seconds.items()}


def _is_missing(value: object) -> bool:
    """None, or NaN: the only value that differs from itself."""
    return value is None or value != value
