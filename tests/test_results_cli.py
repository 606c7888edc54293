"""`imagine-results` from the outside: its output, its JSON, its refusals, and what it does not import."""

import csv
import io
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import call, cells, imported_by, output
from compare_helpers import WHO, complete
from store_helpers import start

from imagination import registry
from imagination.life.declaration import STATE
from results_db.contract import Ending, Experiment, NewSweep, PlannedRun, RunRecord, State
from results_db.query.aggregate import means, measures
from results_db.store.schema import REVISIONS
from results_db.store.sql import SqlStore, open_store
from results_db.views import tables

pytestmark = pytest.mark.usefixtures("in_tmp_path")

Capsys = pytest.CaptureFixture[str]


MEASURES = measures(means({"life_state": Experiment(**registry.declaration("life_state").stored())}))


def run_id(number: int) -> str:
    return f"{number:02x}" * 32


def add(store: SqlStore, number: int, *, accuracy: float | None = 1.0, **config: Any) -> None:
    """A COMPLETED run whose metric is a tenth of its number; a RUNNING one if it has no accuracy."""
    keys = {"experiment": "life_state", "gol": 3, "model_t": 3, "ae": True, "rnn": True, "seed": number}
    store.stage([PlannedRun(run_id(number), {**keys, **config})], sweep=NewSweep("quick", "name: quick"))
    if accuracy is None:
        start(store, run_id(number), WHO)
        return
    metrics = {"metric": number / 10, "metric_adv": None, "train_accuracy": accuracy, "steps": 500.0}
    traces = {"decoded_1": ([0, 50], [0.5, 0.75])}
    complete(store, RunRecord(run_id(number), "reached", 2.5, metrics, traces, {"boards": b"npz"}))


@pytest.fixture
def filled() -> SqlStore:
    """Three kept runs of gol 3 (metrics .1, .2, .3), one below the gate, one of gol 2, one RUNNING."""
    store = open_store(None, create=True)
    for number in (1, 2, 3):
        add(store, number)
    add(store, 4, accuracy=0.9)
    add(store, 5, gol=2, ae=False)
    add(store, 6, accuracy=None, gol=2)
    return store


# --- table


def test_table_as_json(capsys: Capsys, filled: SqlStore) -> None:
    rows = json.loads(output(capsys, "table", "--group", "gol,ae", "--json"))
    # .1, .2, .3: mean .2, s = .1, half width 4.302653 * .1 / sqrt(3) = .2484138
    bounds = {
        "metric_low": pytest.approx(-0.0484138, abs=1e-6),
        "metric_high": pytest.approx(0.4484138, abs=1e-6),
    }
    nothing = dict.fromkeys(MEASURES)
    # Wilson with z = 1.959964: 1 of 1: 1 / (1 + z^2) = .206549; 3 of 4: (.75 + z^2 / 8 -+ z sqrt(.75 * .25 / 4 +
    # z^2 / 64)) / (1 + z^2 / 4) = .300642 and .954413.
    one = {"pass_rate": 1.0, "pass_rate_low": pytest.approx(0.206549, abs=1e-6), "pass_rate_high": 1.0}
    three = {
        "pass_rate": 0.75,
        "pass_rate_low": pytest.approx(0.300642, abs=1e-6),
        "pass_rate_high": pytest.approx(0.954413, abs=1e-6),
    }
    code = {"varies": [], "code": ["0123abc+changes"]}
    assert rows == [
        {**nothing, "gol": 2, "ae": False, "kept": 1, "run": 1, **one, "metric": 0.5, **code},
        {
            **nothing,
            "gol": 3,
            "ae": True,
            "kept": 3,
            "run": 4,
            "metric": pytest.approx(0.2),
            **three,
            **bounds,
            **code,
        },
    ]
    assert rows[0]["ae"] is False
    assert list(rows[0]) == ["gol", "ae", *MEASURES, "varies", "code"]


def test_table_for_people(capsys: Capsys, filled: SqlStore) -> None:
    expected = [
        ["gol", "ae", "kept/run", "pass rate", "metric"],
        ["2", "false", "1/1", "100% [21, 100]", "0.50"],
        ["3", "true", "3/4", "75% [30, 95]", "0.20 [-0.05, 0.45]"],
    ]
    said = "in every row: model_t 3; rnn true"
    head, _, *rows, empty, last = output(capsys, "table", "--format", "markdown").splitlines()
    assert [cells(line) for line in (head, *rows)] == expected
    assert (empty, last) == ("", said)
    head, _, *rows, last = output(capsys, "table").splitlines()
    assert last == said
    assert [" ".join(line.split()) for line in (head, *rows)] == [" ".join(row) for row in expected]
    read = list(csv.DictReader(io.StringIO(output(capsys, "table", "--group", "gol", "--format", "csv"))))
    assert [(row["gol"], row["kept"], row["run"]) for row in read] == [("2", "1", "1"), ("3", "3", "4")]


