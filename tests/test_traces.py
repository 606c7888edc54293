"""Traces in the store: exact, compact, and readable in one call."""

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from store_helpers import RUN, started

from results_db.contract import PlannedRun, RunRecord, Traces, UnfitError
from results_db.store import open_store
from results_db.store.packed import Steps, Values
from results_db.store.sql import SqlStore

pytestmark = pytest.mark.slow

SQLITE = sqlite.dialect()


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)), st.lists(st.integers(0, 2**62)))
def test_every_number_comes_back_to_the_bit(values: list[float], steps: list[int]) -> None:
    packed = Values().process_bind_param(values, SQLITE)
    assert bits(Values().process_result_value(packed, SQLITE)) == bits(values)  # -0.0 included
    assert Steps().process_result_value(Steps().process_bind_param(steps, SQLITE), SQLITE) == steps


def test_traces_of_different_lengths_stay_apart(store: SqlStore) -> None:
    traces: Traces = {"b": ([0, 50], [0.1, -0.0]), "a": ([7], [1e-300]), "empty": ([], [])}
    store.finish(started(store), RunRecord(RUN, "reached", 1.0, {}, traces))
    assert store.traces(RUN) == traces
    frame = store.trace_frame()
    assert list(frame.itertuples(index=False, name=None)) == [
        (RUN, "a", 7, 1e-300),
        (RUN, "b", 0, 0.1),
        (RUN, "b", 50, -0.0),
    ]
    assert store.trace_frame([RUN]).equals(frame)
    assert store.trace_frame([]).columns.tolist() == ["run_id", "name", "step", "value"]


def test_a_trace_with_a_step_too_many_is_refused(store: SqlStore) -> None:
    with pytest.raises(UnfitError, match="shorter"):
        store.finish(started(store), RunRecord(RUN, "reached", 1.0, {}, {"t": ([0, 50], [0.1])}))


def test_10_000_runs_of_5_traces_and_500_points_take_less_than_200_mb(tmp_path: Path) -> None:
    """A fiftieth of them, with random numbers, which nothing compresses."""
    chance, steps = random.Random(0), list(range(0, 25_000, 50))
    runs = [PlannedRun(f"{number:064x}", {"gol": 3, "seed": number}) for number in range(200)]
    with open_store(str(tmp_path / "x.db"), create=True) as store:
        store.stage(runs)
        for run in runs:
            traces = {f"decoded_{name}": (steps, [chance.random() for _ in steps]) for name in range(5)}
            store.finish(
                started(store, run.run_id), RunRecord(run.run_id, "reached", 1.0, {"metric": 0.5}, traces)
            )
        assert store.traces(runs[-1].run_id)["decoded_4"][1][-1] == traces["decoded_4"][1][-1]
    assert (tmp_path / "x.db").stat().st_size * 50 < 200e6
