"""Intervals against closed forms and plain loops; curves against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from busistore import stats
from busistore.errors import BusistoreError, UnknownName
from busistore.metrics import CONFUSION_METRICS, confusion


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


def runs(n=60, n_seeds=4, n_classes=3, seed=0):
    """True classes, predictions of several seeds, and groups of one to three images of one class."""
    rng = np.random.default_rng(seed)
    true = np.sort(rng.integers(n_classes, size=n))
    predicted = np.where(rng.random((n_seeds, n)) < 0.7, true, rng.integers(n_classes, size=(n_seeds, n)))
    groups = [f"{c}-{i // 2}" for i, c in enumerate(true)]
    return true, predicted, groups


@pytest.mark.parametrize("metric", CONFUSION_METRICS)
def test_two_way_interval_equals_a_plain_loop(metric):
    """The same weights, drawn again, applied by repeating images and seeds one by one."""
    true, predicted, groups = runs()
    got = stats.two_way_interval(true, predicted, groups, 3, metric, n_resamples=40, seed=5)
    of = CONFUSION_METRICS[metric]
    names = np.unique(groups)
    strata = np.array([int(name[0]) for name in names])
    rng = np.random.Generator(np.random.PCG64(5))
    drawn = np.zeros((40, len(names)), int)
    for c in range(3):
        n = (strata == c).sum()
        drawn[:, strata == c] = rng.multinomial(n, np.full(n, 1 / n), size=40)
    seeds = rng.multinomial(4, np.full(4, 1 / 4), size=40)
    values = []
    for r in range(40):
        rows = [i for g, w in zip(names, drawn[r]) for i in np.flatnonzero(np.array(groups) == g) for _ in range(w)]
        scores = [float(of(confusion(true[rows], predicted[s, rows], 3))) for s in range(4) for _ in range(seeds[r, s])]
        values.append(np.mean(scores))
    mean = np.mean([of(confusion(true, p, 3)) for p in predicted])
    assert got == pytest.approx((mean, *np.quantile(values, [0.025, 0.975]), 60), abs=1e-12)


def test_blocks_change_nothing_but_memory(monkeypatch):
    """The draws come in another order, so the two agree as two bootstraps do, and each repeats itself."""
    true, predicted, groups = runs()
    whole = stats.two_way_interval(true, predicted, groups, 3, n_resamples=4000)
    monkeypatch.setattr(stats, "_BLOCK_CELLS", 40_000)
    blocks = stats.two_way_interval(true, predicted, groups, 3, n_resamples=4000)
    assert blocks == stats.two_way_interval(true, predicted, groups, 3, n_resamples=4000)
    assert blocks == pytest.approx(whole, abs=0.01)


def test_order_of_images_changes_nothing_and_the_seed_does():
    true, predicted, groups = runs()
    order = np.random.default_rng(1).permutation(len(true))
    one = stats.two_way_interval(true, predicted, groups, 3, n_resamples=500)
    assert one == stats.two_way_interval(true[order], predicted[:, order], np.array(groups)[order], 3, n_resamples=500)
    assert one != stats.two_way_interval(true, predicted, groups, 3, n_resamples=500, seed=1)


def test_one_seed_and_single_images_give_the_binomial_spread():
    """Accuracy of n = 400 at p = .8, one stratum: standard deviation sqrt(p q / n) = .02."""
    true = np.zeros(400, int)
    predicted = (np.arange(400) % 5 == 0).astype(int)
    got = stats.two_way_interval(true, predicted, range(400), 2, "accuracy", n_resamples=8000)
    assert got.estimate == 0.8
    assert (got.high - got.low) / 2 == pytest.approx(1.96 * 0.02, rel=0.05)


def test_copies_of_images_narrow_nothing():
    true = np.zeros(100, int)
    predicted = (np.arange(100) % 5 == 0).astype(int)
    once = stats.two_way_interval(true, predicted, range(100), 2, "accuracy")
    four = stats.two_way_interval(np.tile(true, 4), np.tile(predicted, 4), list(range(100)) * 4, 2, "accuracy")
    assert four[:3] == once[:3]


def test_groups_of_several_classes_are_resampled_among_themselves():
    true, predicted = np.array([0, 0, 1, 1, 0, 1]), np.array([[0, 1, 1, 1, 0, 0]])
    got = stats.two_way_interval(true, predicted, ["a", "b", "c", "d", "m", "m"], 2, "accuracy")
    assert got.low < got.estimate == pytest.approx(4 / 6)
    assert got.high <= 1
    counts, strata = stats._group_counts(true, predicted, ["a", "b", "c", "d", "m", "m"], 2)
    assert strata.tolist() == [0, 0, 1, 1, -1]
    assert counts.sum() == 6


def test_what_cannot_be_resampled_is_said():
    with pytest.raises(UnknownName, match=r"no metric of the confusion matrix 'auroc'.*accuracy"):
        stats.two_way_interval([0], [[0]], ["a"], 2, "auroc")
    with pytest.raises(BusistoreError, match="no predictions"):
        stats.two_way_interval([], np.empty((0, 0)), [], 2)


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
