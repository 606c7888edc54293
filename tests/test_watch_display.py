"""The display of watch: what is cut where there is little room, and what never is."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from test_eta import CELLS

from results_db.contract import StoreError
from slurm.follow.reconcile import Reconciled
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
        assert row[-6:] == ["node-017", "3400/5000", "123.4", "71.9%", "1:02", "h"]


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


def test_folded_lines_take_their_room_from_the_tables() -> None:
    """On a terminal of 24 lines, however many runs train."""
    out = io.StringIO()
    many = replace(SNAPSHOT, running=[RUN] * 40, waiting={"Priority": 2}, failures=[])
    Console(file=out, width=80).print(screen(many, width=80, height=24))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 24
    assert "Slurm queries" in lines[-1]
    assert any("more" in line for line in lines)
