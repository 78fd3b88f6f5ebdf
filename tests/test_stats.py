"""The plainest interval against closed forms, the scale of bounds by hand, and curves against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore import stats
from busistore.stats.intervals import on_scale


def test_mean_interval_by_hand():
    """Values 1..5: mean 3, standard error sqrt(2.5/5), t(4, .975) = 2.7764451."""
    got = stats.mean_interval([1, 2, 3, 4, 5])
    half = 2.7764451051977987 * np.sqrt(0.5)
    assert got == pytest.approx((3, 3 - half, 3 + half, 5), abs=1e-12)


def test_mean_interval_equals_scipy():
    from scipy import stats as scipy_stats

    x = np.random.default_rng(0).normal(size=10)
    low, high = scipy_stats.t.interval(0.9, 9, loc=x.mean(), scale=scipy_stats.sem(x))
    assert stats.mean_interval(x, 0.9)[:3] == pytest.approx((x.mean(), low, high), abs=1e-12)


def test_one_value_has_no_interval():
    assert stats.mean_interval([0.5]) == (0.5, None, None, 1)
    with pytest.raises(ValueError, match="no values"):
        stats.mean_interval([])


def test_bounds_on_the_scale_of_the_metric_by_hand():
    """At 0.8 the logit is log 4 and its slope 1 / 0.16: a half-width of 0.16 log 2 halves or doubles the odds."""
    half = 0.16 * np.log(2)
    assert on_scale("auroc", 0.8, half) == pytest.approx((2 / 3, 8 / 9))
    assert on_scale("brier", 1.6, 2 * half) == pytest.approx((4 / 3, 16 / 9))
    assert on_scale("mcc", 0.6, 2 * half) == pytest.approx((1 / 3, 7 / 9))
    assert on_scale("log_loss", 0.5, 0.5 * np.log(2)) == pytest.approx((0.25, 1.0))
    assert on_scale("macro_f1", 1.0, 0.1) == on_scale("log_loss", 0.0, 0.1) == (None, None)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["auroc", "mcc", "brier", "log_loss"]), st.floats(0.001, 0.999), st.floats(1e-6, 0.3))
def test_bounds_keep_to_the_range_and_are_as_wide_as_said_where_narrow(metric, estimate, half):
    low, high = on_scale(metric, estimate, half)
    assert low < estimate < high
    assert low >= {"mcc": -1}.get(metric, 0)
    assert high <= {"brier": 2, "log_loss": np.inf}.get(metric, 1)
    near = half / 1000 * min(estimate, 1 - estimate)
    low, high = on_scale(metric, estimate, near)
    assert high - low == pytest.approx(2 * near, rel=1e-2)


@pytest.mark.parametrize("n_levels", [3, 1000])
def test_roc_curve_equals_scikit_learn(n_levels):
    from sklearn.metrics import roc_curve

    rng = np.random.default_rng(2)
    scores, positive = rng.integers(n_levels, size=200) / n_levels, rng.integers(2, size=200) == 1
    expected = roc_curve(positive, scores, drop_intermediate=False)[:2]
    for ours, theirs in zip(stats.roc_curve(positive, scores), expected):
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_roc_curve_needs_both_kinds():
    with pytest.raises(ValueError, match="both"):
        stats.roc_curve(np.ones(3, bool), np.arange(3))


def test_reliability_curve_equals_scikit_learn():
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.random(100), [0, 1, 0.5]])
    positive = rng.random(103) < scores
    share, score, n = stats.reliability_curve(positive, scores, 10)
    expected = calibration_curve(positive, scores, n_bins=10)
    assert share == pytest.approx(expected[0], abs=1e-12)
    assert score == pytest.approx(expected[1], abs=1e-12)
    assert n.sum() == 103
