"""The learning order: when a network learns each of its states (paper, section 3.1.1). Imports nothing slow.

A trace `stateN` holds the pixel similarity of decoded state N with its true state. `state1` is the given board; the
last state is the prediction that the network is trained on.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from imagination.figures import FigureError, Stored, Table, Traces
from imagination.intervals import mean_interval
from imagination.paper import Derived

SIMILARITY = 0.98
"""The pixel similarity from which the paper counts a state as learned."""

_STATE = re.compile(r"state([1-9][0-9]*)", re.ASCII)
_ALWAYS = ("gol", "model_t")
_KINDS = ("state", "decoded ", "final")
"""The kinds of state labels, in the order of their columns."""


@dataclass(frozen=True)
class Lead:
    """How long before the final state another state is learned; negative if it is learned after it.

    Attributes:
        steps: first step of the final state minus that of this state; null where either was never learned.
        share: `steps` as a share of the final state's first step; null also where that is step 0.
    """

    steps: int | None
    share: float | None

    def __str__(self) -> str:
        if self.steps is None:
            return ""
        return f"{self.steps:,}" if self.share is None else f"{self.steps:,} ({100 * self.share:z.0f}%)"


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
    name: str
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


def derived_leads(traces: Traces) -> dict[str, Derived]:
    """The leads of a run's states, `lead_state2` and so on; a state that was never learned has none."""
    return {
        f"lead_{state}": Derived(lead.steps, lead.share)
        for state, lead in leads(first_steps(traces)).items()
        if lead.steps is not None and lead.share is not None
    }


def collect(runs: Sequence[Stored], *, similarity: float) -> list[Order]:
    """The learning order of these runs; those without traces of states are left out.

    Raises:
        FigureError: a named run has no traces.
    """
    orders = []
    for run in runs:
        found = {name: run.traces[name] for name in states(run.traces)}
        if found:
            cell = Cell(*(run.config.get(name) for name in Cell._fields))  # type: ignore[arg-type]
            first = first_steps(found, similarity=similarity)
            orders.append(Order(run.run_id, run.name, cell, int(run.config["seed"]), found, first))
        elif run.is_named:
            why = run.outcome or "traces are stored when a run ends"
            raise FigureError(
                f"run {run.name} is {run.state} and has no traces of its states ({why}); "
                "name another, see imagine-results runs"
            )
    return orders


def by_cell(orders: Sequence[Order]) -> dict[Cell, list[Order]]:
    """The runs of each cell, sorted by cell. Runs of different cells have no common mean."""
    cells = sorted({order.cell for order in orders}, key=_sort_key)
    return {cell: [order for order in orders if order.cell == cell] for cell in cells}


def shown_keys(orders: Sequence[Order]) -> list[str]:
    """The cell keys to show: gol, model_t, and the other keys in which the runs differ."""
    cells = [order.cell._asdict() for order in orders]
    return [name for name in Cell._fields if name in _ALWAYS or len({cell[name] for cell in cells}) > 1]


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
    return [
        {
            **cell._asdict(),
            "state": name,
            "runs": len(steps),
            **mean_interval(steps).columns("lead"),
            **mean_interval(shares).columns("share"),
        }
        for cell, runs in by_cell(orders).items()
        for name, steps, shares in _means(runs)
    ]


def _means(runs: Sequence[Order]) -> list[tuple[str, list[int], list[float]]]:
    """Per state before the final one, the leads of the runs of a cell in steps and as shares."""
    found = []
    for name in runs[0].leads:
        having = [run.leads[name] for run in runs if name in run.leads]
        steps = [lead.steps for lead in having if lead.steps is not None]
        found.append((name, steps, [lead.share for lead in having if lead.share is not None]))
    return found


def _lead(step: int | None, final: int | None) -> Lead:
    if step is None or final is None:
        return Lead(None, None)
    return Lead(final - step, (final - step) / final if final else None)


def _sort_key(cell: Cell) -> list[tuple[bool, Any]]:
    return [(value is None, value) for value in cell]  # null last


def csv_table(orders: Sequence[Order]) -> Table:
    """The runs with unrounded values."""
    learned = states(name for order in orders for name in order.first)
    leading = states(name for order in orders for name in order.leads)
    named = [f"{kind}_{name}" for kind in ("lead", "share") for name in leading]
    return Table(run_rows(orders), ["run_id", *Cell._fields, "seed", *learned, *named])


def shown_tables(orders: Sequence[Order]) -> list[Table]:
    """The runs, and their means if there are several."""
    if not orders:
        return []
    keys = shown_keys(orders)
    learned = sorted({order.label(name) for order in orders for name in order.first}, key=_place)
    leading = sorted({order.label(name) for order in orders for name in order.leads}, key=_place)
    columns = ["run", *keys, "seed", *learned, *(f"{label} leads by" for label in leading)]
    runs = Table([_shown_run(order) for order in orders], columns)
    if len(orders) == 1 or not leading:
        return [runs]
    means = [
        {
            **cell._asdict(),
            "state": of[0].label(name),
            "runs": len(steps),
            "leads by, steps": mean_interval(steps).text(places=0),
            "leads by, share": mean_interval(shares).text(),
        }
        for cell, of in by_cell(orders).items()
        for name, steps, shares in _means(of)
    ]
    return [runs, Table(means, [*keys, "state", "runs", "leads by, steps", "leads by, share"])]


def _place(label: str) -> tuple[int, int]:
    kind = label.rstrip("0123456789")
    return _KINDS.index(kind), int(label.removeprefix(kind) or 0)


def _shown_run(order: Order) -> dict[str, Any]:
    return {
        "run": order.name,
        **order.cell._asdict(),
        "seed": order.seed,
        **{order.label(name): "never" if step is None else f"{step:,}" for name, step in order.first.items()},
        **{f"{order.label(name)} leads by": str(lead) for name, lead in order.leads.items()},
    }
