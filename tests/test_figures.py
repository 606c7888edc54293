"""Figures: what they show, that no texts overlap, and how they become files."""

import io
import re
import tempfile
from functools import cache
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from picture_helpers import CONFIG, FIRST, RANKED, add, assert_legible, curves, life, run_id, sample, seven

from imagination.figures import FigureError
from imagination.life import boards, strip
from imagination.life.curves import draw as draw_curves
from imagination.life.learning_order import Cell, Order, first_steps, states
from results_db.contract import StoreError
from results_db.store.sql import open_store
from results_db.views.figures import files
from results_db.views.stored import named

THREE = Cell("life_state", "fast", 3, 3, True, True, 0.1)
COUNT = {**CONFIG, "experiment": "life_count"}


def dashed(axes):
    """Whether the board has a dashed frame."""
    (style,) = {spine.get_linestyle() == "solid" for spine in axes.spines.values()}
    return not style


def words(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def read(samples):
    """The boards of a run with these samples, through a store."""
    with tempfile.TemporaryDirectory() as folder, open_store(f"{folder}/a.db", create=True) as store:
        return boards.read(named(store, add(store, 0, samples=samples)))


@cache
def read_seven(gol, model_t, both):
    samples = {"plain": seven(gol, model_t)}
    return read({**samples, "adversarial": seven(gol, model_t, noise=0.4)} if both else samples)


def picked(gol, model_t, *, both=False, wanted="all"):
    return boards.pick(read_seven(gol, model_t, both), wanted)


# --- which sequences


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("all", [("best", 9123, 1.5), ("median", 4711, 0.75), ("worst", 77, 0.25)]),
        ("best", [("best", 9123, 1.5)]),
        ("median", [("median", 4711, 0.75)]),
        ("worst", [("worst", 77, 0.25)]),
        ("first", [("", 0, 1.0)]),
        ("3", [("", 3, 0.0)]),
        ("4711", [("", 4711, 0.75)]),
    ],
)
def test_pick(wanted, expected):
    assert [(one.name, one.index, *one.scores.values()) for one in picked(3, 3, wanted=wanted)] == expected


@pytest.mark.parametrize("wanted", ["4", "-1", "1.0", "bset", "", "²"])
def test_what_is_not_stored_cannot_be_picked(wanted):
    with pytest.raises(FigureError, match=r"stored are 0, 1, 2, 3, 77, 4711, 9123$"):
        picked(3, 3, wanted=wanted)


def test_the_plain_decoder_comes_first_and_alone_the_adversarial_one_is_enough():
    assert list(picked(3, 3, both=True)[0].decoded) == ["plain", "adversarial"]
    alone = boards.pick(read({"adversarial": seven(3, 3)}), "first")
    assert list(alone[0].decoded) == ["adversarial"]
    assert "adversarial" in words(strip.draw(alone, config=CONFIG))


@pytest.mark.parametrize(
    ("wanted", "expected"), [("all", [0, 1, 2]), ("best", [0]), ("worst", [0]), ("first", [0]), ("77", [77])]
)
def test_without_a_score_there_is_no_rank_and_the_first_sequences_are_shown(wanted, expected):
    states_ = life(2)  # 1/1: no intermediate state
    alone = {"plain": sample([states_] * 7, [states_] * 7, [float("nan")] * 7, FIRST + RANKED)}
    found = boards.pick(read(alone), wanted)
    assert [(one.name, one.index, *one.scores.values()) for one in found] == [("", n, None) for n in expected]
    assert f"no. {expected[0]}: metric undefined" in words(strip.draw(found, config=CONFIG))


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, "run 0000000000 is COMPLETED (reached) and has no decoded boards"),
        ({"other": b""}, "run 0000000000 is COMPLETED (reached) and has no decoded boards"),
        ({"plain": b"npz"}, "sample 'plain' is damaged"),
        ({"plain": seven(3, 3)[:200]}, "sample 'plain' is damaged"),
        ({"plain": npz(decoded=[0], truth=[0], score=[0])}, "sample 'plain' lacks the array 'index'"),
    ],
)
def test_samples_that_cannot_be_read(samples, message):
    with pytest.raises(FigureError, match=re.escape(message)):
        read(samples)


# --- what is said of each board


def said(decoded, truth, config=CONFIG):
    notes = boards.notes(np.stack(decoded).astype(float), truth, config=config)
    return [(note.text, note.kind.name) for note in notes]


