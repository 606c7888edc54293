"""Figures of the metric over runs: what is drawn, from the stored runs."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from cli_helpers import call, output
from compare_helpers import METRICS, WHO, config, store_five, store_run
from matplotlib.figure import Figure
from picture_helpers import assert_legible

from imagination.figures import COLOURS
from jobs.identity import run_id
from results_db.contract import Ending, PlannedRun, RunRecord, State
from results_db.paper.compare import compare, kept_values
from results_db.query.gate import completed
from results_db.query.packs import with_packs
from results_db.store.sql import SqlStore, open_store
from results_db.views.figures import metrics

Capsys = pytest.CaptureFixture[str]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_tmp_path")]


@pytest.fixture
def db() -> SqlStore:
    return open_store(None, create=True)


def points(figure: Figure, marker: str) -> list[tuple[float, float]]:
    """The points that are drawn with a marker, without those of the legend."""
    (axes,) = figure.axes
    lines = [line for line in axes.get_lines() if line.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


@pytest.mark.parametrize(
    ("steps", "reached", "x", "y"),
    [
        # Of 4 runs one arrives at 10 and one at 30; between them one stops at 20 without: 3/4, then 1/2 of that.
        ([10, 20, 30, 40], [True, False, True, False], [0, 10, 30, 40], [1, 0.75, 0.375, 0.375]),
        ([10, 10], [True, True], [0, 10, 10], [1, 0, 0]),
        ([5], [False], [0, 5], [1, 1]),
        # A run that stops at the step at which another arrives was still there: 1/2.
        ([10, 10], [True, False], [0, 10, 10], [1, 0.5, 0.5]),
    ],
)
def test_the_share_that_has_not_arrived(
    steps: Sequence[float], reached: Sequence[bool], x: Sequence[float], y: Sequence[float]
) -> None:
    assert metrics.survival(steps, reached) == (x, pytest.approx(y))


def test_runs_arrive_when_they_are_kept_whatever_their_outcome() -> None:
    runs = pd.DataFrame({"steps": [10.0, 20.0], "outcome": ["converged", "reached"], "kept": [True, False]})
    (line,) = metrics.steps(runs, []).axes[0].get_lines()
    assert [list(part) for part in line.get_data()] == [[0, 10, 20], [1, 0.5, 0.5]]


def test_a_table_shows_runs_mean_interval_paper_and_ceiling(db: SqlStore) -> None:
    for seed in range(5):
        store_run(db, config(seed=seed, ae=False), metric=seed / 10, baseline_perfect=1.02)
    rows = compare("table1", db.runs(), store=db)
    ours = [row["ours"] for row in rows]
    place = next(index for index, mean in enumerate(ours) if mean is not None)
    kept = kept_values("table1", db.runs(), store=db)
    assert [len(values) for values in kept] == [row["kept"] for row in rows]
    drawn = metrics.cells(rows, kept, ["gol", "model_t", "ae", "rnn"], short=["gol", "model_t"])
    dots = points(drawn, "o")
    assert (0.2, place) in [(round(x, 9), y) for x, y in dots]
    assert {0.0, 0.1, 0.2, 0.3, 0.4} <= {x for x, _ in dots}
    assert points(drawn, "D") == [(row["paper"], index) for index, row in enumerate(rows)]
    (axes,) = drawn.axes
    (interval,) = [collection.get_segments()[0] for collection in axes.collections]  # type: ignore[attr-defined]
    # Of 0, .1, .2, .3, .4 the standard error is .0707, and t(4) = 2.776.
    assert interval[:, 0] == pytest.approx([0.2 - 0.1963, 0.2 + 0.1963], abs=1e-3)
    assert points(drawn, "|") == [(1.02, place)]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[place] == "3/3, ae false, rnn true  (5/5)"


def test_the_metric_against_a_key_has_a_colour_for_each_group(db: SqlStore) -> None:
    for seed in range(8):
        each = config(seed=seed, ae=seed < 5, channels=10 + seed, lr=1e-3 * 2**seed, batch=32 << seed % 2)
        store_run(db, each, metric=seed / 10)
    runs = completed(db.runs())
    drawn = metrics.against(runs, ["channels"], metric="metric", by="ae")
    (axes,) = drawn.axes
    assert [(line.get_color(), len(line.get_xdata())) for line in axes.get_lines()] == [  # type: ignore[arg-type]
        (COLOURS[0], 3),
        (COLOURS[1], 5),
    ]
    assert sorted(points(drawn, "o")) == [(10 + seed, seed / 10) for seed in range(8)]
    assert axes.get_xscale() == "linear"


def test_each_key_has_a_panel_and_few_values_stand_side_by_side(db: SqlStore) -> None:
    for seed in range(8):
        each = config(seed=seed, ae=seed < 4, lr=1e-3 * 2**seed, batch=32 << seed % 2, channels=20)
        store_run(db, each, metric=seed / 10)
    keys = ["lr", "seed", "batch", "channels"]
    panels = metrics.against(completed(db.runs()), keys, metric="metric", by="ae").axes
    assert [panel.get_xlabel() for panel in panels] == keys
    assert [panel.get_xscale() for panel in panels] == ["log", "linear", "linear", "linear"]
    without, with_ae = panels[2].get_lines()
    # Batches 32 and 64 are at 0 and 1; without the autoencoder (seeds 4 to 7) .1 to the left, with it to the right.
    assert sorted(without.get_xdata()) == pytest.approx([-0.1, -0.1, 0.9, 0.9])
    assert sorted(with_ae.get_xdata()) == pytest.approx([0.1, 0.1, 1.1, 1.1])
    assert [label.get_text() for label in panels[2].get_xticklabels()] == ["32", "64"]


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("figure cells table1", "table1.png"),
        ("figure key channels lr --by ae", "channels.png"),
        ("figure steps --by gol,ae", "steps.png"),
        ("figure steps -o a.pdf", "a.pdf"),
        ("figure cells table4 -o b.svg", "b.svg"),
    ],
)
def test_a_file_is_written_and_not_overwritten(capsys: Capsys, db: SqlStore, command: str, file: str) -> None:
    store_five(db)
    assert output(capsys, *command.split()) == f"{file}\n"
    before = Path(file).read_bytes()
    code, out, err = call(capsys, *command.split())
    assert (code, out) == (2, "")
    assert f"{file} exists" in err
    assert Path(file).read_bytes() == before
    output(capsys, *command.split(), "--force")
    assert Path(file).read_bytes() == before


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("figure cells tabel1", "unknown table 'tabel1' (did you mean 'table1'?)"),
        ("figure cells learning_order", "valid tables: table1, table2, table3, table4"),
        ("figure key lr channles", "unknown column 'channles' (did you mean 'channels'?)"),
        ("figure key channels --metric board", "--metric: unknown column 'board'"),
        (
            "figure key channels --where gol=9",
            "no kept run with channels and metric with --where 'gol=9' is stored",
        ),
        ("figure steps --by steps", "--by: unknown column 'steps'"),
        ("figure steps --where gol=9", "no COMPLETED run with --where 'gol=9' is stored"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(
    capsys: Capsys, db: SqlStore, tmp_path: Path, command: str, says: str
) -> None:
    store_five(db)
    code, out, err = call(capsys, *command.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def store_pack(
    db: SqlStore, seeds: Sequence[int], *, rate: float, device: str = "cpu", minute: int = 0
) -> None:
    """Runs of one pack that ended after 600 steps; each has its share of the pack's seconds."""
    at, process = NOON + timedelta(minutes=minute), f"{minute}:1"
    runs = [PlannedRun(run_id(config(seed=seed)), config(seed=seed)) for seed in seeds]
    db.stage(runs)
    attempts = db.claim([run.run_id for run in runs], launcher="local")
    for attempt in attempts:
        db.begin(attempt, replace(WHO, process=process, device=device), at=at)
    for attempt in attempts:
        metrics = {**METRICS, "steps": 600.0}
        record = RunRecord(attempt.run_id, "reached", 600 / rate, metrics)
        db.finish(attempt, record, at=at + timedelta(seconds=30))


