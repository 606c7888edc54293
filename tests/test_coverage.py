"""Coverage: what every cell wants, and what the store has of it."""

import pytest
from sweep_helpers import answer, begun, complete, drawn_twice, fail, ids, small, staged, tree, write_spec

from results_db.contract import Ending, NewSweep, State
from results_db.store import open_store
from sweeps.follow.coverage import cover, with_top_ups
from sweeps.spec.expand import expand
from sweeps.spec.load import apply_overrides, load
from sweeps.spec.sample import Distribution
from sweeps.status.cell import Counts


@pytest.fixture
def folder(tmp_path):
    """A spec of two cells that want 4 and 2 runs, and a store with runs in all sorts of states."""
    path = write_spec(tmp_path, cells="[{gol: 1, runs: 4}, {gol: 2, runs: 2}]")
    one, two = expand(load(path)).cells
    store = open_store(str(tmp_path / "a.db"), create=True)
    complete(store, one.runs[0], accuracy=0.99)
    complete(store, one.runs[1], accuracy=0.98, outcome="step_limit")
    fail(store, one.runs[2], state=State.OUT_OF_MEMORY)
    begun(store, one.runs[3])
    complete(store, two.runs[0])
    store.end(begun(store, two.runs[1]), Ending(State.PREEMPTED))
    store.stage([], sweep=NewSweep("s", load(path).composed))
    store.close()
    return tmp_path


@pytest.fixture
def filled(folder):
    """The store of it, and the expansion."""
    store = open_store(str(folder / "a.db"), create=True)
    yield store, expand(load(folder / "s.yaml"))
    store.close()


def coverage(folder, *arguments):
    said = answer("coverage", *arguments, "--db", "a.db", folder=folder)
    assert said.code == 0, said.err
    return said


KEYS = (
    *("gol", "wanted", "total", "stored", "kept", "active", "failed", "to_submit"),
    *("missing", "top_up", "held_back"),
)
# Of the first cell 1 of 2 passed, so 3 more take 3 * (2 + 1) / 1 = 9 runs, of which one is active: 8. The cap of twice
# 4 runs leaves 8 - 2 stored - 1 active - 1 failed = 4. Of the second 1 of 1 passed, so 1 more takes 1 * 2 / 1 = 2 runs:
# the interrupted one with seed 1, and the next seed; the cap of 4 leaves 3.
ROW_1 = dict(zip(KEYS, (1, 4, 4, 2, 1, 1, 1, 0, 3, 4, 4), strict=True))
ROW_2 = dict(zip(KEYS, (2, 2, 2, 1, 1, 0, 0, 1, 1, 2, 0), strict=True))
FULL_1 = {"sweep": "s", **ROW_1, "blocked": 0, "pass_rate": 0.5, "seeds": [4, 5, 6, 7]}
FULL_2 = {"sweep": "s", **ROW_2, "blocked": 0, "pass_rate": 1.0, "seeds": [1, 2]}


def test_every_state_is_counted(filled) -> None:
    store, expansion = filled
    staged(store, small(gol=2, seed=2))
    one, two = cover(expansion, store, frame=store.runs())
    assert one.numbers.items() <= {**ROW_1, "blocked": 0, "top_up": 0, "held_back": 0}.items()
    assert (one.counts, one.kept) == (Counts(stored=2, active=1, failed=1), 1)
    assert (two.counts, two.kept) == (Counts(stored=1, to_submit=2), 1)
    assert ids(two.to_submit) == [expansion.cells[1].runs[1].run_id, small(gol=2, seed=2).run_id]
    dead = expansion.cells[0].runs[3]
    one, _ = cover(expansion, store, frame=store.runs(), dead=[dead.run_id, "f" * 64])
    assert (one.counts.active, ids(one.to_submit)) == (0, [dead.run_id])


def test_the_gate_can_be_moved_and_a_diverged_run_never_passes(filled) -> None:
    store, expansion = filled
    complete(store, expansion.cells[1].runs[1], accuracy=1.0, outcome="diverged")

    for gate, kept in ((None, [1, 1]), ("train_accuracy>=.98", [2, 1]), ("train_accuracy>=.995", [0, 1])):
        assert [cell.kept for cell in cover(expansion, store, frame=store.runs(), gate=gate)] == kept


