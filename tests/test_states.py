"""States and the arrows between them."""

from results_db.contract import ARROWS, FAILURES, INTERRUPTED, State


def test_every_arrow_stays_inside_the_states() -> None:
    assert set(ARROWS) == set(State)
    assert ARROWS[State.COMPLETED] == frozenset()
    # Whatever was stopped or failed can go on, and what was granted to an attempt can be completed by it.
    assert all(State.RUNNING in ARROWS[state] for state in FAILURES | INTERRUPTED)
    completable = {state for state, after in ARROWS.items() if State.COMPLETED in after}
    assert completable == set(State) - {State.STAGED, State.COMPLETED}
    assert all(state not in after for state, after in ARROWS.items())
