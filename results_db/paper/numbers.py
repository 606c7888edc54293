"""Every number that the paper reports (arXiv 2405.06409), and the runs that each number is of."""

from collections.abc import Mapping
from dataclasses import dataclass

from results_db.contract import Scalar, StoreError
from results_db.text import nearest


@dataclass(frozen=True)
class Number:
    """One number of the paper.

    Attributes:
        table: a name in `TABLES`, for a table of the paper or a sentence of its section 3.1.1.
        quantity: the metric or lead whose mean it is; for `effect`, a difference of mean metrics.
        cell: the group columns of its runs, with their values.
        value: the number.
        runs: the number of its runs; null where the paper does not say.
    """

    table: str
    quantity: str
    cell: Mapping[str, Scalar]
    value: float
    runs: int | None


@dataclass(frozen=True)
class Effect:
    """An ablation: the mean metric of the first side minus that of the second side.

    Attributes:
        columns: the config keys in which the sides differ.
        first: a filter for the runs of the first side, in the language of `--where`.
        second: a filter for the runs of the second side.
    """

    columns: tuple[str, ...]
    first: str
    second: str


SIMILARITY = 0.98
"""The pixel similarity from which the paper counts a state as learned."""

LEADS = ("lead_state2", "lead_state3")
"""The quantities of the learning order: how many training steps a state is learned before the final one."""

EFFECTS = {
    "channels": Effect(("channels",), "channels = 20", "channels > 20"),
    "coder_layers": Effect(
        ("enc_layers", "dec_layers"), "enc_layers = 1 and dec_layers = 1", "enc_layers = 3 and dec_layers = 3"
    ),
}


def _state(gol: int, model_t: int, *, ae: bool = True, rnn: bool = True) -> dict[str, Scalar]:
    return {"gol": gol, "model_t": model_t, "ae": ae, "rnn": rnn}


_ROWS: dict[str, list[tuple[Mapping[str, Scalar], int | None, Mapping[str, float]]]] = {
    # The larger of the metric with and without adversarial training, per run.
    "table1": [
        (_state(2, 2), 6, {"metric": 1.00}),
        (_state(3, 3), 42, {"metric": 0.99}),
        (_state(4, 4), 33, {"metric": 0.93}),
        (_state(3, 3, ae=False), 22, {"metric": 0.56}),
        (_state(3, 3, rnn=False), 20, {"metric": 0.40}),
    ],
    "table2": [
        (_state(2, 3), 16, {"metric": 0.73}),
        (_state(3, 2), 22, {"metric": 0.74}),
    ],
    "table3": [
        (_state(2, 3), 16, {"metric_plain": 0.58, "metric_adv": 0.65}),
        (_state(3, 2), 22, {"metric_plain": 0.15, "metric_adv": 0.71}),
        (_state(3, 3, rnn=False), 20, {"metric_plain": 0.11, "metric_adv": 0.40}),
        (_state(3, 3, ae=False), 10, {"metric_plain": 0.44, "metric_adv": 0.43}),
    ],
    # The LSTM that counts living cells.
    "table4": [
        ({"gol": 2, "model_t": 2}, 8, {"correlation": 0.79}),
        ({"gol": 2, "model_t": 3}, 5, {"correlation": 0.81}),
        ({"gol": 2, "model_t": 4}, 9, {"correlation": 0.73}),
        ({"gol": 3, "model_t": 2}, 7, {"correlation": 0.93}),
        ({"gol": 3, "model_t": 3}, 8, {"correlation": 0.76}),
        ({"gol": 3, "model_t": 4}, 4, {"correlation": 0.76}),
        ({"gol": 4, "model_t": 3}, 3, {"correlation": 0.86}),
    ],
    # Section 3.1.1: 15 runs with 3 timesteps.
    "learning_order": [(_state(3, 3), 15, {LEADS[0]: 5533, LEADS[1]: 2773})],
    # Section 3.1.1 names neither the runs nor their timesteps, so these take the timesteps of the learning order.
    "channels": [(_state(3, 3), None, {"effect": 0.09})],
    "coder_layers": [(_state(3, 3), None, {"effect": 0.14})],
}

TABLES = {
    table: [
        Number(table, quantity, cell, value, runs)
        for cell, runs, means in rows
        for quantity, value in means.items()
    ]
    for table, rows in _ROWS.items()
}
"""The numbers of each table, in the paper's order."""

ABOUT = {
    "table1": "as many model timesteps as GoL timesteps; the larger metric of the two decoders",
    "table2": "unequal timesteps; the larger metric of the two decoders",
    "table3": "the metric without and with adversarial training",
    "table4": "the LSTM that counts living cells; correlation of decoded with true states",
    "learning_order": "how many steps before the final state a state reaches 98% similarity; verdicts are on `ratio`",
    "channels": "the mean metric with 20 channels, minus the mean with more channels",
    "coder_layers": "the mean metric with encoder and decoder of 1 layer, minus the mean with 3 layers",
}
"""What each table shows, in one line."""

# `gan = none` is left out: with the same seed it is the same network as posthoc. Joint training makes another network.
RUNS: dict[str, Mapping[str, Scalar]] = {
    table: {"experiment": "life_count" if table == "table4" else "life_state", "gan": "posthoc"}
    for table in TABLES
}
"""The config keys that all runs of a table share, beside the cell of each number."""

CONSTANT: dict[str, Mapping[str, Scalar]] = {
    "life_state": {"kernel": 3, "residual": True, "reset": 0.1, "eval_board": 20, "eval_sequences": 10_000},
    "life_count": {"kernel": 3, "reset": 0.1, "board": 10, "eval_sequences": 10_000},
}
"""What the authors never varied, per experiment. They searched over everything else: layers, width, rates, loss."""

ONE_SHAPE = ("fast",)
"""Presets with one width and depth: their runs on the second side of an effect belong to that ablation alone. The
authors searched over width and depth, so runs of their presets count with any."""


def chosen(name: str | None) -> list[str]:
    """The tables with this name; `all` names every table.

    Raises:
        StoreError: the name is missing or unknown.
    """
    valid = [*TABLES, "all"]
    if name is None:
        raise StoreError(f"TABLE is missing; give one of {', '.join(valid)}")
    if name not in valid:
        raise StoreError(f"unknown table '{name}'{nearest(name, valid)}; valid tables: {', '.join(valid)}")
    return list(TABLES) if name == "all" else [name]
