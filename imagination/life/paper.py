"""Every number that the paper reports (arXiv 2405.06409), and the runs that each number is of. Torch-free."""

from collections.abc import Mapping, Sequence
from typing import Any

from imagination.paper import Effect, Number, Paper, Side, Source
from imagination.schema import Scalar

_TABLES = ("table1", "table2", "table3", "learning_order", "contrasts")
_THREE = "gol = 3 and model_t = 3"
_TWO = "gol = 3 and model_t = 2"

_EFFECTS = {
    # Table 1: .99 and .56, .99 and .40; Table 3: .71 and .15.
    "autoencoder": Effect(
        "contrasts",
        Side("with", f"{_THREE} and ae = true and rnn = true", "metric"),
        Side("without", f"{_THREE} and ae = false and rnn = true", "metric"),
        0.43,
    ),
    "rnn": Effect(
        "contrasts",
        Side("with", f"{_THREE} and ae = true and rnn = true", "metric"),
        Side("without", f"{_THREE} and ae = true and rnn = false", "metric"),
        0.59,
    ),
    "adversary": Effect(
        "contrasts", Side("with", _TWO, "metric_adv"), Side("without", _TWO, "metric_plain"), 0.56
    ),
    # Section 3.1.1. The paper names neither the runs nor their timesteps, so these take those of the learning order.
    "channels": Effect(
        "channels", Side("20", "channels = 20", "metric"), Side("more", "channels > 20", "metric"), 0.09
    ),
    "coder_layers": Effect(
        "coder_layers",
        Side("1", "enc_layers = 1 and dec_layers = 1", "metric"),
        Side("3", "enc_layers = 3 and dec_layers = 3", "metric"),
        0.14,
    ),
}
"""The paper's claims about what makes hidden states decodable."""


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
    "learning_order": [(_state(3, 3), 15, {"lead_state2": 5533, "lead_state3": 2773})],
    "signs": [({"effect": name}, None, {"effect": effect.value}) for name, effect in _EFFECTS.items()],
}

_ABOUT = {
    "table1": "as many model timesteps as GoL timesteps; the larger metric of the two decoders",
    "table2": "unequal timesteps; the larger metric of the two decoders",
    "table3": "the metric of the plain and of the adversarial decoder",
    "table4": "the LSTM that counts living cells; correlation of decoded with true states",
    "learning_order": "how many steps before the final state a state reaches 98% similarity; verdicts are on `ratio`",
    "signs": "how much larger the metric is with one setting than with another, in runs paired by seed",
}


_LEADS: dict[str, dict[str, Any]] = {
    one: {
        "derived": "imagination.life.learning_order:derived_leads",
        "beside": other,
        # An adversary that trains after the network changes nothing of when states are learned.
        "where": "gan in (none, posthoc)",
        "alike": ["gan"],
    }
    for one, other in (("lead_state2", "lead_state3"), ("lead_state3", "lead_state2"))
}
"""What makes the leads of the learning order; they are no metrics."""


def _sources(table: str, cell: Mapping[str, Scalar]) -> list[Source]:
    """Where the runs of a number come from: first our own specs, then the authors' ranges.

    Tables 1 to 3, the learning order and the contrasts are of the same runs, so a run of one of these specs counts in
    all of them. `paper_search` trains with other ranges, so its runs are rows of their own, and so are the runs of each
    preset. In the learning order a launch may have overridden `gan`, see `_LEADS`.
    """
    overridden = ["preset", "gan"] if table == "learning_order" else ["preset"]
    spec = _EFFECTS[str(cell["effect"])].spec if table == "signs" else table
    sources: dict[str, Sequence[str]] = {spec: [spec]}
    if spec == "table4":
        sources["paper_search_count"] = ["paper_search_count"]
    elif spec in _TABLES:
        sources = {spec: _TABLES, "paper_search": ["paper_search", "paper_search_4"]}
    return [Source(name, specs, overridden) for name, specs in sources.items()]


def _about(quantity: str, cell: Mapping[str, Scalar]) -> dict[str, Any]:
    """How a number is judged and shown."""
    if "effect" in cell:
        return {"effect": _EFFECTS[str(cell["effect"])]}
    if quantity in _LEADS:
        return _LEADS[quantity]
    return {
        "side": {"metric_plain": "plain", "metric_adv": "adversarial"}.get(quantity, ""),
        "short": ["gol", "model_t"],
        "baselines": ["baseline_repeat", "baseline_dead", "baseline_shifted"],
        "ceiling": "baseline_perfect",
    }


PAPER = Paper(
    tables={
        table: [
            Number(table, quantity, cell, value, runs, _sources(table, cell), **_about(quantity, cell))
            for cell, runs, means in rows
            for quantity, value in means.items()
        ]
        for table, rows in _ROWS.items()
    },
    about=_ABOUT,
)
