"""The plan: what the store holds of a spec, and what is left to train."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from store_helpers import start
from sweep_helpers import ME, begun, complete, ids, small, trained_by_job, write_spec

from imagination.schema import ConfigError
from results_db.contract import Ending, RunRecord, State, Store
from results_db.store import open_store
from sweeps.launch.machines import in_words, spent
from sweeps.launch.options import LaunchOptions
from sweeps.launch.prepare import all_packs, form_packs
from sweeps.spec.expand import Expansion, expand
from sweeps.spec.load import apply_overrides, load
from sweeps.status.cell import NEW, Counts, Status, count_by_status, read_cells
from sweeps.status.expected import Expected, Machines
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
    assert store.states(run.run_id for run in expansion.runs) == {}  # it only read


def test_the_order_is_breadth_first(store, expansion) -> None:
    plan = make_plan(expansion, store)
    one, three, two = (cell.runs for cell in expansion.cells)
    # Every cell's first run, then every second, then the only third.
    assert plan.to_submit == [one[0], three[0], two[0], three[1], two[1], three[2]]
    complete(store, three[0])
    assert make_plan(expansion, store).to_submit == [one[0], two[0], three[1], two[1], three[2]]


STATES = {
    Status.NEW: [NEW, "STAGED", "DISCARDED"],
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
        failed, to_submit = (
            state in STATES[Status.FAILED],
            state in STATES[Status.INTERRUPTED] + STATES[Status.NEW],
        )
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


ONE_CORE = Machines(workers=2, gpus=0, cores=1, device=ME.device)


def expected(
    expansion: Expansion, store: Store, *, machines: Machines = ONE_CORE, size: int | None = None
) -> Expected:
    """What a launch is expected to take."""
    plan, how = make_plan(expansion, store), LaunchOptions(db=None, pack_size=size)
    return form_packs(expansion, plan, store, machines=machines, options=how)[1]


def times(expansion: Expansion, expected: Expected) -> list[float | None]:
    return [expected.seconds(cell.runs) for cell in expansion.cells]


def test_the_expected_time_is_the_mean_of_past_runs_of_the_cell(store, expansion) -> None:
    one, three, _ = expansion.cells
    complete(store, one.runs[0], seconds=7)
    complete(store, three.runs[0], seconds=10)
    complete(store, three.runs[1], seconds=20)
    complete(store, small(gol=3, seed=99), seconds=5)  # of the third cell, with a seed that it does not want
    complete(store, small(gol=3, seed=98, lr=1e-4), seconds=1000)  # another rate: another cell
    whole = expected(expansion, store)
    # Nothing is left of the first; one run of 15 s of the second; two of 5 s of the third.
    assert times(expansion, whole) == [0, 15, 10]
    assert (whole.unknown, whole.known_seconds) == (0, 25)
    # Two workers need at least the 15 s of the longest.
    assert whole.finished_in == 15
    assert in_words(whole, ONE_CORE) == "finished in about 15 s on 2 workers"


def test_a_cell_without_past_runs_has_no_expected_time(store, expansion) -> None:
    """Without any, the step limits are all that is known: 40 steps each."""
    nothing = expected(expansion, store)
    assert times(expansion, nothing) == [None, None, None]
    assert in_words(nothing, ONE_CORE) == "at most 240 steps; the time is unknown until the first run ends"
    complete(store, expansion.cells[1].runs[0], seconds=10)
    some = expected(expansion, store)
    assert times(expansion, some) == [None, 20, None]
    assert (some.unknown, some.known_seconds, some.most_steps) == (3, 20, 120)
    assert in_words(some, ONE_CORE) == "finished in at least 10 s on 2 workers (unknown for 3 of 5 runs)"


def test_past_runs_on_another_device_or_in_other_packs_say_nothing(store, expansion) -> None:
    cell = expansion.cells[1]
    complete(store, cell.runs[0], seconds=1000, by=replace(ME, device="a GPU"))
    assert expected(expansion, store).unknown == 5
    assert times(expansion, expected(expansion, store, machines=replace(ONE_CORE, device="a GPU"))) == [
        None,
        2000,
        None,
    ]
    assert expected(expansion, store, machines=replace(ONE_CORE, device="a GPU"), size=3).unknown == 5
    assert expected(expansion, store, machines=replace(ONE_CORE, device=None)).unknown == 5


def test_runs_whose_times_overlap_in_one_process_were_a_pack(store, expansion) -> None:
    """Three of the second cell began together; the others trained one after the other. The pack took 30 s each."""
    cell = expansion.cells[1]
    attempts = [begun(store, run) for run in cell.runs]
    for attempt in attempts:
        assert store.finish(attempt, RunRecord(attempt.run_id, "reached", 30.0, {}))
    complete(store, small(gol=2, seed=50), seconds=5)
    more = Expansion([replace(cell, runs=[cell.run(seed=60 + n) for n in range(3)])])
    assert expected(more, store).known_seconds == 3 * 5
    assert expected(more, store, size=3).known_seconds == 3 * 30
    assert expected(more, store, size=3).finished_in == 90  # one pack, so the second worker is idle


def test_what_comes_between_the_steps_counts(store, expansion) -> None:
    """A run of 8 s of training took 10 s by the clock, with its evaluation."""
    cell, now = expansion.cells[1], datetime.now(UTC)
    store.stage([cell.runs[0]])
    (attempt,) = store.claim([cell.runs[0].run_id], job_name="s-1", launcher="slurm")
    assert store.begin(attempt, ME, at=now)
    record = RunRecord(attempt.run_id, "reached", 8.0, {})
    assert store.finish(attempt, record, at=now + timedelta(seconds=10))
    assert times(expansion, expected(expansion, store)) == [None, 20, None]


def test_a_run_that_two_devices_trained_tells_the_time_of_neither(store, expansion) -> None:
    run = expansion.cells[1].runs[0]
    store.stage([run])
    assert store.end(start(store, run.run_id, replace(ME, device="a GPU")), Ending(State.PREEMPTED))
    complete(store, run, seconds=10)
    assert expected(expansion, store).unknown == 5


def test_on_slurm_the_newest_run_of_such_jobs_tells_the_device(store, expansion) -> None:
    """A job that asked for a GPU says nothing about one that asks for none."""
    cell = expansion.cells[1]
    for number, (device, gpus) in enumerate((("old GPU", 1), ("new GPU", 1), ("CPU", 0))):
        run = cell.runs[number] if number < 2 else cell.run(seed=70)
        trained_by_job(store, run, seconds=3600.0 * (number + 1), device=device, gpus=gpus)
    on_gpus = Machines(workers=9, gpus=2, cores=8, on_slurm=True)
    on_cores = replace(on_gpus, gpus=0)
    chosen = Expansion([replace(cell, runs=[cell.run(seed=80)])])
    gpu, cpu = (expected(chosen, store, machines=machines, size=1) for machines in (on_gpus, on_cores))
    assert (gpu.device, cpu.device) == ("new GPU", "CPU")
    assert in_words(gpu, on_gpus) == "about 4 GPU-hours by past runs on new GPU"
    assert in_words(cpu, on_cores) == "about 24 core-hours by past runs on CPU"
    other = Expansion([expansion.cells[2]])
    unknown = expected(other, store, machines=on_gpus, size=1)
    assert in_words(unknown, on_gpus) == "at most 80 steps; GPU-hours are unknown until the first run ends"


@pytest.mark.parametrize(
    ("seconds", "gpus", "words"),
    [
        (9.4, 0, "9 s of core time"),
        (1800, 1, "30:00 min of GPU time"),
        (3600, 0, "1 core-hours"),
        (80 * 3600, 2, "160 GPU-hours"),
        (12_345 * 3600, 1, "12,345 GPU-hours"),
    ],
)
def test_hours_are_said_as_plain_time_where_they_are_short(seconds, gpus, words) -> None:
    assert spent(seconds, Machines(workers=1, gpus=gpus, cores=1)) == words


def test_runs_of_other_seeds_tell_the_time_of_a_top_up(store, expansion) -> None:
    """The chosen runs are new: none of them is stored, and yet the cell's duration is known."""
    cell = expansion.cells[1]
    complete(store, cell.runs[0], seconds=10)
    chosen = Expansion([replace(cell, runs=[cell.run(seed=50), cell.run(seed=51)])])
    assert expected(chosen, store).known_seconds == 20


