"""Weighted metrics against scikit-learn and copied images; resamples against plain loops and scipy's bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore import stats
from busistore.errors import BusistoreError, UnknownName
from busistore.metrics import METRICS, classification_scores
from busistore.stats import weighted
from busistore.stats.resampling import draw_groups, image_strata

CLASSES = ["benign", "malignant", "normal"]
NAMES = [name for name, kind in METRICS.items() if kind.scope in ("overall", "both")]
WORST = 1e-12


def runs(n=40, n_runs=3, seed=0, n_levels=None):
    """True class numbers and probabilities of several runs; with few levels the scores are full of ties."""
    rng = np.random.default_rng(seed)
    true = np.concatenate([[0, 1, 2], rng.integers(3, size=n - 3)])
    odds = rng.gamma(0.7, size=(n_runs, n, 3)) if n_levels is None else rng.integers(1, n_levels, (n_runs, n, 3))
    odds = odds + 0.8 * np.eye(3)[true]
    return true, odds / odds.sum(axis=-1, keepdims=True)


def expected(metric, true, probs):
    scored = classification_scores([CLASSES[t] for t in true], probs, CLASSES)
    return next(s.values for s in scored if (s.metric, s.class_) == (metric, ""))


@pytest.mark.parametrize("n_levels", [None, 3])
@pytest.mark.parametrize("metric", NAMES)
def test_weights_of_one_give_the_metric_itself(metric, n_levels):
    true, probs = runs(n_levels=n_levels)
    got = stats.resampled(metric, true, probs, np.ones((2, 40)), CLASSES)
    assert got == pytest.approx(np.tile(expected(metric, true, probs), (2, 1)), abs=WORST, rel=0)
    assert stats.resampled(metric, true, probs[1], np.ones(40), CLASSES) == pytest.approx(got[:1, 1:2], abs=WORST)


@pytest.mark.parametrize("metric", NAMES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 30), n_levels=st.sampled_from([2, 4, 1000]))
def test_whole_weights_are_copies_of_images(metric, seed, n, n_levels):
    true, probs = runs(n, 2, seed, n_levels)
    times = np.random.default_rng(seed).integers(0, 4, size=(3, n))
    got = stats.resampled(metric, true, probs, times, CLASSES)
    for value, copies in zip(got, times):
        chosen = np.repeat(np.arange(n), copies)
        if not len(chosen):
            assert np.isnan(value).all()
            continue
        try:
            wanted = expected(metric, true[chosen], probs[:, chosen])
        except StopIteration:
            wanted = np.full(2, np.nan)
        assert value == pytest.approx(wanted, abs=WORST, rel=0, nan_ok=True)


@pytest.mark.parametrize("n_levels", [None, 3])
def test_broken_weights_equal_scikit_learn(n_levels):
    from sklearn import metrics as sk

    true, probs = runs(60, 2, 5, n_levels)
    weights = np.random.default_rng(1).gamma(1, size=(3, 60))
    for w, row in ((w, r) for r, w in enumerate(weights)):
        for s, p in enumerate(probs):
            best = p.argmax(axis=1)
            theirs = {
                "auroc": np.mean([sk.roc_auc_score(true == c, p[:, c], sample_weight=w) for c in range(3)]),
                "average_precision": np.mean(
                    [sk.average_precision_score(true == c, p[:, c], sample_weight=w) for c in range(3)]
                ),
                "accuracy": sk.accuracy_score(true, best, sample_weight=w),
                "balanced_accuracy": sk.balanced_accuracy_score(true, best, sample_weight=w),
                "macro_f1": sk.f1_score(true, best, average="macro", sample_weight=w),
                "weighted_f1": sk.f1_score(true, best, average="weighted", sample_weight=w),
                "mcc": sk.matthews_corrcoef(true, best, sample_weight=w),
                "log_loss": sk.log_loss(true, p, sample_weight=w),
                "brier": sk.brier_score_loss(np.eye(3)[true], p, sample_weight=w, scale_by_half=False),
            }
            ours = {m: stats.resampled(m, true, probs, weights, CLASSES)[row, s] for m in theirs}
            assert ours == pytest.approx(theirs, abs=WORST, rel=0)


@pytest.mark.parametrize("metric", NAMES)
def test_blocks_change_nothing_but_memory(metric, monkeypatch):
    true, probs = runs(n_levels=5)
    weights = stats.image_weights(true, range(40), 50)
    whole = stats.resampled(metric, true, probs, weights, CLASSES)
    for cells in (1, 100, 1000):
        monkeypatch.setattr(weighted, "_BLOCK_CELLS", cells)
        assert stats.resampled(metric, true, probs, weights, CLASSES) == pytest.approx(whole, abs=WORST, rel=0)


def test_other_classes_name_their_own_pair():
    true, probs = runs()
    got = stats.resampled("auroc_c_vs_a", true, probs, np.ones((1, 40)), ["a", "b", "c"], "c", "a")
    among = true != 1
    share = probs[:, among, 2] / probs[:, among][..., [0, 2]].sum(axis=-1)
    pairs = [[(p > q) + (p == q) / 2 for p in s[true[among] == 2] for q in s[true[among] == 0]] for s in share]
    assert got[0] == pytest.approx(np.mean(pairs, axis=1), abs=WORST)


def test_what_cannot_be_weighted_is_said():
    true, probs = runs()
    ones = np.ones((1, 40))
    with pytest.raises(UnknownName, match=r"no metric of a whole run 'aurok'; did you mean 'auroc'"):
        stats.resampled("aurok", true, probs, ones, CLASSES)
    with pytest.raises(UnknownName, match="no class 'malignant'"):
        stats.resampled("auroc_malignant_vs_benign", true, probs, ones, ["a", "b", "c"])
    for bad in (probs[:, :-1], probs[..., :2], probs[None]):
        with pytest.raises(BusistoreError, match="do not fit"):
            stats.resampled("accuracy", true, bad, ones, CLASSES)
    with pytest.raises(BusistoreError, match="do not fit"):
        stats.resampled("accuracy", true, probs, ones[:, 1:], CLASSES)
    with pytest.raises(BusistoreError, match="class numbers 1 to 3 of 3 classes"):
        stats.resampled("accuracy", true + 1, probs, ones, CLASSES)
    for empty in (probs[:0], probs[:, :0]):
        with pytest.raises(BusistoreError, match="no predictions"):
            stats.resampled("auroc", true[: empty.shape[1]], empty, ones[:, : empty.shape[1]], CLASSES)


def test_group_weights_have_the_variance_of_sampling():
    """For g = 2, 3, 10 values, the variance of the resampled mean is s^2 / g with s^2 of divisor g - 1."""
    rng = np.random.Generator(np.random.PCG64(0))
    strata = np.repeat([0, 1, 2, 3], [2, 3, 10, 1])
    weights = draw_groups(strata, 20_000, rng)
    assert (weights[:, strata == 3] == 1).all()
    for stratum, g in [(0, 2), (1, 3), (2, 10)]:
        w, x = weights[:, strata == stratum], np.arange(g) ** 2.0
        assert w.sum(axis=1) == pytest.approx(g)
        assert (w @ x / g).var() == pytest.approx(x.var(ddof=1) / g, rel=0.05)


def test_images_of_a_group_weigh_the_same_and_their_order_changes_nothing():
    true, groups = np.array([0, 0, 0, 1, 1, 1, 0]), np.array(["b", "a", "b", "c", "d", "e", "f"])
    weights = stats.image_weights(true, groups, 200, seed=3)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert weights[:, 3:6].sum(axis=1) == pytest.approx(3)
    assert (weights[:, 0] + weights[:, 1] + weights[:, 6]) == pytest.approx(3)
    order = np.random.default_rng(0).permutation(7)
    assert (stats.image_weights(true[order], groups[order], 200, seed=3) == weights[:, order]).all()
    assert (stats.image_weights(true, groups, 200, seed=4) != weights).any()


def test_groups_of_several_classes_are_drawn_with_the_class_they_have_most_of():
    true, groups = np.array([0, 0, 1, 1, 0, 1, 1]), ["a", "b", "c", "d", "m", "m", "m"]
    group, stratum = image_strata(true, groups)
    assert (stratum.tolist(), group.tolist()) == ([0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 4, 4])


def test_images_without_a_group_each_are_said():
    with pytest.raises(BusistoreError, match="2 test images and 1 groups"):
        stats.image_weights([0, 1], ["a"])
    with pytest.raises(BusistoreError, match="no predictions"):
        stats.image_weights([], [])


def test_cluster_bootstrap_equals_a_plain_loop():
    """The same draws, applied to groups one by one through copies of their images, ten at a time."""
    true, probs = runs(30, 1)
    true = np.sort(true)
    groups = np.array([f"{c}-{i // 2:02}" for i, c in enumerate(true)])
    got = stats.cluster_bootstrap("auroc", true, probs[0], groups, CLASSES, 0.9, n_resamples=60, seed=5)
    names = np.unique(groups)
    rng, drawn = np.random.Generator(np.random.PCG64(5)), np.zeros((60, len(names)))
    for c in range(3):
        mine = np.array([name[0] == str(c) for name in names])
        g = int(mine.sum())
        drawn[:, mine] = rng.multinomial(g - 1, np.full(g, 1 / g), size=60) * g / (g - 1)
    values = []
    for r in range(60):
        w = np.array([drawn[r, list(names).index(group)] for group in groups])
        areas = []
        for c in range(3):
            won = total = 0.0
            for i in np.flatnonzero(true == c):
                for j in np.flatnonzero(true != c):
                    x, y = probs[0, i, c], probs[0, j, c]
                    won += w[i] * w[j] * ((x > y) + 0.5 * (x == y))
                    total += w[i] * w[j]
            areas.append(won / total)
        values.append(np.mean(areas))
    wanted = expected("auroc", true, probs)[0], *np.quantile(values, [0.05, 0.95]), 30
    assert got == pytest.approx(wanted, abs=WORST)


def test_cluster_bootstrap_of_single_images_agrees_with_scipy():
    """Positives and negatives drawn apart; two bootstraps of 9,999 agree to a few hundredths of their width."""
    from scipy import stats as scipy_stats
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(4)
    true = np.repeat([0, 1], [60, 40])
    score = np.clip(0.5 + 0.15 * true + 0.2 * rng.normal(size=100), 0.01, 0.99)
    probs = np.stack([1 - score, score], axis=1)
    got = stats.cluster_bootstrap("auroc", true, probs, range(100), ["a", "b"], n_resamples=9999)

    def area(pos, neg, axis=-1):
        return ((pos[..., :, None] > neg[..., None, :]) + 0.5 * (pos[..., :, None] == neg[..., None, :])).mean((-1, -2))

    theirs = scipy_stats.bootstrap((score[true == 1], score[true == 0]), area, method="percentile", vectorized=True,
                                   n_resamples=9999, rng=1, batch=500).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert got.estimate == pytest.approx(roc_auc_score(true, score))
    assert (got.low, got.high) == pytest.approx(tuple(theirs), abs=0.04 * width)


def test_cluster_bootstrap_says_nothing_where_the_data_do_not():
    true = np.arange(30) % 3
    assert stats.cluster_bootstrap("accuracy", true, np.eye(3)[true], range(30), CLASSES) == (1.0, None, None, 30)
    _, probs = runs(6, 1)
    one_group_of_a_class = ["a", "b", "c", "d", "e", "e"]
    got = stats.cluster_bootstrap("brier", np.array([0, 0, 1, 1, 2, 2]), probs[0], one_group_of_a_class, CLASSES)
    assert got[1:3] == (None, None)
