"""What the paper says of chess (arXiv 2405.06409, section 3.3), beside which runs are put. Torch-free.

The paper gives no number: "we do not find consistent evidence of human-interpretable board states or valid moves". So
each row has the best trivial solution instead.
"""

from imagination.paper import Number, Paper, Source
from imagination.schema import Scalar

LAST = 6
"""The last block of the specs' networks."""

_DECODER = [
    Number(
        "chess_paper",
        quantity,
        {"adversary": adversary},
        None,
        None,
        [Source("chess_paper", ["chess_paper"])],
        words="did not work",
        baselines=[f"filled_usual_{board}"],
    )
    for adversary in (False, True)
    for quantity, board in (
        *((f"filled_{board}", board) for board in ("own", "1", "2", "3")),
        ("filled_last", "own"),
    )
]

_PROBES: list[tuple[str, str, list[str], list[tuple[str, int]]]] = [
    ("from", "probe_accuracy", ["usual"], [("input", 0), ("trained", LAST)]),
    ("to", "probe_accuracy", ["usual"], [("input", 0), ("trained", LAST)]),
    ("board", "successor", ["chance"], [("input", 0), ("random", LAST - 1), ("trained", LAST - 1)]),
    ("lens", "probe_accuracy", ["chance"], [("trained", LAST // 2)]),
    ("tuned", "probe_accuracy", ["chance"], [("trained", LAST // 2)]),
    ("cause", "flips", ["flips_other", "flips_random"], [("trained", LAST // 2)]),
]
"""Target, metric, its trivial solutions, and the features and layers to show."""


def _probe(target: str, quantity: str, baselines: list[str], features: str, layer: int) -> Number:
    cell: dict[str, Scalar] = {"target": target, "features": features, "layer": layer}
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
            _probe(target, quantity, baselines, of, layer)
            for target, quantity, baselines, read in _PROBES
            for of, layer in read
        ],
    },
    about={
        "chess_paper": "squares that the paper's decoder fills rightly; baseline: a board that is always the same",
        "chess": "what linear probes read of the network's next move; baseline: the usual answer, or a random one",
    },
)
