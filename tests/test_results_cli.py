"""`imagine-results` from the outside: its output, its JSON, its refusals, and what it does not import."""

import csv
import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import call, output

from results_db.contract import NewSweep, PlannedRun, Provenance, RunRecord, Sample, State
from results_db.query.aggregate import MEASURES
from results_db.store.schema import REVISIONS
from results_db.store.sql import SqlStore, open_store
from results_db.views import tables

WHO = Provenance("local", "node1", "1:1", "cpu", "0123abc", True, {"torch": "2.6"})


def run_id(number: int) -> str:
    return f"{number:02x}" * 32


pytestmark = pytest.mark.usefixtures("in_tmp_path")


def add(store: SqlStore, number: int, *, accuracy: float | None = 1.0, **config: Any) -> None:
    """A COMPLETED run whose metric is its number over ten; RUNNING if it has no accuracy."""
    full = {
        "experiment": "life_state",
        "gol": 3,
        "model_t": 3,
        "ae": True,
        "rnn": True,
        "seed": number,
        **config,
    }
    store.stage([PlannedRun(run_id(number), full)], sweep=NewSweep("quick", "name: quick"))
    attempt = store.start(run_id(number), WHO)
    assert attempt is not None
    if accuracy is not None:
        metrics = {"metric": number / 10, "metric_adv": None, "train_accuracy": accuracy, "steps": 500.0}
        traces = {"decoded_1": ([0, 50], [0.5, 0.75])}
        record = RunRecord(run_id(number), "reached", 2.5, metrics, traces, {"boards": Sample(b"npz")})
        assert store.finish(attempt, record)


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


