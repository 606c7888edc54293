"""Coverage: the kept runs of every cell, and the runs of earlier top-ups."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from imagination import registry
from imagination.schema import ConfigError, Scalar
from results_db.contract import PlannedRun, State, Store
from sweeps.spec.expand import Cell, Expansion
from sweeps.spec.model import Spec
from sweeps.status.blocked import blocked
from sweeps.status.cell import CellStatus, read_cells, with_lost

if TYPE_CHECKING:
    import pandas as pd


def cover(
    expansion: Expansion,
    store: Store,
    *,
    frame: "pd.DataFrame",
    sweep: str = "",
    dead: Collection[str] = (),
    gate: str | None = None,
) -> list[CellStatus]:
    """The status of every cell, with its number of kept runs and the runs of earlier top-ups.

    `frame` holds all runs of the store. `gate` is the gate; default: each experiment's own. See `dead_runs`
    for `dead`.

    Raises:
        StoreError: an experiment has no gate of its own.
    """
    from results_db.query.gate import completed, passed

    states = {run_id: State(state) for run_id, state in zip(frame["run_id"], frame["state"], strict=True)}
    whole = with_top_ups(expansion, states.keys())
    states = with_lost(states, dead)
    reasons = blocked(whole.runs, states, store, at_hand=whole.files)
    stored = completed(frame[frame["run_id"].isin({run.run_id for run in whole.runs})])
    declared = (registry.declaration(str(cell.template["experiment"])) for cell in whole.cells)
    names = [name for one in declared for name in (*one.keys, *one.metrics)]
    known = dict.fromkeys([*stored.columns, *names])  # the store may lack the experiment
    kept = set(stored["run_id"][passed(stored.reindex(columns=list(known)), gate=gate)])
    return [
        replace(cell, kept=sum(run.run_id in kept for run in cell.cell.runs))
        for cell in read_cells(whole, states, sweep=sweep, blocked=reasons)
    ]


def with_top_ups(expansion: Expansion, known: Collection[str]) -> Expansion:
    """The cells with the runs of earlier top-ups: those of the next seeds, up to the first that is not in `known`."""
    taken = {run.run_id for run in expansion.runs}
    cells = []
    for cell in expansion.own:
        added = list(itertools.takewhile(lambda run: run.run_id in known, next_runs(cell)))
        own = [run for run in added if run.run_id not in taken]
        taken |= {run.run_id for run in own}
        next_seed = None if cell.next_seed is None else cell.next_seed + len(added)
        cells.append(replace(cell, runs=[*cell.runs, *own], next_seed=next_seed))
    return Expansion(cells)


def grown(sweeps: Sequence[tuple[Spec, Expansion]], known: Collection[str]) -> list[tuple[Spec, Expansion]]:
    """The sweeps with the runs of earlier top-ups; `known` are the ids of all runs of the store."""
    return [(spec, with_top_ups(expansion, known)) for spec, expansion in sweeps]


def stored_top_ups(expansion: Expansion, store: Store) -> set[str]:
    """Ids of stored runs that earlier top-ups added, without reading all runs of the store."""
    known: set[str] = set()
    cells, count = list(expansion.own), 1
    while cells:
        ids = [[run.run_id for run in itertools.islice(next_runs(cell), count)] for cell in cells]
        known |= store.states(itertools.chain.from_iterable(ids)).keys()
        whole = [len(asked) == count and known.issuperset(asked) for asked in ids]
        cells = list(itertools.compress(cells, whole))
        count *= 2
    return known


def labels(sweeps: Iterable[tuple[Spec, Expansion]]) -> dict[str, dict[str, Scalar]]:
    """Run id to the columns that tell it apart: its sweep, its cell's columns and its seed."""
    return {
        run.run_id: {"sweep": spec.name, **cell.columns, "seed": run.config["seed"]}
        for spec, expansion in sweeps
        for cell in expansion.cells
        for run in cell.runs
    }


def next_runs(cell: Cell) -> Iterator[PlannedRun]:
    """The cell's runs with the seeds after its own; none if the spec fixes its seeds.

    They end before the first seed whose drawn values contradict the cell's others; no top-up goes beyond it.
    """
    if cell.next_seed is not None:
        with suppress(ConfigError):
            yield from (cell.run(seed) for seed in itertools.count(cell.next_seed))


def why_no_more(cell: Cell) -> str:
    """Why the runs of `next_runs` end, for a cell where they do."""
    assert cell.next_seed is not None
    seed = cell.next_seed + sum(1 for _ in next_runs(cell))
    try:
        cell.run(seed)
    except ConfigError as error:
        return f"seed {seed}: {error}"
    raise AssertionError(f"seed {seed} contradicts nothing")
