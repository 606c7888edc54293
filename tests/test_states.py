"""States and the arrows between them."""

from results_db.contract import ACTIVE, ARROWS, FAILURES, INTERRUPTED, State


def test_every_arrow_stays_inside_the_states() -> None:
    assert set(ARROWS) == set(State)
    assert ARROWS[State.COMPLETED] == {State.DISCARDED}
    # An interrupted or failed run can be trained again, and a claimed one can be completed.
    assert all(State.RUNNING in ARROWS[state] for state in FAILURES | INTERRUPTED)
    completable = {state for state, after in ARROWS.items() if State.COMPLETED in after}
    assert completable == set(State) - {State.STAGED, State.COMPLETED, State.DISCARDED}
    assert all(state not in after for state, after in ARROWS.items())


def test_every_state_is_in_one_group() -> None:
    # Listings, endings and the spool know a state by its group alone.
    groups = [{State.STAGED, State.COMPLETED, State.DISCARDED}, ACTIVE, FAILURES, INTERRUPTED]
    assert sorted(state for group in groups for state in group) == sorted(State)
    assert all(len(state) <= 16 for state in State)  # the width of the column