def test_table_as_json(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    rows = json.loads(output(capsys, "table", "--group", "gol,ae", "--json"))
    # .1, .2, .3: mean .2, s = .1, half width 4.302653 * .1 / sqrt(3) = .2484138
    no_correlation = dict.fromkeys(name for name in MEASURES if name.startswith("correlation"))
    assert rows == [
        {
            "gol": 2,
            "ae": False,
            "kept": 1,
            "run": 1,
            "metric": 0.5,
            "metric_low": None,
            "metric_high": None,
            "metric_plain": None,
            "metric_adv": None,
            **no_correlation,
        },
        {
            "gol": 3,
            "ae": True,
            "kept": 3,
            "run": 4,
            "metric": pytest.approx(0.2),
            "metric_low": pytest.approx(-0.0484138, abs=1e-6),
            "metric_high": pytest.approx(0.4484138, abs=1e-6),
            "metric_plain": None,
            "metric_adv": None,
            **no_correlation,
        },
    ]
    assert rows[0]["ae"] is False


def test_table_for_a_person(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    lines = [line.split() for line in output(capsys, "table").splitlines()]
    assert lines[0] == ["gol", "model_t", "ae", "rnn", "kept/run", "metric"]
    assert lines[2:] == [
        ["2", "3", "false", "true", "1/1", "0.50"],
        ["3", "3", "true", "true", "3/4", "0.20", "[-0.05,", "0.45]"],
    ]


def test_table_as_markdown_and_csv(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    markdown = output(capsys, "table", "--group", "gol", "--format", "markdown").splitlines()
    assert markdown[0] == "| gol | kept/run | metric |"
    assert markdown[3] == "| 3 | 3/4 | 0.20 [-0.05, 0.45] |"
    read = list(csv.DictReader(io.StringIO(output(capsys, "table", "--group", "gol", "--format", "csv"))))
    assert [(row["gol"], row["kept"], row["run"]) for row in read] == [("2", "1", "1"), ("3", "3", "4")]


def test_experiments_are_never_mixed(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    add(filled, 7, experiment="life_count", ae=None, rnn=None)
    rows = json.loads(output(capsys, "table", "--group", "gol,model_t", "--json"))
    assert [(row["experiment"], row["gol"], row["run"]) for row in rows] == [
        ("life_count", 3, 1),
        ("life_state", 2, 1),
        ("life_state", 3, 4),
    ]
    text = output(capsys, "table", "--group", "gol,model_t", "--format", "csv")
    assert text.startswith("experiment,gol,model_t,kept,run,")
    # Of one experiment the column would say nothing, and where a person names it its place is theirs.
    args = ["table", "--group", "gol", "--where", "experiment=life_state", "--json"]
    assert "experiment" not in json.loads(output(capsys, *args))[0]
    assert (
        list(json.loads(output(capsys, "table", "--group", "gol,experiment", "--json"))[0])[1] == "experiment"
    )


def test_where_and_min_accuracy(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    args = ["table", "--group", "gol", "--json", "--where", "ae=true and seed<=4", "--min-accuracy", "0.9"]
    (row,) = json.loads(output(capsys, *args))
    assert (row["kept"], row["run"], row["metric"]) == (4, 4, pytest.approx(0.25))


def test_an_empty_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert json.loads(output(capsys, "table", "--json")) == []
    assert json.loads(output(capsys, "runs", "--json", "--db", "deep/er/x.db")) == []
    said = output(capsys, "table")
    assert "no completed run is stored in outputs/imagine.db" in said
    assert "imagine-sweep launch" in said
    assert "no run that matches --where 'gol=3' is stored" in output(capsys, "runs", "--where", "gol=3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["table", "--group", "gol,golf"],
            "unknown column 'golf' (did you mean 'gol'?); valid columns: run_id, ",
        ),
        (["table", "--group", ""], "unknown column ''"),
        (["table", "--where", "golf=3"], "unknown column 'golf'"),
        (["table", "--where", "gol=3; drop table run"], "cannot read ';' at position 6"),
        (["table", "--min-accuracy", "2"], "2"),
        (["table", "--format", "html"], "is not one of"),
        (["runs", "--db", "results"], "neither a URL nor a path that ends in .db"),
        (["show", "ab"], "no run begins with 'ab'"),
        (["tabel"], "did you mean 'table'"),
    ],
)
@pytest.mark.parametrize("is_filled", [False, True])
def test_bad_input(
    capsys: pytest.CaptureFixture[str],
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
    assert says in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_runs(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    rows = json.loads(output(capsys, "runs", "--json"))
    assert [row["seed"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["run_id"] == run_id(1)
    assert (rows[0]["state"], rows[0]["metric"], rows[0]["metric_adv"]) == ("COMPLETED", 0.1, None)
    assert (rows[5]["state"], rows[5]["outcome"], rows[5]["metric"]) == ("RUNNING", None, None)


def test_runs_can_be_chosen(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    def seeds(*args: str) -> list[int]:
        return [row["seed"] for row in json.loads(output(capsys, "runs", "--json", *args))]

    assert seeds("--state", "running") == [6]
    assert seeds("--state", "running", "--state", "COMPLETED", "-n", "2") == [1, 2]
    assert seeds("--where", "metric>=0.3") == [3, 4, 5]
    assert seeds("--where", "train_accuracy = null") == [6]
    assert seeds("--state", "FAILED") == []


def test_runs_for_a_person_show_what_differs(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    lines = output(capsys, "runs").splitlines()
    assert lines[0].split() == [
        *("run_id", "state", "outcome", "attempts", "seconds"),
        *("gol", "model_t", "ae", "seed", "train_accuracy", "metric", "steps"),
    ]
    assert lines[2].split() == [
        *(run_id(1)[:10], "COMPLETED", "reached", "1", "2.5"),
        *("3", "3", "true", "1", "1", "0.1", "500"),
    ]
    assert len(lines) == 2 + 6


def test_show_as_json(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    weights = filled.folder / "weights" / f"{run_id(1)}.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    shown = json.loads(output(capsys, "show", run_id(1)[:4], "--json"))
    assert shown["run_id"] == run_id(1)
    assert (shown["state"], shown["outcome"], shown["seconds"]) == ("COMPLETED", "reached", 2.5)
    assert list(shown["config"])[:3] == ["experiment", "gol", "model_t"]
    assert list(shown["metrics"].items()) == [
        ("metric", 0.1),
        ("metric_adv", None),
        ("train_accuracy", 1.0),
        ("steps", 500.0),
    ]
    assert shown["attempts"][0]["versions"] == {"torch": "2.6"}
    assert shown["traces"] == {"decoded_1": {"points": 2, "step": 50, "value": 0.75}}
    assert shown["samples"] == ["boards"]
    assert shown["sweeps"] == ["quick"]
    assert shown["files"] == [str(weights)]


def test_show_for_a_person(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    lines = [" ".join(line.split()) for line in output(capsys, "show", run_id(1)[:4]).splitlines()]
    for expected in (
        f"run_id {run_id(1)}",
        "gol 3",
        "metric 0.1",
        "attempt 1",
        "git_commit 0123abc",
        "versions torch 2.6",
        "decoded_1 0.75 at step 50 (2 points)",
        "quick",
    ):
        assert expected in lines


def test_show_of_a_failed_run_has_its_error(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    attempt = filled.open_attempts()[0].attempt
    filled.end(attempt, State.OUT_OF_MEMORY, error="CUDA out of memory", exit_code=137)
    out = output(capsys, "show", run_id(6))
    assert "CUDA out of memory" in out
    assert "OUT_OF_MEMORY" in out


def test_db_upgrade(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    filled.close()
    assert output(capsys, "db", "upgrade") == f"outputs/imagine.db is at schema {REVISIONS[-1]} already\n"


def test_db_upgrade_creates_no_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = call(capsys, "db", "upgrade")
    assert (code, out) == (2, "")
    assert err == "imagine-results: error: no store at outputs/imagine.db; a launch creates it\n"
    assert list(tmp_path.iterdir()) == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "--version") == f"imagine-results, version {version('imagine-sweep')}\n"


def test_run_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "results_db.cli", "runs", "--json"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_every_format_can_be_chosen(capsys: pytest.CaptureFixture[str], filled: SqlStore) -> None:
    printed = {output(capsys, "runs", "--format", style) for style in tables.FORMATS}
    assert len(printed) == len(tables.FORMATS)


def test_a_run_is_chosen_by_the_id_that_is_listed(
    capsys: pytest.CaptureFixture[str], filled: SqlStore
) -> None:
    shown = output(capsys, "runs").splitlines()[3].split()[0]
    (row,) = json.loads(output(capsys, "runs", "--json", "--where", f"run_id={shown}"))
    assert (len(shown), row["run_id"]) == (10, run_id(2))


def test_the_store_from_the_environment(
    capsys: pytest.CaptureFixture[str], filled: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGINE_DB", filled.url)
    monkeypatch.chdir("/")
    assert len(json.loads(output(capsys, "runs", "--json"))) == 6
    # --db wins over it, on either side of the command
    assert json.loads(output(capsys, "--db", f"{tmp_path}/none.db", "runs", "--json")) == []
    assert json.loads(output(capsys, "runs", "--json", "--db", f"{tmp_path}/none.db")) == []


MODULES = """
import sys
from results_db.cli import main
sys.argv[1:] = {args!r}
try:
    main()
except SystemExit:
    pass
sys.stderr.write(" ".join(sys.modules))
"""


def imported_by(*args: str) -> set[str]:
    command = [sys.executable, "-c", MODULES.format(args=list(args))]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return set(done.stderr.split())


def test_nothing_imports_torch(filled: SqlStore) -> None:
    filled.close()
    for args in (["--help"], ["table", "--json"], ["table"], ["runs"], ["show", "01"]):
        modules = imported_by(*args)
        assert "results_db.cli.root" in modules
        assert not modules & {"torch", "imagination", "jobs"}, args


def test_help_imports_nothing_heavy() -> None:
    heavy = {"pandas", "numpy", "scipy", "sqlalchemy", "alembic", "lark", "rich"}
    assert not imported_by("--help") & heavy
    assert "alembic" not in imported_by("table", "--json")
