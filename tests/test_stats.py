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
    """The same draws, made again, applied to groups one by one; the two parts put together by their formulas."""
    from scipy import stats as scipy_stats

    true, predicted, groups = runs()
    got = stats.two_way_interval(true, predicted, groups, 3, metric, n_resamples=40, seed=5)
    of = CONFUSION_METRICS[metric]
    names = np.unique(groups)
    strata = np.array([int(name[0]) for name in names])
    rng = np.random.Generator(np.random.PCG64(5))
    drawn = np.zeros((40, len(names)))
    for c in range(3):
        n = (strata == c).sum()
        drawn[:, strata == c] = rng.multinomial(n - 1, np.full(n, 1 / n), size=40) * n / (n - 1)
    values = []
    for r in range(40):
        weight = dict(zip(names, drawn[r]))
        tables = np.zeros((4, 3, 3))
        for s in range(4):
            for i, group in enumerate(groups):
                tables[s, true[i], predicted[s, i]] += weight[group]
        values.append(np.mean([of(table) for table in tables]))
    by_seed = [float(of(confusion(true, p, 3))) for p in predicted]
    mean, of_seeds = np.mean(by_seed), scipy_stats.t.ppf(0.975, 3) * scipy_stats.sem(by_seed)
    wider = scipy_stats.t.ppf(0.975, len(names) - 3) / scipy_stats.norm.ppf(0.975)
    below, above = wider * np.abs(np.quantile(values, [0.025, 0.975]) - mean)
    expected = (mean, mean - np.hypot(below, of_seeds), min(1, mean + np.hypot(above, of_seeds)), 60)
    assert got == pytest.approx(expected, abs=1e-12)


N_SIMULATED = 400


def simulated_coverage(n_seeds, seed_sd=1.0, image_sd=1.0, n_groups=(33, 16, 10)):
    """How often the 95 % interval holds the true balanced accuracy; to give no bounds counts as a miss.

    A prediction is right where 0.6 + seed + image + noise > 0, all normal, the noise of variance 1: the balanced
    accuracy of all seeds and images there could be is Phi(0.6 / sqrt(1 + seed_sd^2 + image_sd^2)).
    """
    from scipy.special import ndtr

    rng = np.random.default_rng(n_seeds)
    true = np.repeat(np.arange(3), n_groups)
    truth = ndtr(0.6 / np.sqrt(1 + seed_sd**2 + image_sd**2))
    held = 0
    for _ in range(N_SIMULATED):
        of_seed, of_image = seed_sd * rng.normal(size=(n_seeds, 1)), image_sd * rng.normal(size=len(true))
        right = 0.6 + of_seed + of_image + rng.normal(size=(n_seeds, len(true))) > 0
        got = stats.two_way_interval(true, np.where(right, true, (true + 1) % 3), range(len(true)), 3, n_resamples=300)
        held += got.low is not None and got.low <= truth <= got.high
    return held / N_SIMULATED


@pytest.mark.parametrize("n_seeds", [2, 3, 10])
def test_the_interval_covers_new_seeds_and_images(n_seeds):
    """Three standard errors of 400 simulations are 0.033; the plain crossed bootstrap reaches .69, .81, .94 here."""
    assert 0.95 - 0.033 <= simulated_coverage(n_seeds) <= 0.95 + 0.033


@pytest.mark.slow
@pytest.mark.parametrize("n_groups", [(33, 16, 10), (5, 4, 3)])
@pytest.mark.parametrize(("seed_sd", "image_sd"), [(0, 0), (0, 1), (0.3, 1), (1, 0)])
@pytest.mark.parametrize("n_seeds", [2, 3, 5, 10])
def test_the_interval_covers_under_other_spreads(n_seeds, seed_sd, image_sd, n_groups):
    """At least 0.90, less three standard errors; more than 0.95 where the noise of single predictions prevails."""
    assert simulated_coverage(n_seeds, seed_sd, image_sd, n_groups) >= 0.90 - 0.045


