"""The order of rows: `--sort`."""

import numpy as np

from results_db import columns
from results_db.frame import Frame, plain
from results_db.query.aggregate import sort_key


def ordered(frame: Frame, by: str) -> Frame:
    """The rows sorted by columns with commas, `-NAME` with the largest first. Missing values come last.

    Raises:
        StoreError: a column is unknown.
    """
    # Sorting is stable, so the first column rules.
    for text in reversed(by.split(",")):
        name = text.strip().removeprefix("-")
        columns.check(name, frame.columns, origin="--sort")
        values = plain(frame[name])
        there = [place for place, value in enumerate(values) if value is not None]
        there.sort(key=lambda place: sort_key([values[place]]), reverse=text.strip().startswith("-"))
        missing = [place for place, value in enumerate(values) if value is None]
        frame = frame.take(np.array([*there, *missing], dtype=np.intp))
    return frame