def test_runs_after_the_specs_seeds_belong_to_the_cell_up_to_the_first_gap(tmp_path) -> None:
    expansion = expand(load(write_spec(tmp_path, runs=2)))
    known = {small(seed=seed).run_id for seed in (2, 3, 5)}  # the spec's are 0 and 1; 4 is a gap
    (cell,) = with_top_ups(expansion, known).cells
    assert [run.config["seed"] for run in cell.runs] == [0, 1, 2, 3]
    assert cell.next_seed == 4
    assert with_top_ups(expansion, set()) == expansion


def test_a_spec_that_names_its_seeds_has_no_others(tmp_path) -> None:
    spec = load(write_spec(tmp_path, runs=2))
    fixed = expand(apply_overrides(spec, ["runs=1"]))
    assert fixed.cells[0].next_seed == 1
    path = tmp_path / "fixed.yaml"
    path.write_text((tmp_path / "s.yaml").read_text().replace("runs: 2", "seeds: 2"))
    fixed = expand(load(path))
    assert fixed.cells[0].next_seed is None
    assert with_top_ups(fixed, {small(seed=2).run_id}) == fixed


def test_of_two_files_one_that_wants_runs_is_enough_to_go_on(tmp_path) -> None:
    write_spec(tmp_path, name="grows", runs=2)
    text = (tmp_path / "grows.yaml").read_text()
    (tmp_path / "fixed.yaml").write_text(text.replace("runs: 2", "seeds: [9, 4]"))
    both = tmp_path / "both.yaml"
    both.write_text("include: [fixed.yaml, grows.yaml]\n")
    (cell,) = expand(load(both)).cells
    assert [run.config["seed"] for run in cell.runs] == [9, 4, 0, 1]
    assert cell.next_seed == 10


def test_a_run_that_two_cells_draw_is_counted_once(tmp_path) -> None:
    expansion = drawn_twice(tmp_path)
    known = {small(seed=seed, lr=1e-3).run_id for seed in (0, 1, 2)}
    one, two = with_top_ups(expansion, known).cells
    assert [run.config["seed"] for run in one.runs] == [0, 1, 2]
    assert two.runs == []
    assert (one.next_seed, two.next_seed) == (3, 3)


def test_coverage_of_a_spec(folder) -> None:
    assert coverage(folder, "s.yaml", "--json").json == [FULL_1, FULL_2]
    said = coverage(folder, "s.yaml")
    head, _, *rows, total = said.out.strip().splitlines()
    assert head.split() == list(KEYS)
    assert [line.split() for line in rows] == [[str(n) for n in row.values()] for row in (ROW_1, ROW_2)]
    assert total == "4 of 6 wanted runs are missing; imagine-sweep top-up would launch 6"
    assert said.err.splitlines() == [
        "s: gol=1: 1 run failed; first try imagine-sweep retry, top-up adds new seeds",
        "s: gol=1: 4 runs held back by the cap of 2 times wanted; raise it with --cap",
    ]


def test_overrides_and_options(folder) -> None:
    (row,) = coverage(folder, "s.yaml", "--json", "--where", "missing=3 and gol<2", "--cap", "3").json
    assert row == {**FULL_1, "top_up": 8, "held_back": 0, "seeds": list(range(4, 12))}
    rows = coverage(folder, "s.yaml", "--json", "--gate", "train_accuracy>=.5").json
    assert [(row["kept"], row["missing"]) for row in rows] == [(2, 2), (1, 1)]
    rows = coverage(folder, "s.yaml", "--json", "channels=5").json
    assert [(row["to_submit"], row["pass_rate"], row["seeds"]) for row in rows] == [
        (4, None, [0, 1, 2, 3]),
        (2, None, [0, 1]),
    ]