def test_a_complete_spec_has_no_runs_to_submit(store, expansion) -> None:
    for run in expansion.runs:
        complete(store, run)
    plan = make_plan(expansion, store)
    assert (plan.counts, plan.to_submit) == (Counts(stored=6), [])
    assert expected(expansion, store).known_seconds == 0


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
    assert expected(expansion, store).known_seconds == 2 * 20
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


def test_slots_may_be_as_many_as_the_runs_of_a_pack_that_the_experiment_declares(tmp_path) -> None:
    # Probes of one network form packs of 200, if the user gives no size.
    (tmp_path / "probes.yaml").write_text(
        "experiment: chess_probe\ncells: [{target: from}]\nruns: 3\nneeds:\n"
        "  network: {experiment: chess_network, preset: small, seed: 0, "
        "needs: {positions: {experiment: chess_positions, seed: 0}}}\n"
        "  positions: {experiment: chess_positions, seed: 0}\n"
    )
    expansion = expand(load(tmp_path / "probes.yaml"))
    core = Machines(workers=1, gpus=0, cores=1)

    def sizes(**options):
        how = LaunchOptions(db=None, **options)
        return [len(pack.runs) for pack in all_packs(expansion, machines=core, options=how)]

    assert max(sizes(slots=200)) == 3
    for options in ({"slots": 201}, {"slots": 2, "pack_size": 1}):
        with pytest.raises(ConfigError, match="--slots: "):
            sizes(**options)
