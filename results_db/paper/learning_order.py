"""The learning order of stored runs as rows: what `imagine-results trace` prints and draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from results_db.contract import StoreError
from results_db.paper import numbers as paper
from results_db.paper import selection as paper_runs
from results_db.paper.leads import Lead, Traces, first_steps, leads, states
from results_db.query import gate as select
from results_db.query import where as filters
from results_db.query.aggregate import Interval, mean_interval, plain, sort_key
from results_db.store.sql import SqlStore
from results_db.text import short
from results_db.views import tables

_ALWAYS = ("gol", "model_t")
_LEADS = "{} leads by"


class Cell(NamedTuple):
    """What decides which states there are and how they are learned; null where an experiment lacks the key."""

    experiment: str | None
    gol: int
    model_t: int
    ae: bool | None
    rnn: bool | None
    reset: float | None

    @property
    def aligned(self) -> bool:
        """Whether decoded state i is to be the true state s_i."""
        return self.gol == self.model_t


@dataclass(frozen=True)
class Order:
    """One run's learning order.

    Attributes:
        traces: those of its states, `state2` to the final one.
        first: what `first_steps` gives of them.
        leads: what `leads` gives of that.
    """

    run_id: str
    cell: Cell
    seed: int
    traces: Traces
    first: Mapping[str, int | None]
    leads: Mapping[str, Lead]

    def label(self, name: str) -> str:
        """A state's name for a person: of unequal timesteps `state2` is h_1 decoded, and not s_2."""
        if self.cell.aligned:
            return name
        return "final" if name == list(self.first)[-1] else f"decoded {name.removeprefix('state')}"

    @property
    def final(self) -> int | None:
        """The first step at which the final state reaches the similarity."""
        return list(self.first.values())[-1]


def collect(
    store: SqlStore,
    prefixes: Sequence[str] = (),
    *,
    where: str | None = None,
    min_accuracy: float | None = None,
    similarity: float,
) -> list[Order]:
    """The learning order of the runs that are named, or else of those kept ones that meet the filter.

    Args:
        store: where they are.
        prefixes: beginnings of run ids; such runs are taken whatever accuracy they reached.
        where: a filter, see `where.parse`; default where no run is named: the runs of the paper's learning order.
        min_accuracy: see `select.passed`.
        similarity: see `first_steps`.

    Raises:
        StoreError: a name or a filter is wrong, or a named run has no traces.
    """
    frame = store.runs()
    named = {store.find(prefix) for prefix in prefixes}
    if named:
        frame = filters.apply(where, frame[frame["run_id"].isin(named)])
    else:
        default = paper.TABLES["learning_order"][0]
        frame = paper_runs.of(frame, default) if where is None else filters.apply(where, frame)
        frame = select.completed(frame)
        frame = frame[select.passed(frame, min_accuracy=min_accuracy)]
    traces = store.traces_of(frame["run_id"])
    orders = []
    for _, run in frame.iterrows():
        of_run = traces.get(run["run_id"], {})
        found = {name: of_run[name] for name in states(of_run)}
        if found:
            orders.append(_order(run, found, similarity=similarity))
        elif named:
            raise StoreError(_without_traces(run))
    return orders


def by_cell(orders: Sequence[Order]) -> dict[Cell, list[Order]]:
    """The runs by their cells, sorted: only runs of one have a mean in common."""
    cells = sorted({order.cell for order in orders}, key=lambda cell: [sort_key(value) for value in cell])
    return {cell: [order for order in orders if order.cell == cell] for cell in cells}


def telling(orders: Sequence[Order]) -> list[str]:
    """The columns of the cells that a person needs: gol and model_t, and those in which the runs differ."""
    cells = [order.cell._asdict() for order in orders]
    differ = [name for name in Cell._fields if len({cell[name] for cell in cells}) > 1]
    return [name for name in Cell._fields if name in (*_ALWAYS, *differ)]


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
    """A row per cell and state before the final one: its mean leads over the runs that have them."""
    rows = []
    for cell, runs in by_cell(orders).items():
        for name in runs[0].leads:
            found = [run.leads[name] for run in runs if name in run.leads]
            steps = [lead.steps for lead in found if lead.steps is not None]
            shares = [lead.share for lead in found if lead.share is not None]
            rows.append(
                {
                    **cell._asdict(),
                    "state": name,
                    "runs": len(steps),
                    **_spread("lead", mean_interval(steps)),
                    **_spread("share", mean_interval(shares)),
                }
            )
    return rows


