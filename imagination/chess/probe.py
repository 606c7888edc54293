"""`chess_probe`: what a linear map reads of coming moves in one layer, and whether the network uses it."""

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from imagination.chess import boards
from imagination.chess.config import ProbeConfig
from imagination.chess.network import AT_ONCE, OVER, frozen, line
from imagination.chess.positions import Positions
from imagination.function import DONE
from imagination.probing import Deal, Linear, Question, reciprocal_rank, ridge
from imagination.runner import Run, Runner
from imagination.schema import ConfigError

PLIES = 3
_TRIED = 2000
"""Most test positions for which all next boards are ranked, or whose layer is changed. The seed draws them."""

Metrics = dict[str, float]


class Probe(NamedTuple):
    """What makes a linear probe of a layer: values of the config."""

    target: str
    moves: str = "network"
    ply: int = 1
    shuffled: bool = False
    penalty: float = 0.0


class Frozen:
    """What a pack shares: the positions, the frozen network, and its layers at them, from one forward pass.

    Attributes:
        network: the network.
        held: the held-out positions.
        at: those of them that `PLIES` further ones follow, int64 `[N]`.
    """

    def __init__(self, runs: Sequence[Run], *, device: torch.device) -> None:
        config: ProbeConfig = runs[0].config
        self._features, self._needed = config.features, runs[0].needs["network"]
        random = config.seed if config.features == "random" else None
        self.network = frozen(self._needed, device=device, random=random)
        self._last = len(self.network.blocks)
        self._following: list[tuple[NDArray[np.int64], boards.Rows]] = []
        for run in runs:
            run.config.check_blocks(len(self.network.blocks))
        self.held = Positions.of(runs[0].needs["positions"].arrays("held"))
        self.at = self.held.followed(PLIES)
        if config.features in ("input", "next"):
            planes = [boards.planes(self.rows).reshape(len(self.at), -1, 64)]
            if config.features == "next":
                planes.append(boards.pieces(self.following(1)[1]))
            self._values = {0: torch.from_numpy(np.hstack(planes)).half().flatten(1).to(device)}
        else:
            self._values = self._read({self._last, *(run.config.layer for run in runs)})

    @property
    def rows(self) -> boards.Rows:
        """The positions that are probed."""
        return self.held.rows[self.at]

    def layer(self, number: int, which: Tensor) -> Tensor:
        """A layer at some positions, `[B, D]`. -1: the last one."""
        values = self._values[self._last if number < 0 else number]
        return values[which.to(values.device)].float()

    def maps(self, features: Tensor) -> Tensor:
        """Features `[B, D]` as channels on the board, `[B, C, 8, 8]`."""
        return features.reshape(len(features), -1, 8, 8)

    def moves(self, features: Tensor, *, layer: int = -1) -> Tensor:
        """The policy `[B, 1858]` if this layer has these values."""
        first = self._last if layer < 0 else layer
        with torch.no_grad():
            parts = self.maps(features).split(AT_ONCE)
            return torch.cat([self.network.moves(self.network.after(x, first)) for x in parts])

    def following(self, ply: int) -> tuple[NDArray[np.int64], boards.Rows]:
        """The moves `[N]` of this ply that the trained network would play, and the boards `[N, 64]` after them."""
        while len(self._following) < ply:
            self._following.append(next(self._line))
        return self._following[ply - 1]

    @cached_property
    def _line(self) -> Iterator[tuple[NDArray[np.int64], boards.Rows]]:
        if self._features == "random":
            return line(frozen(self._needed, device=self.network.places.device), self.rows)
        if self._features != "trained":
            return line(self.network, self.rows)
        parts = torch.arange(len(self.at)).split(AT_ONCE)
        logits = [self.moves(self.layer(-1, part)).cpu() for part in parts]
        return line(self.network, self.rows, torch.cat(logits))

    def _read(self, layers: Collection[int]) -> dict[int, Tensor]:
        """These layers at all positions, each `[N, D]` in half precision: they are most of a worker's memory."""
        width, device = 64 * self.network.filters, self.network.places.device
        found = {layer: torch.empty(len(self.at), width, dtype=torch.half, device=device) for layer in layers}
        start = 0
        with torch.no_grad():
            for planes in self.network.batches(self.rows):
                for number, values in enumerate(self.network.layers(planes)):
                    if number in found:
                        found[number][start : start + len(planes)] = values.flatten(1)
                start += len(planes)
        return found


