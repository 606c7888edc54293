"""Retry: the failed runs to train again."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from results_db.contract import FAILURES
from sweeps.follow.coverage import with_top_ups
from sweeps.spec.expand import Expansion, first_runs
from sweeps.spec.model import Spec

if TYPE_CHECKING:
    import pandas as pd

    from results_db.frame import Frame

MAX_ATTEMPTS = 3
"""The number of attempts after which a run is not retried, by default."""


@dataclass(frozen=True)
class Retry:
    """A sweep's runs to train again, and the ids of those that are `left` because they have used up their attempts."""

    spec: Spec
    expansion: Expansion
    left: Sequence[str]


def failed_runs(frame: "pd.DataFrame | Frame", *, states: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """The `state` and `attempts` of a frame's runs in these states (default: all failures), by run id."""
    wanted = states or FAILURES
    columns = (frame[name].tolist() for name in ("run_id", "state", "attempts"))
    return {
        run_id: {"state": state, "attempts": n}
        for run_id, state, n in zip(*columns, strict=True)
        if state in wanted
    }


def plan_retries(
    sweeps: Sequence[tuple[Spec, Expansion]],
    failed: Mapping[str, Mapping[str, Any]],
    *,
    known: Collection[str],
    max_attempts: int = MAX_ATTEMPTS,
    limit: int | None = None,
) -> list[Retry]:
    """The runs of each sweep to train again. A run of several sweeps belongs to the first of them.

    Args:
        sweeps: specs, and their cells and runs.
        failed: see `failed_runs`.
        known: ids of all runs of the store, to find the runs of earlier top-ups.
        max_attempts: the number of attempts after which a run is not retried.
        limit: most runs over all sweeps; None: all.
    """
    again = {run_id for run_id, run in failed.items() if run["attempts"] < max_attempts}
    left = failed.keys() - again
    retries = []
    for spec, expansion in sweeps:
        grown = with_top_ups(expansion, known)
        cells = [
            replace(cell, runs=[run for run in cell.runs if run.run_id in again]) for cell in grown.cells
        ]
        chosen = first_runs(Expansion(cells), limit)
        own = [run.run_id for run in grown.runs]
        retries.append(Retry(spec, chosen, [run_id for run_id in own if run_id in left]))
        again, left = again.difference(own), left.difference(own)
        limit = None if limit is None else limit - len(chosen.runs)
    return retries