def test_notes_of_the_papers_figure_3():
    """3/3; the third decoded board matches the third true state, the second matches none."""
    truth = life(4)
    wrong = truth[1].copy()
    wrong[0, :] = 1 - wrong[0, :]  # 20 of 400 cells: 95% are equal, which still matches
    wrong[1, 0] = 1 - wrong[1, 0]  # 379 of 400 are 94.75%: no match, and it must not read as 95%
    assert said([truth[0], wrong, truth[2], truth[3]], truth) == [
        ("trained", "OUTSIDE"),
        ("$s_{2}$ 94%", "OTHER"),
        ("$s_{3}$ 100%", "MATCH"),
        ("trained", "OUTSIDE"),
    ]
    wrong[1, 0] = truth[1][1, 0]
    assert said([truth[0], wrong, truth[2], truth[3]], truth)[1] == ("$s_{2}$ 95%", "MATCH")


def test_notes_of_the_papers_figure_6():
    """2/3: both decoded boards between match the only intermediate state; the final one does not count."""
    truth = life(3)
    assert said([truth[0], truth[1], truth[1], truth[2]], truth)[1:3] == [("$s_{2}$ 100%", "MATCH")] * 2
    # A decoded board equal to the final state (Figure 5) is compared with s_2, from which it is far.
    text, kind = said([truth[0], truth[1], truth[2], truth[2]], truth)[2]
    assert text.startswith("$s_{2}$ ")
    assert kind == "OTHER"


def test_a_board_that_matches_several_states():
    still = np.zeros((6, 20, 20), dtype=np.uint8)
    still[:, 4:6, 4:6] = 1  # a block does not change
    assert said(still[:4], still[:4])[1] == ("$s_{2}$,$s_{3}$ 100%", "MATCH")
    assert said(still, still)[1] == ("$s_{2}$–$s_{5}$ 100%", "MATCH")
    apart = still.copy()
    apart[2] = 1  # s_3 is another, so that of s_2 to s_5 the first and the last two match
    assert said([still[0]] * 4, apart)[1] == ("3 states 100%", "MATCH")


def test_exactly_half_alive_is_dead():
    truth = np.zeros((3, 4, 4), dtype=np.uint8)
    grey = np.full((4, 4), 0.5)
    assert said([grey, grey, grey], truth)[1] == ("$s_{2}$ 100%", "MATCH")


def test_boards_without_a_note_and_first_boards_without_training():
    truth = life(4)
    assert said(truth, truth, {**CONFIG, "ae": False})[0] == ("ignored", "OUTSIDE")
    truth = life(2)  # no intermediate states
    assert said([truth[0], truth[1], truth[1]], truth)[1] == ("", "OTHER")


def test_counting_runs_are_judged_by_correlation_the_final_state_included():
    truth = life(3, board=10)
    # h_0 is trained on s_1 and counts nevertheless: decoded as s_2 it is the best for s_2.
    assert said([truth[1], truth[1], truth[2]], truth, COUNT) == [
        ("$s_{2}$ 1.00\ntrained", "OTHER"),
        ("$s_{2}$ 1.00", "OTHER"),
        ("$s_{3}$ 1.00", "OTHER"),
    ]


def test_correlation_by_hand():
    # 4 cells: true 1 1 0 0, decoded 1 0 0 0: TP 1, FP 0, FN 1, TN 2; (1*2 - 0*1) / sqrt(1 * 2 * 2 * 3) = 2 / sqrt 12.
    decoded, truth = np.array([[True, False, False, False]]), np.array([[True, True, False, False]])
    assert boards.correlation(decoded, truth) == pytest.approx(2 / 12**0.5)
    assert boards.correlation(~truth, truth) == pytest.approx(-1)
    assert boards.correlation(np.zeros_like(truth), truth) == 0


# --- strips


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("gol", "model_t"), [(3, 3), (2, 3), (3, 2), (4, 4), (1, 1), (1, 3), (10, 10)])
def test_strips_are_legible(gol, model_t, both):
    figure = strip.draw(picked(gol, model_t, both=both), config=CONFIG)
    assert_legible(figure)
    width, height = figure.get_size_inches()  # a column, on a page with room for the caption
    assert (width == 3.25) == (max(gol, model_t) < 10)
    assert height < (9 if max(gol, model_t) < 10 else 10)


def test_the_longest_titles_fit():
    assert_legible(strip.draw(picked(3, 3, both=True), config=COUNT))
    states_ = life(2)
    one = sample([states_] * 4, [states_] * 4, [float("nan")] * 4, [9999] * 4)
    median = boards.pick(read({"plain": one, "adversarial": one}), "median")
    assert_legible(strip.draw(median, config=CONFIG))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("gol", "model_t"), [(2, 2), (2, 4), (4, 3)])
