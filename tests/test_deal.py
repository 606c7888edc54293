"""Packs dealt to arrays: each pack once, no array too long, no more tasks at once than allowed, early packs early."""

from hypothesis import given
from hypothesis import strategies as st
from sweep_helpers import small

from jobs.pack import Pack
from slurm.submit.dispatch import Part, deal

PACKS = [Pack((small(seed=seed),)) for seed in range(60)]
PLACES = {pack.pack_id: place for place, pack in enumerate(PACKS)}


def dealt(count: int, *, limit: int, parallelism: int) -> list[tuple[list[int], int, int | None]]:
    """Each part as places of packs, its share, and the part that it waits for."""
    parts = deal(PACKS[:count], limit=limit, parallelism=parallelism)
    return [([PLACES[pack.pack_id] for pack in part.packs], part.parallelism, part.after) for part in parts]


def test_packs_that_fit_are_one_array() -> None:
    assert dealt(4, limit=4, parallelism=9) == [([0, 1, 2, 3], 9, None)]
    assert dealt(0, limit=4, parallelism=9) == []


def test_parts_share_the_parallelism_and_take_turns() -> None:
    # 5 packs in arrays of at most 2 make 3 parts; 7 tasks at once are 3 + 2 + 2.
    assert dealt(5, limit=2, parallelism=7) == [([0, 3], 3, None), ([1, 4], 2, None), ([2], 2, None)]


def test_more_parts_than_tasks_at_once_wait_for_each_other() -> None:
    # 7 packs in arrays of 2 are 4 parts, of which 2 may have a task running: the 3rd waits for the 1st, and so on.
    assert dealt(7, limit=2, parallelism=2) == [
        ([0, 2], 1, None),
        ([1, 3], 1, None),
        ([4, 6], 1, 0),
        ([5], 1, 1),
    ]


def running_at_most(parts: list[Part]) -> int:
    """Tasks that Slurm may run at once: the largest sum over parts of which none waits for another."""
    chains: dict[int, int] = {}
    first: list[int] = []
    for place, part in enumerate(parts):
        first.append(place if part.after is None else first[part.after])
        chains[first[place]] = max(chains.get(first[place], 0), min(part.parallelism, len(part.packs)))
    return sum(chains.values())


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 30))
def test_for_any_numbers(count: int, limit: int, parallelism: int) -> None:
    parts = deal(PACKS[:count], limit=limit, parallelism=parallelism)
    assert sorted(PLACES[pack.pack_id] for part in parts for pack in part.packs) == list(range(count))
    assert all(1 <= len(part.packs) <= limit and part.parallelism >= 1 for part in parts)
    assert running_at_most(parts) <= parallelism
    # Within an array tasks start in order, so the order of packs must hold there.
    for part in parts:
        places = [PLACES[pack.pack_id] for pack in part.packs]
        assert places == sorted(places)
    # No part waits for a later one.
    assert all(part.after is None or part.after < place for place, part in enumerate(parts))