def test_experiments_are_never_mixed(capsys: Capsys, filled: SqlStore) -> None:
    def columns(*args: str) -> list[str]:
        return list(json.loads(output(capsys, "table", *args, "--json"))[0])

    add(filled, 7, experiment="life_count", ae=None, rnn=None)
    rows = json.loads(output(capsys, "table", "--group", "gol,model_t", "--json"))
    assert [(row["experiment"], row["gol"], row["run"]) for row in rows] == [
        ("life_count", 3, 1),
        ("life_state", 2, 1),
        ("life_state", 3, 4),
    ]
    assert columns("--group", "gol,model_t")[:3] == ["experiment", "gol", "model_t"]
    # The column is left out for one experiment, and keeps the place where the user names it.
    assert "experiment" not in columns("--group", "gol", "--where", "experiment=life_state")
    assert columns("--group", "gol,experiment")[:2] == ["gol", "experiment"]


def test_where_and_gate(capsys: Capsys, filled: SqlStore) -> None:
    args = [
        "table",
        "--group",
        "gol",
        "--json",
        "--where",
        "ae=true and seed<=4",
        "--gate",
        "train_accuracy>=.9",
    ]
    (row,) = json.loads(output(capsys, *args))
    assert (row["kept"], row["run"], row["metric"]) == (4, 4, pytest.approx(0.25))


def test_a_table_says_which_keys_vary_inside_a_row_and_which_gate_kept_nothing(
    capsys: Capsys, filled: SqlStore
) -> None:
    assert len(output(capsys, "table").splitlines()) == 5  # the table alone
    add(filled, 7, channels=8, max_steps=600)
    add(filled, 8, gol=4, channels=8, accuracy=0.9)
    *_, gate, varies = output(capsys, "table").splitlines()
    assert gate == (
        "no run of 1 row passed the gate (train_accuracy >= 0.99 for life_state); --gate sets another"
    )
    assert varies == "varies: channels, max_steps (--group or --where keeps such runs apart)"
    assert "varies: max_steps (" not in output(capsys, "table", "--group", "gol,channels")
    rows = json.loads(output(capsys, "table", "--group", "gol", "--json"))
    assert [row["varies"] for row in rows] == [[], ["channels", "max_steps"], []]
    given = output(capsys, "table", "--where", "gol=4", "--gate", "train_accuracy>=.95").splitlines()[-1]
    assert "passed the gate (train_accuracy>=.95)" in given


def test_the_runs_behind_a_table(capsys: Capsys, filled: SqlStore) -> None:
    rows = json.loads(output(capsys, "table", "--group", "gol", "--runs", "--json"))
    assert [len(row["runs"]) for row in rows] == [row["run"] for row in rows] == [1, 4]
    behind = rows[1]["runs"][3]
    assert (behind["run_id"], behind["kept"], behind["code"], behind["host"]) == (
        run_id(4),
        False,
        "0123abc+changes",
        "node1",
    )
    said = output(capsys, "table", "--group", "gol", "--runs")
    assert [line.split()[1] for line in said.splitlines() if line.split()[:1] == ["3"]] == [
        "3/4",
        *(f"{run_id(number):.10}" for number in (1, 2, 3, 4)),
    ]
    read = list(csv.DictReader(io.StringIO(output(capsys, "table", "--runs", "--format", "csv"))))
    assert [row["kept"] for row in read] == ["true", "true", "true", "true", "false"]