def test_without_a_spec_it_is_of_every_sweep_that_was_launched(folder) -> None:
    assert coverage(folder, "--json").json == [FULL_1, FULL_2]
    path = write_spec(folder, name="t", runs=1, batch=4)
    store = open_store(str(folder / "a.db"), create=True)
    store.stage(expand(load(path)).runs, sweep=NewSweep("t", load(path).composed))
    store.stage([small()], sweep=NewSweep("old", "{}"))
    of_a_package = load(path).composed.replace("life_state", "parity")
    store.stage([small()], sweep=NewSweep("parity", of_a_package))
    store.close()
    said = coverage(folder, "--json", "--where", "sweep != s")
    assert [row["sweep"] for row in said.json] == ["t"]
    old, parity = said.err.splitlines()
    assert old == "old: left out, because another version stored its spec; name the spec's file"
    assert parity.startswith("parity: left out: ")
    assert "unknown experiment 'parity'" in parity
    assert parity.endswith("for another one, install its package")
    assert coverage(folder, "t.yaml", "--json").json == coverage(folder, "t", "--json").json == said.json


def test_a_seed_that_no_top_up_has_reached_may_contradict_its_cell(tmp_path) -> None:
    """Its drawn kernel is even. `status` and `coverage` need only the seeds that are stored, and the next one."""
    path = write_spec(tmp_path, runs=1)
    text = path.read_text() + "sample: {kernel: {choice: [3, 4]}}\n"
    draws = Distribution("choice", (3, 4))
    start = next(
        seed for seed in range(1000) if [draws.draw("kernel", seed + k) for k in range(3)] == [3, 3, 4]
    )
    path.write_text(f"{text}seeds: {{start: {start}}}\n")
    (cell,) = expand(load(path)).cells
    store = open_store(str(tmp_path / "a.db"), create=True)
    complete(store, cell.run(start), accuracy=0.995)
    complete(store, cell.run(start + 1), accuracy=0.995)
    store.close()
    assert coverage(tmp_path, "s.yaml", "--json").json[0]["stored"] == 2
    # With a gate that none passes, the next seed is needed. It is held back, in one line.
    wants = ("s.yaml", "--gate", "train_accuracy>=1", "--cap", "9")
    row = coverage(tmp_path, *wants, "--json").json[0]
    assert (row["top_up"], row["held_back"]) == (0, 3)  # the two missed it, so a kept run costs three
    said = coverage(tmp_path, *wants)
    (line,) = [line for line in said.err.splitlines() if "held back" in line]
    assert f"seed {start + 2}: kernel: 4 is even" in line
    topped = answer("top-up", *wants, "-y", "--db", "a.db", folder=tmp_path)
    assert (topped.code, "nothing to launch" in topped.err) == (1, True)
    (row,) = answer("status", "s.yaml", "--db", "a.db", "--json", folder=tmp_path).json
    assert row["states"] == {"COMPLETED": 2}


def test_reading_creates_nothing(tmp_path) -> None:
    write_spec(tmp_path)
    said = answer("coverage", "--db", "a.db", folder=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert "a.db does not exist; " in said.err
    assert coverage(tmp_path, "s.yaml", "--json").json[0]["to_submit"] == 2
    assert tree(tmp_path) == {"s.yaml"}


BAD = {
    "no spec": (["gone"], "no spec gone"),
    "no override": (["s.yaml", "chanels=1"], "'channels'"),
    "no filter": (["s.yaml", "--where", "gol="], "--where 'gol='"),
    "no column": (["s.yaml", "--where", "misssing>0"], "'missing'"),
    "a filter for runs": (["s.yaml", "--where", "seed=1"], "unknown column 'seed'"),
    "no match": (["s.yaml", "--where", "gol=9"], "no cell matches"),
    "a cap below the runs wanted": (["s.yaml", "--cap", "0.5"], "--cap"),
    "no cap": (["s.yaml", "--cap", "twice"], "'twice'"),
    "no gate": (["s.yaml", "--gate", "99"], "--gate '99'"),
    "no store": (["s.yaml", "--db", "nonsense"], "nonsense"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line(folder, what) -> None:
    arguments, says = BAD[what]
    before = tree(folder)
    code, out, err = answer("coverage", "--db", "a.db", *arguments, folder=folder)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1
    assert err.startswith("imagine-sweep")
    assert {name for name in tree(folder) if not name.endswith(("-wal", "-shm"))} == before