def test_strips_of_counting_are_legible(gol, model_t, both):
    figure = strip.draw(picked(gol, model_t, both=both), config=COUNT)
    assert_legible(figure)
    assert " ".join(words(figure)).count("trained") == (6 if both else 3)
    assert sum(map(dashed, figure.axes)) == 3  # s_1 of each sequence, and no decoded board


@pytest.mark.parametrize(("gol", "model_t"), [(2, 2), (2, 3), (3, 2), (1, 4)])
def test_rows_span_the_figure_and_the_final_states_stand_one_above_the_other(gol, model_t):
    (one,) = picked(gol, model_t, wanted="best")
    figure = strip.draw([one], config=CONFIG)
    shown = figure.axes
    true, decoded = shown[: gol + 1], shown[gol + 1 :]
    assert len(decoded) == model_t + 1
    for above, below in ((true[0], decoded[0]), (true[-1], decoded[-1])):
        assert above.get_position().x0 == pytest.approx(below.get_position().x0)
        assert above.get_position().y0 > below.get_position().y1
    for row in (true, decoded):
        assert row[0].get_position().x0 < 0.1  # no part of the figure is empty
        assert row[-1].get_position().x1 > 0.95
        gaps = np.diff([axes.get_position().x0 for axes in row])
        assert gaps == pytest.approx(gaps[0])
        if len(row) > 2:
            assert gaps[0] > row[0].get_position().width
    for axes, board in zip(shown, [*one.truth, *one.decoded["plain"]], strict=True):
        (image,) = axes.images
        assert np.array_equal(image.get_array(), board)
        assert image.get_clim() == (0, 1)


def test_titles_and_heads():
    said = words(strip.draw(picked(3, 3, both=True), config=CONFIG))
    assert "best: metric 1.50 plain, 1.50 adversarial (no. 9123)" in said
    named = words(strip.draw(picked(3, 2), config={**CONFIG, "model_t": 2, "seed": 5}))
    assert "gol 3, model_t 2, seed 5" in named
    assert said.count("$s_{1}$ given") == said.count("$s_{4}$ target") == 3
    assert said.count("trained") == 12  # two boards of two decoders in three sequences
    (first,) = picked(3, 3, wanted="first")
    assert "no. 0: metric 1.00" in words(strip.draw([first], config=CONFIG))
    assert "no. 0: correlation 1.00" in words(strip.draw([first], config=COUNT))


def test_matching_boards_have_a_green_frame_and_those_left_out_a_dashed_one():
    (one,) = picked(3, 3, wanted="best")
    drawn = strip.draw([one], config=CONFIG).axes
    edges = [axes.spines["left"].get_edgecolor() for axes in drawn]
    assert [green > red for red, green, *_ in edges] == [False] * 4 + [False, True, True, False]
    assert list(map(dashed, drawn)) == [True, False, False, True] * 2


# --- curves


def order(number, traces, **changes):
    learned = {name: traces[name] for name in states(traces)}
    first = first_steps(learned)
    return Order(run_id(number), run_id(number)[:10], THREE._replace(**changes), number, learned, first)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def titles(figure):
    return [axes.get_legend().get_title().get_text() for axes in figure.axes]


def test_one_run_over_its_steps():
    figure = draw_curves([order(1, curves(200, 500, 800))], similarity=0.98)
    (axes,) = figure.axes
    assert_legible(figure)
    assert legend(axes) == ["$s_{2}$ at 200", "$s_{3}$ at 500", "$s_{4}$ at 800"]
    points = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert points == [[[200, 0.98]], [[500, 0.98]], [[800, 0.98]]]
    assert any(set(line.get_ydata()) == {0.98} and line.get_linestyle() == "--" for line in axes.lines)


