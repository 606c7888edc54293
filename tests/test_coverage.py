"""Coverage: what every cell wants, and what the store has of it."""

import pytest
from sweep_helpers import answer, begun, complete, fail, ids, small, staged, tree, write_spec

from results_db.contract import NewSweep, State
from results_db.store import open_store
from sweeps.follow.coverage import cover, with_top_ups
from sweeps.spec.expand import expand
from sweeps.spec.load import apply_overrides, load


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
    store.end(begun(store, two.runs[1]), State.PREEMPTED)
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


ROW_1 = {"gol": 1, "wanted": 4, "tried": 2, "reached": 1, "active": 1, "failed": 1, "open": 0, "missing": 3}
ROW_2 = {"gol": 2, "wanted": 2, "tried": 1, "reached": 1, "active": 0, "failed": 0, "open": 1, "missing": 1}
# Of the first cell 1 of 2 passed, so 3 more take 3 * (2 + 1) / 1 = 9 runs, of which one is active: 8. The cap of twice
# 4 runs leaves 8 - 2 tried - 1 active - 1 failed = 4. Of the second 1 of 1 passed, so 1 more takes 1 * 2 / 1 = 2 runs:
# the open one with seed 1, and the next seed; the cap of 4 leaves 3.
FULL_1 = {**ROW_1, "top_up": 4, "held_back": 4, "pass_rate": 0.5, "seeds": [4, 5, 6, 7]}
FULL_2 = {**ROW_2, "top_up": 2, "held_back": 0, "pass_rate": 1.0, "seeds": [1, 2]}


def test_every_state_is_counted(filled) -> None:
    store, expansion = filled
    one, two = cover(expansion, store.runs())
    assert [{**each.cell.columns, **each.counts} for each in (one, two)] == [ROW_1, ROW_2]
    assert (one.pass_rate, two.pass_rate) == (0.5, 1.0)
    assert ids(two.open) == [expansion.cells[1].runs[1].run_id]


def test_of_an_empty_store_everything_is_open(tmp_path) -> None:
    expansion = expand(load(write_spec(tmp_path, runs=3)))
    (cell,) = cover(expansion, open_store(str(tmp_path / "none.db"), create=False).runs())
    assert ids(cell.open) == ids(expansion.runs)
    assert (cell.tried, cell.missing) == (0, 3)
    assert cell.pass_rate is None


def test_runs_of_dead_workers_are_open(filled) -> None:
    store, expansion = filled
    running = expansion.cells[0].runs[3]
    one, _ = cover(expansion, store.runs(), dead=[running.run_id, "f" * 64])
    assert (one.active, ids(one.open)) == (0, [running.run_id])


def test_the_gate_can_be_moved_and_a_diverged_run_never_passes(filled) -> None:
    store, expansion = filled
    complete(store, expansion.cells[1].runs[1], accuracy=1.0, outcome="diverged")

    def reached(**gate):
        return [cell.reached for cell in cover(expansion, store.runs(), **gate)]

    assert reached() == [1, 1]
    assert reached(min_accuracy=0.98) == [2, 1]
    assert reached(min_accuracy=0.995) == [0, 1]


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
    # Both files' cells have lr 0.001 for every seed, though the cells are not equal: one draws it.
    write_spec(tmp_path, name="plain", runs=1, lr=1e-3)
    text = write_spec(tmp_path, name="drawn", runs=1).read_text()
    (tmp_path / "drawn.yaml").write_text(text + "sample: {lr: {choice: [1.0e-3, 1.0e-3]}}\n")
    (tmp_path / "both.yaml").write_text("include: [plain.yaml, drawn.yaml]\n")
    expansion = expand(load(tmp_path / "both.yaml"))
    known = {small(seed=seed, lr=1e-3).run_id for seed in (0, 1, 2)}
    one, two = with_top_ups(expansion, known).cells
    assert [run.config["seed"] for run in one.runs] == [0, 1, 2]
    assert two.runs == []
    assert (one.next_seed, two.next_seed) == (3, 3)


def test_coverage_of_a_spec(folder) -> None:
    assert coverage(folder, "s.yaml", "--json").json == [{"sweep": "s", **FULL_1}, {"sweep": "s", **FULL_2}]
    said = coverage(folder, "s.yaml")
    head, _, *rows, total = said.out.strip().splitlines()
    assert head.split() == [*ROW_1, "top_up", "held_back"]
    assert [line.split() for line in rows] == [
        ["1", "4", "2", "1", "1", "1", "0", "3", "4", "4"],
        ["2", "2", "1", "1", "0", "0", "1", "1", "2", "0"],
    ]
    assert total == "4 of 6 wanted runs are missing; imagine-sweep top-up would launch 6"
    assert said.err.splitlines() == [
        "s: gol=1: 1 of 2 runs reached the accuracy, 3 more are wanted, and that takes about 8 runs, "
        "but the cap of 2 times 4 leaves 4; raise it with --cap"
    ]


def test_overrides_and_options(folder) -> None:
    (row,) = coverage(folder, "s.yaml", "--json", "--where", "missing=3 and gol<2", "--cap", "3").json
    assert row == {"sweep": "s", **FULL_1, "top_up": 8, "held_back": 0, "seeds": list(range(4, 12))}
    rows = coverage(folder, "s.yaml", "--json", "--min-accuracy", "0.5").json
    assert [(row["reached"], row["missing"]) for row in rows] == [(2, 2), (1, 1)]
    rows = coverage(folder, "s.yaml", "--json", "channels=5").json
    assert [(row["tried"], row["open"], row["seeds"]) for row in rows] == [
        (0, 4, [0, 1, 2, 3]),
        (0, 2, [0, 1]),
    ]


def test_without_a_spec_it_is_of_every_sweep_that_was_launched(folder) -> None:
    assert coverage(folder, "--json").json == [{"sweep": "s", **FULL_1}, {"sweep": "s", **FULL_2}]
    path = write_spec(folder, name="t", runs=1, batch=4)
    store = open_store(str(folder / "a.db"), create=True)
    store.stage(expand(load(path)).runs, sweep=NewSweep("t", load(path).composed))
    store.stage([small()], sweep=NewSweep("old", "{}"))
    store.close()
    said = coverage(folder, "--json", "--where", "sweep != s")
    assert [row["sweep"] for row in said.json] == ["t"]
    assert said.err.startswith("old: left out")
    assert coverage(folder, "t.yaml", "--json").json == coverage(folder, "t", "--json").json == said.json


def test_reading_creates_nothing(tmp_path) -> None:
    write_spec(tmp_path)
    said = coverage(tmp_path)
    assert "no sweep was launched" in said.out
    assert coverage(tmp_path, "--json").json == []
    assert coverage(tmp_path, "s.yaml", "--json").json[0]["open"] == 2
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
    "no accuracy": (["s.yaml", "--min-accuracy", "99"], "--min-accuracy"),
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


def test_staged_runs_are_open(filled) -> None:
    store, expansion = filled
    more = small(gol=2, seed=2)
    staged(store, more)
    two = cover(expansion, store.runs())[1]
    assert ids(two.open) == [expansion.cells[1].runs[1].run_id, more.run_id]
