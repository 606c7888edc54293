"""Code of installed packages: what is wrong is named and left out alone, and names may be shared."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compare_helpers import complete
from package_helpers import install
from picture_helpers import run_id

from imagination import registry
from results_db.contract import NewSweep, PlannedRun, RunRecord
from results_db.store.sql import open_store

pytestmark = pytest.mark.slow

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of packages that this process imports from, too."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    for known in (registry._known, registry.declaration):
        known.cache_clear()
    yield tmp_path / "site"
    monkeypatch.undo()
    for known in (registry._known, registry.declaration):
        known.cache_clear()


def add(folder: Path, *experiments: str) -> None:
    """The default store with a completed run of each of these experiments, numbered from 1."""
    (folder / "outputs").mkdir()
    with open_store(str(folder / "outputs" / "imagine.db"), create=True) as store:
        for number, experiment in enumerate(experiments, start=1):
            config = {"experiment": experiment, "preset": "default", "seed": number}
            store.stage([PlannedRun(run_id(number), config)], sweep=NewSweep("s", ""))
            complete(store, RunRecord(run_id(number), "done", 1.0, {"score": 0.5}))


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Calls `imagine-results` in a folder of its own, where the packages of `tmp_path/site` are installed."""

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "results_db.cli", *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(tmp_path / "site"),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return call


SHAPES = """
from typing import Annotated
from imagination.figures import Analysis, Drawn, Option

def plain(runs):
    from matplotlib.figure import Figure
    return Drawn(Figure(), {"by": __name__})

def nothing(): ...
def strange(boards): ...
def bare(runs, *, level): ...
def bounded(runs, *, level: Annotated[str, Option("", low=1)] = "a"): ...
def ours(runs, *, where: str = ""): return plain(runs)
def on(runs, *, log: bool = True): ...
NUMBER = 3
ANALYSIS = Analysis(plain, title="Nothing")

def raising(runs, *, level: float = 0.5):
    return {}["loss"]

def wrong(runs):
    return 3

RAISING = Analysis(raising, title="Nothing")
"""


def figures(package: str, **names: str) -> str:
    """What a declaration says of figures of these names."""
    named = {name.replace("_", "-"): code for name, code in names.items()}
    each = [f"{name!r}: Command('{package}.code:{code}', 'Draw {name}.')" for name, code in named.items()]
    return f"figures={{{', '.join(each)}}}"


REASONS = {
    "nothing": "its first parameter is not run or runs",
    "strange": "its first parameter is not run or runs",
    "bare": "its parameter level has no default of type bool, int, float or str",
    "bounded": "its parameter level has bounds, but is no number",
    "ours": "--where is an option of all such commands",
    "on": "its parameter log is True by default, so no option could change it",
    "NUMBER": "it is no function",
    "ANALYSIS": "it is no function",
    "absent": "AttributeError: ",
}


def test_a_figure_of_a_wrong_shape_is_named_and_the_others_work(
    tmp_path: Path, call: Call, site: Path
) -> None:
    names = {code.lower(): code for code in REASONS}
    install(site, "shapes", experiments={"shapes": figures("shapes", plain="plain", **names)}, code=SHAPES)
    add(tmp_path, "shapes")
    report = call("report")
    assert report.returncode == 0, report.stderr
    for code, why in REASONS.items():
        lines = [line for line in report.stderr.splitlines() if line.startswith(f"shapes.code:{code}")]
        assert len(lines) == (code != "ours")
        assert all(why in line and line.endswith("; left out") for line in lines)
    for code in ("bare", "ours"):
        done = call("figure", code)
        assert (done.returncode, done.stdout) == (2, "")
        warning, error = done.stderr.splitlines()
        assert warning == f"shapes.code:{code}: {REASONS[code]}; left out"
        assert f"'{code}' has no code that works" in error
    assert call("figure", "plain", "-o", "a.png").returncode == 0
    assert "Draw plain." in call("figure", "--help").stdout


def test_annotations_may_be_strings(tmp_path: Path, call: Call, site: Path) -> None:
    code = f"""from __future__ import annotations
{SHAPES}
def level(runs, *, level: Annotated[float, Option("The level.", high=1)] = 0.5): ...
"""
    install(site, "strings", experiments={"strings": figures("strings", level="level")}, code=code)
    said = call("figure", "level", "--help").stdout
    assert "--level FLOAT RANGE" in said
    assert "x<=1" in said