def text(orders: Sequence[Order], *, style: str) -> str:
    """Both tables for a person; CSV is the one of runs alone, with names and values as they are."""
    if style == "csv":
        every, leading = _names(orders)
        heads = [f"{kind}_{name}" for kind in ("lead", "share") for name in leading]
        return tables.render(run_rows(orders), ["run_id", *Cell._fields, "seed", *every, *heads], style=style)
    cell = telling(orders)
    parts = [tables.render(list(map(_shown_run, orders)), _shown_columns(orders, cell), style=style)]
    means = [_shown_mean(row, runs[0]) for runs in by_cell(orders).values() for row in mean_rows(runs)]
    if len(orders) > 1 and means:
        columns = [name for name in means[0] if name in cell or name not in Cell._fields]
        parts.append(tables.render(means, columns, style=style))
    return "\n\n".join(parts)


def _names(orders: Sequence[Order]) -> tuple[list[str], list[str]]:
    """Every state that a run has, and every one that leads a final one."""
    return (
        states(name for order in orders for name in order.first),
        states(name for order in orders for name in order.leads),
    )


def _shown_columns(orders: Sequence[Order], cell: Sequence[str]) -> list[str]:
    """The states of equal timesteps before those of unequal ones, whose final state is the last column."""
    every: dict[str, None] = {}
    leading: dict[str, None] = {}
    for aligned in (True, False):
        alike = [order for order in orders if order.cell.aligned is aligned]
        names = _names(alike)
        every |= dict.fromkeys(
            order.label(name) for name in names[0] for order in alike if name in order.first
        )
        leading |= dict.fromkeys(
            order.label(name) for name in names[1] for order in alike if name in order.leads
        )
    last = [name for name in every if name == "final"]
    middle = [name for name in every if name != "final"]
    return ["run", *cell, "seed", *middle, *last, *map(_LEADS.format, leading)]


def _order(run: "pd.Series[Any]", traces: Traces, *, similarity: float) -> Order:
    first = first_steps(traces, similarity=similarity)
    cell = Cell(*(plain(run[name]) for name in Cell._fields))
    return Order(run["run_id"], cell, plain(run["seed"]), traces, first, leads(first))


def _without_traces(run: "pd.Series[Any]") -> str:
    why = plain(run["outcome"]) or "traces are stored when a run ends"
    return (
        f"run {short(run['run_id'])} is {run['state']} and has no traces of its states ({why}); name another, "
        "see imagine-results runs"
    )


def _spread(name: str, found: Interval) -> dict[str, float | None]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _shown_run(order: Order) -> dict[str, Any]:
    first = {
        order.label(name): "never" if step is None else f"{step:,}" for name, step in order.first.items()
    }
    led = {_LEADS.format(order.label(name)): _lead(lead) for name, lead in order.leads.items()}
    return {"run": short(order.run_id), **order.cell._asdict(), "seed": order.seed, **first, **led}


def _lead(lead: Lead) -> str:
    if lead.steps is None:
        return ""
    return f"{lead.steps:,}" if lead.share is None else f"{lead.steps:,} ({100 * lead.share:z.0f}%)"


def _shown_mean(row: Mapping[str, Any], one: Order) -> dict[str, Any]:
    """A row of `mean_rows` for a person; `one` is any of its runs."""
    low, mean, high = (
        "" if row[name] is None else f"{row[name]:z,.0f}" for name in ("lead_low", "lead", "lead_high")
    )
    return {
        **one.cell._asdict(),
        "state": one.label(row["state"]),
        "runs": row["runs"],
        "leads by, steps": f"{mean} [{low}, {high}]" if low else mean,
        "leads by, share": tables.interval(row["share"], row["share_low"], row["share_high"]),
    }
