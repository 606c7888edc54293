"""What the paper says of chess (arXiv 2405.06409, section 3.3), as numbers that runs are compared with. Torch-free.

The paper gives no number. It finds no consistent evidence of later boards in later layers. Here that is the value 0 of
the share of right squares among those that change, which is what repeating the present board gets.
"""

from collections.abc import Mapping

from imagination.paper import Number, Paper, Source
from imagination.schema import Scalar

LAST = 6
"""The last block of the specs' network."""

_ROWS: dict[str, list[tuple[str, Mapping[str, Scalar]]]] = {
    "chess_paper": [
        (f"changed_{ply}", {"adversary": adversary}) for adversary in (False, True) for ply in (1, 2, 3)
    ],
    "chess": [
        ("changed", {"target": "board", "ply": ply, "layer": LAST, "features": "trained", "shuffled": False})
        for ply in (1, 2, 3)
    ],
}

PAPER = Paper(
    tables={
        table: [Number(table, quantity, cell, 0.0, None, [Source(table, [table])]) for quantity, cell in rows]
        for table, rows in _ROWS.items()
    },
    about={
        "chess_paper": "changed squares by the paper's decoder, which finds none (0, as if it repeated the board)",
        "chess": "changed squares by a linear probe of the last block; the paper's decoder finds none (0)",
    },
)
