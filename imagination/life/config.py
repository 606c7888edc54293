"""Configs of the Game of Life experiments. Torch-free: specs are checked against them on the login node."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from imagination.schema import ConfigError, RunConfig, Scalar, need, plain, require, setting


@dataclass(frozen=True, kw_only=True)
class LifeConfig(RunConfig):
    """The config keys that the Game of Life experiments share. Every field is part of a run's id.

    Attributes:
        gol: Life timesteps T between the given state s_1 and the predicted state s_{T+1} (m = gol + 1 states).
        model_t: timesteps of the network; n = model_t - 1 hidden states are the imagination.
        gan: adversarial training: `none`; `posthoc`: of a new decoder, on the frozen hidden states of the trained
            network; or `joint` (only life_state): of the network itself, so the generator's gradient reaches the
            hidden states.
        channels: width of every hidden layer. A run with 1 channel has no kernels for Muon, so it is not padded.
        enc_layers, dec_layers: convolutions of the encoder and of the decoder; for a decoder that is `tied`, see there.
        kernel: side of the convolution kernels, odd.
        reset: probability that a sequence of the chain sampler begins with a fresh board.
        board: side of the square training boards.
        batch: sequences per training step.
        optimizer: `adam` for the whole network, or `muon` for its kernels between hidden layers and Adam for the rest.
            Post-hoc decoders and discriminators always have Adam.
        lr: peak learning rate of Adam.
        muon_lr: peak learning rate of Muon (`optimizer: muon`).
        schedule: `constant`, `linear` decay from the peak to zero at `max_steps`, or `exponential` by `decay`.
        warmup: share of `max_steps` over which the rate rises linearly to the peak.
        decay: factor of the rate per 100,000 steps (`schedule: exponential`).
        clip: limit of Adam's gradient (not Muon's).
        clip_by: what `clip` limits: each entry (`value`), the `norm`, or nothing (`none`).
        precision: of training steps; weights, optimisers and evaluation are always float32. `bfloat16`: the
            convolutions'. `tf32`: that of all products on a GPU; on a CPU the same as `float32`.
        max_steps: the step at which the run ends if it does not reach `accuracy` before.
        eval_every: steps of one interval of the training accuracy; the stopping rule applies at its end. If
            `max_steps` is not a multiple of it, the last interval is longer.
        trace_every: steps between two points of the traces.
        accuracy: training accuracy of an interval at which the run stops.
        give_up_at: step from which a run below `give_up_accuracy` ends (0: never).
        give_up_accuracy: see `give_up_at`.
        adv_steps: updates of the post-hoc adversarial decoder.
        adv_weight: weight of the generator's loss; the supervised loss weighs 1.
        adv_ramp: share of `adv_steps` over which that weight rises linearly from 0 (0: no rise), also with `joint`.
        adv_layers: convolutions of the post-hoc adversarial decoder; 0: as many as `dec_layers`.
        adv_lr: its peak learning rate; `schedule` and `warmup` apply over `adv_steps`.
        disc_lr: constant learning rate of the discriminator.
        eval_sequences: number of sequences in the evaluation set.
        start: a run whose network the training begins with, in place of a fresh one. `steps` counts the steps after it.
    """

    preset: str = setting("fast", packs=True)
    gol: int = setting(3, low=1, high=100)
    model_t: int = setting(3, low=1, high=100)
    gan: str = setting("none", choices=("none",))
    channels: int = setting(20, low=1, high=1024, pads=2)
    enc_layers: int = setting(1, low=1, high=100)
    dec_layers: int = setting(1, low=1, high=100)
    kernel: int = setting(3, low=1, high=15)
    reset: float = setting(0.1, above=0, high=1, packs=True)
    board: int = setting(12, low=3, high=256)
    batch: int = setting(128, low=1)
    optimizer: str = setting("adam", choices=("adam", "muon"))
    lr: float = setting(2e-3, above=0, packs=True)
    muon_lr: float = setting(0.02, above=0, packs=True)
    schedule: str = setting("linear", choices=("constant", "linear", "exponential"), packs=True)
    warmup: float = setting(0.04, low=0, high=0.9, packs=True)
    decay: float = setting(1.0, above=0, high=1, packs=True)
    clip: float = setting(1.0, above=0, packs=True)
    clip_by: str = setting("norm", choices=("none", "value", "norm"), packs=True)
    precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    max_steps: int = setting(5000, low=1, high=2**30, packs=True)
    eval_every: int = setting(250, low=1, packs=True)
    trace_every: int = setting(50, low=1, packs=True)
    accuracy: float = setting(0.99, above=0, high=1, packs=True)
    give_up_at: int = setting(0, low=0, packs=True)
    give_up_accuracy: float = setting(0.0, low=0, high=1, packs=True)
    adv_steps: int = setting(2000, low=1, high=2**30, packs=True)
    adv_weight: float = setting(0.034, low=0, packs=True)
    adv_ramp: float = setting(1.0, low=0, high=1, packs=True)
    adv_layers: int = setting(0, low=0, high=100)
    adv_lr: float = setting(2e-3, above=0, packs=True)
    disc_lr: float = setting(1e-3, above=0, packs=True)
    eval_sequences: int = setting(10_000, low=1, packs=True)

    @property
    def adv_depth(self) -> int:
        """Convolutions of the post-hoc adversarial decoder."""
        return self.adv_layers or self.dec_layers

    @property
    def decoder_depth(self) -> int:
        """Convolutions of the network's own decoder."""
        return self.dec_layers

    @property
    def evaluation_board(self) -> int:
        """Side of the boards that the metrics are computed on."""
        return self.board

    @property
    @override
    def total_steps(self) -> int:
        """The largest number of updates, in all stages: the total of a progress bar."""
        return self.max_steps + self.later_steps

    @property
    @override
    def later_steps(self) -> int:
        return self.adv_steps if self.gan == "posthoc" else 0

    @override
    def check(self) -> None:
        require(
            self.kernel % 2 == 1,
            f"kernel: {self.kernel} is even; an odd kernel keeps the board's size",
            keys=("kernel",),
        )
        require(
            self.gan == "none" or self.model_t > 1,
            f"gan: '{self.gan}' with model_t 1 has no intermediate states to work on; "
            "set gan to none, or model_t to at least 2",
            keys=("gan", "model_t"),
        )
        require(
            self.schedule != "exponential" or self.decay < 1,
            "schedule: 'exponential' with decay 1 never decays; set decay below 1, or schedule to constant",
            keys=("schedule", "decay"),
        )
        require(
            self.gan != "posthoc" or self.trace_every <= self.adv_steps,
            f"trace_every: {self.trace_every} is longer than the adversary's training, adv_steps {self.adv_steps}; "
            f"set trace_every to at most {self.adv_steps}, or adv_steps to at least {self.trace_every}",
            keys=("trace_every", "adv_steps"),
        )
        require(
            not self.give_up_at or self.give_up_accuracy > 0,
            f"give_up_at: {self.give_up_at} has no effect with give_up_accuracy 0; "
            "set give_up_accuracy above 0, or give_up_at to 0",
            keys=("give_up_at", "give_up_accuracy"),
        )
        require(
            self.give_up_accuracy <= self.accuracy,
            f"give_up_accuracy: {self.give_up_accuracy} is above accuracy, {self.accuracy}, at which runs stop; "
            f"set give_up_accuracy to at most {self.accuracy}",
            keys=("give_up_accuracy", "accuracy"),
        )
        steps = {key: getattr(self, key) for key in ("eval_every", "trace_every", "give_up_at")}
        long = {key: count for key, count in steps.items() if count > self.max_steps}
        if long:
            given = ", ".join(f"{key}: {count}" for key, count in long.items())
            raise ConfigError(
                f"{given} {'is' if len(long) == 1 else 'are'} longer than the whole run, max_steps {self.max_steps}; "
                f"set {' and '.join(long)} to at most {self.max_steps}, or max_steps to at least {max(long.values())}",
                key=next(iter(long)),
                against=(*list(long)[1:], "max_steps"),
            )

    def network_keys(self) -> tuple[str, ...]:
        """The config keys that the names and shapes of the network's parameters depend on."""
        return ("channels", "kernel", "enc_layers", "dec_layers")

    @override
    def check_needs(self, needed: Mapping[str, Any]) -> None:
        if "start" in needed:
            pairs = {key: (getattr(needed["start"], key), getattr(self, key)) for key in self.network_keys()}
            unlike = [
                f"{key} {plain(his)} instead of {plain(own)}"
                for key, (his, own) in pairs.items()
                if his != own
            ]
            require(
                not unlike,
                f"start: its network has {', '.join(unlike)}; give these keys the same values in both runs",
                keys=("start",),
            )


