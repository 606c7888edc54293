"""Configs of the Game of Life experiments. Torch-free: specs are checked against them on the login node."""

from dataclasses import dataclass

from imagination.schema import ConfigError, Scalar, setting


@dataclass(frozen=True, kw_only=True)
class LifeStateConfig:
    """An encoder-RNN-decoder network that predicts a later state of Life (paper sections 2 and 3.1).

    The field order is the column order of listings. Every field is part of the run's identity.

    Attributes:
        experiment: the registry's name of this experiment.
        preset: the named values that the run started from.
        gol: Life timesteps T between the given state s_1 and the predicted state s_{T+1} (m = gol + 1 states).
        model_t: timesteps of the network; n = model_t - 1 hidden states are the imagination.
        ae: train the decoder to give back s_1 from h_0 as well (autoencoder).
        rnn: share one step network between the timesteps (else one per timestep).
        gan: adversarial training of the decoder.
        channels: width of every hidden layer.
        enc_layers, step_layers, dec_layers: convolutions of the encoder, of one timestep and of the decoder.
        kernel: side of the convolution kernels, odd.
        residual: h <- h + step(h) instead of h <- step(h).
        reset: probability that the chain sampler begins a new board (1.0: every sequence starts fresh).
        board: side of the square training boards.
        batch: sequences per training step.
        lr: peak learning rate of Adam.
        schedule: `constant`, or `linear` decay from the peak to zero at `max_steps`.
        warmup: share of `max_steps` over which the rate rises linearly to the peak.
        loss: `bce` (with logits, threshold at logit 0) or `l2` (linear output, threshold .5).
        clip: gradient limit, of each entry (`clip_by: value`) or of the run's norm (`norm`); unused for `none`.
        precision: `float32`, or `bfloat16` for the convolutions of training steps (weights stay float32).
        max_steps: the run ends here if it never reaches `accuracy`.
        eval_every: steps of one interval of the training accuracy, and so of the stopping rule. The last interval
            is longer where `max_steps` is no multiple of it, never shorter.
        trace_every: steps between two points of the learning-order trace.
        accuracy: the run stops when its pixel accuracy over the last interval reaches this.
        eval_board: side of the boards that the metrics are computed on.
        eval_sequences: how many sequences the metrics average over.
        seed: seed of the run's own random streams (weights, boards).
    """

    experiment: str = setting("life_state", choices=("life_state",))
    preset: str = setting("fast", packs=True)
    gol: int = setting(3, low=1, high=100)
    model_t: int = setting(3, low=1, high=100)
    ae: bool = setting(True, packs=True)
    rnn: bool = setting(True)
    gan: str = setting("none", choices=("none",))
    channels: int = setting(20, low=1, high=1024)
    enc_layers: int = setting(1, low=1, high=100)
    step_layers: int = setting(5, low=1, high=100)
    dec_layers: int = setting(1, low=1, high=100)
    kernel: int = setting(3, low=1, high=15)
    residual: bool = setting(True)
    reset: float = setting(0.1, above=0, high=1, packs=True)
    board: int = setting(12, low=3, high=256)
    batch: int = setting(128, low=1)
    lr: float = setting(2e-3, above=0, packs=True)
    schedule: str = setting("linear", choices=("constant", "linear"), packs=True)
    warmup: float = setting(0.04, low=0, high=0.9, packs=True)
    loss: str = setting("bce", choices=("bce", "l2"), packs=True)
    clip: float = setting(1.0, above=0, packs=True)
    clip_by: str = setting("norm", choices=("none", "value", "norm"), packs=True)
    precision: str = setting("float32", choices=("float32", "bfloat16"))
    max_steps: int = setting(5000, low=1, packs=True)
    eval_every: int = setting(250, low=1, packs=True)
    trace_every: int = setting(50, low=1, packs=True)
    accuracy: float = setting(0.99, above=0, high=1, packs=True)
    eval_board: int = setting(20, low=3, high=256, packs=True)
    eval_sequences: int = setting(10_000, low=1, packs=True)
    seed: int = setting(0, low=0, high=2**63 - 1, packs=True)

    def check(self) -> None:
        """Raises ConfigError where values that are each allowed make no sense together."""
        if self.kernel % 2 == 0:
            raise ConfigError(
                f"kernel: {self.kernel} is even; an odd one keeps the board's size", key="kernel"
            )


LIFE_STATE_PRESETS: dict[str, dict[str, Scalar]] = {
    "fast": {
        "board": 12,
        "batch": 128,
        "lr": 2e-3,
        "schedule": "linear",
        "warmup": 0.04,
        "loss": "bce",
        "clip": 1.0,
        "clip_by": "norm",
        "max_steps": 5000,
        "eval_every": 250,
        "trace_every": 50,
    },
    "paper_bce": {
        "board": 20,
        "batch": 200,
        "lr": 5e-4,
        "schedule": "constant",
        "warmup": 0.0,
        "loss": "bce",
        "clip": 0.1,
        "clip_by": "value",
        "max_steps": 80_000,
        "eval_every": 1000,
        "trace_every": 100,
    },
    "paper_l2": {
        "board": 20,
        "batch": 200,
        "lr": 5e-4,
        "schedule": "constant",
        "warmup": 0.0,
        "loss": "l2",
        "clip": 0.1,
        "clip_by": "value",
        "max_steps": 120_000,
        "eval_every": 5000,
        "trace_every": 100,
    },
}
"""Named values. `paper_bce` is the authors' code of 2020, `paper_l2` that of 2021 (which the text describes);
`fast` is the same science on smaller boards with a warm-up, a linear decay and clipping by norm."""
