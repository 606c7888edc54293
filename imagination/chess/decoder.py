"""`chess_decoder`: the paper's procedure, one decoder of boards for all layers of a frozen network (section 3.3)."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from imagination.chess import boards
from imagination.chess.config import DecoderConfig
from imagination.chess.loop import descend, train
from imagination.chess.network import Network, frozen, line
from imagination.chess.positions import Positions
from imagination.function import FunctionRecorder
from imagination.probing import split
from imagination.schema import ConfigError

PLIES = 3
_TRIED = 2000
"""Most learned positions on which the layer is chosen."""


def run(config: DecoderConfig, recorder: FunctionRecorder) -> None:
    """Trains the decoder, and leaves its accuracy by layer and board, and the boards of one position."""
    player = network = frozen(recorder.needs["network"], device=recorder.device)
    config.check_blocks(len(network.blocks))
    if config.features == "random":
        network = frozen(recorder.needs["network"], device=recorder.device, random=config.seed)
    held = Positions.of(recorder.needs["positions"].arrays("held"))
    at = held.followed(PLIES)
    rows = held.rows[at]
    _, own = next(line(player, rows))
    following = {"own": own, **{str(ply): held.after(at, ply) for ply in range(1, PLIES + 1)}}
    learned, tested = (
        part.numpy()
        for part in split(torch.from_numpy(held.games[at]), seed=config.seed, shares=(config.share,))
    )
    if not len(tested):
        raise ConfigError(
            f"share: {config.share} of {len(np.unique(held.games[at]))} games leaves none for the test"
        )
    torch.manual_seed(config.seed)
    decoding = _Decoding(config, recorder, network)
    decoding.train(rows[learned], own[learned])
    decoding.score(rows, following, learned=learned, tested=tested)
    if config.fen:
        shown = boards.encode(boards.parse(config.fen))
        decoding.show(shown, {"own": next(line(player, shown[None]))[1][0]})
    else:
        decoding.show(rows[tested[0]], {name: after[tested[0]] for name, after in following.items()})


class _Decoding:
    """The frozen network, and the decoder of its layers."""

    def __init__(self, config: DecoderConfig, recorder: FunctionRecorder, network: Network) -> None:
        self._config, self._recorder, self._network = config, recorder, network
        self._decoder = _decoder(network.filters, config.width).to(recorder.device)

    def train(self, learned: boards.Rows, own: boards.Rows) -> None:
        """Trains the decoder on these positions, and on the boards `[N, 64]` after the network's own moves."""
        config = self._config
        judge = _discriminator(config.width).to(self._recorder.device)
        modules = {"decoder": self._decoder, "discriminator": judge}
        generator_optimizer, judge_optimizer = optimizers = [
            torch.optim.Adam(module.parameters(), lr=config.lr, betas=(0.5, 0.99))
            for module in modules.values()
        ]

        def update(step: int) -> dict[str, Tensor]:
            drawn = np.random.default_rng([config.seed, step]).integers(len(learned), size=(2, config.batch))
            rows = learned[drawn[0]]
            with torch.no_grad():
                layers = list(self._network.layers(self._network.encode(rows)))
            board_loss = loss = self._loss(layers[0], rows[:, :64])
            if config.next_board:
                board_loss = loss = loss + self._loss(layers[-1], own[drawn[0]])
            if config.adversary:
                fake = self._decoder(torch.cat(layers[1:])).softmax(1)
                loss = loss + config.adv_weight * F.softplus(-judge(fake)).mean()
            descend(generator_optimizer, loss)
            if config.adversary:
                others = self._classes(learned[drawn[1], :64])
                known = judge(F.one_hot(others, boards.CLASSES).movedim(-1, 1).float())
                descend(judge_optimizer, F.softplus(-known).mean() + F.softplus(judge(fake.detach())).mean())
            return {"loss": board_loss}

        names = ("generator", "judge")
        named = dict(zip(names, optimizers, strict=True))
        train(config, self._recorder, modules=modules, optimizers=named, update=update)

    def score(
        self,
        rows: boards.Rows,
        following: Mapping[str, boards.Rows],
        *,
        learned: NDArray[np.int64],
        tested: NDArray[np.int64],
    ) -> None:
        """Leaves metrics, and traces whose steps are layers.

        Of the layers between the first and the last, which are not trained on a board that follows, that one counts for
        all metrics which is best on learned positions.
        """
        some = np.random.default_rng(self._config.seed).permutation(learned)[:_TRIED]
        before = {"2": following["1"], "3": following["2"]}
        put = {
            name: boards.filled(rows[:, :64], before.get(name, rows[:, :64]), after)
            for name, after in following.items()
        }
        by_layer = _right(self._decoded(rows[some]), following["own"][some], put["own"][some])
        best = 1 + int(by_layer[1:-1].argmax())
        found, now = self._decoded(rows[tested]), rows[tested, :64]
        metrics = {"present": (found[0] == now).mean(), "best_layer": best}
        for name, every in following.items():
            after, where = every[tested], put[name][tested]
            traced = {"squares": (found == after).mean((1, 2)), "filled": _right(found, after, where)}
            for what, values in traced.items():
                for layer, value in enumerate(values):
                    self._recorder.trace(f"{what}_{name}", layer, value)
                metrics[f"{what}_{name}"] = values[best]
            (metrics[f"filled_usual_{name}"],) = _right(
                boards.usual(every[learned])[None, None], after, where
            )
            metrics[f"copy_{name}"] = (after == now).mean()
        metrics["filled_last"] = _right(found, following["own"][tested], put["own"][tested])[-1]
        for name, value in metrics.items():
            self._recorder.metric(name, value)

    def show(self, row: boards.Rows, following: Mapping[str, boards.Rows]) -> None:
        """Leaves a position, its boards by layer, the one after the network's own move, and those of the line."""
        line = [after for name, after in following.items() if name != "own"]
        shown = {
            "board": row[:64],
            "decoded": self._decoded(row[None])[:, 0],
            "own": following["own"],
            "line": np.array(line, np.uint8).reshape(-1, 64),
        }
        self._recorder.sample("boards", shown)

    def _loss(self, layer: Tensor, squares: boards.Rows) -> Tensor:
        """The cross-entropy of these boards `[N, 64]`, decoded from a layer."""
        return F.cross_entropy(self._decoder(layer), self._classes(squares))

    def _classes(self, squares: boards.Rows) -> Tensor:
        """Squares `[N, 64]` as classes int64 `[N, 8, 8]`."""
        return torch.from_numpy(squares.astype(np.int64)).reshape(-1, 8, 8).to(self._recorder.device)

    def _decoded(self, rows: boards.Rows) -> boards.Rows:
        """The boards that every layer gives, `[layers, N, 64]`."""
        parts = []
        with torch.no_grad():
            for planes in self._network.batches(rows):
                found = [self._decoder(layer).argmax(1).flatten(1) for layer in self._network.layers(planes)]
                parts.append(torch.stack(found).cpu())
        return torch.cat(parts, 1).numpy().astype(np.uint8)


def _right(found: boards.Rows, after: boards.Rows, where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """By layer, the share of some squares `[N, 64]` where the decoded boards `[layers, N, 64]` are those after."""
    right: NDArray[np.bool_] = found == after
    shares: NDArray[np.float64] = right[:, where].mean(1)
    return shares


def _decoder(filters: int, width: int) -> nn.Module:
    """From a layer `[N, filters, 8, 8]` to the logits of each square's classes `[N, 13, 8, 8]`."""
    return nn.Sequential(
        nn.Conv2d(filters, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, boards.CLASSES, 3, padding=1)
    )


def _discriminator(width: int) -> nn.Module:
    """From boards `[N, 13, 8, 8]`, each square a distribution over classes, to the logit of "real"."""
    return nn.Sequential(
        nn.Conv2d(boards.CLASSES, width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(8 * width, 1),
    )