@dataclass(frozen=True, kw_only=True)
class LifeStateConfig(LifeConfig):
    """An encoder-RNN-decoder network that predicts a later state of Life (paper sections 2 and 3.1).

    Attributes:
        ae: whether the decoder also learns to reproduce s_1 from h_0 (autoencoder).
        rnn: whether all timesteps share one step network; if not, each has its own.
        step_layers: convolutions of one timestep.
        residual: whether h <- h + step(h); if not, h <- step(h).
        loss: `bce` (with logits, threshold at logit 0) or `l2` (linear output, threshold .5).
        eval_board: side of the boards that the metrics are computed on.
        tied: whether the decoder is the encoder in reverse: as many convolutions, each the transpose of the encoder's,
            with biases of its own. An adversarial decoder is never tied.
    """

    experiment: str = setting("life_state", choices=("life_state",))
    gan: str = setting("none", choices=("none", "posthoc", "joint"))
    ae: bool = setting(True, packs=True)
    rnn: bool = setting(True)
    step_layers: int = setting(5, low=1, high=100)
    residual: bool = setting(True)
    loss: str = setting("bce", choices=("bce", "l2"), packs=True)
    eval_board: int = setting(20, low=3, high=256, packs=True)
    tied: bool = setting(False, before=False)
    start: str = need("life_state", optional=True, packs=True)

    @property
    @override
    def decoder_depth(self) -> int:
        return self.enc_layers if self.tied else self.dec_layers

    @property
    @override
    def evaluation_board(self) -> int:
        return self.eval_board

    @override
    def network_keys(self) -> tuple[str, ...]:
        timesteps = () if self.rnn else ("model_t",)
        return (*super().network_keys(), "step_layers", "tied", "rnn", *timesteps)

    @override
    def check(self) -> None:
        super().check()
        require(
            self.gan == "none" or self.gol > 1,
            f"gan: '{self.gan}' with gol 1 has no true intermediate states to score against; "
            "set gan to none, or gol to at least 2",
            keys=("gan", "gol"),
        )


@dataclass(frozen=True, kw_only=True)
class LifeCountConfig(LifeConfig):
    """A convolutional LSTM that predicts how many cells will live (paper section 3.2).

    Training and evaluation use boards of the same size, because the count head ends in a linear layer over the board.

    Attributes:
        lstm_layers: stacked convolutional LSTM layers.
        count_layers: convolutions of the count head before its linear layer.
        count_weight: weight of the count losses (counts as shares of the board); the board decoder's loss weighs 1.
        disc_layers, disc_width: the discriminator's convolution i (from 1) has i * `disc_width` channels.
        accuracy: as in `LifeConfig`; the share of boards whose rounded count is right.
    """

    experiment: str = setting("life_count", choices=("life_count",))
    gan: str = setting("none", choices=("none", "posthoc"))
    board: int = setting(10, low=3, high=256)
    accuracy: float = setting(0.999, above=0, high=1, packs=True)
    lstm_layers: int = setting(2, low=1, high=100)
    count_layers: int = setting(1, low=1, high=100)
    count_weight: float = setting(1.0, above=0, packs=True)
    disc_layers: int = setting(3, low=1, high=8)
    disc_width: int = setting(8, low=1, high=1024)
    start: str = need("life_count", optional=True, packs=True)

    @override
    def network_keys(self) -> tuple[str, ...]:
        return (*super().network_keys(), "lstm_layers", "count_layers", "board")