class Games:
    """How the seed deals the games to training and test, and what all layers share there."""

    def __init__(self, frozen: Frozen, config: ProbeConfig) -> None:
        self._frozen = frozen
        games = torch.from_numpy(frozen.held.games[frozen.at])
        self.deal = Deal(games, share=config.share, seed=config.seed)
        self.test = self.deal.test
        if not len(self.test):
            raise ConfigError(
                f"share: {config.share} of {len(games.unique())} games leaves none for the test"
            )
        rng = np.random.default_rng(config.seed)
        self.tried = torch.from_numpy(rng.permutation(len(self.test))[:_TRIED])
        """Places in the test, at most `_TRIED` of them, in an order that the seed draws."""

    @cached_property
    def legal(self) -> Tensor:
        """Whether each move is legal in the test's positions, `[T, 1858]`."""
        return torch.from_numpy(boards.legal_masks(self._frozen.rows[self.test.numpy()]))

    def moves(self, of: str) -> Tensor:
        """The moves of the network or of Stockfish in the test's positions, `[T]`."""
        found = self._frozen.following(1)[0] if of == "network" else self._frozen.held.moves[self._frozen.at]
        return torch.from_numpy(found[self.test.numpy()])

    def best(self, moves: Tensor, which: Tensor | slice = slice(None)) -> Tensor:
        """The best legal move in each of these positions of the test."""
        return moves.cpu().masked_fill(~self.legal[which], -torch.inf).argmax(1)

    @cached_property
    def successors(self) -> list[tuple[Tensor, list[int]]]:
        """In the tried positions: all next boards `[legal moves, 64]`, and the moves that they follow."""
        found = []
        for row in self._frozen.rows[self.test[self.tried].numpy()]:
            after = boards.successors(row)
            found.append((torch.from_numpy(np.array(list(after.values())).astype(np.int64)), list(after)))
        return found


