"""The display of running runs, with and without a terminal."""

import time
from io import StringIO

import pytest
from rich.console import Console

from imagination.life.progress import accuracies
from jobs.progress import Display, Training, Where, duration, ending, said

ONE, TWO = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (42.4, "42 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),  # never "60 s"
        (187, "3:07 min"),
        (3599.6, "1:00 h"),
        (7500, "2:05 h"),
        (86_399, "23:59 h"),
        (3 * 86_400 + 4 * 3600 + 59, "3 d 4 h"),
    ],
)
def test_durations(seconds, text) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, ""),
        ({"state1": 1.0}, "final ?"),
        ({"state1": 0.5, "state2": 0.971}, "final 97.1%"),
        ({"state1": 1, "state2": 0.998, "state3": 0.986, "state4": 0.971}, "final 97.1% | s2 99.8% s3 98.6%"),
        (
            {"adv_state1": 1, "adv_state2": 0.7, "adv_state3": 0.9, "adv_loss": 2},
            "adversary: final 90.0% | s2 70.0%",
        ),
        ({"count": 0.25, "state1": 1, "state2": 0.7, "state3": 0.6}, "count 25.0% | s2 70.0% s3 60.0%"),
        # By number, not by letter: state10 is the last.
        ({"state10": 0.9, "state2": 0.8, "state1": 1, "state9": 0.7}, "final 90.0% | s2 80.0% s9 70.0%"),
    ],
)
def test_accuracies(values, text) -> None:
    assert accuracies(values) == text


def test_values_without_a_text_of_their_own_are_named() -> None:
    values = {"loss": 0.123456, "positions": 3000.0}
    assert said("chess_network", values) == "loss 0.1235 | positions 3000"
    assert said("not_installed", values) == "loss 0.1235 | positions 3000"
    assert said("life_state", {"state1": 0.5, "state2": 0.971}) == "final 97.1%"


COMPLETED = {
    "event": "ended",
    "experiment": "life_state",
    "state": "COMPLETED",
    "outcome": "reached",
    "seconds": 187.0,
    "metrics": {"steps": 750, "train_accuracy": 0.99123, "metric": 0.25},
}


def test_endings() -> None:
    assert ending(COMPLETED) == "reached at step 750, in 3:07 min, train_accuracy 0.9912, metric 0.2500"
    without = COMPLETED | {"outcome": "diverged", "metrics": {"steps": 750, "metric": None}}
    assert ending(without) == "diverged at step 750, in 3:07 min"
    chess = {"policy_accuracy": 0.5, "value_error": 0.25}
    assert ending(COMPLETED | {"experiment": "chess_network", "metrics": chess}) == (
        "reached, in 3:07 min, policy_accuracy 0.5000"
    )
    assert ending(COMPLETED | {"experiment": "not_installed", "metrics": chess}) == "reached, in 3:07 min"
    assert ending({"state": "PREEMPTED"}) == "PREEMPTED"
    assert ending({"state": "PREEMPTED", "error": None}) == "PREEMPTED"
    assert ending({"state": "FAILED", "error": "boom"}) == "FAILED: boom"


