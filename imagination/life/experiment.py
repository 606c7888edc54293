"""What the Game of Life experiments share: the boards of R runs, and the stage that trains a network.

The tensors of the R runs have equal shapes. Keys that change no shape, such as `lr` or `seed`, may differ; so may
`channels`, for which the widest run sets the shapes.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from imagination import metrics
from imagination.life import networks, rules, sampler
from imagination.life.config import LifeConfig
from imagination.runner import Needed
from imagination.training import layers
from imagination.training.experiment import Experiment
from imagination.training.layers import Activations, ParameterLayout
from imagination.training.optimizer import Adam, Muon, Optimizer

C = TypeVar("C", bound=LifeConfig)

_CHUNK, _CHUNK_OF_A_GPU = 64, 500  # evaluation sequences per forward pass; a CPU's cache holds 64
_LOT_OF_A_GPU = 16  # runs: by default, the boards of 16 runs take 4 GB
_STEPS_OF_A_STAGE = 2**30  # the largest number of steps; `philox` has 32 bits for a step, so four stages fit


class LifeStage(Experiment, Generic[C]):
    """R runs in one stage of their training. Each run and stage has its own chains of boards.

    Args:
        configs: one per run; their `pack_keys` must be equal, but for `channels` in a padded pack.
        device: the device of all tensors.
        real_boards: keep a second batch of chains, whose first states are the discriminator's real boards.

    Attributes:
        shape: the first run's config, for the keys that are equal in all runs, with the most channels of any run.
        seeds: int64 `[R]`.
    """

    def __init__(self, configs: Sequence[C], device: torch.device, *, real_boards: bool = False) -> None:
        self.configs: list[C] = list(configs)
        self.device = device
        self.shape: C = replace(configs[0], channels=max(c.channels for c in configs))
        self.seeds = torch.tensor([c.seed for c in configs], dtype=torch.int64, device=device)
        self._reset = torch.tensor([c.reset for c in configs], dtype=torch.float64, device=device)
        self._real_boards = real_boards
        self._first_step = self.stage * _STEPS_OF_A_STAGE

    @override
    def layout_of(self, run: int) -> ParameterLayout:
        is_widest = self.configs[run].channels == self.shape.channels
        return self.layout if is_widest else self.select([run]).layout

    @override
    def initial_parameters(self) -> Tensor:
        return self.layout.glorot_uniform(self.seeds)

    @override
    def initial_data(self) -> Tensor:
        """First states of the first batch, bool `[R, L, H, W]`; L is B, or 2 B with real boards."""
        lanes = self.shape.batch * (2 if self._real_boards else 1)
        return sampler.start(
            self.seeds, self._reset, batch=lanes, board=self.shape.board, step=self._first_step
        )

    @override
    def next_data(self, carry: Tensor, steps: Tensor) -> Tensor:
        """First states of the next batch, bool `[R, L, H, W]`, from the second states of this one."""
        return sampler.advance(carry, self.seeds, self._reset, steps + self._first_step)

    def sequences(self, data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The batch whose first states are `data`, bool `[R, L, H, W]`.

        Returns:
            The sequences s_1 .. s_m `[m, R, B, H, W]`, the real boards `[R, L - B, H, W]`, and the second states of
            all chains `[R, L, H, W]`.
        """
        batch = self.shape.batch
        sequence = rules.states(data[:, :batch], self.shape.gol)
        real = data[:, batch:]
        second = torch.cat((sequence[1], rules.step(real)), dim=1) if self._real_boards else sequence[1]
        return sequence, real, second

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the convolutions of training steps: activations and products in bfloat16, or nothing."""
        if self.shape.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @override
    def products(self) -> AbstractContextManager[object]:
        return tf32() if self.shape.precision == "tf32" else nullcontext()

    def discriminator_optimizer(self) -> Adam:
        """Adam at the constant rate `disc_lr`, without clipping (the authors' code)."""
        settings = [
            replace(c, lr=c.disc_lr, schedule="constant", warmup=0.0, clip_by="none") for c in self.configs
        ]
        return Adam(settings, self.device)

    def similarity(
        self, boards: Iterable[Tensor], sequence: Tensor, *, name: str = "state"
    ) -> dict[str, Tensor]:
        """The learning-order trace (section 3.1.1): pixel similarity of decoded states with true ones.

        h_0 is compared with s_1 and h_T with s_m. In between, h_{i-1} is compared with s_i if gol = model_t, else with
        the most similar intermediate state. If there is no intermediate state, h_{i-1} has no value.

        Args:
            boards: decoded h_0 .. h_T, each `[R, B, H, W]`.
            sequence: s_1 .. s_m, `[m, R, B, H, W]`.
            name: prefix of the traces' names.

        Returns:
            `{name}1` for h_0 to `{name}{T+1}` for h_T, each `[R]`.
        """
        gol, model_t = self.shape.gol, self.shape.model_t
        similar: dict[str, Tensor] = {}
        for index, board in enumerate(boards):
            if index in (0, model_t):
                truth = sequence[-1:] if index else sequence[:1]
            else:
                truth = sequence[index : index + 1] if gol == model_t else sequence[1:-1]
            if len(truth):
                candidates = [metrics.pixel_accuracy(board, state).mean(1) for state in truth]
                similar[f"{name}{index + 1}"] = torch.stack(candidates).amax(0)
        return similar


class LifeExperiment(LifeStage[C]):
    """R runs of one experiment in the stage that trains the network.

    Args:
        configs, device, real_boards: as in `LifeStage`.
        needs: for each run, what it builds on by config key; default: nothing.

    Attributes:
        network: computes the hidden states from a run's parameters.
        untrained: which of h_0 .. h_T have no target; the post-hoc discriminator judges their boards.
    """

    stage = 0
    network: networks.Network
    untrained: slice

    def __init__(
        self,
        configs: Sequence[C],
        device: torch.device,
        *,
        real_boards: bool = False,
        needs: Sequence[Mapping[str, Needed]] = (),
    ) -> None:
        super().__init__(configs, device, real_boards=real_boards)
        self._needs = list(needs) or [{} for _ in configs]

    @override
    def initial_parameters(self) -> Tensor:
        """Fresh parameters, but the network of a run with a `start` has those of that run's network."""
        parameters = super().initial_parameters()
        for row, met in enumerate(self._needs):
            if "start" in met:
                weights, named = met["start"].arrays(), self.layout.unpack(parameters[row : row + 1])
                for name in self.network.layout.shapes:
                    named[name][0] = torch.from_numpy(weights[name])
        return parameters

    @abstractmethod
    def supervised(self, outputs: Sequence[Tensor], sequence: Tensor) -> Tensor:
        """A decoder's loss `[R]`, from its outputs `[R, B, H, W]` at h_0 and h_T, which have targets."""

    @abstractmethod
    def decoded(self, output: Tensor) -> Tensor:
        """A decoder's output `[R, ...]` on the scale of boards: a pixel above .5 is alive."""

    @override
    def select(self, kept: Sequence[int]) -> Self:
        needs = [self._needs[index] for index in kept]
        return type(self)([self.configs[index] for index in kept], self.device, needs=needs)

    @override
    def updates(self, config: LifeConfig) -> int:
        return config.max_steps

    @override
    def optimizers(self) -> list[tuple[slice, Optimizer]]:
        """The network's optimisers: Muon for kernels between hidden layers and Adam for the rest, or only Adam."""
        shapes = self.network.layout.shapes
        adam = Adam(self.configs, self.device)
        kernels = layers.hidden_kernels(shapes)
        if self.shape.optimizer == "adam" or not kernels:
            return [(self.layout.columns(shapes), adam)]
        others = [name for name in shapes if name not in kernels]
        return [
            (self.layout.columns(kernels), Muon(self.configs, kernels, self.device)),
            (self.layout.columns(others), adam),
        ]

    def decode(self, named: Mapping[str, Tensor], hidden: Activations) -> Tensor:
        """The network's own decoder: its linear output, float32 `[R, B, H, W]`."""
        return networks.decode(named, hidden, name=networks.DECODER, depth=self.shape.decoder_depth)

    def traced(
        self, named: Mapping[str, Tensor], hidden: Sequence[Activations], sequence: Tensor
    ) -> dict[str, Tensor]:
        """The `similarity` of the boards that the network's own decoder makes of h_0 .. h_T."""
        with self.autocast():
            outputs = [self.decode(named, h) for h in hidden]
        return self.similarity(map(self.decoded, outputs), sequence)

    @override
    def lots(self) -> Sequence[Sequence[int]]:
        """Runs with the same evaluation set. On a CPU each run is alone: there a lot takes memory and saves no time."""
        alike: dict[tuple[int, int], list[int]] = {}
        for run, config in enumerate(self.configs):
            alike.setdefault((config.evaluation_board, config.eval_sequences), []).append(run)
        size = 1 if self.device.type == "cpu" else _LOT_OF_A_GPU
        return [runs[start : start + size] for runs in alike.values() for start in range(0, len(runs), size)]

    def evaluation_set(self) -> dict[str, Any]:
        """What the evaluation set of a lot depends on beside `gol`, as arguments of `sampler.evaluation_states`."""
        return {
            "board": self.shape.evaluation_board,
            "sequences": self.shape.eval_sequences,
            "device": self.device,
        }

    def evaluation_chunks(
        self, weights: Mapping[str, Tensor], truth: Tensor, check: Callable[[], None]
    ) -> Iterator[tuple[Sequence[Activations], dict[str, Tensor]]]:
        """For each chunk of `truth`: the hidden states, and per decoder the boards, float32 `[R, n, T + 1, H, W]`.

        Args:
            weights: the parameters, each `[R, ...]`.
            truth: `[N, m, H, W]`.
            check: called before every chunk.
        """
        runs = len(self.configs)
        size = _CHUNK if self.device.type == "cpu" else max(_CHUNK_OF_A_GPU // runs, 1)
        for states in truth.split(size):
            check()
            hidden = self.network.hidden_states(weights, states[:, 0].expand(runs, -1, -1, -1))
            boards = {
                sample: torch.stack(
                    [self.decoded(networks.decode(weights, h, name=name, depth=depth)) for h in hidden], dim=2
                )
                for sample, (name, depth) in self._decoders(weights).items()
            }
            yield hidden, boards

    def boards_by_run(
        self, weights: Mapping[str, Tensor], chunks: Sequence[Mapping[str, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """Each run's boards of all chunks, per decoder `[N, T + 1, H, W]`, without a decoder that diverged."""
        whole = {sample: torch.cat([chunk[sample] for chunk in chunks], dim=1) for sample in chunks[0]}
        trained = [value for name, value in weights.items() if name.startswith(f"{networks.ADVERSARY}.")]
        return [
            {
                sample: boards[run]
                for sample, boards in whole.items()
                if self._decoders(weights)[sample][0] != networks.ADVERSARY
                or all(bool(value[run].isfinite().all()) for value in trained)
            }
            for run in range(len(self.configs))
        ]

    def _decoders(self, weights: Mapping[str, Tensor]) -> dict[str, tuple[str, int]]:
        """By name in samples and metrics: each decoder's name in the weights, and its depth."""
        config = self.shape
        own = "adversarial" if config.gan == "joint" else "plain"
        found = {own: (networks.DECODER, config.decoder_depth)}
        if any(name.startswith(f"{networks.ADVERSARY}.") for name in weights):
            found["adversarial"] = (networks.ADVERSARY, config.adv_depth)
        return found


@contextmanager
def tf32() -> Iterator[None]:
    """Inside it, a GPU may round the factors of products to TF32's 10 bits. A CPU has no such products."""
    kinds: tuple[Any, Any] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = True
    try:
        yield
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed
