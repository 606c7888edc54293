"""Top-ups: how many more runs, with which seeds, and that they are launched and trained."""

import os
import pty
import signal
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_helpers import (
    SWEEP,
    Watched,
    answer,
    attempt_states,
    begun,
    complete,
    drawn_twice,
    fail,
    opened,
    small,
    trained_by_job,
    tree,
    write_spec,
)

from results_db.contract import Ending, State
from results_db.store import open_store
from sweeps.follow.coverage import cover
from sweeps.follow.top_up import make_top_up, runs_needed
from sweeps.spec.expand import expand
from sweeps.spec.load import load
from sweeps.status.cell import read_cells

NEEDED = [
    # missing, stored, kept, active -> runs
    (16, 0, 0, 0, 16),  # nothing stored: what the cell wants, as `launch`
    (16, 0, 0, 10, 6),  # of which some are on their way
    (16, 0, 0, 99, 0),
    (16, 16, 0, 0, 272),  # none of 16 passed: 17 for each, and not infinitely many
    (15, 16, 1, 0, 255),  # 17 / 1 for each; the observed rate asks for 16
    (8, 16, 8, 0, 17),  # 17 / 8 * 8; the observed rate of one half asks for 16
    (4, 20, 16, 0, 6),  # 21 / 16 * 4 = 5.25
    (4, 20, 16, 5, 1),
    (1, 15, 15, 0, 2),  # 16 / 15 of a run is not enough
    (0, 16, 16, 0, 0),
    (0, 16, 16, 3, 0),
]


@pytest.mark.parametrize(("missing", "stored", "kept", "active", "runs"), NEEDED)
def test_how_many_runs_are_needed(missing, stored, kept, active, runs) -> None:
    assert runs_needed(missing=missing, stored=stored, kept=kept, active=active) == runs


