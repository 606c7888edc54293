"""`chess_probe`: what a linear map reads of coming moves in one layer, and whether the network uses it."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from imagination.chess import boards
from imagination.chess.config import ProbeConfig
from imagination.chess.network import AT_ONCE, frozen
from imagination.chess.positions import Positions
from imagination.function import DONE
from imagination.probing import Deal, Ridge, reciprocal_rank
from imagination.probing import frozen as activations
from imagination.runner import Run, Runner
from imagination.schema import ConfigError

PLIES = 3
_TRIED = 2000
"""Most test positions for which all next boards are ranked, or whose layer is changed."""

Metrics = dict[str, float]


class Layer:
    """What a pack shares: the positions, the frozen network, and its layer at them.

    Attributes:
        network: the network.
        number: the layer.
        held: the held-out positions.
        at: those of them that `PLIES` further ones follow, int64 `[N]`.
        features: what the probes read there, `[N, D]`.
    """

    def __init__(self, run: Run, *, device: torch.device) -> None:
        config: ProbeConfig = run.config
        random = config.seed if config.features == "random" else None
        self.network = frozen(run.needs["network"], device=device, random=random)
        config.check_blocks(len(self.network.blocks))
        self.number = config.layer
        self.held = Positions.of(run.needs["positions"].arrays("held"))
        self.at = self.held.followed(PLIES)
        is_input = config.features == "input"
        planes = torch.from_numpy(boards.planes(self.rows)).to(device)
        self.features = activations([planes] if is_input else self._read(config.layer))

    @property
    def rows(self) -> boards.Rows:
        """The positions that are probed."""
        return self.held.rows[self.at]

    @cached_property
    def last(self) -> Tensor:
        """The network's last layer `[N, D]`, from the features."""
        return activations(
            self.network.after(x, self.number) for x in self.maps(self.features).split(AT_ONCE)
        )

    def maps(self, features: Tensor) -> Tensor:
        """Features `[N, D]` as channels on the board, `[N, C, 8, 8]`."""
        return features.reshape(len(features), -1, 8, 8)

    def moves(self, features: Tensor) -> Tensor:
        """The policy `[N, 1858]` if the last layer is this."""
        with torch.no_grad():
            return torch.cat([self.network.moves(x) for x in self.maps(features).split(AT_ONCE)])

    def _read(self, layer: int) -> Iterator[Tensor]:
        for planes in self.network.batches(self.rows):
            yield next(itertools.islice(self.network.layers(planes), layer, None))