_PAPER_STATE: dict[str, Scalar] = {
    "board": 20,
    "batch": 200,
    "lr": 5e-4,
    "schedule": "constant",
    "warmup": 0.0,
    "clip": 0.1,
    "clip_by": "value",
    "trace_every": 100,
    "adv_steps": 50_000,
    "adv_lr": 5e-4,
}

LIFE_STATE_PRESETS: dict[str, dict[str, Scalar]] = {
    "fast": {
        "board": 10,
        "batch": 64,
        "optimizer": "muon",
        "lr": 6e-3,
        "muon_lr": 0.01,
        "warmup": 0.05,
        "max_steps": 3000,
        "eval_every": 100,
        "trace_every": 25,
        "adv_steps": 3000,
        "adv_weight": 0.1,
        "adv_lr": 1e-3,
    },
    "small": {
        "board": 10,
        "batch": 64,
        "warmup": 0.02,
        "clip": 0.1,
        "clip_by": "value",
        "max_steps": 40_000,
        "give_up_at": 20_000,
        "give_up_accuracy": 0.88,
        "eval_every": 100,
        "trace_every": 50,
        "adv_steps": 3000,
        "adv_weight": 0.1,
        "adv_lr": 1e-3,
    },
    "adam": {},
    "paper_bce": {
        **_PAPER_STATE,
        "loss": "bce",
        "max_steps": 80_000,
        "eval_every": 1000,
        "adv_weight": 1.0,
        "adv_ramp": 0.0,
    },
    "paper_l2": {
        **_PAPER_STATE,
        "loss": "l2",
        "max_steps": 120_000,
        "eval_every": 5000,
        "adv_weight": 0.034,
        "adv_ramp": 1.0,
    },
}
"""Presets of the state task: their differences from `adam`, which has the config's defaults.

`adam` is Adam on 12x12 boards with a warm-up and a linear decay; `fast` was developed from it. `fast` trains the same
task on smaller boards with Muon. `small` is the cheapest that we found with the authors' optimiser and clipping, on the
boards of `fast`. `paper_bce` is the authors' code of 2020, `paper_l2` that of 2021, which the paper's
text describes. A table of all values is in docs/experiments.md.
"""

LIFE_COUNT_PRESETS: dict[str, dict[str, Scalar]] = {
    "fast": {
        "channels": 24,
        "enc_layers": 2,
        "batch": 64,
        "optimizer": "muon",
        "lr": 3e-3,
        "warmup": 0.03,
        "max_steps": 8000,
        "eval_every": 500,
        "trace_every": 100,
        "adv_steps": 3000,
        "adv_weight": 0.1,
        "adv_layers": 3,
        "adv_lr": 1e-3,
    },
    "small": {
        "channels": 24,
        "enc_layers": 2,
        "batch": 64,
        "lr": 1e-3,
        "warmup": 0.03,
        "clip": 0.1,
        "clip_by": "value",
        "max_steps": 40_000,
        "give_up_at": 20_000,
        "give_up_accuracy": 0.9,
        "eval_every": 500,
        "trace_every": 100,
        "adv_steps": 3000,
        "adv_weight": 0.1,
        "adv_layers": 3,
        "adv_lr": 1e-3,
    },
    "adam": {},
    "paper": {
        "channels": 24,
        "enc_layers": 2,
        "batch": 200,
        "lr": 1e-3,
        "schedule": "exponential",
        "warmup": 0.0,
        "decay": 0.3,
        "clip": 0.1,
        "clip_by": "value",
        "max_steps": 400_000,
        "eval_every": 5000,
        "trace_every": 100,
        "give_up_at": 200_000,
        "give_up_accuracy": 0.9,
        "adv_steps": 100_000,
        "adv_weight": 0.5,
        "adv_layers": 3,
        "adv_lr": 1e-3,
    },
}
"""Presets of the counting task: their differences from `adam`, which has the config's defaults.

`small` has the authors' optimiser and clipping, and the boards, batches and adversary of `fast`. `paper` is within the
ranges that the authors searched. A table of all values is in docs/experiments.md.
"""
