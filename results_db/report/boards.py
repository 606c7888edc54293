"""Decoded boards in a form that a page can show: 16 greys, two cells to a byte, in base64."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from results_db.views.figures.boards import Array, Picked

GREYS = 16


def packed(boards: Array) -> str:
    """Boards with values in [0, 1], any shape: the rounded greys of two cells to a byte, the first in the high half."""
    greys = np.clip(np.rint(np.asarray(boards, dtype=float) * (GREYS - 1)), 0, GREYS - 1).astype(np.uint8)
    flat = greys.ravel()
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return base64.b64encode((flat[0::2] << 4 | flat[1::2]).tobytes()).decode()


def sequence(picked: Picked) -> Mapping[str, Any]:
    """A sequence for the page: its sizes, its scores, and the boards of truth and of each decoder."""
    return {
        "name": picked.name,
        "index": picked.index,
        "scores": picked.scores,
        "side": list(picked.truth.shape[1:]),
        "truth": packed(picked.truth),
        "decoded": {name: packed(boards) for name, boards in picked.decoded.items()},
    }