def test_few_seeds_widen_by_student_t():
    """Seeds of 0.7 and 0.8: t(1) * s / sqrt(2) = 12.7062 * 0.05. Ten, five of each: t(9) * 0.05 / 3 = 0.03770.

    Over images the mean of the seeds is 1, 0.5 or 0 (70, 10 and 20 %): 1.96 * sqrt(0.1625 / 2000) = 0.01767.
    """
    true = np.arange(2000) % 2
    right = np.stack([np.arange(2000) // 2 % 10 < k for k in (7, 8)])
    got = stats.two_way_interval(true, np.where(right, true, 1 - true), range(2000), 2)
    assert (got.estimate, got.low, got.high) == (pytest.approx(0.75), pytest.approx(0.75 - 0.6356, abs=1e-3), 1.0)
    ten = stats.two_way_interval(true, np.where(np.repeat(right, 5, axis=0), true, 1 - true), range(2000), 2)
    assert ten.high - ten.estimate == pytest.approx(np.hypot(0.03770, 0.01767), rel=0.02)


def test_the_bounds_stay_in_the_range_of_the_metric():
    """Two seeds, of which one is right and one wrong everywhere but once: the formula alone would leave the range."""
    true = np.arange(40) % 2
    predicted = np.stack([true, 1 - true])
    predicted[:, :2] = [[1, 1], [0, 0]]
    for metric, least in [("accuracy", 0), ("mcc", -1)]:
        assert stats.two_way_interval(true, predicted, range(40), 2, metric)[1:3] == (least, 1)


@pytest.mark.parametrize("groups", [
    ["a", "a", "b", "b", "c", "c"],  # one group of each class
    ["a", "x", "b", "y", "c", "c"],  # one group of one class
    ["a", "x", "b", "y", "m", "m"],  # the same
])  # fmt: skip
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_a_class_of_one_group_has_no_interval(groups, n_seeds):
    true = np.array([0, 0, 1, 1, 2, 2])
    predicted = np.array([[0, 1, 1, 0, 2, 2], [0, 0, 1, 0, 2, 1], [0, 1, 1, 1, 2, 2]])
    got = stats.two_way_interval(true, predicted[:n_seeds], groups, 3, "accuracy")
    expected = (predicted[:n_seeds] == true).mean()
    assert got == (pytest.approx(expected), None, None, 6)
    two_each = stats.two_way_interval(true, predicted[:n_seeds], range(6), 3, "accuracy")
    assert two_each.low < two_each.estimate < two_each.high


def test_images_that_are_all_right_have_no_interval():
    """A width of zero would claim that no image can ever be wrong."""
    true = np.arange(30) % 3
    assert stats.two_way_interval(true, np.tile(true, (4, 1)), range(30), 3) == (1.0, None, None, 30)


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


def test_groups_of_several_classes_are_drawn_with_the_class_they_have_most_of():
    true, predicted = np.array([0, 0, 1, 1, 0, 1, 1]), np.array([[0, 1, 1, 1, 0, 0, 1]])
    groups = ["a", "b", "c", "d", "m", "m", "m"]
    got = stats.two_way_interval(true, predicted, groups, 2, "accuracy")
    assert got.low < got.estimate == pytest.approx(5 / 7)
    counts, strata = stats._group_counts(true, predicted, groups, 2)
    assert strata.tolist() == [0, 0, 1, 1, 1]
    assert counts.sum() == 7


def test_group_weights_have_the_variance_of_sampling():
    """For g = 2, 3, 10 values, the variance of the resampled mean is s^2 / g with s^2 of divisor g - 1."""
    rng = np.random.Generator(np.random.PCG64(0))
    strata = np.repeat([0, 1, 2, 3], [2, 3, 10, 1])
    weights = stats._draw_groups(strata, 20_000, rng)
    assert (weights[:, strata == 3] == 1).all()
    for stratum, g in [(0, 2), (1, 3), (2, 10)]:
        w, x = weights[:, strata == stratum], np.arange(g) ** 2.0
        assert w.sum(axis=1) == pytest.approx(g)
        assert (w @ x / g).var() == pytest.approx(x.var(ddof=1) / g, rel=0.05)


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
