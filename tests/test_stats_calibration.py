"""Calibration and decisions against plain loops, other regressions and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from busistore import stats


def runs(n=120, n_runs=4, seed=0, n_levels=None, slope=0.7, shift=0.3):
    """Truths and probabilities of several runs whose logits are off by a known line."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1.5, size=(n_runs, n))
    x = x if n_levels is None else np.round(x * n_levels) / n_levels
    positive = rng.random((n_runs, n)) < 1 / (1 + np.exp(-(shift + slope * x)))
    return positive, 1 / (1 + np.exp(-x))


def plain_equal_mass(positive, scores, n_bins):
    """Each image in the bin of the first rank of its score, image by image."""
    n, gaps = len(scores), {}
    for y, p in zip(positive, scores):
        k = int(sum(q < p for q in scores)) * n_bins // n
        gaps[k] = gaps.get(k, 0.0) + p - y
    return sum(abs(gap) for gap in gaps.values()) / n


@pytest.mark.parametrize("n_levels", [None, 1])
@pytest.mark.parametrize("n_bins", [1, 7, 15])
def test_equal_mass_error_equals_a_plain_loop(n_bins, n_levels):
    positive, scores = runs(n=50, n_levels=n_levels)
    wanted = [plain_equal_mass(y, p, n_bins) for y, p in zip(positive, scores)]
    assert stats.ece_equal_mass(positive, scores, n_bins) == pytest.approx(wanted, abs=1e-12)
    order = np.random.default_rng(1).permutation(50)
    assert stats.ece_equal_mass(positive[:, order], scores[:, order], n_bins) == pytest.approx(wanted, abs=1e-12)


def test_equal_mass_error_by_hand():
    """Two bins of two: mean scores .15 and .7, shares .5 and 1."""
    assert stats.ece_equal_mass([0, 1, 1, 1], [0.1, 0.2, 0.6, 0.8], 2) == pytest.approx((0.35 + 0.3) / 2)
    assert stats.ece_equal_mass([0, 1], [0.0, 1.0]) == 0


@pytest.mark.parametrize("n_levels", [None, 2])
def test_intercept_and_slope_are_the_most_likely(n_levels):
    """The slope by scikit-learn without a penalty; the intercept by a search for where its score is 0."""
    from scipy.optimize import brentq
    from sklearn.linear_model import LogisticRegression

    positive, scores = runs(n_levels=n_levels)
    for y, p, intercept, slope in zip(
        positive, scores, stats.calibration_intercept(positive, scores), stats.calibration_slope(positive, scores)
    ):
        line = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(logit(p)[:, None], y)
        assert slope == pytest.approx(line.coef_.item(), abs=1e-6)
        shift = brentq(lambda a, y=y, p=p: (expit(a + logit(p)) - y).sum(), -9, 9, xtol=1e-13)
        assert intercept == pytest.approx(shift, abs=1e-8)


def test_intercept_and_slope_find_the_line_the_truths_were_drawn_from():
    positive, scores = runs(n=40_000, n_runs=1, slope=0.5, shift=0.0)
    assert stats.calibration_slope(positive, scores) == pytest.approx([0.5], abs=0.03)
    positive, scores = runs(n=40_000, n_runs=1, slope=1.0, shift=-0.4)
    assert stats.calibration_intercept(positive, scores) == pytest.approx([-0.4], abs=0.04)
    assert stats.calibration_slope(positive, scores) == pytest.approx([1], abs=0.05)


def test_the_slope_is_found_for_extreme_scores():
    """Logits of -20.7 and 20.7, of which one in ten is wrong: the slope is log 9 / 20.7."""
    positive, scores = np.arange(40) % 2 == 0, np.where(np.arange(40) % 2 == 0, 1 - 1e-9, 1e-9)
    scores[[0, 1, 20, 21]] = 1 - scores[[0, 1, 20, 21]]
    assert stats.calibration_slope(positive, scores) == pytest.approx(np.log(9) / logit(1 - 1e-9), rel=1e-6)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_no_slope_where_more_than_one_score_in_a_hundred_is_on_an_end(end):
    """What has no logit would take one that is a matter of rounding; of 200 scores two may, three not."""
    positive, scores = runs(n=200, n_runs=1)
    scores[0, :2] = end
    assert np.isfinite(stats.calibration_slope(positive, scores))
    scores[0, 2] = end
    assert np.isnan(stats.calibration_slope(positive, scores))
    both = stats.calibration_slope(np.vstack([positive] * 2), np.vstack([scores, runs(n=200, n_runs=1)[1]]))
    assert np.isnan(both).tolist() == [True, False]