def test_several_runs_on_the_scale_of_their_final_state():
    """Runs that learn the final state at 400 and at 800: both reach it at 1, and state 2 at a half."""
    learned = [(200, 300, 400), (400, 600, 800), (100, 200, None)]
    runs = [order(number, curves(*steps)) for number, steps in enumerate(learned)]
    figure = draw_curves(runs, similarity=0.98)
    (axes,) = figure.axes
    assert_legible(figure)
    points = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert points == [(0.5, 0.98)] * 2 + [(0.75, 0.98)] * 2 + [(1.0, 0.98)] * 2
    assert axes.get_xlabel().endswith("; 1 more never reached it)")
    mean = max(axes.lines, key=lambda line: len(line.get_xdata()))
    assert [len(line.get_xdata()) for line in axes.lines].count(
        400
    ) == 3  # the means alone, no curve of a run
    # At .45: the first run is at step 180, 80% of the way from .85 (100) to .98 (200), so .954; the second at step
    # 360, 60% of the way from .85 (300) to .98 (400), so .928; the mean is .941.
    assert np.interp(0.45, mean.get_xdata(), mean.get_ydata()) == pytest.approx(0.941, abs=1e-3)
    # The band holds the middle 80%: of .954 and .928, from .928 + .1 * .026 to .928 + .9 * .026.
    (edges,) = [path.vertices for path in axes.collections[0].get_paths()]
    near = edges[np.abs(edges[:, 0] - 0.45) < 2e-3][:, 1]
    assert (near.min(), near.max()) == pytest.approx((0.9306, 0.9514), abs=2e-3)
    assert "(2 runs, band: the middle 80%" in axes.get_xlabel()


def test_runs_that_never_learn_the_final_state_are_shown_over_steps():
    runs = [order(1, curves(200, None, None)), order(2, curves(None, None, None))]
    figure = draw_curves(runs, similarity=0.98)
    assert figure.axes[0].get_xlabel() == "training step"
    assert_legible(figure)


def test_a_panel_for_each_cell_with_the_keys_that_differ():
    runs = [order(1, curves(200, 300, 400)), order(2, curves(100, 200), gol=2, model_t=2)]
    figure = draw_curves(runs, similarity=0.98)
    assert titles(figure) == ["gol 2, model_t 2", "gol 3, model_t 3"]
    assert_legible(figure)
    runs = [
        order(1, curves(200, 300, 400)),
        order(2, curves(200, 300, 400), rnn=False),
        order(3, curves(200, 300, 400), reset=1.0),
        order(4, curves(200, 300, 400), experiment="life_count", ae=None, rnn=None),
    ]
    figure = draw_curves(runs, similarity=0.98)
    assert titles(figure) == [
        "experiment life_count, gol 3, model_t 3, reset 0.1",
        "experiment life_state, gol 3, model_t 3, ae true\nrnn false, reset 0.1",
        "experiment life_state, gol 3, model_t 3, ae true\nrnn true, reset 0.1",
        "experiment life_state, gol 3, model_t 3, ae true\nrnn true, reset 1",
    ]
    assert_legible(figure)


def test_states_of_unequal_timesteps_are_not_called_true_ones():
    """2/3: h_1 and h_2 decoded, and the final state; neither need be s_2 or s_3."""
    alone = draw_curves([order(1, curves(200, 500, 800), gol=2)], similarity=0.98)
    assert legend(alone.axes[0]) == ["decoded 2 at 200", "decoded 3 at 500", "final at 800"]
    assert_legible(alone)
    several = draw_curves([order(n, curves(200, 500, 800), gol=2) for n in range(2)], similarity=0.98)
    assert legend(several.axes[0]) == ["decoded 2", "decoded 3", "final"]
    assert_legible(several)


@pytest.mark.parametrize("learned", [(None,), (0, 0), (100, 200, 300, 400, 500, 600, 700, 800, 900)])
def test_few_and_many_states(learned):
    assert_legible(draw_curves([order(1, curves(*learned))], similarity=0.98))


def test_a_curve_that_ends_low_is_inside_the_panel():
    steps = [0, 100, 200]
    low = {"state2": (steps, [0.1, 0.2, 0.3]), "state3": (steps, [0.5, 0.6, float("nan")])}
    (axes,) = draw_curves([order(1, low)], similarity=0.98).axes
    assert axes.get_ylim()[0] <= 0.3


# --- files


def test_png_has_three_hundred_pixels_an_inch(tmp_path):
    files.save(strip.draw(picked(3, 3), config=CONFIG), tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[1] == 975  # 3.25 inches
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_svg_is_the_same_for_the_same_boards(tmp_path):
    for name in ("a.SVG", "b.svg"):
        files.save(strip.draw(picked(3, 3, wanted="best"), config=CONFIG), tmp_path / name)
    assert (tmp_path / "a.SVG").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "a.SVG").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.jpeg", "does not end in .png or .svg or .pdf"),
        ("a", "does not end in .png"),
        ("png", "does not end in .png"),
        ("none/a.png", "does not exist"),
        ("folder.png", "is a folder"),
    ],
)
def test_paths_that_are_no_picture(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(StoreError, match=message):
        files.check(tmp_path / name, force=True)


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(StoreError, match="cannot write"):
        files.save(Figure(), tmp_path / f"{'x' * 300}.png")
    assert list(tmp_path.iterdir()) == []
