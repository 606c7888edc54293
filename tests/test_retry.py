"""`retry`: failed runs and no others, of a spec or of every launched sweep, up to a number of attempts."""

import pytest
from sweep_helpers import (
    HOPELESS,
    answer,
    attempt_states,
    begun,
    complete,
    fail,
    ids,
    opened,
    small,
    tree,
    write_spec,
)

from results_db.contract import Ending, NewSweep, State
from results_db.query.failures import reason
from results_db.store import open_store
from sweeps.follow.retry import plan_retries
from sweeps.spec.expand import expand
from sweeps.spec.load import expand_spec, load

pytestmark = pytest.mark.slow


def stage(store, path):
    """Stages a sweep as a launch of the spec does; its expansion."""
    spec, expansion = expand_spec(path)
    store.stage(expansion.runs, sweep=NewSweep(spec.name, spec.composed))
    return expansion


@pytest.fixture
def folder(tmp_path):
    """A spec of two cells, of 2 and 4 runs, and a store in which some have failed once, twice or thrice."""
    store = open_store(str(tmp_path / "a.db"), create=True)
    one, two = stage(store, write_spec(tmp_path, cells="[{gol: 1, runs: 2}, {gol: 2, runs: 4}]")).cells
    fail(store, one.runs[0])
    fail(store, two.runs[0], times=2, state=State.OUT_OF_MEMORY)
    fail(store, two.runs[1], times=3)
    complete(store, two.runs[2])
    store.end(begun(store, two.runs[3]), Ending(State.LOST))
    store.close()
    return tmp_path


@pytest.fixture
def runs(folder):
    """Ids of its runs, by cell."""
    return [ids(cell.runs) for cell in expand(load(folder / "s.yaml")).cells]


def retry(folder, *arguments):
    return answer("retry", "--db", "a.db", *arguments, folder=folder)


def rows(folder, *arguments):
    said = retry(folder, *arguments, "--dry-run", "--json")
    assert said.code == 0, said.err
    return [(row["run_id"], row["state"], row["attempts"]) for row in said.json]


def test_failed_runs_are_chosen_and_those_with_too_many_attempts_are_named(folder, runs) -> None:
    one, two = runs
    chosen = [(one[0], "FAILED", 1), (two[0], "OUT_OF_MEMORY", 2)]
    assert rows(folder, "s.yaml") == chosen
    assert rows(folder) == chosen  # of the launched sweeps
    assert rows(folder, "s.yaml", "--max-attempts", "2") == chosen[:1]
    assert rows(folder, "s.yaml", "--max-attempts", "4") == [*chosen, (two[1], "FAILED", 3)]
    assert rows(folder, "s.yaml", "-n", "1") == chosen[:1]
    assert rows(folder, "s.yaml", "--state", "out_of_memory") == chosen[1:]
    assert rows(folder, "s.yaml", "--where", "gol=1") == chosen[:1]
    assert rows(folder, "s.yaml", "--where", f"run_id={two[0][:10]}") == chosen[1:]

    said = retry(folder, "s.yaml", "--dry-run")
    assert said.err == (
        f"skipped after 3 attempts or more: {two[1][:10]}; see imagine-results show RUN, or raise --max-attempts\n"
    )
    head, _, *lines = said.out.strip().splitlines()
    assert head.split() == ["run_id", "sweep", "gol", "seed", "state", "attempts"]
    assert [line.split() for line in lines] == [
        [one[0][:10], "s", "1", "0", "FAILED", "1"],
        [two[0][:10], "s", "2", "0", "OUT_OF_MEMORY", "2"],
    ]


@pytest.mark.parametrize(
    ("arguments", "begin"),
    [
        (["--max-attempts", "1", "--dry-run"], "skipped after 1 attempt or more: "),
        (["s.yaml", "--where", "state=LOST"], "no failed run"),
    ],
)
def test_where_no_run_is_chosen_one_line_says_why(folder, arguments, begin) -> None:
    said = retry(folder, *arguments)
    assert (said.code, said.out) == (0, "")
    assert said.err.startswith(begin)
    assert said.err.count("\n") == 1


def test_sweeps_without_a_failed_run_are_left_out(folder) -> None:
    store = opened(folder)
    stage(store, write_spec(folder, name="t", runs=1, batch=4))
    fail(store, stage(store, write_spec(folder, name="u", runs=1, batch=HOPELESS)).runs[0])
    said = retry(folder, "--json", "--where", f"batch={HOPELESS}")
    assert [each["name"] for each in said.json] == ["u"]


def test_failed_runs_of_top_ups_belong_to_their_sweep(folder, runs) -> None:
    store = opened(folder)
    added = small(gol=1, seed=2)
    fail(store, added)
    fail(store, small(gol=1, seed=9))  # by hand: 3 is a gap
    assert rows(folder, "s.yaml") == [
        (runs[0][0], "FAILED", 1),
        (added.run_id, "FAILED", 1),
        (runs[1][0], "OUT_OF_MEMORY", 2),
    ]