@pytest.fixture
def clock(monkeypatch):
    """Advances the clock by seconds."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def started(run_id, *, step=0, max_steps=1000):
    return {"event": "started", "run_id": run_id, "step": step, "max_steps": max_steps}


def at(run_id, step):
    values = {"state1": 1.0, "state2": 0.9, "state3": 0.8}
    where = {"experiment": "life_state", "run_id": run_id}
    return {"event": "progress", **where, "step": step, "max_steps": 1000, "values": values}


def lines_of(file):
    """The lines without their time of day."""
    return [line.split(" ", 1)[1] for line in file.getvalue().splitlines()]


class Guess:
    """An estimate of 1:20 min left; it keeps what it is asked."""

    def __init__(self):
        self.past, self.asked = [], None

    def ended(self, run_id, where, *, seconds, steps):
        self.past.append((run_id, where, seconds, steps))

    def left(self, training, waiting, *, workers):
        self.asked = (list(training), dict(waiting), workers)
        return 80.0 if training or waiting else None


def test_the_estimate_learns_the_time_by_the_clock_with_the_evaluation(clock) -> None:
    """Of a run that began here. One that continued, or that says more, is known by what it says: 30 s here."""
    guess, file = Guess(), StringIO()
    with Display([[ONE], [TWO]], estimate=guess, console=Console(file=file, width=200)) as display:
        display.event(started(ONE), "")
        clock(50)
        display.event({**COMPLETED, "run_id": ONE, "seconds": 30.0}, "")
        display.event({**started(TWO), "step": 100}, "")
        clock(50)
        display.event({**COMPLETED, "run_id": TWO, "seconds": 30.0}, "")
    assert [(run_id, seconds) for run_id, _, seconds, _ in guess.past] == [(ONE, 50.0), (TWO, 30.0)]


def test_without_a_terminal_there_are_lines(clock) -> None:
    file = StringIO()
    with Display([[ONE], [TWO]], estimate=Guess(), console=Console(file=file, width=200)) as display:
        display.event(started(ONE), "gol=3 seed=1")
        clock(5)
        display.event(at(ONE, 50), "gol=3 seed=1")  # too soon for a line
        clock(15)
        display.event(at(ONE, 200), "gol=3 seed=1")
        display.event(at(ONE, 210), "gol=3 seed=1")
        clock(10)
        display.event(COMPLETED | {"run_id": ONE}, "gol=3 seed=1")
        display.event({"event": "skipped", "run_id": TWO}, "gol=3 seed=2")
    # 200 steps in 20 s.
    assert lines_of(file) == [
        "aaaaaaaaaa gol=3 seed=1: started at step 0",
        "aaaaaaaaaa gol=3 seed=1: step 200/1000 10.0 steps/s final 80.0% | s2 90.0%",
        f"aaaaaaaaaa gol=3 seed=1: {ending(COMPLETED)} (1/2, ETA 1:20 min)",
        "bbbbbbbbbb gol=3 seed=2: complete, or running elsewhere (2/2)",
    ]
    assert "\x1b" not in file.getvalue()


def adversarial(run_id, step):
    values = {"adv_state1": 1.0, "adv_state2": 0.7, "adv_state3": 0.9, "adv_generator_loss": 0.6}
    where = {"experiment": "life_state", "run_id": run_id}
    return {"event": "progress", **where, "step": step, "max_steps": 1500, "values": values}


def test_the_adversarys_stage_goes_on_in_the_same_line(clock) -> None:
    file = StringIO()
    display = Display([[ONE]], console=Console(file=file, width=200))
    display.event(started(ONE, max_steps=1500), "gan=posthoc")
    clock(20)
    display.event(at(ONE, 800) | {"max_steps": 1500}, "gan=posthoc")
    clock(20)
    display.event(adversarial(ONE, 1000), "gan=posthoc")  # the stage's step 0 of 500
    clock(20)
    display.event(adversarial(ONE, 1200), "gan=posthoc")
    # The rate is that of all steps so far: 800 in 20 s, 1000 in 40 s and 1200 in 60 s.
    assert lines_of(file) == [
        "aaaaaaaaaa gan=posthoc: started at step 0",
        "aaaaaaaaaa gan=posthoc: step 800/1500 40.0 steps/s final 80.0% | s2 90.0%",
        "aaaaaaaaaa gan=posthoc: step 1000/1500 25.0 steps/s adversary: final 90.0% | s2 70.0%",
        "aaaaaaaaaa gan=posthoc: step 1200/1500 20.0 steps/s adversary: final 90.0% | s2 70.0%",
    ]


def test_a_run_resumed_in_the_adversarys_stage_has_its_bar_and_rate_from_there(clock) -> None:
    (line,) = shown(
        (started(ONE, step=1200, max_steps=1500), "gan=posthoc"),
        (clock, 20),
        (adversarial(ONE, 1300), "gan=posthoc"),
    )[-2:-1]
    assert "step   1300/1500" in line
    assert " 5.0 steps/s" in line
    assert line.endswith("adversary: final 90.0% | s2 70.0%")


def test_markup_in_an_error_is_printed_as_it_is() -> None:
    file = StringIO()
    display = Display([[ONE]], console=Console(file=file, width=40))
    display.event(
        {"event": "ended", "run_id": ONE, "state": "FAILED", "error": "bad [/index] [1, 2] " + "x" * 60}, ""
    )
    assert lines_of(file) == [f"aaaaaaaaaa : FAILED: bad [/index] [1, 2] {'x' * 60} (1/1)"]


def test_on_a_terminal_lines_are_folded_between_words(clock) -> None:
    file = StringIO()
    display = Display([[ONE]], console=Console(file=file, width=40, force_terminal=True, color_system=None))
    display.event(COMPLETED | {"run_id": ONE}, "gol=3 seed=1")
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert "train_accuracy" in " ".join(lines).split()


def shown(*events, packs=((ONE,), (TWO,)), **options):
    """The last picture on a terminal, line by line."""
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=160, color_system=None, legacy_windows=False)
    display = Display(packs, console=console, **options)
    with display:
        for event, label in events:
            display.event(event, label) if isinstance(event, dict) else event(label)
        file.truncate(0)
        display._live.refresh()
        text = file.getvalue()
    return [line.rstrip() for line in text.split("\x1b[2K")[-1].splitlines() if line.strip()]


def test_a_terminal_shows_a_bar_per_running_run_and_one_over_all(clock) -> None:
    guess = Guess()
    picture = shown(
        (started(ONE), "gol=3 seed=1"),
        (started(TWO), "gol=3 seed=2"),
        (clock, 20),
        (at(ONE, 500), "gol=3 seed=1"),
        (clock, 2),
        (at(TWO, 110), "gol=3 seed=2"),
        packs=[[ONE, TWO], ["c" * 64]],
        device="cpu",
        workers=1,
        estimate=guess,
    )
    one, two, overall = picture[-3:]
    assert "aaaaaaaaaa gol=3 seed=1" in one
    assert "bbbbbbbbbb gol=3 seed=2" in two
    assert "step    500/1000" in one
    assert "25.0 steps/s" in one
    assert "final 80.0% | s2 90.0%" in one
    assert "step    110/1000" in two
    assert "5.0 steps/s" in two
    assert (one.count("━"), two.count("━")) == (10, 2)  # of 20: half, and a tenth
    # One worker trains both, 500 and 110 steps in 22 s; the third waits for it, alone in its pack.
    together, alone = Where("cpu", 2), Where("cpu", 1)
    training = [
        Training(ONE, 500, 1000, 500 / 22, 0.5, together),
        Training(TWO, 110, 1000, 5.0, 0.5, together),
    ]
    assert guess.asked == (training, {"c" * 64: alone}, 1)
    assert "all runs" in overall
    assert "0/3" in overall
    assert overall.count("━") == 4  # of 20: 0.61 of 3 runs are done
    assert "ETA 1:20 min" in overall


def test_a_run_that_waits_for_a_slot_of_its_pack_takes_no_share_and_its_time_begins_then(clock) -> None:
    guess = Guess()
    steps = [(started(ONE), ""), (started(TWO), ""), (at(ONE, 0), ""), (clock, 20), (at(ONE, 500), "")]
    options = {"packs": [[ONE, TWO]], "device": "cpu", "workers": 1, "estimate": guess}
    shown(*steps, (clock, 2), (at(ONE, 550), ""), **options)
    pair = Where("cpu", 2)
    assert guess.asked == ([Training(ONE, 550, 1000, 25.0, 1.0, pair)], {TWO: pair}, 1)
    shown(*steps, (at(TWO, 0), ""), (clock, 2), (at(TWO, 50), ""), **options)
    one, two = guess.asked[0]
    assert (one.share, two) == (0.5, Training(TWO, 50, 1000, 25.0, 0.5, pair))


def test_nothing_breaks_inside_a_word_on_a_terminal_of_80_columns(clock) -> None:
    label = "gol=3 model_t=3 ae=false rnn=true seed=10"
    error = "RuntimeError: what happened needs more than a line of eighty columns"
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    with Display([[ONE], [TWO]], console=console) as display:
        display.event(started(ONE), label)
        display.event(started(TWO), label)
        clock(20)
        display.event(at(ONE, 500), label)
        display.event({"event": "ended", "run_id": TWO, "state": "FAILED", "error": error}, label)
    lines = [line.strip() for part in file.getvalue().split("\x1b[2K") for line in part.splitlines()]
    assert max(map(len, lines)) <= 80
    words = {word for line in lines for word in line.split()}
    assert words >= {*label.split(), *error.split(), "500/1000", "25/s", "80.0%"}
    assert not any("…" in word for word in words)


def test_a_terminal_counts_what_ended_and_what_did_not_complete(clock) -> None:
    failed = {"event": "ended", "run_id": TWO, "state": "FAILED", "error": "boom"}
    guess = Guess()
    picture = shown(
        (started(ONE), ""),
        (started(TWO), ""),
        (clock, 10),
        (COMPLETED | {"run_id": ONE}, ""),
        (failed, ""),
        estimate=guess,
    )
    (overall,) = [line for line in picture if "all runs" in line]
    assert "1/2" in overall
    assert "1 not completed" in overall
    assert "ETA" not in overall
    assert overall.count("━") == 10  # of 20
    assert guess.past == [(ONE, Where("", 1), 187.0, 750)]
    assert not any("step " in line for line in picture)  # no bar of a run that ended


def test_a_stopped_run_says_where_it_was_saved_and_does_not_fill_the_bar(clock) -> None:
    saved = {"event": "ended", "run_id": ONE, "state": "PREEMPTED", "error": None, "step": 500}
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=160, color_system=None, legacy_windows=False)
    display = Display([[ONE], [TWO]], console=console, estimate=Guess())
    with display:
        display.event(started(ONE), "seed=1")
        display.stopping("stopping")
        display.event(saved, "seed=1")
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert any(line.endswith("aaaaaaaaaa seed=1: stopped, saved at step 500") for line in lines)
    overall = [line for line in lines if "all runs" in line][-1]
    assert overall.count("━") == 5  # of 20: half of one of two runs
    assert "0/2" in overall
    assert "ETA" not in overall


def test_without_an_estimate_the_step_limit_tells_the_eta(clock) -> None:
    assert "ETA ?" in shown((started(ONE), ""))[-1]
    # 100 steps in 20 s, and 900 are left.
    assert "ETA 3:00 min" in shown((started(ONE), ""), (clock, 20), (at(ONE, 100), ""))[-1]


def test_a_run_that_is_tried_again_is_open_again(clock) -> None:
    lost = {"event": "ended", "run_id": ONE, "state": "LOST", "error": "killed"}
    picture = shown((started(ONE), ""), (lost, ""), (started(ONE), ""), packs=[[ONE]])
    assert "0/1" in picture[-1]
    assert "not completed" not in picture[-1]
    assert "step      0/1000" in picture[-2]
