"""Boards in a form that a page can show: 16 greys, two cells to a byte, in base64."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from imagination.figures import Boards

GREYS = 16


def packed(boards: np.ndarray) -> str:
    """Boards with values in [0, 1], any shape: the rounded greys of two cells to a byte, the first in the high half."""
    greys = np.clip(np.rint(np.asarray(boards, dtype=float) * (GREYS - 1)), 0, GREYS - 1).astype(np.uint8)
    flat = greys.ravel()
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return base64.b64encode((flat[0::2] << 4 | flat[1::2]).tobytes()).decode()


def plain(boards: Boards) -> Mapping[str, Any]:
    """Boards for the page: their size, the rows, and a line for each place."""
    (*_, high, wide) = next(iter(boards.rows.values())).shape
    return {
        "name": boards.name,
        "index": boards.index,
        "side": [high, wide],
        "rows": {name: packed(row) for name, row in boards.rows.items()},
        "said": list(boards.said),
        "overview": boards.overview,
    }
