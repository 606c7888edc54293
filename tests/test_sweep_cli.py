"""`imagine-sweep` without training: plan, status, list, and one line for everything that can be wrong."""

import json
import re
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_helpers import HOPELESS, ME, begun, complete, hold, small, trained_by_job, tree, write_spec

from jobs.provenance import cpu_name
from results_db.contract import Ending, NewSweep, State
from results_db.store import open_store
from sweeps.cli import root as cli
from sweeps.spec.expand import expand
from sweeps.spec.load import load


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
def filled(folder, monkeypatch):
    """A spec of two cells, of 2 and 3 runs, and a store with runs in all sorts of states, by this machine's cores."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here = replace(ME, device=cpu_name())
    path = write_spec(folder, cells="[{gol: 1, runs: 2}, {gol: 2, runs: 3}]")
    one, two = expand(load(path)).cells
    store = open_store("a.db", create=True)
    complete(store, one.runs[0], seconds=30, by=here)
    complete(store, two.runs[0], seconds=60, by=here)
    store.end(begun(store, one.runs[1]), Ending(State.FAILED))
    begun(store, two.runs[1])
    store.close()


def parsed(answer):
    code, out, err = answer
    assert code == 0
    assert err == "" or "does not exist; name another store" in err
    return json.loads(out)


def counts(total, stored, active, failed, to_submit):
    numbers = {"total": total, "stored": stored, "active": active, "failed": failed, "to_submit": to_submit}
    return numbers | {"blocked": 0}


def test_plan_and_dry_run_as_json(sweep, filled) -> None:
    said = parsed(sweep("plan", "s.yaml", "--db", "a.db", "--json"))
    assert parsed(sweep("launch", "s.yaml", "--db", "a.db", "--json", "--dry-run")) == said
    one, two = said.pop("cells")
    assert said == {
        "name": "s",
        **counts(5, 2, 1, 1, 1),
        "why_blocked": [],
        "expected_seconds": 60.0,
        "finished_in_seconds": 60.0,
        "at_most_steps": 0,
        "calibrated": 0,
        "hours": 60 / 3600,
        "unit": "core-hours",
        "device": cpu_name(),
        "workers": 1,
        "packs": [{"packs": 1, "runs": 1, "at_once": 1, "ways": ""}],
    }
    assert one.pop("states") == {"COMPLETED": 1, "FAILED": 1}
    assert two.pop("states").items() >= {"COMPLETED": 1, "RUNNING": 1}.items()
    assert one == {"gol": 1, "wanted": 2, **counts(2, 1, 0, 1, 0), "expected_seconds": 0.0}
    assert two == {"gol": 2, "wanted": 3, **counts(3, 1, 1, 0, 1), "expected_seconds": 60.0}


def test_plan_and_dry_run_for_a_person(sweep, filled) -> None:
    code, out, _ = sweep("plan", "s.yaml", "--db", "a.db")
    assert sweep("launch", "--dry-run", "s.yaml", "--db", "a.db") == (code, out, "")
    head, _, *rows, total, time = out.strip().splitlines()
    assert code == 0
    assert total == "s: 5 runs = 2 stored + 1 active + 1 failed + 1 to submit"
    assert time == "s: finished in about 1:00 min on 1 worker"
    assert head.split() == ["gol", "wanted", "total", "stored", "active", "failed", "to_submit", "expected"]
    assert [line.split() for line in rows] == [
        ["1", "2", "2", "1", "0", "1", "0", "0", "s"],
        ["2", "3", "3", "1", "1", "0", "1", "1:00", "min"],
    ]


@pytest.mark.parametrize(
    ("arguments", "total", "failed", "to_submit", "seconds"),
    [
        # A retry takes the failed run, too: 30 s by the other run of its cell.
        (["plan", "--retry-failed"], 5, 0, 2, 90.0),
        (["launch", "--dry-run", "--retry-failed"], 5, 0, 2, 90.0),
        # Of the first three, in turn of the cells, one of each is complete, and one of the first cell has failed.
        (["launch", "--dry-run", "-n", "3"], 3, 1, 0, 0.0),
    ],
)
def test_a_plan_of_other_runs(sweep, filled, arguments, total, failed, to_submit, seconds) -> None:
    said = parsed(sweep(*arguments, "s.yaml", "--db", "a.db", "--json"))
    assert (said["total"], said["stored"], said["failed"], said["to_submit"]) == (total, 2, failed, to_submit)
    assert said["expected_seconds"] == seconds


@pytest.mark.parametrize(
    ("arguments", "where", "total"),
    [
        (["plan", "s.yaml"], "gol=2", 3),
        (["plan", "s.yaml"], "gol=2 and seed<2", 2),
        (["plan", "s.yaml"], "gol in (1, 2) and not seed = 0", 3),
        (["plan", "s.yaml", "-n", "3"], None, 3),
        (["plan", "s.yaml", "-n", "2"], "gol=2", 2),
        (["launch", "s.yaml", "--dry-run"], "gol=2", 3),
        (["plan", "s.yaml", "batch=8,4"], "gol=1 and batch=4", 2),
    ],
)
def test_a_filter_chooses_runs_by_config_keys(sweep, filled, arguments, where, total) -> None:
    chosen = [] if where is None else ["--where", where]
    assert parsed(sweep(*arguments, *chosen, "--db", "a.db", "--json"))["total"] == total


def test_a_dry_run_without_slurm_says_what_it_cannot_know(sweep, filled, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(Path.cwd()))
    dry = ("s.yaml", "launcher=slurm", "launcher.partition=gpu", "--db", "a.db", "--dry-run")
    for command in ("launch", "top-up", "retry"):
        out = sweep(command, *dry)[1]
        assert ", partition gpu, time limit 1:00 h" in out
        assert "arrays and script are unknown: launcher: no sbatch on PATH" in out
    said = parsed(sweep("launch", *dry, "--json"))["slurm"]
    assert (said["packs"], said["arrays"], said["script"]) == (1, [], "")


def test_a_filter_of_one_run_of_status_and_of_watch(sweep, filled) -> None:
    with closing(open_store("a.db", create=True)) as store:
        spec = load("s.yaml")
        store.stage(expand(spec).runs, sweep=NewSweep("s", spec.composed))
    one = expand(load("s.yaml")).runs[0].run_id
    for spec in ([], ["s.yaml"]):
        for command in (["status"], ["watch", "--once"]):
            shown = json.loads(sweep(*command, *spec, "--where", "gol=2", "--db", "a.db", "--json")[1])
            cells = shown if command == ["status"] else shown["cells"]
            assert [(cell["gol"], sum(cell["states"].values())) for cell in cells] == [(2, 3)]
    (row,) = parsed(sweep("status", "s.yaml", "--where", f"run_id={one[:8]}", "--db", "a.db", "--json"))
    assert row["states"] == {"COMPLETED": 1}


@pytest.mark.slow
def test_one_row_of_a_spec_is_launched_and_the_rest_later(sweep, folder) -> None:
    write_spec(folder, name="row", runs=1, cells="[{gol: 1}, {gol: 2}]")
    (folder / "s.yaml").write_text("include: [row.yaml]\n")
    one = parsed_result(sweep("launch", "s.yaml", "--where", "gol=2", "--db", "a.db", "--json"))
    with closing(open_store("a.db", create=False)) as store:
        assert list(store.runs()["gol"]) == [2]
        assert store.members(["row"], overridden=[]) == set(one["trained"])
    rest = parsed_result(sweep("launch", "s.yaml", "--db", "a.db", "--json"))
    assert (len(one["trained"]), len(rest["trained"]), rest["stored"]) == (1, 1, 2)
    assert (
        sweep("coverage", "s.yaml", "--db", "a.db", "--json")[2] == ""
    )  # the spec is the same in both launches


def parsed_result(answer):
    assert answer[0] == 0
    return json.loads(answer[1])


@pytest.mark.parametrize("command", [["plan"], ["launch"], ["launch", "--dry-run"], ["status"], ["watch"]])
@pytest.mark.parametrize(
    ("where", "says"), [("gol=9", "no run matches"), ("gool=2", "'gol'"), ("gol=", "cannot read|too early")]
)
def test_a_filter_that_matches_nothing_is_refused(sweep, bad, command, where, says) -> None:
    (line,) = refused(sweep, bad, *command, "ok.yaml", "--where", where, "--db", "x.db")
    assert re.search(says, line)


def test_a_launched_sweep_is_planned_and_topped_up_by_its_name(sweep, filled) -> None:
    with closing(open_store("a.db", create=True)) as store:
        spec = load("s.yaml")
        store.stage([], sweep=NewSweep("s", spec.composed))
    by_file = [sweep(command, "s.yaml", "--db", "a.db", *dry) for command, *dry in BY_NAME]
    Path("s.yaml").rename("elsewhere.yaml")
    assert [sweep(command, "s", "--db", "a.db", *dry) for command, *dry in BY_NAME] == by_file
    assert [code for code, *_ in by_file] == [0] * len(BY_NAME)


BY_NAME = [("plan",), ("launch", "--dry-run"), ("top-up", "--dry-run"), ("coverage",)]


def test_the_name_of_a_file_without_its_ending_is_a_hint(sweep, filled) -> None:
    (line,) = refused(sweep, Path(), "plan", "s")
    assert "no spec s (did you mean the file s.yaml?)" in line


def test_the_time_by_past_runs_is_a_lower_bound_where_some_cells_have_none(sweep, filled) -> None:
    """Two cells with a batch of 4 have no past runs; of the others one run is left, 60 s on two cores or GPUs.

    Runs of this machine say nothing about the jobs; a job without GPUs says nothing about one with them.
    """
    slurm = ("plan", "s.yaml", "--db", "a.db", "launcher=slurm")
    more = (*slurm, "batch=8,4")
    assert "s: at most 240 steps; core-hours are unknown until the first run ends" in sweep(*more)[1]
    with closing(open_store("a.db", create=False)) as store:
        trained_by_job(store, small(gol=2, seed=50), seconds=60, device="a CPU")
    out = sweep(*more, "launcher.cpus_per_task=2")[1]
    assert "s: at least 2:00 min of core time by past runs on a CPU (unknown for 5 of 6 runs)" in out
    said = parsed(sweep(*more, "--json"))
    assert (said["expected_seconds"], said["hours"], said["unit"]) == (None, None, "core-hours")
    whole = parsed(sweep(*slurm, "launcher.gpus_per_node=2", "--json"))
    assert (whole["hours"], whole["unit"], whole["at_most_steps"]) == (None, "GPU-hours", 40)
    with closing(open_store("a.db", create=False)) as store:
        trained_by_job(store, small(gol=2, seed=51), seconds=90, device="a GPU", gpus=1)
    whole = parsed(sweep(*slurm, "launcher.gpus_per_node=2", "--json"))
    assert (whole["hours"], whole["unit"], whole["device"]) == (90 * 2 / 3600, "GPU-hours", "a GPU")


def test_on_finish_is_refused_where_the_launch_ends_before_its_jobs(sweep, filled) -> None:
    code, out, err = sweep("launch", "s.yaml", "--db", "b.db", "launcher=slurm", "--on-finish", "touch told")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "imagine-sweep watch" in err
    assert not Path("told").exists()
    assert not Path("b.db").exists()


def test_status(sweep, filled) -> None:
    code, out, err = sweep("status", "s.yaml", "--db", "a.db", "--json")
    none = dict.fromkeys(("stored", "running", "waiting", "failed", "interrupted", "blocked", "new"), 0)
    assert code == 0
    assert json.loads(out) == [
        {
            "sweep": "s",
            "gol": 1,
            "states": {"COMPLETED": 1, "FAILED": 1},
            "counts": none | {"stored": 1, "failed": 1},
        },
        {
            "sweep": "s",
            "gol": 2,
            "states": {"COMPLETED": 1, "RUNNING": 1, "NEW": 1},
            "counts": none | {"stored": 1, "running": 1, "new": 1},
        },
    ]
    assert "running: last heard of" in err
    code, out, _ = sweep("status", "s.yaml", "--db", "a.db")
    head, _, *rows = out.splitlines()[:4]
    assert code == 0
    assert head.split() == ["gol", "stored", "running", "failed", "new"]
    assert [line.split() for line in rows] == [["1", "1", "0", "1", "0"], ["2", "1", "1", "0", "1"]]


def test_new_runs_are_new_whether_the_store_knows_them_or_not(sweep, filled) -> None:
    """One run is new and not in the store; staging makes it known, and changes nothing that a person reads."""

    def status() -> str:
        out = sweep("status", "s.yaml", "--db", "a.db")[1]
        return re.sub(r"\d+ s ago", "AGE", out)  # the running run grows older between two looks

    before = status()
    with closing(open_store("a.db", create=True)) as store:
        store.stage(expand(load("s.yaml")).runs)
    assert status() == before


def test_status_without_a_spec_shows_the_launched_sweeps(sweep, filled) -> None:
    code, out, err = sweep("status", "--db", "none.db")
    assert (code, out) == (2, "")
    assert "none.db does not exist; " in err
    assert not Path("none.db").exists()
    assert sweep("status", "--db", "a.db")[1].startswith("this store has no launched sweep; ")
    with closing(open_store("a.db", create=True)) as store:
        runs = expand(load("s.yaml")).runs
        store.stage(runs, sweep=NewSweep("mine", ""))
    # The fixture completed two runs, failed one and has one running; the one that was new is staged by now.
    (row,) = json.loads(sweep("status", "--db", "a.db", "--json")[1])
    assert (row["sweep"], row["states"]) == (
        "mine",
        {"COMPLETED": 2, "FAILED": 1, "RUNNING": 1, "STAGED": len(runs) - 4},
    )


def test_status_says_how_old_its_knowledge_is_and_what_is_held(sweep, filled) -> None:
    """A job was submitted three hours ago and its launch is held; nothing was heard of it since."""
    run, other = expand(load(write_spec(Path(), name="t", runs=2, batch=4))).runs
    with closing(open_store("a.db", create=True)) as store:
        store.stage([run, other])
        store.claim([run.run_id], job_name="t-1", launcher="slurm")
        hold(store, "t-1")
    with closing(sqlite3.connect("a.db")) as connection, connection:
        earlier = "datetime(intended_at, '-3 hours') || '.000000'"
        connection.execute(f"UPDATE attempt SET intended_at = {earlier} WHERE state = 'PENDING'")
    for spec in ([], ["t.yaml"]):
        lines = sweep("status", *spec, "--db", "a.db")[1].splitlines()
        assert "waiting: submitted up to 3:00 h ago" in lines
        assert any(line.startswith("t-1 is held") for line in lines)
        assert "imagine-sweep reconcile finds out what became of them" in lines
    assert ("running:" in "".join(lines), "held" in sweep("status", "s.yaml", "--db", "a.db")[1]) == (
        False,
        False,
    )


def test_status_counts_the_runs_of_top_ups(sweep, filled) -> None:
    with closing(open_store("a.db", create=True)) as store:
        for seed in (3, 4, 5, 7):  # the spec's own are 0, 1 and 2; 6 is a gap
            complete(store, small(gol=2, seed=seed))
    rows = json.loads(sweep("status", "s.yaml", "--db", "a.db", "--json")[1])
    assert [row["counts"]["stored"] for row in rows] == [1, 4]


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
    head, _, *rows, total, time = out.strip().splitlines()
    assert code == 0
    assert head.split()[:4] == ["gol", "model_t", "ae", "rnn"]
    assert "experiment" in head
    assert len(rows) == 18
    assert all("life_count" in row for row in rows[-7:])
    assert total.startswith("paper: ")
    assert time.endswith(" steps; the time is unknown until the first run ends")


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


# Everything that a spec or an override can be refused for is in test_spec, test_expand_mistakes and test_overrides.
BAD = {
    "unknown key": (["key.yaml"], ["key.yaml:3:", "'chanels'", "'channels'"]),
    "YAML syntax": (["syntax.yaml"], ["syntax.yaml:", "YAML syntax"]),
    "values that contradict each other": (["kernel.yaml"], ["kernel.yaml:2:", "kernel: 4 is even"]),
    "a missing file": (["gone.yaml"], ["gone.yaml", "imagine-sweep list"]),
    "a folder": (["."], ["folder"]),
    "no spec": ([], ["SPEC"]),
    "unknown override": (["ok.yaml", "chanels=8"], ["chanels=8", "'channels'"]),
    "no override": (["ok.yaml", "channels"], ["'channels'", "KEY=VALUE"]),
    "no database": (["ok.yaml", "--db", "nonsense"], ["--db: 'nonsense'", ".db"]),
    "an unknown database": (["ok.yaml", "--db", "mysql://host/name"], ["'mysql'", "sqlite, postgresql"]),
    "not a database": (["ok.yaml", "--db", "text.db"], ["text.db", "not a SQLite database"]),
    "another's database": (["ok.yaml", "--db", "others.db"], ["others.db", "another program", "stamps"]),
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
    "more slots than runs": (["ok.yaml", "--pack-size", "2", "--slots", "3"], ["--slots", "--pack-size"]),
    "packs of one run to pad": (["ok.yaml", "--pack-size", "1", "--pad"], ["--pad", "--pack-size"]),
    "no size": (["ok.yaml", "--pack-size", "big"], ["--pack-size", "big"]),
}
CASES = [
    *([command, *BAD[what]] for what in BAD for command in ("plan", "launch", "status") if what != "no spec"),
    *([command, *BAD["no spec"]] for command in ("plan", "launch")),
    *(["launch", *case] for case in BAD_LAUNCHES.values()),
    ["lanch", ["quick"], ["'lanch'", "'launch'", "list"]],
]


@pytest.fixture
def bad(folder) -> Path:
    """A folder with a good spec, wrong ones, and databases that are not stores of this version."""
    # Should a launch begin after all, it ends at once.
    write_spec(folder, name="ok", batch=HOPELESS)
    for name, text in (
        ("key", "base:\n  chanels: 20"),
        ("syntax", "base: {gol: 1"),
        ("kernel", "base: {kernel: 4}"),
    ):
        (folder / f"{name}.yaml").write_text(f"experiment: life_state\n{text}\n")
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


def refused(sweep, folder, *arguments) -> list[str]:
    """The lines with which a command refuses its input; it writes nothing."""
    before = tree(folder)
    code, out, err = sweep(*arguments)
    assert (code, out) == (2, "")
    assert {name for name in tree(folder) if not name.endswith(("-wal", "-shm"))} == before
    lines = err.splitlines()
    assert all(line.startswith("imagine-sweep") and "error: " in line for line in lines)
    return lines


@pytest.mark.parametrize(("command", "arguments", "says"), CASES, ids=lambda case: " ".join(case)[:40])
def test_bad_input_is_one_line_and_writes_nothing(sweep, bad, command, arguments, says) -> None:
    (line,) = refused(sweep, bad, command, *arguments)
    for text in says:
        assert text in line


def test_a_database_of_the_environment_is_checked_as_well(sweep, bad, monkeypatch) -> None:
    monkeypatch.setenv("IMAGINE_DB", "nonsense")
    (line,) = refused(sweep, bad, "launch", "ok.yaml")
    assert "IMAGINE_DB: 'nonsense'" in line


def test_every_cell_that_contradicts_itself_has_its_line_with_what_to_do(sweep, folder) -> None:
    write_spec(folder, cells="[{gan: posthoc, model_t: 1}, {gol: 1}, {kernel: 4}, {max_steps: 7}]")
    lines = refused(sweep, folder, "launch", "s.yaml", "--db", "x.db")
    # The small spec has intervals of 10 and 5 steps.
    said = [
        "gan='posthoc', model_t=1: gan: 'posthoc' with model_t 1 has no",
        "kernel=4: kernel: 4 is even",
        "max_steps=7: eval_every: 10 is longer than the whole run, max_steps 7; set eval_every to at most 7, or",
    ]
    for line, text in zip(lines, said, strict=True):
        assert line.startswith(f"imagine-sweep: error: s.yaml:4: cell {text}")


def test_an_override_that_makes_cells_senseless_is_named_with_what_to_add(sweep, folder) -> None:
    for line, cell in zip(
        refused(sweep, folder, "launch", "quick", "max_steps=10"),
        ("gol=2, model_t=2", "gol=3, model_t=3"),
        strict=True,
    ):
        assert line.startswith(f"imagine-sweep: error: override 'max_steps=10': cell {cell}: eval_every: ")
        assert "; set eval_every and trace_every to at most 10, or max_steps to at least " in line
    assert sweep("plan", "quick", "max_steps=10", "eval_every=10", "trace_every=10", "--db", "x.db")[0] == 0


def test_help_and_version(sweep) -> None:
    for arguments in (["--help"], ["plan", "--help"], ["launch", "--help"], ["--version"]):
        code, out, err = sweep(*arguments)
        assert (code, err) == (0, "")
        assert out
        assert arguments == ["--version"] or "EXPERIMENT.KEY=VALUE" in out
