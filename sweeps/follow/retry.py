"""Retry: which failed runs to train again, and which have failed too often."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from results_db.contract import FAILURES
from sweeps.follow.coverage import with_top_ups
from sweeps.spec.expand import Expansion, first_runs
from sweeps.spec.model import Spec

if TYPE_CHECKING:
    import pandas as pd

MAX_ATTEMPTS = 3
"""Attempts of a run after which it is not tried again unless somebody raises this."""


@dataclass(frozen=True)
class Failed:
    """A failed run as the store has it."""

    run_id: str
    state: str
    attempts: int


@dataclass(frozen=True)
class Retry:
    """What is trained again of a sweep.

    Attributes:
        spec: the sweep's.
        expansion: the cells that have runs to train again, with these alone.
        left: failed runs that have had all of their attempts.
    """

    spec: Spec
    expansion: Expansion
    left: Sequence[Failed]


def failed_runs(frame: "pd.DataFrame", *, states: Collection[str] = ()) -> dict[str, Failed]:
    """The failed runs of a frame, by id.

    Args:
        frame: runs.
        states: in which of the failed states; default: all of them.
    """
    chosen = frame[frame["state"].isin(states or FAILURES)]
    columns = [chosen[name].tolist() for name in ("run_id", "state", "attempts")]
    return {row[0]: Failed(*row) for row in zip(*columns, strict=True)}


def plan_retries(
    sweeps: Sequence[tuple[Spec, Expansion]],
    failed: Mapping[str, Failed],
    *,
    known: Collection[str],
    max_attempts: int = MAX_ATTEMPTS,
    limit: int | None = None,
) -> list[Retry]:
    """What is trained again of each sweep; a run that several want, of the first of them alone.

    Args:
        sweeps: specs and their cells.
        failed: the failed runs, by id.
        known: ids of all runs of the store, by which earlier top-ups are found.
        max_attempts: runs that have had so many attempts are left.
        limit: how many runs to train at most, over all sweeps.
    """
    open_ids = {run_id for run_id, run in failed.items() if run.attempts < max_attempts}
    left_ids = failed.keys() - open_ids
    retries = []
    for spec, expansion in sweeps:
        grown = with_top_ups(expansion, known)
        chosen = first_runs(_only(grown, open_ids), limit)
        mine = [run.run_id for run in grown.runs]
        retries.append(Retry(spec, chosen, [failed[run_id] for run_id in mine if run_id in left_ids]))
        open_ids, left_ids = open_ids.difference(mine), left_ids.difference(mine)
        limit = None if limit is None else limit - len(chosen.runs)
    return retries


def _only(expansion: Expansion, run_ids: Collection[str]) -> Expansion:
    """The cells with these runs alone."""
    return Expansion(
        [replace(cell, runs=[run for run in cell.runs if run.run_id in run_ids]) for cell in expansion.cells]
    )
