"""The plan: what the store holds of a spec, and what is left to train."""

from dataclasses import replace

import pytest
from sweep_helpers import begun, complete, ids, small, write_spec

from results_db.contract import State
from results_db.store import open_store
from sweeps.launch.plan import Counts, make_plan
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.load import apply_overrides, load


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


def in_state(store, run, state):
    """Put a run into the store in a state."""
    if state == State.COMPLETED:
        complete(store, run)
    else:
        attempt = begun(store, run)
        if state != State.RUNNING:
            assert store.end(attempt, state)


def test_of_an_empty_store_everything_is_to_submit(store, expansion) -> None:
    plan = make_plan(expansion, store)
    assert [cell.counts for cell in plan.cells] == [Counts(to_submit=n) for n in (1, 3, 2)]
    assert plan.counts == Counts(to_submit=6)
    assert plan.counts.total == 6
    assert [dict(cell.states) for cell in plan.cells] == [{"NEW": 1}, {"NEW": 3}, {"NEW": 2}]
    assert plan.expected_seconds is None
    assert plan.known_seconds is None
    assert store.states(run.run_id for run in expansion.runs) == {}  # it only read


def test_the_order_is_breadth_first(store, expansion) -> None:
    plan = make_plan(expansion, store)
    one, three, two = (cell.runs for cell in expansion.cells)
    # Every cell's first run, then every second, then the only third.
    assert plan.to_submit == [one[0], three[0], two[0], three[1], two[1], three[2]]
    complete(store, three[0])
    assert make_plan(expansion, store).to_submit == [one[0], two[0], three[1], two[1], three[2]]


KINDS = {
    "stored": [State.COMPLETED],
    "active": [State.RUNNING],
    "failed": [State.FAILED, State.OUT_OF_MEMORY],
    "to_submit": [State.CANCELLED, State.TIMEOUT, State.NODE_FAIL, State.PREEMPTED, State.LOST],
}


@pytest.mark.parametrize(
    ("kind", "state"), [(kind, state) for kind, states in KINDS.items() for state in states]
)
def test_every_state_counts_as_one_kind(store, expansion, kind, state) -> None:
    cell = expansion.cells[1]
    in_state(store, cell.runs[1], state)
    planned = make_plan(expansion, store).cells[1]
    counts = planned.counts.as_dict()
    usual = {"total": 3, "stored": 0, "active": 0, "failed": 0, "to_submit": 2}
    assert counts == {**usual, kind: usual[kind] + 1}
    assert counts["total"] == sum(counts[name] for name in KINDS)
    assert dict(planned.states) == {"NEW": 2, str(state): 1}


def test_failed_runs_are_submitted_if_asked_for(store, expansion) -> None:
    failed, fine = expansion.cells[2].runs
    in_state(store, failed, State.FAILED)
    complete(store, fine)
    assert make_plan(expansion, store).cells[2].counts == Counts(stored=1, failed=1)
    again = make_plan(expansion, store, retry_failed=True)
    assert again.cells[2].counts == Counts(stored=1, to_submit=1)
    assert failed in again.to_submit
    assert fine not in again.to_submit


def test_runs_of_dead_workers_are_to_submit(store, expansion) -> None:
    dead, alive = expansion.cells[2].runs
    begun(store, dead)
    begun(store, alive)
    planned = make_plan(expansion, store, dead=[dead.run_id, "f" * 64])
    assert planned.cells[2].counts == Counts(active=1, to_submit=1)
    assert dict(planned.cells[2].states) == {"LOST": 1, "RUNNING": 1}
    assert dead in planned.to_submit
    assert alive not in planned.to_submit
    assert store.states([dead.run_id]) == {dead.run_id: State.RUNNING}  # it only read


def test_the_expected_time_is_the_mean_of_past_runs_of_the_cell(store, expansion) -> None:
    one, three, _ = expansion.cells
    complete(store, one.runs[0], seconds=7)
    complete(store, three.runs[0], seconds=10)
    complete(store, three.runs[1], seconds=20)
    complete(
        store, small(gol=3, seed=99), seconds=5
    )  # of the third cell, though this spec does not want its seed
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
    """Only new runs are chosen: nothing of this expansion is stored, and the cell has a past all the same."""
    cell = expansion.cells[1]
    complete(store, cell.runs[0], seconds=10)
    chosen = Expansion([replace(cell, runs=[cell.run(seed=50), cell.run(seed=51)])])
    assert make_plan(chosen, store).expected_seconds == 20


def test_of_a_complete_spec_nothing_is_left(store, expansion) -> None:
    for run in expansion.runs:
        complete(store, run)
    plan = make_plan(expansion, store)
    assert plan.counts == Counts(stored=6)
    assert plan.to_submit == []
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


def test_a_run_of_two_specs_is_planned_once(store, tmp_path) -> None:
    one = expand(load(write_spec(tmp_path, name="one", runs=2)))
    two = expand(load(write_spec(tmp_path, name="two", runs=3)))
    for run in one.runs:
        complete(store, run)
    assert make_plan(two, store).counts == Counts(stored=2, to_submit=1)


def test_an_override_makes_other_runs(store, tmp_path) -> None:
    spec = load(write_spec(tmp_path, runs=2))
    for run in expand(spec).runs:
        complete(store, run)
    wider = make_plan(expand(apply_overrides(spec, ["channels=4,6"])), store)
    assert [(cell.cell.columns, cell.counts) for cell in wider.cells] == [
        ({"channels": 4}, Counts(stored=2)),
        ({"channels": 6}, Counts(to_submit=2)),
    ]


def test_what_json_holds(store, expansion) -> None:
    complete(store, expansion.cells[1].runs[0], seconds=10)
    said = make_plan(expansion, store).as_dict()
    cells = said.pop("cells")
    assert said == {
        "total": 6,
        "stored": 1,
        "active": 0,
        "failed": 0,
        "to_submit": 5,
        "expected_seconds": None,
    }
    assert cells[1] == {
        "gol": 2,
        "wanted": 3,
        "total": 3,
        "stored": 1,
        "active": 0,
        "failed": 0,
        "to_submit": 2,
        "states": {"COMPLETED": 1, "NEW": 2},
        "expected_seconds": 20.0,
    }
