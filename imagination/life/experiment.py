"""What the experiments on the Game of Life share: data, decoding, and the stages of a run.

An experiment is R runs whose tensors have equal shapes. Learning rates, seeds, the reset probability and the
weights of losses may differ between them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from imagination.life import networks
from imagination.life.config import LifeConfig
from imagination.life.data import LifeData, LifeForward
from imagination.life.posthoc import PosthocAdversary
from imagination.training import layers
from imagination.training.experiment import Evaluation, Experiment, Forward
from imagination.training.layers import ParameterLayout
from imagination.training.optimizer import Adam, Muon, Optimizer

C = TypeVar("C", bound=LifeConfig)

_CHUNK = 500  # evaluation sequences per forward pass


class LifeExperiment(ABC, Generic[C]):
    """R runs of one experiment in the stage that trains the network; see `imagination.training.loop.Experiment`.

    Args:
        configs: one config per run; their `pack_keys` must be equal.
        device: where the tensors live.

    Attributes:
        network: how to use the runs' parameters.
        data: the runs' chains.
    """

    stage = 0
    network: networks.Network

    def __init__(self, configs: Sequence[C], device: torch.device) -> None:
        self.configs: list[C] = list(configs)
        self.device = device
        self.shape: C = configs[0]
        self.data = LifeData(configs, device, real_boards=self.shape.gan == "joint")

    @property
    @abstractmethod
    def layout(self) -> ParameterLayout:
        """Names and shapes of one run's parameters."""

    @property
    @abstractmethod
    def untrained(self) -> slice:
        """Which of h_0 .. h_T have no target: those that a post-hoc adversary's generator is judged by."""

    @abstractmethod
    def discriminator_widths(self) -> list[int]:
        """Channels of the discriminator's convolutions."""

    @abstractmethod
    def supervised(self, outputs: Sequence[Tensor], sequence: Tensor) -> Tensor:
        """A decoder's loss `[R]` for its outputs `[R, B, H, W]` at h_0 and h_T (the two that have targets)."""

    @abstractmethod
    def decoded(self, output: Tensor) -> Tensor:
        """A decoder's outputs `[R, ...]` on the boards' scale, alive above .5."""

    @abstractmethod
    def evaluate(
        self, weights: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """See `Experiment`."""

    def select(self, kept: Sequence[int]) -> Self:
        """The same experiment with these runs alone."""
        return type(self)([self.configs[index] for index in kept], self.device)

    def next_stage(self) -> Experiment | None:
        """The post-hoc adversary of these runs, if their config wants one."""
        if self.shape.gan != "posthoc":
            return None
        return PosthocAdversary(self, self.discriminator_widths())

    def updates(self, config: LifeConfig) -> int:
        """How many updates a run of this stage has at most."""
        return config.max_steps

    def optimizers(self) -> list[tuple[slice, Optimizer]]:
        """The optimiser of every group of the network's parameters: Muon for hidden kernels, or Adam for all."""
        shapes = self.network.layout.shapes
        adam = Adam.of(self.configs, self.device)
        kernels = layers.hidden_kernels(shapes)
        if self.shape.optimizer == "adam" or not kernels:
            return [(self.layout.columns(shapes), adam)]
        others = [name for name in shapes if name not in kernels]
        return [
            (self.layout.columns(kernels), Muon(self.configs, kernels, self.device)),
            (self.layout.columns(others), adam),
        ]

    def initial_parameters(self) -> Tensor:
        """Fresh parameters, float32 `[R, P]`."""
        return self.layout.glorot_uniform(self.data.seeds)

    def initial_data(self) -> Tensor:
        """First states of the first batch, bool `[R, L, H, W]`."""
        return self.data.initial()

    def next_data(self, forward: Forward, steps: Tensor) -> Tensor:
        """First states of the batch of each run's step (`steps`, int64 `[R]`)."""
        assert isinstance(forward, LifeForward)
        return self.data.next(forward.second, steps)

    def autocast(self) -> torch.autocast:
        """The precision of training steps."""
        enabled = self.shape.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def decoders(self, weights: Mapping[str, Tensor]) -> dict[str, tuple[str, int]]:
        """Which decoders there are: what their samples are called, their name and depth."""
        config = self.shape
        own = "adversarial" if config.gan == "joint" else "plain"
        found = {own: (networks.DECODER, config.dec_layers)}
        trained = [value for name, value in weights.items() if name.startswith(f"{networks.ADVERSARY}.")]
        if trained and all(bool(value.isfinite().all()) for value in trained):  # else it ran away
            found["adversarial"] = (networks.ADVERSARY, config.adv_depth)
        return found

    def evaluation_chunks(
        self, weights: Mapping[str, Tensor], truth: Tensor, check: Callable[[], None]
    ) -> Iterator[tuple[list[Tensor], dict[str, Tensor]]]:
        """Hidden states, and per decoder the boards float32 `[n, T + 1, H, W]`, of `truth`, a chunk at a time.

        Args:
            weights: of a single run, each `[1, ...]`.
            truth: `[N, m, H, W]`.
            check: called before every chunk; what it raises goes through.
        """
        decoders = self.decoders(weights)
        for states in truth.split(_CHUNK):
            check()
            hidden = self.network.hidden_states(weights, states[None, :, 0])
            boards = {
                sample: torch.stack(
                    [self.decoded(networks.decode(weights, h, name=name, depth=depth))[0] for h in hidden],
                    dim=1,
                )
                for sample, (name, depth) in decoders.items()
            }
            yield hidden, boards
