"""The chain sampler: its densities, its chain, and its independence of packing and stopping."""

import pytest
import torch

from imagination.life import rules, sampler

CPU = torch.device("cpu")


def test_mean_densities_of_the_chain():
    # The authors' sampler (reset .1) on 20x20 boards: first states at about .24, states three steps later at .18.
    states = sampler.evaluation_states(3, board=20, sequences=4000, device=CPU).double()
    assert states[:, 0].mean().item() == pytest.approx(0.24, abs=0.01)
    assert states[:, 3].mean().item() == pytest.approx(0.18, abs=0.01)


def test_the_first_batch_is_as_old_as_a_later_one():
    # Chains start in their stationary distribution, so density does not drift over the first steps.
    seeds, reset = torch.tensor([1]), torch.tensor([0.1])
    boards = sampler.start(seeds, reset, batch=4000, board=20)
    first = boards.double().mean().item()
    for step in range(1, 16):
        boards = sampler.advance(rules.step(boards), seeds, reset, torch.tensor([step]))
    assert boards.double().mean().item() == pytest.approx(first, abs=0.01)


def test_reset_one_gives_fresh_boards_at_density_one_half():
    seeds, reset = torch.tensor([1]), torch.tensor([1.0])
    start = sampler.start(seeds, reset, batch=500, board=20)
    after = sampler.advance(rules.step(start), seeds, reset, torch.tensor([1]))
    for boards in (start, after):  # 200,000 fair cells: deviation .0011
        assert boards.double().mean().item() == pytest.approx(0.5, abs=0.005)
    assert not torch.equal(start, after)


def test_a_tiny_reset_probability_gives_old_boards():
    # With 1e-17 nearly every age is beyond 1,000 steps, where it is cut off.
    old = sampler.start(torch.tensor([1]), torch.tensor([1e-17]), batch=20, board=6)
    fresh = sampler.fresh(torch.tensor([1]), torch.tensor([0]), batch=20, board=6)
    for _ in range(1000):
        fresh = rules.step(fresh)
    assert torch.equal(old, fresh)


def test_a_sequence_begins_anew_with_the_reset_probability_and_else_carries_on():
    seeds, reset = torch.tensor([1]), torch.tensor([0.25])
    second = rules.step(sampler.start(seeds, reset, batch=10_000, board=12))
    steps = torch.tensor([7])
    following = sampler.advance(second, seeds, reset, steps)
    fresh = sampler.fresh(seeds, steps, batch=10_000, board=12)
    carries_on = (following == second).all(-1).all(-1)
    begins_anew = (following == fresh).all(-1).all(-1)
    assert (carries_on | begins_anew).all()
    # 10,000 draws: deviation sqrt(.25 * .75 / 10,000) = .0043.
    assert begins_anew.double().mean().item() == pytest.approx(0.25, abs=4 * 0.0043)


def test_a_run_sees_the_same_boards_in_any_pack():
    seeds, reset, steps = torch.tensor([1, 2, 3]), torch.tensor([0.1, 0.5, 1.0]), torch.tensor([4, 4, 9])
    start = sampler.start(seeds, reset, batch=8, board=6)
    after = sampler.advance(rules.step(start), seeds, reset, steps)
    for run in range(3):
        alone = slice(run, run + 1)
        alone_start = sampler.start(seeds[alone], reset[alone], batch=8, board=6)
        assert torch.equal(alone_start, start[alone])
        alone_after = sampler.advance(rules.step(alone_start), seeds[alone], reset[alone], steps[alone])
        assert torch.equal(alone_after, after[alone])


def test_evaluation_sequences_follow_the_rules_and_are_shared():
    states = sampler.evaluation_states(2, board=8, sequences=50, device=CPU)
    assert states.shape == (50, 3, 8, 8)
    assert states.dtype == torch.bool
    assert torch.equal(rules.step(states[:, 0]), states[:, 1])
    assert torch.equal(rules.step(states[:, 1]), states[:, 2])
    longer = sampler.evaluation_states(3, board=8, sequences=50, device=CPU)
    assert torch.equal(longer[:, :3], states)
