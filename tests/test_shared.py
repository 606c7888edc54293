"""Drawn values stay with their runs, so that a store of many different configs keeps and reads few."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from results_db.contract import PlannedRun
from results_db.store import tables
from results_db.store.shared import divide
from results_db.store.sql import SqlStore

CELLS = [{"gol": gol, "model_t": 2, "lr": None, "ae": ae} for gol in (1, 2) for ae in (True, False)]


def drawn(count: int) -> list[PlannedRun]:
    """Runs of four cells, each with a learning rate of its own."""
    chance = random.Random(0)
    return [
        PlannedRun(f"{n:064x}", {**CELLS[n % 4], "lr": chance.uniform(5e-4, 2e-3), "seed": n})
        for n in range(count)
    ]


def shared(store: SqlStore) -> int | None:
    with store._reading() as connection:
        return connection.scalar(select(func.count()).select_from(tables.shared))


def test_runs_with_drawn_values_share_the_configs_of_their_cells(store: SqlStore) -> None:
    runs = drawn(200)
    store.stage(runs)
    assert shared(store) == len(CELLS)
    assert [store.run(run.run_id)["config"] for run in runs[:5]] == [run.config for run in runs[:5]]
    for frame in (store.frame(), store.frame(limit=50)):
        rows = frame.records(["gol", "ae", "lr", "seed"])
        assert rows == [{name: run.config[name] for name in rows[0]} for run in runs[: len(rows)]]
    assert store.runs()["lr"].tolist() == [run.config["lr"] for run in runs]


def test_a_few_runs_beside_many_drawn_ones(store: SqlStore) -> None:
    store.stage([PlannedRun("aa", {"gol": 3, "lr": 1e-3}), PlannedRun("bb", {"width": 5})])
    store.stage(drawn(50))
    rows = store.frame().records(["gol", "lr", "width"])
    assert rows[:2] == [{"gol": 3, "lr": 1e-3, "width": None}, {"gol": None, "lr": None, "width": 5}]
    assert rows[2]["lr"] == drawn(1)[0].config["lr"]


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(0, 1) | st.text("ab", max_size=1)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), SCALARS), max_size=40))
def test_divided_configs_join_to_what_they_were(configs: list[dict[str, object]]) -> None:
    for config, (common, own) in zip(configs, divide(configs), strict=True):
        joined = {**common, **own}
        assert (repr(joined), list(joined)) == (repr(config), list(config))  # 1 is not True, nor 1.0
        assert not any(common[name] is not None for name in own)


@pytest.mark.parametrize(("runs", "most"), [(40, 10), (1_000, 100)])
def test_few_configs_are_left(runs: int, most: int) -> None:
    # Two axes of many values, and one of two: neither of the many alone leaves few enough.
    configs = [{"a": n, "b": n * 2 % 97, "c": n % 2} for n in range(runs)]
    assert len({repr(common) for common, _ in divide(configs)}) <= most