def test_listing_commands_imports_no_code_of_figures(call: Call, site: Path) -> None:
    said = f"{figures('late', late='late')}, analyses={{'lately': Command('late.code:LATE', 'Print late.')}}"
    install(site, "late", experiments={"late": said}, code="raise RuntimeError('imported')")
    for arguments, line in (
        (["figure", "--help"], "late      Draw late."),
        (["--help"], "lately    Print late."),
    ):
        done = call(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert " ".join(line.split()) in " ".join(done.stdout.split())
    assert "late.code:late cannot be imported: RuntimeError: imported" in call("figure", "late").stderr


def test_code_that_raises_is_one_line_and_leaves_the_rest_of_a_report(
    tmp_path: Path, call: Call, site: Path
) -> None:
    said = figures("faulty", raising="raising", wrong="wrong", plain="plain")
    said += ", analyses={'finding': Command('faulty.code:RAISING', 'Find.')}"
    said += ", gallery='faulty.code:GALLERY'"
    code = f"""{SHAPES}
from imagination.figures import Gallery
GALLERY = Gallery(raising, "nothing")
"""
    install(site, "faulty", experiments={"faulty": said}, code=code)
    add(tmp_path, "faulty", "faulty")
    raised = "raised KeyError: 'loss' (code.py, line"
    done = call("report")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(raised) == 3  # the figure, the analysis, and the gallery once
    assert "Warning" not in done.stderr
    for path in ("faulty.code:raising", "faulty.code:RAISING"):
        assert f"{path} {raised}" in done.stderr
    assert "Draw plain</" in (tmp_path / "report.html").read_text()
    for arguments in (["figure", "raising"], ["finding"]):
        done = call(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert raised in done.stderr
    done = call("figure", "wrong")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "faulty.code:wrong returned int instead of Drawn" in done.stderr


def test_two_packages_may_have_a_figure_of_one_name(tmp_path: Path, call: Call, site: Path) -> None:
    log = "def loss(runs, *, log: bool = False):\n    return plain(runs)\n"
    for name, code in (("first", SHAPES), ("second", SHAPES + log)):
        figure = figures(name, loss="plain" if name == "first" else "loss", cells="plain")
        install(site, name, experiments={name: figure}, code=code)
    add(tmp_path, "first", "second")
    for number, name in enumerate(("first", "second"), start=1):
        for chosen in ((run_id(number),), ("--where", f"experiment={name}")):
            done = call("figure", "loss", *chosen, "--json", "--force")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["by"] == f"{name}.code"
    done = call("figure", "loss")
    assert done.returncode == 2
    assert "the runs are of first and second, and 'loss' is different for them" in done.stderr
    done = call("figure", "loss", run_id(1), "--log")
    assert done.returncode == 2
    assert "--log is no option for runs of first" in done.stderr
    # The general commands keep their names.
    assert done.stderr.count("'cells' of experiment 'first' is left out: it is a general command") == 1


def test_an_unknown_figure_may_be_of_a_package_that_is_not_installed(call: Call) -> None:
    for arguments, near, one in (
        (["figure", "strp"], "strip", "a figure"),
        (["trance"], "trace", "an analysis"),
    ):
        done = call(*arguments)
        assert done.returncode == 2
        assert f"(did you mean '{near}'?)" in done.stderr
        assert f"; {one} of an experiment that is not installed needs its package" in done.stderr


PAPER = """
from imagination.paper import Derived, Effect, Number, Paper, Side, Source

def number(table, quantity="score", **said):
    return Number(table, quantity, {}, 1.0, 3, [Source("s", ["s"])], **said)

NO_PAPER = {}
STRANGE = Paper({"strange": [number("strange", "marks")]}, {"strange": "of a metric that it lacks"})
TAKEN = Paper({"table1": [number("table1")], "ours": [number("ours")]}, {"table1": "", "ours": "our numbers"})
EFFECT = Effect("s", Side("more", "seed > 1", "score"), Side("less", "seed <= 1", "score"), 0.5)
EFFECTS = Paper({"gains": [number("gains", "gain", effect=EFFECT)]}, {"gains": "more minus less"})
SEEDS = [Number("seeds", "score", cell, 1.0, 3, [Source("s", ["s"])]) for cell in ({}, {"seed": 1}, {"seed": 2})]
SEEDS = Paper({"seeds": SEEDS}, {"seeds": "all seeds, and each"})

def late(traces):
    return {"a": Derived(40, 0.4), "b": Derived(10, 0.1)}

def early(traces):
    return {"c": Derived(3, 0.3), "d": Derived(1, 0.1)}

TIMES = {"a": ("b", "late"), "b": ("a", "late"), "c": ("d", "early"), "d": ("c", "early")}
TIMES = Paper(
    {"times": [number("times", n, derived=f"other.code:{f}", beside=b) for n, (b, f) in TIMES.items()]},
    {"times": "of two functions"},
)
"""


def test_wrong_numbers_are_named_and_left_out(tmp_path: Path, call: Call) -> None:
    names = {"missing": "ABSENT", "untyped": "NO_PAPER", "strange": "STRANGE"}
    said = {name: f"numbers='wrong.code:{paper}'" for name, paper in names.items()}
    install(tmp_path / "site", "wrong", experiments=said, code=PAPER)
    done = call("compare", "table2", "--json")
    assert done.returncode == 0, done.stderr
    assert {row["table"] for row in json.loads(done.stdout)} == {"table2"}
    for warning in (
        "wrong.code:ABSENT cannot be imported: AttributeError: ",
        "wrong.code:NO_PAPER: it is no Paper; left out",
        "wrong.code:STRANGE: 'marks' of table 'strange' needs marks, which metrics lacks; left out",
    ):
        assert done.stderr.count(warning) == 1


def test_a_tables_name_that_is_taken_is_named_and_left_out(tmp_path: Path, call: Call) -> None:
    install(tmp_path / "site", "other", experiments={"other": "numbers='other.code:TAKEN'"}, code=PAPER)
    done = call("compare", "all", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert sum(row["table"] == "table1" for row in rows) == 5
    assert sum(row["table"] == "ours" for row in rows) == 1
    assert (
        done.stderr.count("table 'table1' of other.code:TAKEN is left out: imagination.life.paper:PAPER has")
        == 1
    )


def test_effects_of_any_name(tmp_path: Path, call: Call) -> None:
    install(tmp_path / "site", "other", experiments={"other": "numbers='other.code:EFFECTS'"}, code=PAPER)
    done = call("compare", "gains", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["quantity"], row["first"], row["second_metric"], row["sign"]) == (
        *("gain", "more", "score"),
        "too few pairs",
    )
    assert call("figure", "cells", "gains").returncode == 2


def test_the_group_columns_are_those_of_all_numbers(tmp_path: Path, call: Call, site: Path) -> None:
    install(site, "other", experiments={"other": "numbers='other.code:SEEDS'"}, code=PAPER)
    add(tmp_path, "other", "other")
    done = call("compare", "seeds", "--format", "markdown")
    head, _, *rows = [
        line.replace(" ", "").split("|")[1:-1] for line in done.stdout.splitlines() if "|" in line
    ]
    column = {name: [row[place] for row in rows] for place, name in enumerate(head)}
    assert column["seed"] == ["", "1", "2"]
    assert column["kept/run"] == ["2/2", "1/1", "1/1"]
    assert call("figure", "cells", "seeds").returncode == 0


def test_quantities_of_two_functions_of_one_run(tmp_path: Path, call: Call, site: Path) -> None:
    install(site, "other", experiments={"other": "numbers='other.code:TIMES'"}, code=PAPER)
    add(tmp_path, "other")
    rows = json.loads(call("compare", "times", "--json").stdout)
    assert [(row["quantity"], row["ours"], row["kept"]) for row in rows] == [
        *(("a", 40, 1), ("b", 10, 1)),
        *(("c", 3, 1), ("d", 1, 1)),
    ]


def test_without_a_declared_metric_one_must_be_named(tmp_path: Path, call: Call, site: Path) -> None:
    install(site, "mute", experiments={"mute": ""})
    declaration = site / "mute" / "declaration.py"
    declaration.write_text(declaration.read_text().replace("metrics={'score': ''}", "metrics={}"))
    add(tmp_path, "mute")
    done = call("effect")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--metric is missing, because no experiment of these runs declares a metric" in done.stderr


def test_a_package_whose_declaration_imports_torch_slows_no_command(call: Call, tmp_path: Path) -> None:
    install(tmp_path / "site", "heavy", experiments={"heavy": ""})
    module = tmp_path / "site" / "heavy" / "declaration.py"
    module.write_text("import torch\n" + module.read_text())
    for words in (["--help"], ["figure", "--help"]):
        done = call(*words)
        assert done.returncode == 0
        assert "heavy.declaration:heavy cannot be imported: it needs torch" in done.stderr
    script = "import sys; from imagination import registry as r; list(r.declarations()); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    said = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"
