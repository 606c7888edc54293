"""The two Game of Life experiments, as the rest of the program knows them. Torch-free."""

from typing import Any

from imagination.declaration import Command, Declaration, Gate
from imagination.life.config import (
    LIFE_COUNT_PRESETS,
    LIFE_STATE_PRESETS,
    LifeCountConfig,
    LifeStateConfig,
)

_TRAINING = {
    "train_accuracy": "training accuracy over the last eval_every steps",
    "eval_accuracy": "accuracy of the final state (life_state), or of the count, on the evaluation set",
    "baseline_repeat": "the score of a decoder that shows s_1 every time",
    "baseline_perfect": "the ceiling: the score of a decoder that shows the true states",
    "steps": "training steps when the run ended",
}

_SHOWN: dict[str, Any] = {
    "progress": "imagination.life.progress:accuracies",
    "figures": {
        "strip": Command(
            "imagination.life.figures:strip",
            "Draw true states above decoded ones, from the first to the final one.",
        )
    },
    "analyses": {
        "trace": Command("imagination.life.figures:TRACE", "Print and draw the learning order of runs.")
    },
    "gallery": "imagination.life.figures:GALLERY",
}

STATE = Declaration(
    name="life_state",
    config=LifeStateConfig,
    presets=LIFE_STATE_PRESETS,
    cells=("gol", "model_t", "ae", "rnn"),
    shown=("metric", "metric_plain", "metric_adv"),
    metrics={
        "metric": "Eq. 1, the interpretability metric: the larger one of both decoders",
        "metric_plain": "Eq. 1 with the network's own decoder",
        "metric_adv": "Eq. 1 with the adversarial decoder",
        "metric_dataset": "Eq. 1 as the authors' code computes it: weights once per evaluation set",
        "metric_slip": "Eq. 1 with the authors' index slip, if gol > model_t",
        "train_accuracy": _TRAINING["train_accuracy"],
        "eval_accuracy": _TRAINING["eval_accuracy"],
        "autoencoder_accuracy": "pixel accuracy of decoder(h_0) against s_1",
        "aligned_accuracy": "pixel accuracy of decoder(h_i) against s_(i+1), if gol = model_t",
        "baseline_repeat": _TRAINING["baseline_repeat"],
        "baseline_dead": "the score of a decoder that shows an empty board",
        "baseline_shifted": "the score of a decoder that is one state ahead",
        "baseline_perfect": _TRAINING["baseline_perfect"],
        "steps": _TRAINING["steps"],
    },
    gate=Gate("train_accuracy", 0.99),  # the share of correct pixels (paper, section 3.1.1)
    runner="imagination.life.state:RUNNER",
    numbers="imagination.life.paper:PAPER",
    **_SHOWN,
)

COUNT = Declaration(
    name="life_count",
    config=LifeCountConfig,
    presets=LIFE_COUNT_PRESETS,
    cells=("gol", "model_t"),
    shown=("correlation", "correlation_plain", "correlation_adv", "correlation_aligned"),
    metrics={
        "correlation": "Matthews correlation of decoded with true states: the larger one of both decoders",
        "correlation_plain": "the same with the network's own decoder",
        "correlation_adv": "the same with the adversarial decoder",
        "correlation_aligned": "each true state against the model's state of the same number",
        "correlation_aligned_adv": "the same with the adversarial decoder",
        **{name: _TRAINING[name] for name in ("train_accuracy", "eval_accuracy")},
        "autoencoder_accuracy": "pixel accuracy of decoder(h_0) against s_1",
        **{name: _TRAINING[name] for name in ("baseline_repeat", "baseline_perfect", "steps")},
    },
    gate=Gate(
        "train_accuracy", 0.999
    ),  # the share of boards whose rounded count is correct (the authors' code)
    runner="imagination.life.count:RUNNER",
    numbers="imagination.life.paper:PAPER",
    **_SHOWN,
)
