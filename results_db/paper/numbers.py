"""Every number that the paper reports (arXiv 2405.06409), and of which runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from results_db.contract import Scalar, StoreError
from results_db.text import nearest


@dataclass(frozen=True)
class Number:
    """One number of the paper.

    Attributes:
        table: the table, or the sentence in section 3.1.1, that it is in: a name of `TABLES`.
        quantity: what it is a mean of (or, for `effect`, a difference of means).
        cell: the group columns of its runs, with their values.
        value: the number.
        runs: how many runs it is over; null where the paper does not say.
    """

    table: str
    quantity: str
    cell: Mapping[str, Scalar]
    value: float
    runs: int | None


@dataclass(frozen=True)
class Effect:
    """An ablation: the metric of some runs, less that of others, which differ from them in `columns`.

    `first` and `second` are filters as `--where` takes them.
    """

    columns: tuple[str, ...]
    first: str
    second: str


LEADS = ("lead_state2", "lead_state3")
"""How many training steps before the final state each of the states between reaches 98% similarity."""

EFFECTS = {
    "channels": Effect(("channels",), "channels = 20", "channels > 20"),
    "coder_layers": Effect(
        ("enc_layers", "dec_layers"), "enc_layers = 1 and dec_layers = 1", "enc_layers = 3 and dec_layers = 3"
    ),
}


def _state(gol: int, model_t: int, *, ae: bool = True, rnn: bool = True) -> dict[str, Scalar]:
    return {"gol": gol, "model_t": model_t, "ae": ae, "rnn": rnn}


def _metrics(table: str, *rows: tuple[Mapping[str, Scalar], int, Mapping[str, float]]) -> tuple[Number, ...]:
    return tuple(
        Number(table, quantity, cell, value, runs)
        for cell, runs, means in rows
        for quantity, value in means.items()
    )


TABLES: dict[str, tuple[Number, ...]] = {
    # The larger of the metric with and without adversarial training, per run.
    "table1": _metrics(
        "table1",
        (_state(2, 2), 6, {"metric": 1.00}),
        (_state(3, 3), 42, {"metric": 0.99}),
        (_state(4, 4), 33, {"metric": 0.93}),
        (_state(3, 3, ae=False), 22, {"metric": 0.56}),
        (_state(3, 3, rnn=False), 20, {"metric": 0.40}),
    ),
    "table2": _metrics(
        "table2",
        (_state(2, 3), 16, {"metric": 0.73}),
        (_state(3, 2), 22, {"metric": 0.74}),
    ),
    "table3": _metrics(
        "table3",
        (_state(2, 3), 16, {"metric_plain": 0.58, "metric_adv": 0.65}),
        (_state(3, 2), 22, {"metric_plain": 0.15, "metric_adv": 0.71}),
        (_state(3, 3, rnn=False), 20, {"metric_plain": 0.11, "metric_adv": 0.40}),
        (_state(3, 3, ae=False), 10, {"metric_plain": 0.44, "metric_adv": 0.43}),
    ),
    # The LSTM that counts living cells.
    "table4": _metrics(
        "table4",
        ({"gol": 2, "model_t": 2}, 8, {"correlation": 0.79}),
        ({"gol": 2, "model_t": 3}, 5, {"correlation": 0.81}),
        ({"gol": 2, "model_t": 4}, 9, {"correlation": 0.73}),
        ({"gol": 3, "model_t": 2}, 7, {"correlation": 0.93}),
        ({"gol": 3, "model_t": 3}, 8, {"correlation": 0.76}),
        ({"gol": 3, "model_t": 4}, 4, {"correlation": 0.76}),
        ({"gol": 4, "model_t": 3}, 3, {"correlation": 0.86}),
    ),
    # Section 3.1.1, of 15 runs with 3 timesteps.
    "learning_order": _metrics(
        "learning_order",
        (_state(3, 3), 15, {LEADS[0]: 5533, LEADS[1]: 2773}),
    ),
    # Section 3.1.1, which names neither the runs nor their timesteps: those of the learning order are taken.
    "channels": (Number("channels", "effect", _state(3, 3), 0.09, None),),
    "coder_layers": (Number("coder_layers", "effect", _state(3, 3), 0.14, None),),
}
"""Table to its numbers, in the paper's order."""

ABOUT = {
    "table1": "as many model timesteps as GoL timesteps; the larger metric of the two decoders",
    "table2": "unequal timesteps; the larger metric of the two decoders",
    "table3": "the metric without and with adversarial training",
    "table4": "the LSTM that counts living cells; correlation of decoded with true states",
    "learning_order": "by how many steps a state reaches 98% similarity before the final one; verdicts are on `ratio`",
    "channels": "change of the metric, 20 channels less more than 20",
    "coder_layers": "change of the metric, encoder and decoder of 1 layer less 3 layers",
}
"""What each table holds, in a line."""

_BOTH_DECODERS: dict[str, Scalar] = {"experiment": "life_state", "gan": "posthoc"}

RUNS: dict[str, Mapping[str, Scalar]] = {
    "table1": _BOTH_DECODERS,
    "table2": _BOTH_DECODERS,
    "table3": _BOTH_DECODERS,
    "table4": {"experiment": "life_count", "gan": "posthoc"},
    # Not gan = none as well: that and posthoc are, of one seed, the same network. Joint training makes another one.
    "learning_order": _BOTH_DECODERS,
    "channels": _BOTH_DECODERS,
    "coder_layers": _BOTH_DECODERS,
}
"""Table to what its runs have, beside a number's own cell."""

CONSTANT: dict[str, Mapping[str, Scalar]] = {
    "life_state": {"kernel": 3, "residual": True, "reset": 0.1, "eval_board": 20, "eval_sequences": 10_000},
    "life_count": {"kernel": 3, "reset": 0.1, "board": 10, "eval_sequences": 10_000},
}
"""Experiment to what the authors never varied. Everything else (layers, width, rates, loss) came from searches."""

ONE_SHAPE = ("fast",)
"""Presets of one width and depth: their runs on the second side of an effect are the ablation's alone. Runs of the
authors' presets count whatever their shape, for the authors searched over it."""


def chosen(name: str | None) -> list[str]:
    """The tables that a person's word names.

    Raises:
        StoreError: none, or an unknown one.
    """
    valid = [*TABLES, "all"]
    if name is None:
        raise StoreError(f"TABLE is missing; one of {', '.join(valid)}")
    if name not in valid:
        raise StoreError(f"unknown table '{name}'{nearest(name, valid)}; valid ones: {', '.join(valid)}")
    return list(TABLES) if name == "all" else [name]
