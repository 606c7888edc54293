"""The plan: what the store holds of a spec, and what is left to train."""

from dataclasses import replace

import pytest
from sweep_helpers import begun, complete, ids, small, write_spec

from results_db.contract import State
from results_db.store import open_store
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.load import apply_overrides, load
from sweeps.status.cell import NEW, Counts, Status, count_by_status, read_cells
from sweeps.status.plan import make_plan


@pytest.fixture
def store(tmp_path):
    opened = open_store(str(tmp_path / "a.db"), create=True)
    yield opened
    opened.close()


@pytest.fixture
def expansion(tmp_path):
    """Cells of 1, 3 and 2 runs."""
    cells = "[{gol: 1, runs: 1}, {gol: 2, runs: 3}, {gol: 3}]"
    return expand(load(write_spec(tmp_path, runs=2, cells=cells)))


def test_an_empty_store_leaves_every_run_to_submit(store, expansion) -> None:
    plan = make_plan(expansion, store)
    assert [cell.counts for cell in plan.cells] == [Counts(to_submit=n) for n in (1, 3, 2)]
    assert plan.counts == Counts(to_submit=6)
    assert (plan.expected_seconds, plan.known_seconds) == (None, None)
    assert store.states(run.run_id for run in expansion.runs) == {}  # it only read


def test_the_order_is_breadth_first(store, expansion) -> None:
    plan = make_plan(expansion, store)
    one, three, two = (cell.runs for cell in expansion.cells)
    # Every cell's first run, then every second, then the only third.
    assert plan.to_submit == [one[0], three[0], two[0], three[1], two[1], three[2]]
    complete(store, three[0])
    assert make_plan(expansion, store).to_submit == [one[0], two[0], three[1], two[1], three[2]]


STATES = {
    Status.NEW: [NEW, "STAGED"],
    Status.WAITING: ["PENDING"],
    Status.RUNNING: ["RUNNING"],
    Status.STORED: ["COMPLETED"],
    Status.FAILED: ["FAILED", "OUT_OF_MEMORY"],
    Status.INTERRUPTED: ["CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "LOST"],
}


def test_every_state_has_one_status() -> None:
    assert sorted(state for states in STATES.values() for state in states) == sorted([*State, NEW])
    for status, states in STATES.items():
        counts = count_by_status(dict.fromkeys(states, 1))
        assert counts == dict.fromkeys(Status, 0) | {status: len(states)}


@pytest.mark.parametrize("state", State)
def test_every_run_is_counted_once(expansion, state) -> None:
    cell = expansion.cells[1]
    for retry in (False, True):
        (_, read, _) = read_cells(expansion, {cell.runs[1].run_id: state}, retry_failed=retry)
        failed, to_submit = state in STATES[Status.FAILED], state in STATES[Status.INTERRUPTED] + ["STAGED"]
        assert read.counts == Counts(
            stored=int(state == "COMPLETED"),
            active=int(state in ("PENDING", "RUNNING")),
            failed=int(failed and not retry),
            to_submit=2 + int(to_submit or (failed and retry)),
        )
        assert (read.counts.total, dict(read.states)) == (3, {"NEW": 2, str(state): 1})
        assert (cell.runs[1] in read.to_submit) == (to_submit or (failed and retry))


def test_runs_of_dead_workers_are_to_submit(store, expansion) -> None:
    dead, alive = expansion.cells[2].runs
    begun(store, dead)
    begun(store, alive)
    plan = make_plan(expansion, store, dead=[dead.run_id, "f" * 64])
    assert plan.cells[2].counts == Counts(active=1, to_submit=1)
    assert dict(plan.cells[2].states) == {"LOST": 1, "RUNNING": 1}
    assert dead in plan.to_submit
    assert alive not in plan.to_submit
    assert store.states([dead.run_id]) == {dead.run_id: State.RUNNING}  # it only read


def test_the_expected_time_is_the_mean_of_past_runs_of_the_cell(store, expansion) -> None:
    one, three, _ = expansion.cells
    complete(store, one.runs[0], seconds=7)
    complete(store, three.runs[0], seconds=10)
    complete(store, three.runs[1], seconds=20)
    complete(store, small(gol=3, seed=99), seconds=5)  # of the third cell, with a seed that it does not want
    complete(store, small(gol=3, seed=98, lr=1e-4), seconds=1000)  # another rate: another cell
    plan = make_plan(expansion, store)
    assert [cell.seconds_per_run for cell in plan.cells] == [7, 15, 5]
    # Nothing is left of the first; one run of 15 s of the second; two of 5 s of the third.
    assert [cell.expected_seconds for cell in plan.cells] == [0, 15, 10]
    assert plan.expected_seconds == 25


def test_a_cell_without_past_runs_has_no_expected_time(store, expansion) -> None:
    complete(store, expansion.cells[1].runs[0], seconds=10)
    plan = make_plan(expansion, store)
    assert [cell.expected_seconds for cell in plan.cells] == [None, 20, None]
    assert plan.expected_seconds is None
    assert plan.known_seconds == 20
    complete(store, expansion.cells[1].runs[1], seconds=10)
    complete(store, expansion.cells[1].runs[2], seconds=10)
    assert make_plan(expansion, store).known_seconds is None  # nothing is left of the one that is known


def test_runs_of_other_seeds_tell_the_time_of_a_top_up(store, expansion) -> None:
    """The chosen runs are new: none of them is stored, and yet the cell's duration is known."""
    cell = expansion.cells[1]
    complete(store, cell.runs[0], seconds=10)
    chosen = Expansion([replace(cell, runs=[cell.run(seed=50), cell.run(seed=51)])])
    assert make_plan(chosen, store).expected_seconds == 20


def test_a_complete_spec_has_no_runs_to_submit(store, expansion) -> None:
    for run in expansion.runs:
        complete(store, run)
    plan = make_plan(expansion, store)
    assert (plan.counts, plan.to_submit) == (Counts(stored=6), [])
    assert plan.expected_seconds == plan.known_seconds == 0


def test_sampled_values_are_part_of_the_run_and_not_of_the_cells_past(store, tmp_path) -> None:
    path = write_spec(tmp_path, runs=3)
    path.write_text(path.read_text() + "sample: {lr: {loguniform: [1.0e-4, 1.0e-2]}}\n")
    expansion = expand(load(path))
    (cell,) = expansion.cells
    rates = [run.config["lr"] for run in cell.runs]
    assert len(set(rates)) == 3
    assert "lr" not in cell.config
    complete(store, cell.runs[0], seconds=10)
    # The same seed with another rate is another run; as a past run it tells the time, for the rate is sampled.
    complete(store, small(seed=0, lr=5e-3), seconds=30)
    plan = make_plan(expansion, store)
    assert plan.counts == Counts(stored=1, to_submit=2)
    assert plan.cells[0].seconds_per_run == 20
    assert plan.expected_seconds == 40
    assert ids(plan.to_submit) == ids(cell.runs[1:])


def test_an_override_makes_other_runs(store, tmp_path) -> None:
    spec = load(write_spec(tmp_path, runs=2))
    for run in expand(spec).runs:
        complete(store, run)
    wider = make_plan(expand(apply_overrides(spec, ["channels=4,6"])), store)
    assert [(cell.cell.columns, cell.counts) for cell in wider.cells] == [
        ({"channels": 4}, Counts(stored=2)),
        ({"channels": 6}, Counts(to_submit=2)),
    ]
