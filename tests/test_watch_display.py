"""The display of watch: what is cut where there is little room, and what never is."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from test_eta import CELLS

from results_db.contract import Attempt, State, StoreError
from slurm.follow.reconcile import Ended, Reconciled
from slurm.follow.verdicts import Verdict
from sweeps.follow.display import Screen, screen, show_once, summary
from sweeps.follow.watch import RunNow, Snapshot
from sweeps.status.cell import CellStatus

HELD = (
    "s-12345678 is held, for its first 5 runs failed alike; mend that and let it go with imagine-sweep reconcile "
    "--release, or drop it with imagine-sweep cancel: ImportError: no driver on this node"
)
CAUSE = "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"
RUN = RunNow(
    run_id="0123456789abcdef",
    label="gol=2 model_t=3 ae=false rnn=false seed=2",
    experiment="life_state",
    job_id="1_0",
    node="node-017",
    device="NVIDIA A100-SXM4-80GB",
    phase="",
    step=3400,
    max_steps=5000,
    progress={"state1": 1.0, "state2": 0.708, "state3": 0.719},
    steps_per_s=123.44,
    eta_seconds=3725.0,
)
SNAPSHOT = Snapshot(
    name="s",
    at="",
    states={"RUNNING": 3},
    eta_seconds=3725.0,
    cells=[CellStatus(sweep="s", cell=CELLS[0], states={"RUNNING": 3}, to_submit=[], eta_s=3725.0)],
    running=[RUN] * 3,
    waiting={},
    failures=[{"cause": CAUSE, "count": 1, "runs": [RUN.run_id]}],
    held=[HELD],
    blocked=[],
    changes=Reconciled(),
    queries_per_minute={},
)


def test_an_error_before_the_first_snapshot_is_shown_as_it_is() -> None:
    out = io.StringIO()
    with Screen(Console(file=out, width=80, force_terminal=True)) as display:
        display.complain(StoreError("cannot read [/data/store.db] at [::1]: busy"))
    assert "cannot read [/data/store.db] at [::1]: busy" in out.getvalue()


def shown(width: int, snapshot: Snapshot = SNAPSHOT) -> str:
    out = io.StringIO()
    show_once(snapshot, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (
            {"COMPLETED": 12, "RUNNING": 4, "PENDING": 30, "FAILED": 1, "OUT_OF_MEMORY": 1},
            "s: 12 of 48 stored, 4 running, 30 waiting, 2 failed; ETA 1:02 h",
        ),
        ({"NODE_FAIL": 1, "LOST": 2, "STAGED": 3, "NEW": 4}, "s: 0 of 10 stored, 3 interrupted, 7 new"),
    ],
)
def test_the_summary_counts_by_status(states, said) -> None:
    assert summary(replace(SNAPSHOT, states=states)) == said


@pytest.mark.parametrize("width", [80, 100])
def test_on_a_narrow_terminal_every_number_is_whole(width) -> None:
    lines = shown(width).splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if "3400/5000" in line]
    assert len(rows) == 3
    for row in rows:
        assert row[0] == RUN.run_id[:10]
        # `what` may be cut, and only the final accuracy is shown.
        assert row[-6:] == ["3400/5000", "123.4", "final", "71.9%", "1:02", "h"]


def test_what_tells_runs_apart_is_never_cut() -> None:
    """Their seeds and nodes. What they share is said once, above them."""
    labels = [f"gol=2 model_t={m} ae=false rnn=false preset=paper_search seed={m + 10}" for m in range(3)]
    runs = [replace(RUN, label=label, node=f"n{index}") for index, label in enumerate(labels)]
    lines = shown(80, replace(SNAPSHOT, running=runs)).splitlines()
    assert max(map(len, lines)) <= 80
    assert "running, all: gol=2 ae=false rnn=false preset=paper_search" in lines
    rows = [line.split() for line in lines if "3400/5000" in line]
    assert [row[1:4] for row in rows] == [[f"seed={m + 10}", f"model_t={m}", f"n{m}"] for m in range(3)]


def test_a_bar_shows_what_is_done_of_each_cell() -> None:
    """Of 4 runs one is stored and one half done: 1.5 of 4."""
    (cell,) = SNAPSHOT.cells
    some = replace(cell, states={"COMPLETED": 1, "RUNNING": 1, "PENDING": 2}, done=1.5)
    (row,) = [
        line for line in shown(80, replace(SNAPSHOT, cells=[some], running=[])).splitlines() if "━" in line
    ]
    assert 7 * "━" + "╸" in row  # 7.5 of 20 characters


def test_cells_fit_a_narrow_terminal() -> None:
    """Four columns, five statuses, a bar and a long ETA: only the bar shrinks. With more, names do, but no number."""
    (cell,) = SNAPSHOT.cells
    columns = {"gol": 3, "model_t": 2, "ae": False, "rnn": False}
    states = dict.fromkeys(("COMPLETED", "RUNNING", "PENDING", "FAILED", "NEW"), 1000)
    wide = replace(cell, cell=replace(cell.cell, columns=columns), states=states, eta_s=11_111.0)
    lines = shown(80, replace(SNAPSHOT, cells=[wide], running=[])).splitlines()
    assert max(map(len, lines)) <= 80
    row = ["3", "2", "false", "false", *["1000"] * 5, "3:05", "h"]
    assert row in [line.split() for line in lines]
    more = {"gol": 3, "model_t": 2, "experiment": "life_state", "preset": "paper_search", "muon_lr": 0.0125}
    wider = replace(wide, cell=replace(cell.cell, columns=more), states={**states, "LOST": 1000})
    lines = shown(80, replace(SNAPSHOT, cells=[wider], running=[])).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if "1000" in line and "3:05" in line]
    assert row[-8:] == [*["1000"] * 6, "3:05", "h"]
    other = replace(wider, cell=replace(cell.cell, columns={**more, "gol": 2}))
    lines = shown(80, replace(SNAPSHOT, cells=[wider, other], running=[])).splitlines()
    assert "cells, all: model_t=2 experiment=life_state preset=paper_search muon_lr=0.0125" in lines
    assert [line.split()[0] for line in lines if "3:05" in line] == ["3", "2"]


def test_with_room_everything_is_shown() -> None:
    said = shown(1000)
    assert RUN.label in said
    assert "…" not in said
    assert "final 71.9% | s2 70.8%" in said
    assert RUN.device in said


def test_a_silent_run_keeps_its_node() -> None:
    silent = replace(SNAPSHOT, running=[replace(RUN, phase="silent")])
    assert "node-017 silent" in shown(100, silent)


def test_causes_and_remedies_are_folded_and_never_cut() -> None:
    said = " ".join(shown(60).split())
    assert HELD in said
    assert f"1 failed (imagine-sweep logs 0123456789): {CAUSE}" in said


def test_one_look_shows_every_change_and_a_screen_counts_the_others() -> None:
    ended = [  # of different causes, because runs that ended alike are one line
        Ended(Attempt(f"{n:064x}", 1), None, Verdict(State.LOST, f"its worker is gone, {chr(97 + n)}"))
        for n in range(12)
    ]
    snapshot = replace(SNAPSHOT, changes=Reconciled(ended=ended))
    assert shown(80, snapshot).count("its worker is gone") == 12
    out = io.StringIO()
    # 8 lines: the cause, the held launch, 5 changes, and how many there are more.
    some = screen(snapshot, width=80, height=40, recent=snapshot.changes.lines)
    Console(file=out, width=80).print(some)
    assert out.getvalue().count("its worker is gone") == 5
    assert "and 7 more" in out.getvalue()


def test_folded_lines_take_their_room_from_the_tables() -> None:
    """On a terminal of 24 lines, however many runs train."""
    out = io.StringIO()
    many = replace(SNAPSHOT, running=[RUN] * 40, waiting={"Priority": 2}, failures=[])
    Console(file=out, width=80).print(screen(many, width=80, height=24))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 24
    assert "Slurm queries" in lines[-1]
    assert any("more" in line for line in lines)


@pytest.mark.parametrize("width", [80, 160])
def test_the_values_of_any_experiment_are_shown(width) -> None:
    run = replace(RUN, experiment="chess_network", label="seed=1", progress={"loss": 1.25, "accuracy": 0.5})
    row = next(
        line for line in shown(width, replace(SNAPSHOT, running=[run])).splitlines() if "3400/" in line
    )
    assert "loss 1.25" in row
    assert ("accuracy 0.5" in row) == (width == 160)
