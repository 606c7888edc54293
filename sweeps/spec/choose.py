"""Chooses runs of sweeps by a filter on their configs."""

from collections.abc import Sequence

from results_db.contract import StoreError
from sweeps.spec.expand import Expansion, only
from sweeps.spec.model import Spec


def matching(sweeps: Sequence[tuple[Spec, Expansion]], where: str | None) -> list[tuple[Spec, Expansion]]:
    """The sweeps, cells and runs that match a filter on config keys and run ids; all of them without a filter.

    Raises:
        StoreError: no run matches, or the filter is wrong (see `results_db.query.where.mask`).
    """
    if where is None or not sweeps:
        return list(sweeps)
    import pandas as pd

    from results_db.query import where as filters

    rows = [{"run_id": run.run_id, **run.config} for _, expansion in sweeps for run in expansion.runs]
    chosen = set(filters.apply(where, pd.DataFrame(rows, dtype=object))["run_id"])
    if not chosen:
        raise StoreError(f"--where '{where}': no run matches; imagine-sweep plan SPEC shows what there is")
    left = [(spec, only(expansion, chosen)) for spec, expansion in sweeps]
    return [(spec, expansion) for spec, expansion in left if expansion.cells]
