"""The interpretability metric: the paper's worked examples, the 95% rule, and a plain re-computation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imagination import metrics

GENERATOR = torch.Generator().manual_seed(0)
# Three boards that match each other nowhere near 95%: random, and 400 pixels.
A, B, OTHER = (torch.rand(20, 20, generator=GENERATOR) < 0.5 for _ in range(3))


def score(decoded, truth):
    """Eq. 1 of one sequence, and the data-set variant, which is the same for a single sequence."""
    decoded, truth = torch.stack(decoded)[None].float(), torch.stack(truth)[None]
    single = metrics.interpretability(decoded, truth)
    assert single.shape == (1,)
    assert metrics.interpretability_dataset(decoded, truth) == pytest.approx(single.item())
    return single.item()


# The appendix' figures. 3/3: m = 4 true states, so two intermediate ones (A = s_2, B = s_3), and n = 2 generated
# boards; the divisor is 2. 2/3: one true intermediate state (A = s_2), two generated boards, divisor 1.


def test_figure_3_only_the_third_state_is_right():
    assert score([OTHER, B], [A, B]) == 0.5  # (0 + 1) / 2


def test_figure_4_both_match_the_same_true_state():
    assert score([A, A], [A, B]) == 0.75  # (1 + .5) / 2


def test_figure_5_the_final_state_does_not_count():
    assert score([A, B], [A]) == 1.0  # B is s_3, the final state, and not among the intermediate ones


def test_figure_6_both_match_the_one_true_state():
    assert score([A, A], [A]) == 1.5  # (1 + .5) / 1


def test_all_right_any_order_and_three_matches():
    assert score([A, B], [A, B]) == 1.0
    assert score([B, A], [A, B]) == 1.0
    assert score([A, A, A], [A]) == 2.0  # 1 + .5 + .5
    assert score([A], [A, A]) == 2.0  # 3/2 with s_2 = s_3: one board matches both; min(1, 2) = 1
    assert score([OTHER], [A, B]) == 0.0


@pytest.mark.parametrize(("wrong", "matches"), [(20, True), (21, False)])
def test_exactly_95_percent_of_whole_pixels_match(wrong, matches):
    # 5% of 400 pixels are 20.
    decoded = A.clone()
    decoded.view(-1)[:wrong] ^= True
    assert score([decoded], [A]) == float(matches)


def test_the_share_is_taken_as_written():
    # .55 * 100 is 55.00000000000001 in floating point; 55 equal pixels of 100 are 55% all the same.
    truth, decoded = torch.zeros(1, 1, 10, 10), torch.zeros(1, 1, 10, 10)
    decoded.view(-1)[:45] = 1
    assert metrics.interpretability(decoded, truth, similarity=0.55).item() == 1.0
    # 95% of 144 pixels are 136.8: 137 must agree, so 7 may be wrong and 8 not.
    truth, decoded = torch.zeros(2, 1, 12, 12), torch.zeros(2, 1, 12, 12)
    decoded[0].view(-1)[:7] = 1
    decoded[1].view(-1)[:8] = 1
    assert metrics.interpretability(decoded, truth).tolist() == [1.0, 0.0]


def test_a_pixel_at_the_threshold_is_dead():
    truth = torch.zeros(1, 1, 2, 2)
    assert metrics.interpretability(torch.full((1, 1, 2, 2), 0.5), truth).item() == 1.0
    assert metrics.interpretability(torch.full((1, 1, 2, 2), 0.51), truth).item() == 0.0


@pytest.mark.parametrize(("generated", "true"), [(0, 2), (2, 0), (0, 0)])
def test_without_an_intermediate_state_there_is_no_value(generated, true):
    decoded, truth = torch.zeros(3, generated, 4, 4), torch.zeros(3, true, 4, 4)
    assert metrics.interpretability(decoded, truth).isnan().tolist() == [True] * 3
    assert math.isnan(metrics.interpretability_dataset(decoded, truth))


@pytest.mark.parametrize("function", [metrics.interpretability, metrics.matthews, metrics.matthews_per_board])
@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (2, 1, 4, 5)])
def test_shapes_that_do_not_fit_are_refused(function, shape):
    with pytest.raises(ValueError, match="must be"):
        function(torch.zeros(2, 1, 4, 4), torch.zeros(shape))


def test_the_data_set_variant_weighs_once_for_all_sequences():
    # Two sequences of 2/3: in the first only h_1 matches, in the second only h_2. Per sequence each scores 1.
    # For the data set both match rates are 1/2: 1 * .5 + .5 * .5 = .75.
    decoded = torch.stack([torch.stack([A, OTHER]), torch.stack([OTHER, A])]).float()
    truth = A.expand(2, 1, 20, 20)
    assert metrics.interpretability(decoded, truth).tolist() == [1.0, 1.0]
    assert metrics.interpretability_dataset(decoded, truth) == 0.75


def recompute(decoded, truth, similarity):
    """Eq. 1 as its sentence reads: in order, 1 for the first match of a true state and .5 for each further one."""
    scores = []
    for generated, states in zip(decoded, truth, strict=True):
        total = 0.0
        for state in states:
            matched = False
            for board in generated:
                equal = int(((board > 0.5) == (state > 0.5)).sum())
                if equal >= similarity * state.size - 1e-9:
                    total += 0.5 if matched else 1.0
                    matched = True
        scores.append(total / min(len(generated), len(states)))
    return np.array(scores)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.5, 0.75, 0.95]), st.integers(0, 2**31))
def test_against_plain_numpy_on_random_boards(n, states, similarity, seed):
    random = np.random.default_rng(seed)
    decoded, truth = random.random((5, n, 2, 4)), random.integers(0, 2, (5, states, 2, 4))
    # Half of the generated boards are copies of a true state, so that matches happen at every similarity.
    for i in range(n):
        if random.random() < 0.5:
            decoded[:, i] = truth[:, random.integers(states)]
    ours = metrics.interpretability(torch.from_numpy(decoded), torch.from_numpy(truth), similarity=similarity)
    np.testing.assert_allclose(ours.numpy(), recompute(decoded, truth.astype(float), similarity))
    rates = np.zeros((n, states))
    for i in range(n):
        for j in range(states):
            equal = ((decoded[:, i] > 0.5) == (truth[:, j] == 1)).mean((1, 2))
            rates[i, j] = (equal >= similarity - 1e-9).mean()
    expected = sum(np.sort(rates[:, j])[::-1] @ ([1.0] + [0.5] * (n - 1)) for j in range(states)) / min(
        n, states
    )
    ours = metrics.interpretability_dataset(
        torch.from_numpy(decoded), torch.from_numpy(truth), similarity=similarity
    )
    assert ours == pytest.approx(expected)


def test_pixel_accuracy_is_a_share_per_board():
    truth = torch.tensor([[[1, 0], [0, 0]]])
    decoded = torch.tensor([[[0.9, 0.1], [0.7, 0.5]]])  # one pixel of four is wrong
    assert metrics.pixel_accuracy(decoded, truth).tolist() == [0.75]
