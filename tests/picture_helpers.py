"""Runs with traces and decoded boards, as a worker stores them, for tests of figures."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from compare_helpers import complete
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from scipy.signal import convolve2d

from results_db.contract import NewSweep, PlannedRun, RunRecord
from results_db.store.sql import SqlStore

Array = NDArray[Any]

CONFIG = {
    "experiment": "life_state",
    "preset": "fast",
    "gol": 3,
    "model_t": 3,
    "ae": True,
    "rnn": True,
    "gan": "posthoc",
    "kernel": 3,
    "residual": True,
    "reset": 0.1,
    "eval_board": 20,
}

FIRST = [0, 1, 2, 3]
RANKED = [9123, 4711, 77]
"""Numbers of the best, the median and the worst sequence in the evaluation set."""


def run_id(number: int) -> str:
    return f"{number:02x}" * 32


def step(board: Array) -> Array:
    """The next state of Life; cells outside the board are dead."""
    near = convolve2d(board, [[1, 1, 1], [1, 0, 1], [1, 1, 1]], mode="same")
    return ((near == 3) | ((board == 1) & (near == 2))).astype(np.uint8)


def life(states: int, *, seed: int = 0, board: int = 20) -> Array:
    """A board of density .4 and what follows it: uint8 `[states, board, board]`."""
    found = [(np.random.default_rng(seed).random((board, board)) < 0.4).astype(np.uint8)]
    for _ in range(states - 1):
        found.append(step(found[-1]))
    return np.stack(found)


def sample(
    truth: Sequence[Array], decoded: Sequence[Array], score: Sequence[float], index: Sequence[int]
) -> bytes:
    """Boards of several sequences, as the trainer writes them."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        truth=np.stack(truth).astype(np.uint8),
        decoded=np.stack(decoded).astype(np.float16),
        score=np.array(score, dtype=np.float64),
        index=np.array(index, dtype=np.int64),
    )
    return buffer.getvalue()


def seven(gol: int, model_t: int, *, noise: float = 0.0) -> bytes:
    """Seven sequences; decoded are the true states as far as there are, then the last one, plus noise."""
    truth = [life(gol + 1, seed=seed) for seed in range(7)]
    random = np.random.default_rng(1)
    decoded = []
    for states in truth:
        boards = np.stack([states[min(place, gol)] for place in range(model_t + 1)])
        decoded.append(np.abs(boards - noise * random.random(boards.shape)))
    return sample(truth, decoded, [1.0, 0.5, 1.0, 0.0, 1.5, 0.75, 0.25], FIRST + RANKED)


def add(
    store: SqlStore,
    number: int,
    *,
    traces: Mapping[str, tuple[list[int], list[float]]] | None = None,
    samples: Mapping[str, bytes] | None = None,
    accuracy: float = 0.995,
    outcome: str = "reached",
    sweep: str = "learning_order",
    **config: Any,
) -> str:
    """A COMPLETED run, and its id."""
    metrics = {"metric": 1.0, "train_accuracy": accuracy, "steps": 300.0}
    planned = PlannedRun(run_id(number), {**CONFIG, "seed": number, **config})
    store.stage([planned], sweep=NewSweep(sweep, ""))
    complete(store, RunRecord(run_id(number), outcome, 2.5, metrics, traces or {}, samples or {}))
    return run_id(number)


def curves(*learned: int | None, until: int = 1000) -> dict[str, tuple[list[int], list[float]]]:
    """Traces at every 100 steps: `state1` is right at once, the next ones reach 98% at these steps (None: never)."""
    steps = list(range(0, until + 1, 100))
    found = {"state1": (steps, [1.0] * len(steps))}
    for place, at in enumerate(learned, start=2):
        values = [0.98 if at is not None and step >= at else 0.85 for step in steps]
        found[f"state{place}"] = (steps, values)
    return found


def texts(figure: Figure) -> list[tuple[Text, Any]]:
    """Every text that is drawn, with its extent in pixels at 300 dpi."""
    figure.set_dpi(300)
    figure.draw_without_rendering()
    beyond = set()  # labels of ticks outside the panel exist and are not drawn
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = axis.get_view_interval()
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    shown = [
        text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in beyond
    ]
    return [(text, text.get_window_extent()) for text in shown]


def assert_legible(figure: Figure) -> None:
    """A column wide, no text below 6 pt, none over another's or the edge."""
    found = [(text, box) for text, box in texts(figure) if box.width]
    assert found
    right, top = figure.get_size_inches() * 300
    for text, box in found:
        assert text.get_fontsize() >= 6
        assert min(box.x0, box.y0, right - box.x1, top - box.y1) >= -1, text.get_text()
    for (one, first), (two, second) in itertools.combinations(found, 2):
        assert not first.padded(-2).overlaps(second.padded(-2)), (one.get_text(), two.get_text())
