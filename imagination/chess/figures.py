"""The figures of chess: decoded boards, accuracy by layer, and a probe's heat. Imports nothing slow."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from imagination.figures import Analysis, Drawn, FigureError, Findings, Stored, Table
from imagination.intervals import Interval, decimals, mean_interval

if TYPE_CHECKING:  # slow to import
    from imagination.recorder import Arrays

_MEASURED = {
    "from": ["probe_accuracy"],
    "to": ["probe_accuracy"],
    "move": ["successor"],
    "board": ["successor"],
    "lens": ["agreement", "probe_accuracy"],
    "tuned": ["agreement", "probe_accuracy"],
    "cause": ["flips", "flips_other", "flips_random"],
}
"""The metrics of each target that change from layer to layer."""


_PLAYED = ("own move", "own reply", "own next move")
"""The plies that the network itself would play, for both sides."""


class Line(NamedTuple):
    """Means over runs by layer: what is asked, and of what features or by which metric.

    Attributes:
        runs: most runs of a layer.
        networks: how many networks they read.
    """

    asked: str
    of: str
    by_layer: Mapping[int, Interval]
    runs: int
    networks: int


def chess_boards(run: Stored) -> Drawn:
    """Draw a position of a chess_decoder run, the boards that it decodes from each layer, and the boards that follow.

    The player to move has the white pieces. Frames mark squares that differ from the present board.

    Example: imagine-results figure chess-boards 1a2b3c -o boards.png
    """
    from imagination.chess import drawing

    return Drawn(drawing.boards(_sample(run, "boards")))


def chess_heat(run: Stored) -> Drawn:
    """Draw what a probe of `from` or `to` says of each square of one position; a frame marks the right square.

    Example: imagine-results figure chess-heat 1a2b3c
    """
    from imagination.chess import drawing

    whose = "the network" if run.config["moves"] == "network" else "Stockfish"
    title = f"{run.config['target']}-square, ply {run.config['ply']} of {whose}, layer {run.config['layer']}"
    return Drawn(drawing.heat(_sample(run, "heat"), title=title))


def chess_layers(runs: Sequence[Stored]) -> Findings:
    """Print and draw what chess probes and decoders find in each layer, with intervals over runs.

    Values are percentages with half the width of their interval; --json has both bounds. Layer 0 is the first
    convolution. `input` are the input planes, which have no layers; `next` are these and the board after the network's
    own move. `untaught` decoders did not learn the next board. Runs on different networks are averaged; `n` says how
    many. The intervals cover what differs from run to run: the deal of the games and, if there are several, the
    network.

    Example: imagine-results chess-layers --where 'target=from or target=board'
    """
    from imagination.chess import drawing

    lines = collect(runs)
    rows = [
        {**_said(line), "layer": layer, **one.columns("mean")}
        for line in lines
        for layer, one in sorted(line.by_layer.items())
    ]
    layers = sorted({layer for line in lines for layer in line.by_layer})
    return Findings(
        runs=[run.name for run in runs if _values(run)],
        facts={"layers": rows},
        table=Table(rows, [*_SAID, "layer", "mean", "mean_low", "mean_high"]),
        shown=[_shown(asked, lines, layers) for asked in dict.fromkeys(line.asked for line in lines)],
        draw=partial(drawing.curves, [line[:3] for line in lines], caption=_caption(lines)),
    )


def _shown(asked: str, lines: Sequence[Line], layers: Sequence[int]) -> Table:
    """What was found of one question: a row for each line, with percentages by layer."""
    rows = [
        {asked: line.of, **{str(at): _percent(one) for at, one in line.by_layer.items()}, "n": line.networks}
        for line in lines
        if line.asked == asked
    ]
    return Table(rows, [asked, *map(str, layers), "n"])


def _percent(one: Interval) -> str:
    """The mean and half its interval, `37±2`."""
    half = one.half
    return decimals(100 * (one.mean or 0), places=0) + (
        "" if half is None else f"±{decimals(100 * half, places=0)}"
    )


_SAID = ("asked", "of", "runs", "networks")

LAYERS = Analysis(chess_layers, title="Chess: what each layer knows of the moves to come")


def collect(runs: Sequence[Stored]) -> list[Line]:
    """The lines of these runs, in the order of their first runs.

    Raises:
        FigureError: the runs of a line differ in something else.
    """
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    networks: dict[tuple[str, str], set[object]] = defaultdict(set)
    others: dict[tuple[str, str], Stored] = {}
    for run in runs:
        for asked, of, layer, value in _values(run):
            _check_alike(others.setdefault((asked, of), run), run)
            found[asked, of][layer].append(value)
            networks[asked, of].add(run.config["network"])
    return [
        Line(
            asked,
            of,
            {at: mean_interval(values) for at, values in layers.items()},
            max(map(len, layers.values())),
            len(networks[asked, of]),
        )
        for (asked, of), layers in found.items()
    ]


_MAY_DIFFER = {"layer", "network", "seed"}


def _check_alike(one: Stored, other: Stored) -> None:
    for key in sorted((one.config.keys() | other.config.keys()) - _MAY_DIFFER):
        values = one.config.get(key), other.config.get(key)
        if values[0] != values[1]:
            raise FigureError(
                f"runs {one.name} and {other.name} differ in {key}: {values[0]} and {values[1]}; choose with --where"
            )


def _said(line: Line) -> dict[str, str | int]:
    return dict(zip(_SAID, (line.asked, line.of, line.runs, line.networks), strict=True))


def _caption(lines: Sequence[Line]) -> str:
    """What the means are over, and what their intervals cover."""
    most = max((line.networks for line in lines), default=0)
    varies = "networks and deals of the games" if most > 1 else "deals of the games on one network"
    return f"bands: 95% intervals of means over {varies}"


def _values(run: Stored) -> list[tuple[str, str, int, float]]:
    """What a run says of layers: what was asked, of what, the layer, the value."""
    if run.config["experiment"] == "chess_decoder":
        return list(_decoded(run))
    if run.config["experiment"] != "chess_probe":
        return []
    target, features = str(run.config["target"]), str(run.config["features"])
    of = "shuffled" if run.config["shuffled"] else features
    ply, layer = int(run.config["ply"]), int(run.config["layer"])
    move = _PLAYED[ply - 1] if run.config["moves"] == "network" else f"ply {ply}"
    found = {name: run.metrics[name] for name in _MEASURED[target] if name in run.metrics}
    if target in ("lens", "tuned"):
        whose = {"agreement": "own move", "probe_accuracy": "Stockfish's move"}
        return [(f"{target}, {whose[name]}", of, layer, value) for name, value in found.items()]
    if target == "cause":
        return [(target, name, layer, value) for name, value in found.items()]
    names = {name: target if name == "probe_accuracy" else f"{target} {name}" for name in found}
    return [(f"{names[name]}, {move}", of, layer, value) for name, value in found.items()]


def _decoded(run: Stored) -> Iterator[tuple[str, str, int, float]]:
    of = "adversary" if run.config["adversary"] else "no adversary"
    of += "" if run.config["next_board"] else ", untaught"
    of += "" if run.config["features"] == "trained" else ", random"
    for name, board in {"own": "own move", "1": "ply 1", "2": "ply 2", "3": "ply 3"}.items():
        layers, values = run.traces.get(f"filled_{name}", ((), ()))
        yield from ((f"filled, {board}", of, at, value) for at, value in zip(layers, values, strict=True))


def _sample(run: Stored, name: str) -> "Arrays":
    found = run.sample(name)
    if found is None:
        raise FigureError(f"run {run.name} of {run.config['experiment']} left no {name}; choose another run")
    return found
