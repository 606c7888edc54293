"""The display of watch: what is cut where there is little room, and what never is."""

import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console
from test_eta import training

from results_db.contract import Attempt, EndedAttempt, State
from slurm.follow.reconcile import Reconciled
from sweeps.follow.display import screen, show_once
from sweeps.follow.watch import CauseNow, CellNow, RunNow, Snapshot

HELD = (
    "s-12345678 is held, for its first 5 runs failed alike; mend that and let it go with imagine-sweep reconcile "
    "--release, or drop it with imagine-sweep cancel: ImportError: no driver on this node"
)
ENDED = EndedAttempt(
    Attempt("0123456789abcdef", 1),
    State.FAILED,
    None,
    1,
    None,
    "s-1",
    "1_0",
    "n1",
    datetime(2026, 11, 20, tzinfo=UTC),
)
CAUSE = "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory"


def run_now(index: int) -> RunNow:
    progress = {"state1": 1.0, "state2": 0.708, "state3": 0.719}
    found = training(index, step=3400, rate=123.44)
    found = replace(found, node="node-017", attempt=replace(found.attempt, progress=progress))
    run_id = found.attempt.attempt.run_id
    return RunNow(
        run_id,
        f"gol=2 model_t=3 ae=false rnn=false seed={index}",
        found,
        "NVIDIA A100-SXM4-80GB",
        5000,
        3725.0,
    )


def shown(width: int, *, silent: bool = False) -> str:
    runs = [run_now(index) for index in range(3)]
    if silent:
        runs[0] = replace(runs[0], running=replace(runs[0].running, phase="silent"))
    snapshot = Snapshot(
        name="s",
        states={"RUNNING": 3},
        eta_s=3725.0,
        cells=[CellNow("s", {"gol": 2}, {"RUNNING": 3}, 3725.0)],
        running=runs,
        waiting={},
        causes=[CauseNow(CAUSE, ["0123456789abcdef"], [], ENDED)],
        found=Reconciled(),
        held=[HELD],
        queries={},
    )
    out = io.StringIO()
    show_once(snapshot, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_on_a_narrow_terminal_every_number_is_whole(width) -> None:
    lines = shown(width).splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if "3400/5000" in line]
    assert len(rows) == 3
    for index, row in enumerate(rows):
        assert row[0] == run_now(index).run_id[:10]
        # `what` may be cut, and only the final accuracy is shown
        assert row[-6:] == ["node-017", "3400/5000", "123.4", "71.9%", "1:02", "h"]


def test_with_room_everything_is_shown() -> None:
    said = shown(1000)
    assert "gol=2 model_t=3 ae=false rnn=false seed=2" in said
    assert "…" not in said
    assert "final 71.9% | s2 70.8%" in said
    assert "NVIDIA A100-SXM4-80GB" in said


def test_a_silent_run_keeps_its_node() -> None:
    assert "node-017 silent" in shown(100, silent=True)


def test_reasons_and_remedies_are_folded_and_never_cut() -> None:
    said = " ".join(shown(60).split())
    assert HELD in said
    assert f"1 failed (imagine-sweep logs 0123456789): {CAUSE}" in said


def test_folded_lines_take_their_room_from_the_tables() -> None:
    """On a terminal of 24 lines, however many runs train."""
    runs = [run_now(index % 8) for index in range(40)]
    snapshot = Snapshot(
        name="s",
        states={"RUNNING": 40},
        eta_s=None,
        cells=[CellNow("s", {"gol": 2}, {"RUNNING": 40}, None)],
        running=runs,
        waiting={"Priority": 2},
        causes=[],
        found=Reconciled(),
        held=[HELD],
        queries={},
    )
    out = io.StringIO()
    Console(file=out, width=80).print(screen(snapshot, width=80, height=24))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 24
    assert "asked of Slurm" in lines[-1]
    assert any("more" in line for line in lines)
