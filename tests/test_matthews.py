"""Matthews' correlation: by hand on 2x2 boards, and by numpy's correlation coefficient on random ones.

For two 0/1 variables Matthews' coefficient is Pearson's, which is the independent way to compute it.
"""

import math

import numpy as np
import pytest
import torch

from imagination.metrics import matthews, matthews_per_board


def boards(*flat):
    """2x2 boards `[N, 1, 2, 2]`."""
    return torch.tensor(flat).reshape(-1, 1, 2, 2).float()


def both(decoded, truth):
    """The coefficient of one pair of boards, which is the same pooled and per board."""
    pooled, single = matthews(decoded, truth), matthews_per_board(decoded, truth)
    assert pooled.shape == (1, 1)
    assert single.shape == (1, 1, 1)
    assert pooled.item() == pytest.approx(single.item(), abs=1e-12)
    return pooled.item()


@pytest.mark.parametrize(
    ("decoded", "truth", "expected"),
    [
        # TP 1, FP 1, FN 0, TN 2: (1 * 2 - 1 * 0) / sqrt(2 * 1 * 3 * 2) = 2 / sqrt(12)
        ([1, 1, 0, 0], [1, 0, 0, 0], 2 / math.sqrt(12)),
        # TP 1, FP 0, FN 1, TN 2: the same with the roles changed
        ([1, 0, 0, 0], [1, 1, 0, 0], 2 / math.sqrt(12)),
        # TP 2, FP 1, FN 0, TN 1: (2 * 1 - 0) / sqrt(3 * 2 * 2 * 1) = 2 / sqrt(12)
        ([1, 1, 1, 0], [1, 1, 0, 0], 2 / math.sqrt(12)),
        ([1, 1, 0, 0], [1, 0, 1, 0], 0.0),  # TP = FP = FN = TN = 1
        ([1, 0, 1, 0], [1, 0, 1, 0], 1.0),
        ([1, 0, 1, 0], [0, 1, 0, 1], 0.0),  # -1, clipped at 0
        # TP 0, FP 1, FN 2, TN 1: (0 - 2) / sqrt(1 * 2 * 2 * 3) is negative
        ([1, 0, 0, 0], [0, 1, 1, 0], 0.0),
    ],
)
def test_by_hand_on_two_by_two(decoded, truth, expected):
    assert both(boards(decoded), boards(truth)) == pytest.approx(expected)


@pytest.mark.parametrize("constant", [[0, 0, 0, 0], [1, 1, 1, 1]])
@pytest.mark.parametrize("other", [[0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]])
def test_a_board_all_dead_or_all_alive_has_correlation_zero(constant, other):
    decoded, truth = boards(constant), boards(other)
    assert matthews(decoded, truth).item() == matthews(truth.float(), decoded.bool()).item() == 0


@pytest.mark.parametrize("constant", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_a_true_board_all_dead_or_all_alive_has_no_coefficient_of_its_own(constant):
    assert matthews_per_board(boards([1, 0, 0, 1]), boards(constant)).isnan().all()
    assert matthews_per_board(boards(constant), boards([1, 0, 0, 1])).item() == 0


def test_a_pixel_at_the_threshold_is_dead():
    truth = boards([1, 0, 0, 0])
    assert both(torch.tensor([0.51, 0.5, 0.5, 0.0]).reshape(1, 1, 2, 2), truth) == 1.0
    assert both(torch.tensor([0.5, 0.51, 0.5, 0.0]).reshape(1, 1, 2, 2), truth) == 0.0


def test_pooled_is_not_the_mean_of_the_boards():
    # The first board is right; the second is decoded as all dead, and its own coefficient is 0.
    decoded, truth = boards([1, 1, 0, 0], [0, 0, 0, 0]), boards([1, 1, 0, 0], [1, 0, 0, 0])
    # Pooled: TP 2, FP 0, FN 1, TN 5: 2 * 5 / sqrt(2 * 3 * 5 * 6) = 10 / sqrt(180)
    assert matthews(decoded, truth).item() == pytest.approx(10 / math.sqrt(180))
    assert matthews_per_board(decoded, truth).flatten().tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("seed", range(5))
def test_against_numpys_correlation_on_random_boards(seed):
    random = np.random.default_rng(seed)
    truth = random.random((30, 3, 5, 7)) < 0.3
    decoded = random.random((30, 4, 5, 7)) * 0.8
    # Some decoded states follow a true one, some its opposite, so that all signs and sizes occur.
    decoded[:, 0] = np.where(truth[:, 1] & (random.random((30, 5, 7)) < 0.8), 0.9, decoded[:, 0] * 0.7)
    decoded[:, 1] = np.where(truth[:, 2], 0.1, decoded[:, 1])
    truth[:4], decoded[2:6] = False, 0.2  # and boards without a coefficient
    pooled, single = np.zeros((4, 3)), np.zeros((30, 4, 3))
    alive = decoded > 0.5
    for i in range(4):
        for j in range(3):
            pooled[i, j] = np.corrcoef(alive[:, i].ravel(), truth[:, j].ravel())[0, 1]
            for n in range(30):
                if not truth[n, j].std():
                    single[n, i, j] = np.nan
                elif alive[n, i].std():
                    single[n, i, j] = np.corrcoef(alive[n, i].ravel(), truth[n, j].ravel())[0, 1]
    assert pooled.min() < -0.1
    assert pooled.max() > 0.5
    ours = [f(torch.from_numpy(decoded), torch.from_numpy(truth)) for f in (matthews, matthews_per_board)]
    np.testing.assert_allclose(ours[0].numpy(), pooled.clip(0), atol=1e-12)
    np.testing.assert_allclose(ours[1].numpy(), single.clip(0), atol=1e-12)