class Probes:
    """The probes of one layer on one deal of the games."""

    def __init__(self, frozen: Frozen, games: Games, *, layer: int, probes: Collection[Probe]) -> None:
        self._frozen, self._games, self._layer = frozen, games, layer
        self.questions = {probe: self._question(probe) for probe in probes}

    def measure(self, run: Run) -> Metrics:
        """The metrics of one run."""
        measures: dict[str, Callable[[Run], Metrics]] = {
            "from": self._square,
            "to": self._square,
            "move": self._move,
            "board": self._board,
            "lens": self._lens,
            "tuned": self._lens,
            "cause": self._cause,
        }
        return measures[run.config.target](run)

    def _features(self, which: Tensor) -> Tensor:
        return self._frozen.layer(self._layer, which)

    @cached_property
    def _linear(self) -> dict[Probe, Linear]:
        """All probes of this layer, which share one factorisation."""
        maps = self._games.deal.classifiers(self._features, list(self.questions.values()))
        return dict(zip(self.questions, maps, strict=True))

    def _question(self, probe: Probe) -> Question:
        """What a probe is asked, as the player sees it who is to move now."""
        held, at, ply = self._frozen.held, self._frozen.at, probe.ply
        how: dict[str, Any] = {"shuffled": probe.shuffled, "penalty": probe.penalty}
        moves, after = held.moves[at + ply - 1], held.after(at, ply)
        if probe.moves == "network":
            moves, after = self._frozen.following(ply)
        if probe.target == "board":
            right, now = (torch.from_numpy(part.astype(np.int64)) for part in (after, held.rows[at, :64]))
            return Question(right, boards.CLASSES, before=now, **how)
        ends = boards.ends()[moves, 0 if probe.target == "from" else 1]
        seen = np.where(moves == OVER, boards.NONE, ends ^ 56 if ply == 2 else ends)
        return Question(torch.from_numpy(seen), 64 + bool((moves == OVER).any()), **how)

    def _scores(self, probe: Probe, which: Tensor) -> Tensor:
        return self.questions[probe].scores(self._linear[probe], self._features, which)

    def _asked(self, config: ProbeConfig) -> tuple[Tensor, Tensor, Tensor]:
        """A probe's scores in the test's positions, the right classes there, and those that it was fitted on."""
        (probe,) = _needed(config)
        right, deal = self.questions[probe].right, self._games.deal
        return self._scores(probe, deal.test), right[deal.test], right[deal.fit]

    def _square(self, run: Run) -> Metrics:
        scores, wanted, learned = self._asked(run.config)
        board = self._frozen.rows[self._games.test[0], :64]
        run.recorder.sample(
            "heat", {"board": board, "scores": scores[0, :64].numpy(), "right": wanted[0].numpy()}
        )
        usual = learned.mode().values
        return {"probe_accuracy": _share(scores.argmax(-1) == wanted), "usual": _share(wanted == usual)}

    def _board(self, run: Run) -> Metrics:
        scores, wanted, learned = self._asked(run.config)
        now = torch.from_numpy(self._frozen.rows[self._games.test.numpy(), :64])
        found, usual = scores.argmax(-1) == wanted, learned.mode(0).values == wanted
        filled = (now != wanted) & (wanted > 0)
        metrics = {
            "probe_accuracy": _share(found),
            "usual": _share(now == wanted),
            "filled": _share(found[filled]),
            "filled_usual": _share(usual[filled]),
        }
        # The squared distance of a board from the scores is a constant minus twice the sum of these.
        near = (
            one.gather(1, squares.T).sum(0)
            for one, (squares, _) in zip(scores[self._games.tried], self._games.successors, strict=True)
        )
        return metrics | self._ranked(near, run.config.moves)

    def _move(self, run: Run) -> Metrics:
        """How high the move is among all legal ones, by the scores of the two squares."""
        games, ends = self._games, torch.from_numpy(boards.ends())
        sides = [self._scores(probe, games.test[games.tried]) for probe in _needed(run.config)]
        scores = (
            first[ends[moves, 0]] + second[ends[moves, 1]]
            for first, second, (_, moves) in zip(*sides, games.successors, strict=True)
        )
        return self._ranked(scores, run.config.moves)

    def _ranked(self, scores: Iterable[Tensor], of: str) -> Metrics:
        """The rank of the move that is played, by the scores of all legal moves in each tried position."""
        games, ranks, counts = self._games, [], []
        played = games.moves(of)[games.tried].tolist()
        for one, (_, moves), move in zip(scores, games.successors, played, strict=True):
            ranks.append(reciprocal_rank(one, moves.index(move)))
            counts.append(len(moves))
        return {
            "successor": _mean([float(rank == 1) for rank in ranks]),
            "successor_mrr": _mean(ranks),
            "chance": _mean([1 / count for count in counts]),
            "chance_mrr": _mean([float((1 / np.arange(1, count + 1)).mean()) for count in counts]),
        }

    def _lens(self, run: Run) -> Metrics:
        mapped = self._tuned if run.config.target == "tuned" else lambda features: features
        parts = map(self._features, self._games.test.split(AT_ONCE))
        found = self._games.best(torch.cat([self._frozen.moves(mapped(part)).cpu() for part in parts]))
        return {
            "probe_accuracy": _share(found == self._games.moves("stockfish")),
            "agreement": _share(found == self._games.moves("network")),
            "chance": _mean((1 / self._games.legal.sum(1)).tolist()),
        }

    @cached_property
    def _tuned(self) -> Callable[[Tensor], Tensor]:
        """Gives the last layer from this one, by a linear map of each square's channels."""

        def squares(x: Tensor) -> Tensor:
            return x.reshape(len(x), -1, 64).movedim(1, 2).flatten(0, 1)

        def last(which: Tensor) -> Tensor:
            return squares(self._frozen.layer(-1, which))

        (lens,) = ridge(
            lambda which: squares(self._features(which)),
            [last],
            fit=self._games.deal.fit,
            check=self._games.deal.check,
        )
        return lambda x: lens(squares(x)).reshape(len(x), 64, -1).movedim(1, 2).flatten(1)

    def _cause(self, run: Run) -> Metrics:
        """Flips to another legal move: towards it along the probes' directions, towards a third, and at random."""
        config: ProbeConfig = run.config
        games, rng = self._games, np.random.default_rng([config.seed, config.layer])
        which = games.tried[games.legal[games.tried].sum(1) > 2]
        own = games.moves("network")[which].numpy()
        pairs = [_others(*pair, rng) for pair in zip(games.legal[which].numpy(), own, strict=True)]
        other, third = np.array(pairs).reshape(-1, 2).T
        features = self._features(games.test[which])
        random = torch.from_numpy(rng.standard_normal(features.shape).astype(np.float32)).to(features)
        sides = [self._linear[probe] for probe in _needed(config)]
        length = config.strength * (features - sides[0].mean).norm(dim=1, keepdim=True)
        flipped = {}
        for name, direction in {
            "flips": _towards(other, own, sides),
            "flips_other": _towards(third, own, sides),
            "flips_random": random,
        }.items():
            moved = self._frozen.moves(features + length * F.normalize(direction, dim=1), layer=config.layer)
            flipped[name] = _share(games.best(moved, which) == torch.from_numpy(other))
        return flipped