def test_throughput_against_the_size_of_the_pack(db: SqlStore, capsys: Capsys) -> None:
    store_pack(db, [0], rate=20)
    store_pack(db, [1], rate=40, minute=1)
    store_pack(db, [2, 3, 4, 5], rate=60, minute=2)
    store_pack(db, range(6, 22), rate=300, device="H100", minute=3)
    runs = with_packs(db, db.runs())
    assert runs["pack"].tolist() == [1, 1, *[4] * 4, *[16] * 16]
    assert runs["rate"].tolist() == pytest.approx([20, 40, *[60] * 4, *[300] * 16])
    figure = metrics.throughput(runs, ["device"])
    (axes,) = figure.axes
    lines = {
        line.get_label(): line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() == "-"
    }
    assert lines == {"device H100 (16)": [[16, 300]], "device cpu (6)": [[1, 30], [4, 60]]}  # medians
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "16"]
    assert_legible(figure)
    assert output(capsys, "figure", "packs") == "packs.png\n"


def test_a_run_of_several_attempts_has_no_pack(db: SqlStore) -> None:
    store_pack(db, [0], rate=20)
    of = config(seed=1)
    db.stage([PlannedRun(run_id(of), of)])
    (lost,) = db.claim([run_id(of)], launcher="local")
    db.begin(lost, WHO)
    db.end(lost, Ending(State.LOST, "gone"))
    store_run(db, of)
    assert with_packs(db, db.runs())["seed"].tolist() == [0]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--by", "golf"], "--by: unknown column 'golf'"),
        (["-o", "a.gif"], "-o: 'a.gif' does not end in .png or .svg or .pdf"),
        ([], "no COMPLETED run with one attempt is stored"),
        (["--where", "gol=9"], "no COMPLETED run with one attempt with --where 'gol=9' is stored"),
    ],
)
def test_bad_input_of_packs(db: SqlStore, capsys: Capsys, args: list[str], says: str) -> None:
    code, out, err = call(capsys, "figure", "packs", *args)
    assert (code, out, err.count("\n"), says in err) == (2, "", 1, True), err