class Probes:
    """The probes of one layer on one deal of the games to training and test."""

    def __init__(self, layer: Layer, config: ProbeConfig) -> None:
        self._layer = layer
        games = torch.from_numpy(layer.held.games[layer.at])
        self._deal = Deal(layer.features, games, share=config.share, seed=config.seed)
        self._test = self._deal.test
        if not len(self._test):
            raise ConfigError(
                f"share: {config.share} of {len(games.unique())} games leaves none for the test"
            )

    def measure(self, run: Run) -> Metrics:
        """The metrics of one run."""
        measures: dict[str, Callable[[Run], Metrics]] = {
            "from": self._square,
            "to": self._square,
            "board": self._board,
            "lens": self._lens,
            "tuned": self._lens,
            "cause": self._cause,
        }
        return measures[run.config.target](run)

    @cached_property
    def _legal(self) -> Tensor:
        """Whether each move is legal in the test's positions, `[T, 1858]`."""
        masks = boards.legal_masks(self._layer.rows[self._test.numpy()])
        return torch.from_numpy(masks).to(self._layer.features.device)

    @cached_property
    def _chosen(self) -> Tensor:
        """The network's own moves in the test's positions, `[T]`."""
        return self._best(self._layer.moves(self._layer.last[self._test]))

    def _best(self, moves: Tensor) -> Tensor:
        """The best legal move in each of the test's positions."""
        return moves.masked_fill(~self._legal, -torch.inf).argmax(1)

    def _squares(self, target: str, ply: int) -> Tensor:
        """The square from or to which the move of this ply goes, as the player to move sees it, `[N]`."""
        moves = self._layer.held.moves[self._layer.at + ply - 1]
        ends = boards.ends()[moves, 0 if target == "from" else 1]
        return torch.from_numpy(ends ^ 56 if ply == 2 else ends)

    def _after(self, ply: int) -> Tensor:
        """The board after this many plies, as the player to move now sees it, int64 `[N, 64]`."""
        return torch.from_numpy(self._layer.held.after(self._layer.at, ply).astype(np.int64))

    def _tested(self, right: Tensor, classes: int, config: ProbeConfig) -> Tensor:
        """The scores of a probe of these classes `[N, ...]` in the test's positions."""
        probe = self._deal.classifier(right, classes, shuffled=config.shuffled)
        return self._deal.scores(probe, self._layer.features[self._test], right[self._test])

    def _square(self, run: Run) -> Metrics:
        right = self._squares(run.config.target, run.config.ply)
        scores, wanted = self._tested(right, 64, run.config), right[self._test]
        board = self._layer.rows[self._test[0], :64]
        run.recorder.sample("heat", {"board": board, "scores": scores[0].numpy(), "right": wanted[0].numpy()})
        usual = right[self._deal.fit].mode().values
        return {"probe_accuracy": _share(scores.argmax(-1) == wanted), "usual": _share(wanted == usual)}

    def _board(self, run: Run) -> Metrics:
        config: ProbeConfig = run.config
        after, now = self._after(config.ply), self._after(0)[self._test]
        scores, wanted = self._tested(after, boards.CLASSES, config), after[self._test]
        found = scores.argmax(-1) == wanted
        metrics = {
            "probe_accuracy": _share(found),
            "usual": _share(now == wanted),
            "changed": _share(found[now != wanted]),
        }
        return metrics | (self._successors(scores) if config.ply == 1 else {})

    def _successors(self, scores: Tensor) -> Metrics:
        """How the board after Stockfish's move ranks among all next boards, by squared error."""
        tried = self._test[:_TRIED].numpy()
        moves = self._layer.held.moves[self._layer.at[tried]]
        ranks, counts = [], []
        for row, move, one in zip(self._layer.rows[tried], moves, scores[:_TRIED], strict=True):
            successors = boards.successors(row)
            squares = torch.from_numpy(np.array(list(successors.values())).astype(np.int64))
            likely = one.gather(1, squares.T).sum(0)  # a board's squared error is a constant minus twice this
            ranks.append(reciprocal_rank(likely, list(successors).index(int(move))))
            counts.append(len(successors))
        return {
            "successor": _mean([float(rank == 1) for rank in ranks]),
            "successor_mrr": _mean(ranks),
            "chance": _mean([1 / count for count in counts]),
            "chance_mrr": _mean([float((1 / np.arange(1, count + 1)).mean()) for count in counts]),
        }

    def _lens(self, run: Run) -> Metrics:
        features = self._layer.features[self._test]
        last = self._tuned(features) if run.config.target == "tuned" else features
        found = self._best(self._layer.moves(last)).cpu()
        moves = torch.from_numpy(self._layer.held.moves[self._layer.at[self._test.numpy()]])
        return {"probe_accuracy": _share(found == moves), "agreement": _share(found == self._chosen.cpu())}

    def _tuned(self, features: Tensor) -> Tensor:
        """The last layer, as a linear map of each square's channels gives it."""
        channels = self._layer.maps(self._layer.features).shape[1]

        def squares(x: Tensor) -> Tensor:
            return x.reshape(len(x), channels, 64).movedim(1, 2).flatten(0, 1)

        fit, check = (
            [squares(x[part]) for x in (self._layer.features, self._layer.last)]
            for part in (self._deal.fit, self._deal.check)
        )
        lens = Ridge(fit[0]).fit(fit[1], score=lambda one: -F.mse_loss(one(check[0]), check[1]).item())
        return lens(squares(features)).reshape(-1, 64, channels).movedim(1, 2).flatten(1)

    def _cause(self, run: Run) -> Metrics:
        """Flips to another legal move, along the probes' directions of it and along random ones."""
        config: ProbeConfig = run.config
        rng = np.random.default_rng([config.seed, config.layer])
        left = (self._legal.sum(1) > 1).nonzero()[:_TRIED, 0]
        legal, chosen = self._legal[left].cpu().numpy(), self._chosen[left].cpu().numpy()
        others = np.array([_other(mask, move, rng) for mask, move in zip(legal, chosen, strict=True)])
        features = self._layer.features[self._test[left.cpu()]]
        probes = [self._deal.classifier(self._squares(target, 1), 64) for target in ("from", "to")]
        ends = boards.ends()
        steps = sum(
            probe.weights.T[ends[others, side]] - probe.weights.T[ends[chosen, side]]
            for side, probe in enumerate(probes)
        )
        assert isinstance(steps, Tensor)
        random = torch.from_numpy(rng.standard_normal(features.shape).astype(np.float32)).to(features.device)
        length = config.strength * (features - probes[0].mean).norm(dim=1, keepdim=True)
        flipped = {}
        for name, direction in {"flips": steps, "flips_random": random}.items():
            moved = features + length * F.normalize(direction, dim=1)
            found = self._moved(moved).masked_fill(~self._legal[left], -torch.inf).argmax(1).cpu()
            flipped[name] = _share(found == torch.from_numpy(others))
        return flipped

    def _moved(self, features: Tensor) -> Tensor:
        """The policy after the layer has these values."""
        layer = self._layer
        parts = layer.maps(features).split(AT_ONCE)
        return layer.moves(activations(layer.network.after(part, layer.number) for part in parts))


class ProbeRunner(Runner):
    """Measures the runs of a pack, which share a layer and its forward pass; those of a seed share the solver."""

    @override
    def train(
        self,
        runs: Sequence[Run],
        *,
        device: torch.device,
        stop: Callable[[], bool],
        checkpoint_every_s: float,
        slots: int | None = None,
    ) -> bool:
        began = time.monotonic()
        layer: Layer | None = None
        ordered = sorted(runs, key=lambda run: (run.config.seed, run.config.share))
        for _, group in itertools.groupby(ordered, key=lambda run: (run.config.seed, run.config.share)):
            members = list(group)
            if layer is None or members[0].config.features == "random":
                layer = Layer(members[0], device=device)
            probes = Probes(layer, members[0].config)
            for run in members:
                if stop():
                    return False
                for name, value in probes.measure(run).items():
                    run.recorder.metric(name, value)
                now = time.monotonic()
                run.recorder.finish(DONE, seconds=now - began, weights={})
                began = now
        return True


RUNNER = ProbeRunner()


def _other(legal: NDArray[np.bool_], move: int, rng: np.random.Generator) -> int:
    """Another legal move than this one, at random."""
    return int(rng.choice([one for one in np.flatnonzero(legal) if one != move]))


def _share(right: Tensor) -> float:
    return right.double().mean().item()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
