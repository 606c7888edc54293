"""What the paper says of chess (arXiv 2405.06409, section 3.3), beside which runs are put. Torch-free.

The paper gives no number: "we do not find consistent evidence of human-interpretable board states or valid moves". So
each row has the best trivial solution instead.
"""

from imagination.paper import Number, Paper, Source
from imagination.schema import Scalar

LAST = 6
"""The last block of the specs' networks."""


_BETWEEN = {"squares_own": "copy_own", "filled_own": "filled_usual_own"}
_LINE = {f"filled_{ply}": f"filled_usual_{ply}" for ply in (1, 2, 3)}
_LAST = {"filled_last": "filled_usual_own"}
"""What to show of a decoder, and its trivial solutions: for the layers in between, and for the last one."""

_PAPERS = "trained", True
"""The paper's own procedure; the other cells are controls."""


def _decoder(features: str, next_board: bool, adversary: bool, quantity: str, baseline: str) -> Number:
    between = "no number" if quantity in _LAST else "did not work"
    return Number(
        "chess_paper",
        quantity,
        {"features": features, "next_board": next_board, "adversary": adversary},
        None,
        None,
        [Source("chess_paper", ["chess_paper"])],
        words=between if (features, next_board) == _PAPERS else "not tried",
        baselines=[baseline],
    )


_DECODER = [
    _decoder(*cell, adversary, *each)
    for cell, adversary in (
        (_PAPERS, True),
        (_PAPERS, False),
        (("trained", False), True),
        (("random", True), True),
        (("random", True), False),
    )
    for each in (_BETWEEN | (_LINE if cell == _PAPERS else {}) | _LAST).items()
]

_PROBES: list[tuple[str, str, list[str], list[tuple[str, int]]]] = [
    ("from", "probe_accuracy", ["usual"], [("input", 0), ("trained", LAST)]),
    ("to", "probe_accuracy", ["usual"], [("input", 0), ("trained", LAST)]),
    ("move", "successor", ["chance"], [("input", 0), ("random", LAST - 1), ("trained", LAST - 1)]),
    ("board", "successor", ["chance"], [("input", 0), ("random", LAST - 1), ("trained", LAST - 1)]),
    ("lens", "probe_accuracy", ["chance"], [("trained", LAST // 2)]),
    ("tuned", "probe_accuracy", ["chance"], [("trained", LAST // 2)]),
    ("cause", "flips", ["flips_other", "flips_random"], [("trained", LAST // 2)]),
]
"""Target, metric, its trivial solutions, and the features and layers to show."""


def _probe(
    target: str, quantity: str, baselines: list[str], features: str, layer: int, *, ply: int = 1
) -> Number:
    cell: dict[str, Scalar] = {"target": target, "ply": ply, "features": features, "layer": layer}
    return Number(
        "chess",
        quantity,
        cell,
        None,
        None,
        [Source("chess", ["chess"])],
        words="not tried",
        where="moves=network and shuffled=false",
        baselines=baselines,
    )


PAPER = Paper(
    tables={
        "chess_paper": _DECODER,
        "chess": [
            _probe(target, quantity, baselines, features, layer)
            for target, quantity, baselines, read in _PROBES
            for features, layer in read
        ]
        + [
            _probe(target, "probe_accuracy", ["usual"], features, layer, ply=2)
            for target in ("from", "to")
            for features, layer in (("input", 0), ("next", 0), ("trained", LAST))
        ],
    },
    about={
        "chess_paper": "the boards that the paper's decoder makes; baseline: the present board, or the usual one",
        "chess": "what linear probes read of the network's moves; baseline: the usual answer, or a random one",
    },
)