class ProbeRunner(Runner):
    """Measures the runs of a pack, which share a forward pass; those of a layer and a seed share the solver."""

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
        for run, probes in _probes(runs, device=device):
            if stop():
                return False
            for name, value in probes.measure(run).items():
                run.recorder.metric(name, value)
            now = time.monotonic()
            run.recorder.finish(DONE, seconds=now - began, weights={})
            began = now
        return True


RUNNER = ProbeRunner()


def _probes(runs: Sequence[Run], *, device: torch.device) -> Iterator[tuple[Run, Probes]]:
    """Each run with the probes of its layer, in an order in which little is kept at once."""
    for same in _grouped(runs, lambda one: (one.seed if one.features == "random" else 0,)):
        shared = Frozen(same, device=device)
        for dealt in _grouped(same, lambda one: (one.seed, one.share)):
            games = Games(shared, dealt[0].config)
            for members in _grouped(dealt, lambda one: (one.layer,)):
                asked = dict.fromkeys(probe for run in members for probe in _needed(run.config))
                probes = Probes(shared, games, layer=members[0].config.layer, probes=asked)
                yield from ((run, probes) for run in members)


def _grouped(runs: Sequence[Run], key: Callable[[ProbeConfig], tuple[float, ...]]) -> Iterator[list[Run]]:
    ordered = sorted(runs, key=lambda run: key(run.config))
    return (list(members) for _, members in itertools.groupby(ordered, key=lambda run: key(run.config)))


def _needed(config: ProbeConfig) -> list[Probe]:
    """The linear probes that a run needs: of both squares for `move` and `cause`."""
    targets = {"move": ["from", "to"], "cause": ["from", "to"], "lens": [], "tuned": []}.get(
        config.target, [config.target]
    )
    return [Probe(target, config.moves, config.ply, config.shuffled, config.penalty) for target in targets]


def _towards(moves: NDArray[np.int64], chosen: NDArray[np.int64], sides: Sequence[Linear]) -> Tensor:
    """The directions `[B, D]` of the probes of both squares, from the chosen moves towards these."""
    ends = boards.ends()
    first, second = (
        probe.weights.T[ends[moves, side]] - probe.weights.T[ends[chosen, side]]
        for side, probe in enumerate(sides)
    )
    return first + second


def _others(legal: NDArray[np.bool_], move: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Two other legal moves than this one, at random."""
    legal[move] = False
    return rng.choice(np.flatnonzero(legal), 2, replace=False)


def _share(right: Tensor) -> float:
    return right.double().mean().item()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