def test_intercepts_exist_only_where_scores_of_0_and_1_leave_room_for_the_share():
    """Half of six are positive, and three scores are 1 already, or 0: no constant raises or lowers the mean to a half.

    Two scores of 1, one of 0, three of 1/2: 2 + 3 expit(a) = 3, so a = log(1/2).
    """
    positive = np.array([True, True, True, False, False, False])
    scores = [[1, 1, 1, 0.5, 0.5, 0.5], [0, 0, 0, 0.5, 0.5, 0.5], [1, 1, 0, 0.5, 0.5, 0.5]]
    found = stats.calibration_intercept(positive, scores)
    assert np.isnan(found).tolist() == [True, True, False]
    assert found[2] == pytest.approx(np.log(0.5), abs=1e-8)


@pytest.mark.parametrize("scores", [
    [0.1, 0.2, 0.7, 0.8],  # parted by a threshold
    [0.8, 0.9, 0.1, 0.2],  # parted the wrong way round
    [0.1, 0.5, 0.5, 0.8],  # parted but for a tie
    [0.5, 0.5, 0.5, 0.5],
])  # fmt: skip
def test_a_slope_that_has_no_solution_is_nan(scores):
    positive = np.array([False, False, True, True])
    assert np.isnan(stats.calibration_slope(positive, scores))
    assert np.isfinite(stats.calibration_intercept(positive, scores))
    both = stats.calibration_slope([positive, [False, True, False, True]], [scores, [0.1, 0.2, 0.3, 0.4]])
    assert np.isnan(both[0])
    assert np.isfinite(both[1])


def test_one_kind_of_truth_has_neither():
    for truth in (np.zeros(5), np.ones(5)):
        assert np.isnan(stats.calibration_intercept(truth, np.linspace(0.1, 0.9, 5)))
        assert np.isnan(stats.calibration_slope(truth, np.linspace(0.1, 0.9, 5)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([None, 1, 3]), st.integers(1, 20))
def test_the_parts_sum_to_the_brier_score(seed, n, n_levels, n_bins):
    positive, scores = runs(n, 2, seed, n_levels)
    parts = stats.brier_parts(positive, scores, n_bins)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.rest
    assert total == pytest.approx(((scores - positive) ** 2).mean(axis=1), abs=1e-12)
    assert (parts.reliability >= 0).all()
    assert (parts.resolution <= parts.uncertainty + 1e-12).all()


def test_brier_parts_by_hand():
    """Scores .2 .2 .2 .9, truths 0 0 1 1: shares 1/3 and 1, of 1/2 in all; one score to a bin leaves no rest."""
    parts = stats.brier_parts([0, 0, 1, 1], [0.2, 0.2, 0.2, 0.9], 10)
    assert parts.reliability == pytest.approx((3 * (0.2 - 1 / 3) ** 2 + 0.01) / 4)
    assert parts.resolution == pytest.approx((3 * (1 / 6) ** 2 + 0.25) / 4)
    assert parts.uncertainty == 0.25
    assert parts.rest == pytest.approx(0, abs=1e-15)


def test_runs_are_worked_together_as_alone():
    positive, scores = runs(n_runs=6)
    shaped = positive.reshape(2, 3, -1), scores.reshape(2, 3, -1)
    for of in (stats.ece_equal_mass, stats.calibration_intercept, stats.calibration_slope,
               lambda y, p: np.stack(stats.brier_parts(y, p), axis=-1),
               lambda y, p: stats.net_benefit(y, p, [0.1, 0.4])):  # fmt: skip
        together, alone = of(*shaped), np.stack([of(y, p) for y, p in zip(positive, scores)])
        assert together.shape[:2] == (2, 3)
        assert together.reshape(alone.shape) == pytest.approx(alone, abs=1e-10)


def test_net_benefit_by_hand():
    """At .2: hits .9 and .3, false .5; at .5 (reached by .5): hit .9, false .5; at .6: hit .9."""
    got = stats.net_benefit([1, 1, 0, 0], [0.9, 0.3, 0.5, 0.1], [0.2, 0.5, 0.6])
    assert got == pytest.approx([2 / 4 - 1 / 4 * 0.25, 1 / 4 - 1 / 4, 1 / 4])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(0, 0.99), min_size=1, max_size=5))
def test_net_benefit_equals_a_plain_loop_and_is_all_where_all_are_acted_on(seed, thresholds):
    positive, scores = runs(30, 2, seed, n_levels=2)
    for y, p, row in zip(positive, scores, stats.net_benefit(positive, scores, thresholds)):
        for t, got in zip(thresholds, row):
            hits, false = sum(y[p >= t]), sum(~y[p >= t])
            assert got == pytest.approx(hits / 30 - false / 30 * t / (1 - t), abs=1e-12)
    everyone = stats.net_benefit(positive, np.ones_like(scores), thresholds)
    assert stats.treat_all(positive, thresholds) == pytest.approx(everyone, abs=1e-12)
    assert stats.treat_none(thresholds) == pytest.approx(stats.net_benefit(positive, 0 * scores - 1, thresholds)[0])


def test_thresholds_are_probabilities_below_one():
    with pytest.raises(ValueError, match="below 1"):
        stats.net_benefit([1], [0.5], [1.0])
    with pytest.raises(ValueError, match="below 1"):
        stats.treat_all([1], [-0.1])
