"""Figures of chess: decoded boards, a probe's heat, and accuracy by layer."""

import io
import json
from dataclasses import asdict
from types import SimpleNamespace

import chess
import numpy as np
import pytest
from chess_helpers import config_of
from cli_helpers import call
from compare_helpers import complete

from imagination.chess import boards, drawing, figures
from imagination.figures import FigureError
from jobs.identity import run_id
from results_db.contract import NewSweep, PlannedRun, RunRecord
from results_db.store.sql import open_store

START = boards.squares(chess.Board(), chess.WHITE)
E4 = boards.squares(chess.Board("rnbqkbnr/pppppppp/8/8/4P3/8/PPPP1PPP/RNBQKBNR b KQkq - 0 1"), chess.WHITE)
SHOWN = {"board": START, "decoded": np.array([START, E4]), "own": E4, "line": np.array([E4, E4, E4])}


def frames(axes) -> list[tuple[float, float]]:
    """The files and ranks of the framed squares."""
    return sorted((one.get_x() + 0.5, one.get_y() + 0.5) for one in axes.patches)


def pieces(axes) -> dict[tuple[float, float], str]:
    found = {(one.get_position()[0], round(one.get_position()[1])): one.get_text() for one in axes.texts}
    return {place: text for place, text in found.items() if text.strip()}


def test_boards_stand_upright_and_changes_are_framed() -> None:
    present, first, second, _, own, *_, third = drawing.boards(SHOWN).axes
    assert len(pieces(present)) == 32
    assert pieces(present)[4, 0] == "♔"  # e1, at the bottom
    assert pieces(present)[4, 7] == "♚"
    assert frames(first) == []
    assert frames(second) == frames(own) == frames(third) == [(4, 1), (4, 3)]  # e2 and e4
    assert pieces(second)[4, 3] == "♙"


def test_boards_without_a_line_show_the_networks_own_move() -> None:
    drawn = drawing.boards({**SHOWN, "line": np.zeros((0, 64))}).axes
    assert [axes.get_title() for axes in drawn] == [
        "present board",
        "first layer",
        "layer 1",
        "its own move",
        "",
        "",
    ]


def test_the_heat_of_a_probe() -> None:
    scores = np.zeros(64)
    scores[12], scores[0] = 0.5, -0.2
    axes, _ = drawing.heat({"board": START, "scores": scores, "right": np.array(12)}, title="from").axes
    (image,) = axes.images
    assert image.get_array()[1, 4] == 0.5  # e2
    assert image.get_array().min() == 0  # least squares may give less, which says nothing more
    assert frames(axes) == [(4, 1)]
    over, _ = drawing.heat({"board": START, "scores": scores, "right": np.array(64)}, title="from").axes
    assert frames(over) == []


def probe(value, *, network="a", **changes) -> SimpleNamespace:
    config = {
        "network": network,
        "target": "from",
        "moves": "network",
        "ply": 1,
        "layer": 0,
        "features": "trained",
        "shuffled": False,
        **changes,
    }
    names = {"board": "successor", "move": "successor", "cause": "flips"}
    metrics = {
        names.get(str(config["target"]), "probe_accuracy"): value,
        "flips_random": 0.1,
        "flips_other": 0.2,
    }
    return SimpleNamespace(
        config={"experiment": "chess_probe", **config}, metrics=metrics, traces={}, name="a"
    )


def test_means_and_intervals_by_layer() -> None:
    runs = [
        probe(0.2),
        probe(0.4, network="b"),
        probe(0.9, layer=3),
        probe(0.3, features="input"),
        probe(0.1, shuffled=True),
    ]
    trained, given, shuffled = figures.collect(runs)
    assert trained[:2] == ("from, own move", "trained")
    assert (trained.runs, trained.networks, shuffled.networks) == (2, 2, 1)
    # Two values .2 apart: the mean is .3, the half width t(1, .975) * .1 = 1.27.
    assert trained.by_layer[0].mean == pytest.approx(0.3)
    assert trained.by_layer[0].half == pytest.approx(1.27, abs=0.01)
    assert (trained.by_layer[3].mean, trained.by_layer[3].low) == (0.9, None)
    assert (given.of, shuffled.of) == ("input", "shuffled")


def test_runs_that_differ_otherwise_share_no_mean() -> None:
    with pytest.raises(FigureError, match=r"differ in share: 0\.8 and 0\.4; choose with --where"):
        figures.collect([probe(0.2, share=0.8), probe(0.4, share=0.4)])
    assert len(figures.collect([probe(0.2, share=0.8), probe(0.4, share=0.4, target="to")])) == 2


def test_the_metric_of_each_target_and_the_layers_of_a_decoder() -> None:
    decoder = SimpleNamespace(
        config=asdict(config_of("chess_decoder")),
        traces={"filled_1": ((0, 1), (0.0, 0.03))},
    )
    life = SimpleNamespace(config={"experiment": "life_state"})
    found = {
        (line.asked, line.of): {at: one.mean for at, one in line.by_layer.items()}
        for line in figures.collect(
            [
                probe(0.4, target="board"),
                probe(0.5, target="cause"),
                probe(0.6, ply=2),
                probe(0.7, target="move"),
                decoder,
                life,
            ]
        )
    }
    assert found == {
        ("board successor, own move", "trained"): {0: 0.4},
        ("from, own reply", "trained"): {0: 0.6},
        ("move successor, own move", "trained"): {0: 0.7},
        ("cause", "flips"): {0: 0.5},
        ("cause", "flips_other"): {0: 0.2},
        ("cause", "flips_random"): {0: 0.1},
        ("filled, ply 1", "adversary"): {0: 0.0, 1: 0.03},
    }


def test_curves_have_a_panel_for_everything_asked() -> None:
    lines = figures.collect(
        [probe(0.2), probe(0.3, layer=1), probe(0.3, features="input"), probe(0.1, target="to")]
    )
    figure = drawing.curves([line[:3] for line in lines], caption=figures._caption(lines))
    assert figure.get_supxlabel() == "bands: 95% intervals of means over deals of the games on one network"
    assert [axes.get_title() for axes in figure.axes if axes.axison] == ["from, own move", "to, own move"]


@pytest.mark.usefixtures("in_tmp_path")
def test_the_commands(capsys, tmp_path) -> None:
    db = open_store(None, create=True)
    sample = io.BytesIO()
    np.savez(sample, **SHOWN)
    ids = []
    for seed, samples in enumerate(({"boards": sample.getvalue()}, {})):
        config = asdict(config_of("chess_decoder", seed=seed))
        ids.append(run_id(config))
        db.stage([PlannedRun(ids[-1], config)], sweep=NewSweep("chess_paper", ""))
        traces = {"filled_1": ((0, 1), (0.0, 0.02 + seed / 100))}
        complete(db, RunRecord(ids[-1], "done", 1.0, {"filled_1": 0.02}, traces, samples))
    assert call(capsys, "figure", "chess-boards", ids[0], "-o", "a.png")[0] == 0
    assert (tmp_path / "a.png").stat().st_size > 10_000
    code, _, err = call(capsys, "figure", "chess-boards", ids[1], "-o", "b.png")
    assert code == 2
    assert f"run {ids[1][:10]} of chess_decoder left no boards; choose another run" in err
    code, said, _ = call(capsys, "chess-layers", "--json", "-o", "c.png")
    assert code == 0
    assert [(row["layer"], row["mean"]) for row in json.loads(said)["layers"]] == [
        (0, 0.0),
        (1, pytest.approx(0.025)),
    ]
