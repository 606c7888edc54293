"""When each state is learned, and how far before the final one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagination.life.learning_order import Lead, first_steps, leads, states

STEPS = [0, 100, 200, 300]


def test_first_step_at_the_level_itself_and_no_later_one():
    # .98 is reached at step 100; that it is lost again at 200 changes nothing.
    assert first_steps({"state2": (STEPS, [0.5, 0.98, 0.9, 1.0])}) == {"state2": 100}
    assert first_steps({"state2": (STEPS, [0.5, 0.9799, 0.97, 0.9])}) == {"state2": None}
    assert first_steps({"state2": (STEPS, [0.5, 0.9, 0.97, 0.9])}, similarity=0.9) == {"state2": 100}
    nan = float("nan")
    assert first_steps({"state2": (STEPS, [0.9, nan, nan, nan])}) == {"state2": None}


def test_only_states_from_the_second_on_in_their_order():
    curve = (STEPS, [0.0, 0.0, 0.0, 1.0])
    names = ["state10", "adv_state2", "state1", "state9", "state2", "state", "state02", "statex"]
    assert list(first_steps(dict.fromkeys(names, curve))) == ["state2", "state9", "state10"]
    assert states(names) == ["state2", "state9", "state10"]


def test_leads_over_the_final_state():
    # 400 - 100 = 300 of 400 steps; 400 - 300 = 100 of 400.
    assert leads({"state2": 100, "state3": 300, "state4": 400}) == {
        "state2": Lead(300, 0.75),
        "state3": Lead(100, 0.25),
    }


@pytest.mark.parametrize(
    ("first", "lead"),
    [
        ({"state2": 600, "state3": 400}, Lead(-200, -0.5)),  # learned after the final state
        ({"state2": None, "state3": 300, "state4": 400}, Lead(None, None)),
        ({"state2": 100, "state3": None}, Lead(None, None)),
        ({"state2": 0, "state3": 0}, Lead(0, None)),  # no share of step 0
    ],
)
def test_leads_that_are_negative_or_missing(first, lead):
    assert leads(first)["state2"] == lead


def test_nothing_before_the_final_state():
    assert leads({"state2": 100}) == {}
    assert leads(first_steps({})) == {}


curve_values = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@given(curve_values, curve_values, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_level_is_never_reached_earlier(two, three, level, other):
    traces = {"state2": (STEPS, two), "state3": (STEPS, three)}
    low, high = (first_steps(traces, similarity=s) for s in sorted((level, other)))
    for name, step in high.items():
        before = low[name]
        assert step is None or (before is not None and before <= step)


@given(curve_values, curve_values)
def test_step_and_lead_make_the_final_step(two, three):
    first = first_steps({"state2": (STEPS, two), "state3": (STEPS, three)}, similarity=0.5)
    lead = leads(first)["state2"]
    if None in first.values():
        assert lead == Lead(None, None)
    else:
        assert first["state2"] + lead.steps == first["state3"]
        assert lead.share == (lead.steps / first["state3"] if first["state3"] else None)
