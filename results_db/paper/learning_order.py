"""The learning order: when a network learns each of its states (paper, section 3.1.1).

A trace `stateN` holds the pixel similarity of decoded state N with its true state. `state1` is the given board; the
last state is the prediction that the network is trained on.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from imagination.paper import SIMILARITY
from results_db.contract import Store, StoreError
from results_db.paper.numbers import TABLES
from results_db.paper.selection import runs_of
from results_db.query import where as filters
from results_db.query.aggregate import mean_interval, records, sort_key
from results_db.query.gate import completed, passed
from results_db.text import short

Traces = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""Name to (steps, values), equally long, as `Store.traces` gives them."""

_STATE = re.compile(r"state([1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True)
class Lead:
    """How long before the final state another state is learned; negative if it is learned after it.

    Attributes:
        steps: first step of the final state minus that of this state; null where either was never learned.
        share: `steps` as a share of the final state's first step; null also where that is step 0.
    """

    steps: int | None
    share: float | None


class Cell(NamedTuple):
    """The config keys that decide which states a run has and how it learns them; null where it lacks the key."""

    experiment: str | None
    preset: str | None
    gol: int
    model_t: int
    ae: bool | None
    rnn: bool | None
    reset: float | None

    @property
    def aligned(self) -> bool:
        """Whether decoded state i should equal the true state s_i."""
        return self.gol == self.model_t


@dataclass(frozen=True)
class Order:
    """The learning order of one run.

    Attributes:
        traces: the traces of its states, from `state2` to the final one.
        first: the first step of each state, see `first_steps`.
    """

    run_id: str
    cell: Cell
    seed: int
    traces: Traces
    first: Mapping[str, int | None]

    @property
    def leads(self) -> dict[str, Lead]:
        """See the function `leads`."""
        return leads(self.first)

    @property
    def final(self) -> int | None:
        """The first step at which the final state reaches the similarity."""
        return list(self.first.values())[-1]

    def label(self, name: str) -> str:
        """A state's name for people. With unequal timesteps `state2` is h_1 decoded, which need not be s_2."""
        if self.cell.aligned:
            return name
        return "final" if name == list(self.first)[-1] else f"decoded {name.removeprefix('state')}"


def states(names: Iterable[str]) -> list[str]:
    """The names of states among these trace names, in the order of the states; `state1` is left out."""
    numbers = {int(match[1]) for match in map(_STATE.fullmatch, names) if match}
    return [f"state{number}" for number in sorted(numbers) if number > 1]


def first_steps(traces: Traces, *, similarity: float = SIMILARITY) -> dict[str, int | None]:
    """Per state, the first traced step that reaches the similarity; null if none does. The final state is last."""
    return {
        name: next((step for step, value in zip(*traces[name], strict=True) if value >= similarity), None)
        for name in states(traces)
    }


def leads(first: Mapping[str, int | None]) -> dict[str, Lead]:
    """Per state of `first_steps` before the final one, its lead over the final state."""
    if not first:
        return {}
    *earlier, final = first
    return {name: _lead(first[name], first[final]) for name in earlier}


def choose(
    store: Store, prefixes: Sequence[str] = (), *, where: str | None = None, sweep: str | None = None
) -> pd.DataFrame:
    """The runs with these prefixes that meet the filters. Without any, the runs of the paper's learning order.

    Raises:
        StoreError: a run id or a filter is wrong.
    """
    frame = store.runs()
    if prefixes:
        frame = frame[frame["run_id"].isin({store.find(prefix) for prefix in prefixes})]
    elif where is None and sweep is None:
        return runs_of(frame, TABLES["learning_order"][0], store=store)
    return filters.apply(where, frame, sweep=sweep)


def collect(
    store: Store,
    frame: pd.DataFrame,
    *,
    named: bool = False,
    min_accuracy: float | None = None,
    similarity: float,
) -> list[Order]:
    """The learning order of the kept runs of the frame, or of all of them if they are named.

    See `gate.passed` for `min_accuracy`, `first_steps` for `similarity`.

    Raises:
        StoreError: a named run has no traces.
    """
    if not named:
        frame = completed(frame)
        frame = frame[passed(frame, min_accuracy=min_accuracy)]
    traces = store.traces_of(frame["run_id"])
    orders = []
    for run in records(frame):
        of_run = traces.get(run["run_id"], {})
        found = {name: of_run[name] for name in states(of_run)}
        if found:
            cell = Cell(*(run[name] for name in Cell._fields))
            first = first_steps(found, similarity=similarity)
            orders.append(Order(run["run_id"], cell, run["seed"], found, first))
        elif named:
            why = run["outcome"] or "traces are stored when a run ends"
            raise StoreError(
                f"run {short(run['run_id'])} is {run['state']} and has no traces of its states ({why}); "
                "name another, see imagine-results runs"
            )
    return orders


def by_cell(orders: Sequence[Order]) -> dict[Cell, list[Order]]:
    """The runs of each cell, sorted by cell. Runs of different cells have no common mean."""
    cells = sorted({order.cell for order in orders}, key=sort_key)
    return {cell: [order for order in orders if order.cell == cell] for cell in cells}


def run_rows(orders: Sequence[Order]) -> list[dict[str, Any]]:
    """A row per run: the first step of each state, and its lead in steps and as a share of the final step."""
    return [
        {
            "run_id": order.run_id,
            **order.cell._asdict(),
            "seed": order.seed,
            **order.first,
            **{f"lead_{name}": lead.steps for name, lead in order.leads.items()},
            **{f"share_{name}": lead.share for name, lead in order.leads.items()},
        }
        for order in orders
    ]


def mean_rows(orders: Sequence[Order]) -> list[dict[str, Any]]:
    """A row per cell and state before the final one: its mean lead over the runs that have one."""
    rows = []
    for cell, runs in by_cell(orders).items():
        for name in runs[0].leads:
            found = [run.leads[name] for run in runs if name in run.leads]
            steps = [lead.steps for lead in found if lead.steps is not None]
            shares = [lead.share for lead in found if lead.share is not None]
            means = mean_interval(steps).columns("lead") | mean_interval(shares).columns("share")
            rows.append({**cell._asdict(), "state": name, "runs": len(steps), **means})
    return rows


def _lead(step: int | None, final: int | None) -> Lead:
    if step is None or final is None:
        return Lead(None, None)
    return Lead(final - step, (final - step) / final if final else None)
