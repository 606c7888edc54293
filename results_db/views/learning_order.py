"""The learning order as tables: what `imagine-results trace` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from results_db.paper.learning_order import Cell, Lead, Order, by_cell, mean_rows, run_rows, states
from results_db.text import short
from results_db.views import tables

_ALWAYS = ("gol", "model_t")
_KINDS = ("state", "decoded ", "final")
"""The kinds of state labels, in the order of their columns."""


def render(orders: Sequence[Order], *, style: str) -> str:
    """The runs and their means as text; CSV holds only the runs, with unrounded values."""
    if style == "csv":
        learned = states(name for order in orders for name in order.first)
        leading = states(name for order in orders for name in order.leads)
        leads = [f"{kind}_{name}" for kind in ("lead", "share") for name in leading]
        return tables.render(
            run_rows(orders), ["run_id", *Cell._fields, "seed", *learned, *leads], style=style
        )
    keys = shown_keys(orders)
    learned = sorted({order.label(name) for order in orders for name in order.first}, key=_place)
    leading = sorted({order.label(name) for order in orders for name in order.leads}, key=_place)
    columns = ["run", *keys, "seed", *learned, *(f"{label} leads by" for label in leading)]
    parts = [tables.render([_shown_run(order) for order in orders], columns, style=style)]
    if len(orders) > 1 and leading:
        means = [_shown_mean(row, runs[0]) for runs in by_cell(orders).values() for row in mean_rows(runs)]
        columns = [*keys, "state", "runs", "leads by, steps", "leads by, share"]
        parts.append(tables.render(means, columns, style=style))
    return "\n\n".join(parts)


def shown_keys(orders: Sequence[Order]) -> list[str]:
    """The cell keys to show: gol, model_t, and the other keys in which the runs differ."""
    cells = [order.cell._asdict() for order in orders]
    return [name for name in Cell._fields if name in _ALWAYS or len({cell[name] for cell in cells}) > 1]


def _place(label: str) -> tuple[int, int]:
    kind = label.rstrip("0123456789")
    return _KINDS.index(kind), int(label.removeprefix(kind) or 0)


def _shown_run(order: Order) -> dict[str, Any]:
    return {
        "run": short(order.run_id),
        **order.cell._asdict(),
        "seed": order.seed,
        **{order.label(name): "never" if step is None else f"{step:,}" for name, step in order.first.items()},
        **{f"{order.label(name)} leads by": _lead(lead) for name, lead in order.leads.items()},
    }


def _lead(lead: Lead) -> str:
    if lead.steps is None:
        return ""
    return f"{lead.steps:,}" if lead.share is None else f"{lead.steps:,} ({100 * lead.share:z.0f}%)"


def _shown_mean(row: Mapping[str, Any], one: Order) -> dict[str, Any]:
    """A row of `mean_rows` for people; `one` is any run of its cell."""
    return {
        **one.cell._asdict(),
        "state": one.label(row["state"]),
        "runs": row["runs"],
        "leads by, steps": tables.spread(row, "lead", places=0),
        "leads by, share": tables.spread(row, "share"),
    }
