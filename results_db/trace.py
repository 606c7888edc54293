"""The learning order of stored runs as rows: what `imagine-results trace` prints and draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results_db import paper, select, tables
from results_db import where as filters
from results_db.aggregate import Interval, mean_interval, plain
from results_db.contract import StoreError
from results_db.learning_order import Lead, Traces, first_steps, leads, states
from results_db.options import SHORT
from results_db.store import SqlStore

PAPERS = " and ".join(
    f"{key}={tables.text(value)}"
    for key, value in {
        **paper.RUNS["learning_order"],
        **paper.TABLES["learning_order"][0].cell,
        **paper.CONSTANT["life_state"],
    }.items()
)
"""A filter for the runs that `compare learning_order` takes."""

_CELL = ("gol", "model_t", "seed")
_LEADS = "{} leads by"


@dataclass(frozen=True)
class Order:
    """One run's learning order.

    Attributes:
        cell: the values of gol and model_t.
        traces: those of its states, `state2` to the final one.
        first: what `first_steps` gives of them.
        leads: what `leads` gives of that.
    """

    run_id: str
    cell: tuple[int, int]
    seed: int
    traces: Traces
    first: Mapping[str, int | None]
    leads: Mapping[str, Lead]

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
        where: a filter, see `where.parse`; default where no run is named: `PAPERS`.
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
        frame = select.completed(filters.apply(PAPERS if where is None else where, frame))
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


def by_cell(orders: Sequence[Order]) -> dict[tuple[int, int], list[Order]]:
    """The runs by gol and model_t, sorted: only such runs have the same states."""
    cells = sorted({order.cell for order in orders})
    return {cell: [order for order in orders if order.cell == cell] for cell in cells}


def run_rows(orders: Sequence[Order]) -> list[dict[str, Any]]:
    """A row per run: the first step of each state, and its lead in steps and as a share of the final step."""
    return [
        {
            "run_id": order.run_id,
            **dict(zip(_CELL, (*order.cell, order.seed), strict=True)),
            **order.first,
            **{f"lead_{name}": lead.steps for name, lead in order.leads.items()},
            **{f"share_{name}": lead.share for name, lead in order.leads.items()},
        }
        for order in orders
    ]


def mean_rows(orders: Sequence[Order]) -> list[dict[str, Any]]:
    """A row per gol, model_t and state before the final one: its mean leads over the runs that have them."""
    rows = []
    for (gol, model_t), runs in by_cell(orders).items():
        for name in runs[0].leads:
            found = [run.leads[name] for run in runs if name in run.leads]
            steps = [lead.steps for lead in found if lead.steps is not None]
            shares = [lead.share for lead in found if lead.share is not None]
            rows.append(
                {
                    "gol": gol,
                    "model_t": model_t,
                    "state": name,
                    "runs": len(steps),
                    **_spread("lead", mean_interval(steps)),
                    **_spread("share", mean_interval(shares)),
                }
            )
    return rows


def text(orders: Sequence[Order], *, style: str) -> str:
    """Both tables for a person; CSV is the one of runs alone, with the values as they are."""
    if style == "csv":
        columns = _columns(orders, ("run_id", *_CELL), "lead_{}", "share_{}")
        return tables.render(run_rows(orders), columns, style=style)
    runs = [_shown_run(order) for order in orders]
    parts = [tables.render(runs, _columns(orders, ("run", *_CELL), _LEADS), style=style)]
    means = [_shown_mean(row) for row in mean_rows(orders)]
    if len(orders) > 1 and means:
        parts.append(tables.render(means, list(means[0]), style=style))
    return "\n\n".join(parts)


def _columns(orders: Sequence[Order], head: Sequence[str], *per_lead: str) -> list[str]:
    """The head, every state that a run has, and these columns for every state that precedes a final one."""
    every = states(name for order in orders for name in order.first)
    leading = states(name for order in orders for name in order.leads)
    return [*head, *every, *(column.format(name) for column in per_lead for name in leading)]


def _order(run: "pd.Series[Any]", traces: Traces, *, similarity: float) -> Order:
    first = first_steps(traces, similarity=similarity)
    gol, model_t, seed = (int(plain(run[name])) for name in ("gol", "model_t", "seed"))
    return Order(run["run_id"], (gol, model_t), seed, traces, first, leads(first))


def _without_traces(run: "pd.Series[Any]") -> str:
    why = plain(run["outcome"]) or "traces are stored when a run ends"
    return (
        f"run {run['run_id'][:SHORT]} is {run['state']} and has no traces of its states ({why}); name another, "
        "see imagine-results runs"
    )


def _spread(name: str, found: Interval) -> dict[str, float | None]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _shown_run(order: Order) -> dict[str, Any]:
    head = {"run": order.run_id[:SHORT], **dict(zip(_CELL, (*order.cell, order.seed), strict=True))}
    first = {name: "never" if step is None else f"{step:,}" for name, step in order.first.items()}
    return {**head, **first, **{_LEADS.format(name): _lead(lead) for name, lead in order.leads.items()}}


def _lead(lead: Lead) -> str:
    if lead.steps is None:
        return ""
    return f"{lead.steps:,}" if lead.share is None else f"{lead.steps:,} ({100 * lead.share:.0f}%)"


def _shown_mean(row: Mapping[str, Any]) -> dict[str, Any]:
    low, mean, high = (
        "" if row[name] is None else f"{row[name]:,.0f}" for name in ("lead_low", "lead", "lead_high")
    )
    return {
        **{name: row[name] for name in ("gol", "model_t", "state", "runs")},
        "leads by, steps": f"{mean} [{low}, {high}]" if low else mean,
        "leads by, share": tables.interval(row["share"], row["share_low"], row["share_high"]),
    }