@given(st.integers(1, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_never_fewer_than_the_observed_rate_asks_for(missing, kept, missed, active) -> None:
    stored = kept + missed
    needed = runs_needed(missing=missing, stored=stored, kept=kept, active=active)
    if kept:  # at this rate, that many and the active ones bring at least what is missing
        assert (needed + active) * kept >= missing * stored
    # And it never is more than one run for each pass beyond that, rounded up.
    assert needed <= max(missing * (stored + 1) / max(kept, 1) + 1 - active, 0)


@pytest.fixture
def store(tmp_path):
    opened = open_store(str(tmp_path / "a.db"), create=True)
    yield opened
    opened.close()


def topped_up(store, expansion, **options):
    return make_top_up(cover(expansion, store, frame=store.runs()), **options)


def seeds(top_ups):
    return [[run.config["seed"] for run in each.top_up] for each in top_ups]


def test_interrupted_runs_come_first_and_unused_seeds_follow(store, tmp_path) -> None:
    expansion = expand(load(write_spec(tmp_path, runs=4)))
    (cell,) = expansion.cells
    complete(store, cell.runs[0])
    complete(store, cell.runs[1], accuracy=0.5)
    store.end(begun(store, cell.runs[2]), Ending(State.LOST))
    fail(store, cell.runs[3])
    complete(store, small(seed=4))  # of an earlier top-up
    store.end(begun(store, small(seed=5)), Ending(State.TIMEOUT))
    # 2 of 3 passed; 2 more take 2 * 4 / 2 = 4 runs: two that were interrupted and two new ones.
    assert seeds(topped_up(store, expansion)) == [[2, 5, 6, 7]]


def test_a_second_top_up_never_repeats_a_seed_and_the_same_store_gives_the_same(store, tmp_path) -> None:
    expansion = expand(load(write_spec(tmp_path, runs=2)))
    trained = []
    for _ in range(3):
        top_ups = topped_up(store, expansion, cap=5)
        assert seeds(top_ups) == seeds(topped_up(store, expansion, cap=5))
        trained += seeds(top_ups)[0]
        for run in top_ups[0].top_up:
            complete(store, run, accuracy=0.5)
    # 2 runs at first; none of 2 passed, so 2 * 3 more; of 8 none, so 2 * 9, but the cap of 5 * 2 leaves 2.
    assert trained == list(range(10))
    (last,) = topped_up(store, expansion, cap=5)
    assert (list(last.top_up), last.held_back) == ([], 22)  # 2 * (10 + 1)


def test_the_cap_counts_everything_that_was_spent_on_a_cell(store, tmp_path) -> None:
    expansion = expand(load(write_spec(tmp_path, runs=4)))
    (cell,) = expansion.cells
    for run in cell.runs[:2]:
        fail(store, run)
    begun(store, cell.runs[2])
    complete(store, cell.runs[3], accuracy=0.5)
    # None of 1 passed: 4 * 2 runs less the active one. The cap of 1.5 * 4 = 6 leaves 6 - 2 failed - 1 - 1.
    (top_up,) = topped_up(store, expansion, cap=1.5)
    assert (seeds([top_up]), top_up.held_back) == ([[4, 5]], 5)
    assert seeds(topped_up(store, expansion, cap=1)) == [[]]


@pytest.mark.parametrize(("wanted", "cap", "most"), [(20, 1.15, 23), (10, 1.1, 11), (3, 1.5, 4), (7, 1.0, 7)])
def test_the_cap_is_rounded_down_but_not_by_a_last_bit(tmp_path, wanted, cap, most) -> None:
    expansion = expand(load(write_spec(tmp_path, runs=wanted)))
    states = {expansion.runs[0].run_id: State.COMPLETED}
    cells = [replace(cell, kept=0) for cell in read_cells(expansion, states)]  # so 2 * wanted runs are needed
    assert len(make_top_up(cells, cap=cap)[0].top_up) == most - 1


def test_two_cells_never_launch_the_same_run(store, tmp_path) -> None:
    expansion = drawn_twice(tmp_path)
    top_ups = topped_up(store, expansion)
    # The first cell gets seed 0, which the second has not; its next one is 1.
    assert seeds(top_ups) == [[0], [1]]
    complete(store, small(lr=1e-3, seed=0), accuracy=0.5)
    # Now 1 * 2 runs for the first, of which the cap leaves one.
    assert seeds(topped_up(store, expansion)) == [[1], [2]]


def test_fixed_seeds_are_never_more(store, tmp_path) -> None:
    write_spec(tmp_path, name="grows", runs=1, batch=4)
    text = write_spec(tmp_path, name="fixed", runs=1).read_text()
    (tmp_path / "fixed.yaml").write_text(text.replace("runs: 1", "seeds: [3, 8]"))
    (tmp_path / "both.yaml").write_text("include: [fixed.yaml, grows.yaml]\n")
    expansion = expand(load(tmp_path / "both.yaml"))
    for run in expansion.runs:
        if run.config["seed"] != 8:
            complete(store, run, accuracy=0.5)
    fixed, grows = topped_up(store, expansion)
    # 2 * 2 runs for the fixed cell, of which seed 8 is open; 1 * 2 for the other, whose cap leaves 1.
    assert (seeds([fixed, grows]), fixed.held_back, grows.held_back) == ([[8], [1]], 3, 1)


def top_up(folder, *arguments):
    return answer("top-up", "s.yaml", "--db", "a.db", *arguments, folder=folder)


@pytest.mark.slow
def test_top_ups_are_trained_until_the_cap_holds_them_back(tmp_path) -> None:
    """Real runs, too short to reach the accuracy."""
    write_spec(tmp_path, runs=2)
    first = top_up(tmp_path, "--json")
    assert first.code == 0
    assert first.json["stored"] == 2
    # None of 2 passed: 2 * 3 more would be needed, of which the cap of twice 2 leaves 2.
    second = top_up(tmp_path, "--json", "-n", "1")
    assert (second.code, second.json["total"], second.json["stored"]) == (1, 1, 1)
    assert second.err.startswith("s: 4 runs held back by the cap of 2 times wanted")
    third = top_up(tmp_path, "--json")
    fourth = top_up(tmp_path, "--json")
    assert (third.code, third.json["stored"]) == (1, 1)
    assert (fourth.code, fourth.json["total"]) == (1, 0)
    assert "nothing to launch" in fourth.err
    assert "s: 10 runs held back by the cap of 2 times wanted; raise it with --cap" in fourth.err
    store = opened(tmp_path)
    frame = store.runs()
    assert list(frame["seed"]) == [0, 1, 2, 3]
    assert set(frame["state"]) == {"COMPLETED"}
    assert store.sweeps() == {"s": {State.COMPLETED: 4}}
    # With a gate that all of them passed nothing is missing.
    fine = top_up(tmp_path, "--gate", "train_accuracy>=.01", "--json")
    assert (fine.code, fine.json["trained"]) == (0, {})
    assert "held" not in fine.err
    (row,) = answer("coverage", "s.yaml", "--db", "a.db", "--json", folder=tmp_path).json
    assert (row["stored"], row["kept"], row["top_up"], row["held_back"]) == (4, 0, 0, 10)


@pytest.mark.slow
def test_a_top_up_that_is_stopped_goes_on_with_its_own_seeds(tmp_path) -> None:
    write_spec(tmp_path, runs=1, max_steps=3000)
    store = open_store(str(tmp_path / "a.db"), create=True)
    complete(store, expand(load(tmp_path / "s.yaml")).runs[0], accuracy=0.5)
    command = (SWEEP, "top-up", "s.yaml", "--db", "a.db", "--workers", "1")
    stopped = Watched(*command, folder=tmp_path)
    stopped.wait_for("started at step")
    stopped.process.send_signal(signal.SIGINT)
    assert stopped.end() == 130
    said = answer("top-up", "s.yaml", "--db", "a.db", "--dry-run", "--json", folder=tmp_path).json
    assert (said[0]["to_submit"], said[0]["seeds"]) == (1, [1])
    assert top_up(tmp_path).code == 1  # of 1 run none had passed, so the cap held it back
    assert list(store.runs()["seed"]) == [0, 1]
    assert attempt_states(store, store.runs()["run_id"][1])[-1] == "COMPLETED"


def test_a_dry_run_is_the_coverage(tmp_path) -> None:
    write_spec(tmp_path, runs=3, cells="[{gol: 1}, {gol: 2}]")
    for more in ([], ["--json"], ["--where", "gol=2", "--cap", "3"]):
        covered = answer("coverage", "s.yaml", "--db", "a.db", *more, folder=tmp_path)
        assert top_up(tmp_path, "--dry-run", *more)[:2] == covered[:2]
        assert covered.code == 0
    assert tree(tmp_path) == {"s.yaml"}


def test_a_dry_run_is_of_the_first_runs(tmp_path) -> None:
    """Two cells of three runs: the first three in turn. What is held back depends only on the cap."""
    path = write_spec(tmp_path, runs=3, cells="[{gol: 1}, {gol: 2}]")
    said = top_up(tmp_path, "--dry-run", "--json", "-n", "3").json
    assert [(row["sweep"], row["top_up"], row["seeds"]) for row in said] == [("s", 2, [0, 1]), ("s", 1, [0])]
    store = open_store(str(tmp_path / "a.db"), create=True)
    for run in expand(load(path)).runs:
        complete(store, run, accuracy=0.5)
    # None of 3 passed: 3 * 4 more, and the cap of 2 * 3 leaves 3.
    (line,) = top_up(tmp_path, "--dry-run", "-n", "1").err.splitlines()
    assert line == "2 cells: 18 runs held back by the cap of 2 times wanted; raise it with --cap"


@pytest.mark.slow
@pytest.mark.parametrize("reply", ["n\n", "y\n"])
def test_the_question_is_answered_at_a_terminal(tmp_path, reply) -> None:
    write_spec(tmp_path, runs=11, max_steps=10, trace_every=10)
    ours, theirs = pty.openpty()
    asked = Watched(SWEEP, "top-up", "s.yaml", "--db", "a.db", folder=tmp_path, stdin=theirs)
    asked.wait_for("s: 11 runs to top up: more than 10 runs")
    asked.wait_for("Train them? [y/N]")
    os.write(ours, reply.encode())
    code = asked.end()
    os.close(ours)
    os.close(theirs)
    assert (code, (tmp_path / "a.db").exists()) == ((0, True) if reply == "y\n" else (130, False))


@pytest.mark.parametrize("seeds", ["2", "[1, 2]", "{start: 1, stop: 3}"])
def test_fixed_seeds_are_refused(tmp_path, seeds) -> None:
    path = write_spec(tmp_path, runs=2)
    path.write_text(path.read_text().replace("runs: 2", f"seeds: {seeds}"))
    code, out, err = top_up(tmp_path)
    assert (code, out, tree(tmp_path)) == (2, "", {"s.yaml"})
    assert err.startswith("imagine-sweep: error: s fixes its seeds")
    assert len(err.splitlines()) == 1


BAD = {
    "no match": (["s.yaml", "--where", "gol=9"], "no cell matches"),
    "no runs": (["s.yaml", "-n", "0"], "-n"),
    "no cluster": (["s.yaml", "launcher=slurm"], "launcher=local"),
    "no spec": ([], "SPEC"),
    "many runs and no terminal": (["s.yaml", "runs=11"], "s: 11 runs to top up: more than 10 runs"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, what) -> None:
    write_spec(tmp_path)
    arguments, says = BAD[what]
    code, out, err = answer("top-up", *arguments, "--db", "a.db", folder=tmp_path)
    assert (code, out, tree(tmp_path)) == (2, "", {"s.yaml"})
    assert says in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_on_slurm_the_hours_of_past_runs_are_asked_for(slurm, tmp_path) -> None:
    """The run that a top-up adds is new, and the cell's past is known: 80 hours on one core."""
    (first,) = expand(load(write_spec(tmp_path, runs=1))).runs
    store = open_store(str(tmp_path / "a.db"), create=True)
    trained_by_job(store, first, accuracy=0.5, seconds=80 * 3600)
    code, out, err = top_up(tmp_path, "launcher=slurm", "--no-check", "--ask-above", "50")
    assert (code, out) == (2, "")
    assert slurm.run("squeue", "-h") == ""
    assert "s: 1 of 1 run in 1 pack, about 80 core-hours by past runs on cpu: more than 50 hours" in err
