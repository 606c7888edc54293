"""The order of rows: `--sort`."""

import pandas as pd

from results_db import columns
from results_db.query.aggregate import sort_key


def ordered(frame: pd.DataFrame, by: str | None) -> pd.DataFrame:
    """The rows sorted by columns with commas, `-NAME` with the largest first. Missing values come last.

    Raises:
        StoreError: a column is unknown.
    """
    for text in reversed(
        by.split(",") if by is not None else []
    ):  # sorting is stable, so the first column rules
        name = text.strip().removeprefix("-")
        columns.check(name, list(frame.columns), origin="--sort")
        descending = text.strip().startswith("-")
        values = frame[name].astype(object).where(frame[name].notna(), None).tolist()
        there = [place for place, value in enumerate(values) if value is not None]
        there.sort(key=lambda place: sort_key([values[place]]), reverse=descending)
        frame = frame.iloc[there + [place for place, value in enumerate(values) if value is None]]
    return frame