def test_a_row_that_mixes_code_versions_says_so(capsys: Capsys, filled: SqlStore) -> None:
    config = {**filled.run(run_id(1))["config"], "seed": 7}
    filled.stage([PlannedRun(run_id(7), config)])
    attempt = start(filled, run_id(7), replace(WHO, git_commit="89abcdef0123", git_dirty=False))
    metrics = {"metric": 0.5, "train_accuracy": 1.0}
    assert filled.finish(attempt, RunRecord(run_id(7), "reached", 1.0, metrics))
    *_, last = output(capsys, "table").splitlines()
    assert last == "1 row mixes runs of different code: 0123abc+changes, 89abcdef01 (see --runs)"
    apart = output(capsys, "table", "--group", "gol,code")
    assert "mix" not in apart
    assert "89abcdef01" in apart


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--metrics", "golf"), "--metrics: unknown column 'golf'"),
        (("--metrics", "gol"), "--metrics: unknown column 'gol'"),
        (("--interval", "bca"), "'bca' is not one of 't', 'bootstrap'"),
        (("--format", "tex"), "'tex' is not one of 'rich', 'markdown', 'latex', 'csv'"),
    ],
)
def test_bad_input_of_table(capsys: Capsys, filled: SqlStore, args: tuple[str, ...], says: str) -> None:
    code, out, err = call(capsys, "table", *args)
    assert (code, out, err.count("\n"), says in err) == (2, "", 1, True), err


# --- runs