def test_a_run_of_two_sweeps_is_tried_by_the_first(folder, runs) -> None:
    store = opened(folder)
    other = stage(store, write_spec(folder, name="t", runs=1, cells="[{gol: 1}, {gol: 3}]"))
    fail(store, other.cells[1].runs[0])
    said = retry(folder, "--dry-run", "--json").json
    assert [(row["sweep"], row["gol"]) for row in said] == [("s", 1), ("s", 2), ("t", 3)]
    # A limit counts over all sweeps.
    assert [row["sweep"] for row in retry(folder, "--dry-run", "--json", "-n", "2").json] == ["s", "s"]


def test_a_plan_over_two_sweeps(tmp_path) -> None:
    """The second sweep is the first one again: its runs are trained, and named as left, once."""
    sweep = expand_spec(write_spec(tmp_path, runs=2))
    again, left = ids(sweep[1].runs)
    failed = {again: {"attempts": 1}, left: {"attempts": 3}}
    first, second = plan_retries([sweep, sweep], failed, known=set(failed), max_attempts=3)
    assert (ids(first.expansion.runs), first.left) == ([again], [left])
    assert (second.expansion.runs, second.left) == ([], [])
    assert plan_retries([sweep], failed, known=set(failed), limit=0)[0].expansion.cells == []


def test_where_takes_the_causes_that_runs_lists(folder, runs) -> None:
    everything = rows(folder)
    (cause,) = {reason(one) for one in opened(folder).ended_attempts({State.FAILED})}
    assert rows(folder, "--where", f"cause = '{cause}'") == [row for row in everything if row[1] == "FAILED"]


def test_failed_runs_are_trained_and_no_others(folder, runs) -> None:
    done = retry(folder, "s.yaml", "--json")
    assert done.code == 1  # one is left
    assert done.json["trained"] == {runs[0][0]: "COMPLETED", runs[1][0]: "COMPLETED"}
    store = opened(folder)
    assert attempt_states(store, runs[0][0]) == ["FAILED", "COMPLETED"]
    assert attempt_states(store, runs[1][0]) == ["OUT_OF_MEMORY", "OUT_OF_MEMORY", "COMPLETED"]
    others = [runs[0][1], *runs[1][1:]]
    states = store.states(others)
    assert [str(states[run]) for run in others] == ["STAGED", "FAILED", "COMPLETED", "LOST"]
    assert list(store.sweeps()) == ["s"]
    # What is left is taken if that is said, and then there is nothing more.
    assert retry(folder, "--max-attempts", "4", "--json").json[0]["trained"] == {runs[1][1]: "COMPLETED"}
    again = retry(folder, "s.yaml", "--json")
    assert (again.code, again.json["total"]) == (0, 0)
    assert "no failed run of a sweep" in again.err


def test_what_fails_again_is_left_in_the_end(tmp_path) -> None:
    write_spec(tmp_path, runs=1, batch=HOPELESS)
    assert answer("launch", "s.yaml", "--db", "a.db", folder=tmp_path).code == 1
    for attempts in (2, 3):
        assert retry(tmp_path, "s.yaml").code == 1
        (run_id,) = opened(tmp_path).runs()["run_id"]
        assert len(opened(tmp_path).attempts(run_id)) == attempts
    last = retry(tmp_path, "s.yaml", "--json")
    assert (last.code, last.json["trained"]) == (1, {})
    assert run_id[:10] in last.err
    assert len(opened(tmp_path).attempts(run_id)) == 3


def test_many_runs_are_asked_for(tmp_path) -> None:
    store = open_store(str(tmp_path / "a.db"), create=True)
    for run in expand(load(write_spec(tmp_path, runs=11))).runs:
        fail(store, run)
    code, out, err = retry(tmp_path, "s.yaml")
    assert (code, out) == (2, "")
    assert "11 failed runs to train again" in err
    assert "give -y" in err
    assert len(err.splitlines()) == 1
    assert set(store.runs()["attempts"]) == {1}


def test_nothing_failed(tmp_path) -> None:
    write_spec(tmp_path)
    assert retry(tmp_path)[:2] == (2, "")  # the store was named, and there is none
    open_store(f"{tmp_path}/a.db", create=True).close()
    before = tree(tmp_path)
    for arguments in ([], ["s.yaml"]):
        code, out, err = retry(tmp_path, *arguments)
        assert (code, out) == (0, "")
        assert "no failed run" in err
        assert retry(tmp_path, *arguments, "--dry-run", "--json").json == []
    assert retry(tmp_path, "--json").json == []
    assert retry(tmp_path, "s.yaml", "--json").json["trained"] == {}
    assert tree(tmp_path) == before


BAD = {
    "a state that is no failure": (["--state", "LOST"], "'LOST'"),
    "no attempts": (["--max-attempts", "0"], "--max-attempts"),
    "no match": (["s.yaml", "--where", "gol=99"], "--where 'gol=99': no run matches"),
    "no filter": (["--where", "gol"], "--where 'gol'"),
    "no column": (["--where", "gool=1"], "'gol'"),
    "no spec": (["gone.yaml"], "gone.yaml"),
    "unknown override": (["s.yaml", "chanels=4"], "'channels'"),
    "no store": (["--db", "nonsense"], "nonsense"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_writes_nothing(folder, what) -> None:
    arguments, says = BAD[what]
    code, out, err = retry(folder, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1
    assert sorted(opened(folder).runs()["attempts"]) == [0, 1, 1, 1, 2, 3]
