"""`imagine-sweep` without training: plan, status, list, and one line for everything that can be wrong."""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sweep_helpers import HOPELESS, begun, complete, tree, write_spec

from results_db.contract import NewSweep, State
from results_db.store import open_store
from sweeps.cli import root as cli
from sweeps.spec.expand import expand
from sweeps.spec.load import load

HEAD = "experiment: life_state\n"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMAGINE_DB", raising=False)
    return tmp_path


@pytest.fixture
def sweep(monkeypatch, capfd, folder):
    """Runs the command in this process; exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["imagine-sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    return run


@pytest.fixture
def filled(folder):
    """A spec of two cells, of 2 and 3 runs, and a store with runs in all sorts of states."""
    path = write_spec(folder, cells="[{gol: 1, runs: 2}, {gol: 2, runs: 3}]")
    one, two = expand(load(path)).cells
    store = open_store("a.db", create=True)
    complete(store, one.runs[0], seconds=30)
    complete(store, two.runs[0], seconds=60)
    store.end(begun(store, one.runs[1]), State.FAILED)
    begun(store, two.runs[1])
    store.close()


def parsed(answer):
    code, out, err = answer
    assert (code, err) == (0, "")
    return json.loads(out)


def test_plan_as_json(sweep, filled) -> None:
    said = parsed(sweep("plan", "s.yaml", "--db", "a.db", "--json"))
    cells = said.pop("cells")
    counts = {"total": 5, "stored": 2, "active": 1, "failed": 1, "to_submit": 1}
    assert said == {"name": "s", **counts, "expected_seconds": 60.0, "hours": None, "unit": None}
    assert cells == [
        {
            "gol": 1,
            "wanted": 2,
            "total": 2,
            "stored": 1,
            "active": 0,
            "failed": 1,
            "to_submit": 0,
            "states": {"COMPLETED": 1, "FAILED": 1},
            "expected_seconds": 0.0,
        },
        {
            "gol": 2,
            "wanted": 3,
            "total": 3,
            "stored": 1,
            "active": 1,
            "failed": 0,
            "to_submit": 1,
            "states": {"COMPLETED": 1, "RUNNING": 1, "NEW": 1},
            "expected_seconds": 60.0,
        },
    ]


def test_plan_for_a_person(sweep, filled) -> None:
    code, out, _ = sweep("plan", "s.yaml", "--db", "a.db")
    *table, total = out.strip().splitlines()
    assert code == 0
    assert total == "s: 5 runs = 2 stored + 1 active + 1 failed + 1 to submit (1:00 min of training)"
    assert table[0].split() == [
        *("gol", "wanted", "total", "stored", "active", "failed", "to_submit", "expected")
    ]
    rows = [line.split() for line in table[-2:]]
    assert rows == [
        ["1", "2", "2", "1", "0", "1", "0", "0", "s"],
        ["2", "3", "3", "1", "1", "0", "1", "1:00", "min"],
    ]


def test_plan_with_a_retry_counts_failed_runs_as_to_submit(sweep, filled) -> None:
    said = parsed(sweep("plan", "s.yaml", "--retry-failed", "--db", "a.db", "--json"))
    assert (said["failed"], said["to_submit"], said["expected_seconds"]) == (0, 2, 90.0)


def test_a_dry_run_is_the_plan(sweep, filled) -> None:
    planned = sweep("plan", "s.yaml", "--db", "a.db", "--json")
    assert sweep("launch", "s.yaml", "--db", "a.db", "--json", "--dry-run") == planned
    assert sweep("launch", "--dry-run", "s.yaml", "--db", "a.db") == sweep("plan", "s.yaml", "--db", "a.db")


def test_a_dry_run_is_of_the_first_runs(sweep, filled) -> None:
    """Of the first three, in turn of the cells: one is complete of each, and one of the first has failed."""
    said = parsed(sweep("launch", "s.yaml", "--db", "a.db", "--json", "--dry-run", "-n", "3"))
    assert (said["total"], said["stored"], said["failed"], said["to_submit"]) == (3, 2, 1, 0)


def test_what_past_runs_tell_is_at_least_that(sweep, filled) -> None:
    """Two cells with a batch of 4 have no past; of the others one run is left, 60 s on two cores or GPUs."""
    more = ("s.yaml", "batch=8,4", "--db", "a.db", "launcher=slurm")
    assert (
        "(at least 1:00 min of training, 0.0333 core-hours)"
        in sweep("plan", *more, "launcher.cpus_per_task=2")[1]
    )
    said = parsed(sweep("plan", *more, "--json"))
    assert (said["expected_seconds"], said["hours"], said["unit"]) == (None, None, "core-hours")
    whole = parsed(
        sweep("plan", "s.yaml", "--db", "a.db", "launcher=slurm", "launcher.gpus_per_node=2", "--json")
    )
    assert (whole["hours"], whole["unit"]) == (60 * 2 / 3600, "GPU-hours")


def test_status(sweep, filled) -> None:
    assert parsed(sweep("status", "s.yaml", "--db", "a.db", "--json")) == [
        {"sweep": "s", "gol": 1, "states": {"COMPLETED": 1, "FAILED": 1}},
        {"sweep": "s", "gol": 2, "states": {"COMPLETED": 1, "RUNNING": 1, "NEW": 1}},
    ]
    code, out, _ = sweep("status", "s.yaml", "--db", "a.db")
    head, _, *rows = out.splitlines()
    assert code == 0
    assert head.split() == ["gol", "COMPLETED", "FAILED", "RUNNING", "NEW"]
    assert [line.split() for line in rows] == [["1", "1", "1", "0", "0"], ["2", "1", "0", "1", "1"]]


def test_status_without_a_spec_shows_the_launched_sweeps(sweep, filled) -> None:
    code, out, _ = sweep("status", "--db", "none.db")
    assert code == 0
    assert "no sweep was launched" in out
    assert not Path("none.db").exists()
    with closing(open_store("a.db", create=True)) as store:
        runs = expand(load("s.yaml")).runs
        store.stage(runs, sweep=NewSweep("mine", ""))
    # The fixture completed two runs, failed one and has one running; the one that was new is staged by now.
    assert parsed(sweep("status", "--db", "a.db", "--json")) == [
        {"sweep": "mine", "states": {"COMPLETED": 2, "FAILED": 1, "RUNNING": 1, "STAGED": len(runs) - 4}}
    ]


def test_list_names_the_shipped_specs(sweep) -> None:
    rows = parsed(sweep("list", "--json"))
    (quick,) = [row for row in rows if row["name"] == "quick"]
    assert set(quick) == {"name", "experiment", "cells", "runs", "about", "file"}
    assert quick["experiment"] == "life_state"
    assert Path(quick["file"]).is_file()
    planned = parsed(sweep("plan", "quick", "--json"))
    assert (quick["runs"], quick["cells"]) == (planned["total"], len(planned["cells"]))
    code, out, _ = sweep("list")
    assert code == 0
    assert all(row["name"] in out and row["about"] in out for row in rows)


def test_the_plan_of_two_experiments_has_the_columns_of_both(sweep) -> None:
    code, out, _ = sweep("plan", "paper")
    head, _, *rows, total = out.strip().splitlines()
    assert code == 0
    assert head.split()[:4] == ["gol", "model_t", "ae", "rnn"]
    assert "experiment" in head
    assert len(rows) == 18
    assert all("life_count" in row for row in rows[-7:])
    assert total.startswith("paper: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "s.yaml", "channels=8", "batch=4,8", "--json", "--db", "a.db"],
        ["plan", "--json", "--db", "a.db", "s.yaml", "channels=8", "batch=4,8"],
        ["plan", "s.yaml", "--json", "channels=8", "--db", "a.db", "batch=4,8"],
        ["plan", "s.yaml", "channels=8", "--json", "batch=4,8", "--db=a.db"],
        ["--db", "a.db", "plan", "--json", "s.yaml", "batch=4,8", "channels=8"],
    ],
)
def test_options_and_overrides_in_any_order(sweep, folder, arguments) -> None:
    write_spec(folder, runs=2)
    said = parsed(sweep(*arguments))
    assert [(cell["batch"], cell["total"]) for cell in said["cells"]] == [(4, 2), (8, 2)]


def test_db_before_or_after_the_command_or_in_the_environment(sweep, filled, monkeypatch) -> None:
    after = sweep("plan", "s.yaml", "--json", "--db", "a.db")
    assert json.loads(after[1])["stored"] == 2
    assert sweep("--db", "a.db", "plan", "s.yaml", "--json") == after
    assert sweep("--db", "b.db", "plan", "s.yaml", "--json", "--db", "a.db") == after  # the nearer one counts
    monkeypatch.setenv("IMAGINE_DB", "sqlite:///a.db")
    assert sweep("plan", "s.yaml", "--json") == after
    assert parsed(sweep("plan", "s.yaml", "--json", "--db", "b.db"))["stored"] == 0


def test_what_only_reads_creates_nothing(sweep, folder) -> None:
    write_spec(folder)
    for arguments in (["plan"], ["status"], ["launch", "--dry-run"], ["plan", "--json"]):
        for db in ([], ["--db", "x.db"], ["--db", "deep/below/x.db"]):
            assert sweep(*arguments, "s.yaml", *db)[0] == 0
    assert tree(folder) == {"s.yaml"}


BAD_SPECS = {
    "unknown key": (f"{HEAD}base:\n  chanels: 20\n", ["s.yaml:3:", "'chanels'", "'channels'"]),
    "unknown key in a cell": (f"{HEAD}cells:\n  - {{gol: 2}}\n  - {{goll: 3}}\n", ["s.yaml:4:", "'gol'"]),
    "unknown section": (f"{HEAD}gird: {{gol: [1]}}\n", ["s.yaml:2:", "'gird'", "'grid'"]),
    "unknown experiment": ("experiment: life_stat\n", ["s.yaml:1:", "'life_stat'", "'life_state'"]),
    "no experiment": ("base: {gol: 1}\n", ["s.yaml:1:", "experiment"]),
    "unknown preset": (f"{HEAD}preset: fats\n", ["s.yaml:2:", "'fats'", "'fast'"]),
    "wrong type": (f"{HEAD}base: {{channels: wide}}\n", ["s.yaml:2:", "channels: 'wide' is not an integer"]),
    "a word for a switch": (f"{HEAD}base: {{rnn: no}}\n", ["s.yaml:2:", "rnn: 'no' is not true or false"]),
    "a number for a switch": (f"{HEAD}base: {{rnn: 0}}\n", ["s.yaml:2:", "rnn: 0"]),
    "a list for a value": (f"{HEAD}base: {{gol: [1, 2]}}\n", ["s.yaml:2:", "grid"]),
    "not a number": (f"{HEAD}base: {{lr: .nan}}\n", ["s.yaml:2:", "lr: nan is not a number"]),
    "infinite": (f"{HEAD}base: {{lr: .inf}}\n", ["s.yaml:2:", "lr: inf"]),
    "empty grid": (f"{HEAD}grid: {{}}\n", ["s.yaml:2:", "grid is empty"]),
    "empty axis": (f"{HEAD}grid: {{gol: []}}\n", ["s.yaml:2:", "grid.gol is an empty list"]),
    "empty cells": (f"{HEAD}cells: []\n", ["s.yaml:2:", "cells is an empty list"]),
    "duplicate cells": (
        f"{HEAD}cells:\n  - {{gol: 2}}\n  - {{gol: 2, runs: 9}}\n",
        ["s.yaml:4:", "s.yaml:3"],
    ),
    "duplicate by default": (f"{HEAD}cells:\n  - {{gol: 2}}\n  - {{gol: 2, ae: true}}\n", ["s.yaml:4:"]),
    "gol below 1": (f"{HEAD}cells:\n  - {{gol: 0}}\n", ["s.yaml:3:", "gol: 0 is below 1"]),
    "model_t below 1": (f"{HEAD}base: {{model_t: -1}}\n", ["s.yaml:2:", "model_t: -1 is below 1"]),
    "runs below 1": (f"{HEAD}cells:\n  - {{gol: 1, runs: 0}}\n", ["s.yaml:3:", "runs: 0 is below 1"]),
    "runs of all below 1": (f"{HEAD}runs: 0\n", ["s.yaml:2:", "runs: 0 is below 1"]),
    "seeds that are no integers": (
        f"{HEAD}seeds: [1, two]\n",
        ["s.yaml:2:", "seed: 'two' is not an integer"],
    ),
    "seeds and runs": (f"{HEAD}seeds: [1, 2]\nruns: 2\n", ["s.yaml:2:", "runs"]),
    "YAML syntax": (f"{HEAD}base: {{gol: 1\ngrid: 2\n", ["s.yaml:", "YAML syntax"]),
    "a tab": (f"{HEAD}base:\n\tgol: 1\n", ["s.yaml:3:", "YAML syntax"]),
    "a key twice": (f"{HEAD}{HEAD}", ["s.yaml:2:", "experiment"]),
    "an empty file": ("", ["s.yaml:1:", "empty"]),
    "a list": ("- 1\n", ["s.yaml:1:", "not a mapping"]),
    "unknown launcher key": (f"{HEAD}launcher: {{timeout: 5}}\n", ["s.yaml:2:", "'timeout_min'"]),
    "unknown launcher": (f"{HEAD}launcher: slrm\n", ["s.yaml:2:", "'slrm'", "local, slurm"]),
    "two nodes": (f"{HEAD}launcher: {{nodes: 2}}\n", ["s.yaml:2:", "nodes: 2"]),
    "cores that are no number": (
        f"{HEAD}launcher: {{cpus_per_task: all}}\n",
        ["s.yaml:2:", "cpus_per_task: 'all'"],
    ),
    "no cores": (f"{HEAD}launcher: {{cpus_per_task: 0}}\n", ["s.yaml:2:", "cpus_per_task: 0"]),
    "a missing include": (f"{HEAD}include: [gone.yaml]\n", ["s.yaml:2:", "gone.yaml"]),
    "values that contradict each other": (f"{HEAD}base: {{kernel: 4}}\n", ["s.yaml:2:", "kernel: 4 is even"]),
}
BAD_COMMAND_LINES = {
    "a missing file": (["gone.yaml"], ["gone.yaml", "quick"]),
    "a folder": (["."], ["folder"]),
    "unknown override": (["ok.yaml", "chanels=8"], ["chanels=8", "'channels'"]),
    "override of the wrong type": (["ok.yaml", "channels=wide"], ["channels=wide", "is not an integer"]),
    "override out of bounds": (["ok.yaml", "gol=0"], ["gol=0", "below 1"]),
    "no runs": (["ok.yaml", "runs=0"], ["runs=0", "below 1"]),
    "no override": (["ok.yaml", "channels"], ["'channels'", "KEY=VALUE"]),
    "an override twice": (["ok.yaml", "gol=1", "gol=2"], ["gol is given twice"]),
    "override of what the spec varies": (["varied.yaml", "gol=1"], ["varied varies gol (1, 2)"]),
    "override of the seed": (["ok.yaml", "seed=1"], ["seeds"]),
    "cores that are no number": (["ok.yaml", "launcher.cpus_per_task=all"], ["cpus_per_task: 'all'"]),
    "a negative number of cores": (["ok.yaml", "launcher.cpus_per_task=-1"], ["cpus_per_task: -1"]),
    "unknown launcher": (["ok.yaml", "launcher=slrm"], ["'slrm'"]),
    "no database": (["ok.yaml", "--db", "nonsense"], ["--db: 'nonsense'", ".db"]),
    "an unknown database": (["ok.yaml", "--db", "mysql://host/name"], ["'mysql'", "sqlite, postgresql"]),
    "not a database": (["ok.yaml", "--db", "text.db"], ["text.db", "not a SQLite database"]),
    "another's database": (["ok.yaml", "--db", "others.db"], ["others.db", "something else", "stamps"]),
    "a newer database": (["ok.yaml", "--db", "newer.db"], ["newer.db", "newer version", "update"]),
    "a folder for a database": (["ok.yaml", "--db", "folder.db"], ["folder.db"]),
    "unknown option": (["ok.yaml", "--bd", "a.db"], ["--bd", "--help"]),
    "an option without its value": (["ok.yaml", "--db"], ["--db"]),
}
BAD_LAUNCHES = {
    "an unwritable folder": (["ok.yaml", "--db", "/proc/nowhere/a.db"], ["/proc/nowhere"]),
    "a file for a folder": (["ok.yaml", "--db", "ok.yaml/a.db"], ["ok.yaml"]),
    "a file for the store's folder": (["ok.yaml", "--db", "blocked.db"], ["blocked.files"]),
    "no cluster": (["ok.yaml", "launcher=slurm"], ["launcher=local", "Slurm"]),
    "no runs": (["ok.yaml", "-n", "0"], ["-n", "0"]),
    "no workers": (["ok.yaml", "--workers", "0"], ["--workers", "0"]),
    "no size": (["ok.yaml", "--pack-size", "big"], ["--pack-size", "big"]),
}


@pytest.fixture
def bad(folder) -> Path:
    """A folder with a good spec, a spec that varies a key, and databases that are not stores of this version."""
    # Should a launch begin after all, it ends at once.
    write_spec(folder, name="ok", batch=HOPELESS)
    write_spec(folder, name="varied", cells="[{gol: 1}, {gol: 2}]")
    (folder / "text.db").write_text(
        "no database at all, but long enough to have a header of a hundred bytes\n" * 9
    )
    (folder / "folder.db").mkdir()
    (folder / "blocked.files").write_text("")
    with closing(sqlite3.connect(folder / "others.db")) as connection:
        connection.execute("CREATE TABLE stamps (country TEXT)")
    open_store("newer.db", create=True).close()
    with closing(sqlite3.connect(folder / "newer.db")) as connection, connection:
        connection.execute("UPDATE imagine_version SET version_num = '9999'")
    return folder


def check(sweep, folder, arguments, says) -> None:
    before = tree(folder)
    code, out, err = sweep(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("imagine-sweep")
    assert "error: " in line
    for text in says:
        assert text in line
    assert {name for name in tree(folder) if not name.endswith(("-wal", "-shm"))} == before


@pytest.mark.parametrize("command", ["plan", "launch", "status"])
@pytest.mark.parametrize("what", BAD_SPECS)
def test_a_bad_spec_is_one_line_and_writes_nothing(sweep, folder, command, what) -> None:
    text, says = BAD_SPECS[what]
    (folder / "s.yaml").write_text(text)
    check(sweep, folder, [command, "s.yaml", "--db", "x.db"], says)


@pytest.mark.parametrize("command", ["plan", "launch", "status"])
@pytest.mark.parametrize("what", BAD_COMMAND_LINES)
def test_a_bad_command_line_is_one_line_and_writes_nothing(sweep, bad, command, what) -> None:
    arguments, says = BAD_COMMAND_LINES[what]
    check(sweep, bad, [command, *arguments], says)


@pytest.mark.parametrize("command", ["plan", "launch", "status"])
def test_every_senseless_cell_is_one_line_and_nothing_is_written(sweep, folder, command) -> None:
    cells = "[{gan: posthoc, model_t: 1}, {gol: 1}, {kernel: 4}, {max_steps: 7}]"
    write_spec(folder, cells=cells)
    code, out, err = sweep(command, "s.yaml", "--db", "x.db")
    assert (code, out, tree(folder)) == (2, "", {"s.yaml"})
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("imagine-sweep: error: s.yaml:4: cell ") for line in lines)
    assert ["gan='posthoc', model_t=1:" in lines[0], "kernel=4:" in lines[1]] == [True, True]
    # The small spec has intervals of 10 and 5 steps.
    assert lines[2].endswith(
        "cell max_steps=7: eval_every: 10 is longer than the whole run, max_steps 7; "
        "set eval_every to at most 7, or max_steps to at least 10"
    )


def test_an_override_that_makes_cells_senseless_is_named_with_what_to_add(sweep, folder) -> None:
    code, out, err = sweep("launch", "quick", "max_steps=10", "--db", "x.db")
    assert (code, out, tree(folder)) == (2, "", set())
    begin = "imagine-sweep: error: override 'max_steps=10': cell "
    one, two = err.splitlines()
    assert one.startswith(begin + "gol=2, model_t=2: eval_every: ")
    assert two.startswith(begin + "gol=3, model_t=3: eval_every: ")
    assert all(
        "; set eval_every and trace_every to at most 10, or max_steps to at least " in x for x in (one, two)
    )
    assert sweep("plan", "quick", "max_steps=10", "eval_every=10", "trace_every=10", "--db", "x.db")[0] == 0


@pytest.mark.parametrize("command", ["plan", "launch"])
def test_a_spec_has_to_be_named(sweep, bad, command) -> None:
    check(sweep, bad, [command], ["SPEC"])


@pytest.mark.parametrize("what", BAD_LAUNCHES)
def test_a_launch_that_cannot_be_is_one_line_and_writes_nothing(sweep, bad, what) -> None:
    arguments, says = BAD_LAUNCHES[what]
    check(sweep, bad, ["launch", *arguments], says)


def test_an_unknown_command_is_met_with_the_nearest(sweep, folder) -> None:
    check(sweep, folder, ["lanch", "quick"], ["'lanch'", "'launch'", "list"])


def test_a_database_of_the_environment_is_checked_as_well(sweep, bad, monkeypatch) -> None:
    monkeypatch.setenv("IMAGINE_DB", "nonsense")
    check(sweep, bad, ["launch", "ok.yaml"], ["IMAGINE_DB: 'nonsense'"])


@pytest.mark.parametrize("command", ["plan", "launch"])
def test_help_tells_how_to_change_one_experiment_alone(sweep, command) -> None:
    assert "EXPERIMENT.KEY=VALUE" in sweep(command, "--help")[1]


def test_help_and_version(sweep) -> None:
    for arguments in (["--help"], ["launch", "--help"], ["--version"]):
        code, out, err = sweep(*arguments)
        assert (code, err) == (0, "")
        assert out