def test_runs(capsys: Capsys, filled: SqlStore) -> None:
    rows = json.loads(output(capsys, "runs", "--json"))
    assert [row["seed"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["run_id"] == run_id(1)
    assert (rows[0]["state"], rows[0]["metric"], rows[0]["metric_adv"]) == ("COMPLETED", 0.1, None)
    assert (rows[5]["state"], rows[5]["outcome"], rows[5]["metric"]) == ("RUNNING", None, None)


def test_runs_of_a_sweep(capsys: Capsys, filled: SqlStore) -> None:
    """Runs 1 and 2 are of a second sweep, too; run 7 is of none."""
    runs = [PlannedRun(run_id(number), {}) for number in (1, 2)]
    filled.stage(runs, sweep=NewSweep("table1", ""))
    filled.stage([PlannedRun(run_id(7), {"seed": 7})])
    rows = json.loads(output(capsys, "runs", "--json"))
    assert [row["sweep"] for row in rows] == ["quick, table1"] * 2 + ["quick"] * 4 + [None]
    for args in (["--sweep", "table1"], ["--where", "sweep=table1"]):
        assert [row["seed"] for row in json.loads(output(capsys, "runs", "--json", *args))] == [1, 2]
    others = json.loads(output(capsys, "runs", "--json", "--where", "sweep!=table1"))
    assert [row["seed"] for row in others] == [3, 4, 5, 6]
    (row,) = json.loads(output(capsys, "table", "--group", "gol", "--sweep", "table1", "--json"))
    assert (row["gol"], row["run"]) == (3, 2)


@pytest.mark.parametrize(
    ("sort", "seeds"),
    [
        ("-metric", [5, 4, 3, 2, 1, 6]),  # the running one has none
        ("metric", [1, 2, 3, 4, 5, 6]),
        ("state,-seed", [5, 4, 3, 2, 1, 6]),
        ("gol, -seed", [6, 5, 4, 3, 2, 1]),
        ("-ae,seed", [1, 2, 3, 4, 6, 5]),
    ],
)
def test_runs_are_sorted(capsys: Capsys, filled: SqlStore, sort: str, seeds: list[int]) -> None:
    rows = json.loads(output(capsys, "runs", "--json", "--sort", sort))
    assert [row["seed"] for row in rows] == seeds
    (first,) = json.loads(output(capsys, "runs", "--json", "--sort", sort, "-n", "1"))
    assert first["seed"] == seeds[0]


def test_runs_have_the_causes_of_failures(capsys: Capsys, filled: SqlStore) -> None:
    assert "cause" not in output(capsys, "runs")
    filled.end(
        filled.open_attempts()[0].attempt, Ending(State.FAILED, error="Traceback\n  x\nOSError: no disk")
    )
    rows = json.loads(output(capsys, "runs", "--json", "--sort", "cause"))
    assert [row["cause"] for row in rows] == ["OSError: no disk", *[None] * 5]
    assert output(capsys, "runs", "--state", "failed").splitlines()[-1].endswith("OSError: no disk")


@pytest.mark.parametrize(
    ("args", "seeds"),
    [
        (["--state", "running"], [6]),
        (["--state", "running", "--state", "COMPLETED", "-n", "2"], [1, 2]),
        (["--state", "FAILED"], []),
        (["--where", "metric>=0.3"], [3, 4, 5]),
        (["--where", "train_accuracy = null"], [6]),
        (["--where", f"run_id={run_id(2)[:10]}"], [2]),  # as listed
    ],
)
def test_runs_can_be_chosen(capsys: Capsys, filled: SqlStore, args: list[str], seeds: list[int]) -> None:
    assert [row["seed"] for row in json.loads(output(capsys, "runs", "--json", *args))] == seeds


def test_runs_for_people_show_what_differs(capsys: Capsys, filled: SqlStore) -> None:
    head, _, first, *others = [" ".join(line.split()) for line in output(capsys, "runs").splitlines()]
    assert (
        head == "run_id sweep state outcome attempts seconds gol model_t ae seed train_accuracy metric steps"
    )
    assert first == f"{run_id(1)[:10]} quick COMPLETED reached 1 2.5 3 3 true 1 1 0.1 500"
    assert len(others) == 5
    printed = {output(capsys, "runs", "--format", style) for style in tables.FORMATS}
    assert len(printed) == len(tables.FORMATS)


# --- show


def test_show_as_json(capsys: Capsys, filled: SqlStore) -> None:
    weights = filled.folder / "weights" / f"{run_id(1)}.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    shown = json.loads(output(capsys, "show", run_id(1)[:4], "--json"))
    assert shown["run_id"] == run_id(1)
    assert (shown["state"], shown["outcome"], shown["seconds"]) == ("COMPLETED", "reached", 2.5)
    assert list(shown["config"])[:3] == ["experiment", "gol", "model_t"]
    metrics = [("metric", 0.1), ("metric_adv", None), ("train_accuracy", 1.0), ("steps", 500.0)]
    assert list(shown["metrics"].items()) == metrics
    assert list(shown["meanings"]) == [name for name, _ in metrics]
    assert shown["meanings"]["steps"] == STATE.metrics["steps"]
    assert shown["attempts"][0]["versions"] == {"torch": "2.6"}
    assert shown["traces"] == {"decoded_1": {"points": 2, "step": 50, "value": 0.75}}
    assert (shown["samples"], shown["sweeps"], shown["files"]) == (["boards"], ["quick"], [str(weights)])
    assert f"\n  outputs/imagine.files/weights/{weights.name}\n" in output(capsys, "show", run_id(1)[:4])


def test_show_for_people(capsys: Capsys, filled: SqlStore) -> None:
    lines = {" ".join(line.split()) for line in output(capsys, "show", run_id(1)[:4]).splitlines()}
    assert lines >= {f"run_id {run_id(1)}", "gol 3", "metric 0.1", "attempt 1", "git_commit 0123abc", "quick"}
    assert lines >= {
        "versions torch 2.6",
        "decoded_1 0.75 at step 50 (2 points)",
        f"steps: {STATE.metrics['steps']}",
    }


def test_show_of_a_failed_run_has_its_error(capsys: Capsys, filled: SqlStore) -> None:
    attempt = filled.open_attempts()[0].attempt
    filled.end(attempt, Ending(State.OUT_OF_MEMORY, error="CUDA out of memory", exit_code=137))
    out = output(capsys, "show", run_id(6))
    assert "CUDA out of memory" in out
    assert "OUT_OF_MEMORY" in out


# --- the store


@pytest.mark.parametrize("state", [State.CANCELLED, State.OUT_OF_MEMORY])
def test_show_of_a_run_with_an_attempt_that_never_began(
    capsys: Capsys, filled: SqlStore, state: State
) -> None:
    filled.stage([PlannedRun(run_id(7), {"seed": 7})])
    (attempt,) = filled.claim([run_id(7)], job_name="job", launcher="slurm")
    filled.end(attempt, Ending(state))
    (shown,) = json.loads(output(capsys, "show", "07", "--json"))["attempts"]
    assert (shown["state"], shown["started_at"], shown["seconds"]) == (state, None, None)
    assert "seconds" not in output(capsys, "show", "07").partition("attempt 1")[2]
    # Also once a later attempt has completed the run.
    (again,) = filled.claim([run_id(7)], job_name="again", launcher="slurm", retry_failed=True)
    assert filled.begin(again, WHO)
    assert filled.finish(again, RunRecord(run_id(7), "reached", 1.0, {"metric": 0.5}))
    states = [one["state"] for one in json.loads(output(capsys, "show", "07", "--json"))["attempts"]]
    assert states == [state, "COMPLETED"]
    first, second = output(capsys, "show", "07").partition("attempt 1")[2].split("attempt 2")
    assert ("seconds" in first, "seconds" in second) == (False, True)


def missing(store: str) -> str:
    """What a command says that reads a store that does not exist."""
    return (
        f"{store} does not exist; name another store with --db, or create it with: imagine-sweep launch SPEC"
    )


def test_a_store_that_does_not_exist(capsys: Capsys, tmp_path: Path) -> None:
    assert output(capsys, "table", says=missing("outputs/imagine.db")) == ""
    args = ["runs", "--sweep", "quick", "--json"]
    assert json.loads(output(capsys, *args, says=missing("outputs/imagine.db"))) == []
    for command in (args, ["show", "ab"]):  # a store that was named must exist
        code, out, err = call(capsys, *command, "--db", "deep/er/x.db")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert missing("deep/er/x.db") in err
    assert list(tmp_path.iterdir()) == []


def test_why_an_answer_is_empty(capsys: Capsys, filled: SqlStore) -> None:
    said = "no run with --sweep quick --where 'gol=9' is stored in outputs/imagine.db; "
    assert output(capsys, "runs", "--sweep", "quick", "--where", "gol=9").startswith(said)
    said = "of 1 run with --where 'state=running', none is COMPLETED; see imagine-results runs\n"
    assert output(capsys, "table", "--where", "state=running") == said
    said = "passed the gate (train_accuracy >= 0.99 for life_state); --gate sets another\n"
    assert (
        output(capsys, "trace", "--where", "seed=4")
        == f"of 1 completed run with --where 'seed=4', none {said}"
    )
    said = "of 4 completed runs with --where 'gol=3', none that passed the gate has what trace shows"
    assert output(capsys, "trace", "--where", "gol=3", "--gate", "train_accuracy>=.5") == f"{said}\n"


def test_the_store_from_the_environment(
    capsys: Capsys, filled: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGINE_DB", filled.url)
    monkeypatch.chdir("/")
    assert len(json.loads(output(capsys, "runs", "--json"))) == 6
    # --db wins over it, on either side of the command
    none = f"{tmp_path}/none.db"
    for args in (["--db", none, "runs", "--json"], ["runs", "--json", "--db", none]):
        code, _, err = call(capsys, *args)
        assert (code, missing(none) in err) == (2, True)


def test_db_upgrade(capsys: Capsys, filled: SqlStore) -> None:
    filled.close()
    assert output(capsys, "db", "upgrade") == f"outputs/imagine.db is already at schema {REVISIONS[-1]}\n"


# --- refusals


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["table", "--group", "gol,golf"], "'golf' (did you mean 'gol'?); valid columns: run_id, "),
        (["table", "--group", ""], "unknown column ''"),
        (["table", "--where", "golf=3"], "unknown column 'golf'"),
        (["table", "--where", "gol=3; drop table run"], "cannot read ';' at position 6"),
        (["table", "--gate", "gol>"], "--gate 'gol>': it ends too early"),
        (["table", "--format", "html"], "is not one of"),
        (["runs", "--db", "results"], "neither a URL nor a path that ends in .db"),
        (["show", "ab"], "'ab'"),
        (["runs", "--sort", "metrik"], "--sort: unknown column 'metrik' (did you mean 'metric'?)"),
        (["tabel"], "did you mean 'table'"),
        (["db", "upgrade", "--db", "none.db"], "no store at none.db"),
    ],
)
@pytest.mark.parametrize("is_filled", [False, True])
def test_bad_input(
    capsys: Capsys,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    args: list[str],
    says: str,
    is_filled: bool,
) -> None:
    if is_filled:
        request.getfixturevalue("filled").close()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("imagine-results: error: ")
    assert says in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


# --- the program


def test_version(capsys: Capsys) -> None:
    assert output(capsys, "--version") == f"imagine-results, version {version('imagine-sweep')}\n"


@pytest.mark.slow
def test_nothing_imports_torch(filled: SqlStore) -> None:
    filled.close()
    for args in (["--help"], ["table", "--json"], ["table"], ["runs"], ["show", "01"]):
        modules = imported_by(*args)
        assert "results_db.cli.root" in modules
        assert not modules & {"torch", "imagination.training", "jobs"}, args


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    heavy = {"pandas", "numpy", "scipy", "sqlalchemy", "alembic", "lark", "rich", "matplotlib"}
    for command in ([], ["table"], ["trace"], ["figure", "strip"]):
        assert not imported_by(*command, "--help") & heavy
    assert "alembic" not in imported_by("table", "--json")
