"""The two-way interval against hand-worked variances, a plain rewrite, closed forms and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from busistore import stats
from busistore.errors import BusistoreError, UnknownName
from busistore.metrics import classification_scores
from busistore.stats import crossed

CLASSES = ["benign", "malignant", "normal"]


def runs(n=45, n_seeds=4, seed=0, skill=1.2):
    """True class numbers, probabilities of several seeds, and groups of two images of one class."""
    rng = np.random.default_rng(seed)
    true = np.sort(rng.integers(3, size=n))
    logits = skill * np.eye(3)[true] + rng.normal(size=(n, 3)) + 0.5 * rng.normal(size=(n_seeds, n, 3))
    probs = np.exp(logits + 0.4 * rng.normal(size=(n_seeds, 1, 3)))
    return true, probs / probs.sum(axis=-1, keepdims=True), [f"{c}-{i // 2}" for i, c in enumerate(true)]


def values(points, resamples, weights=None, stratum=None):
    resamples = np.asarray(resamples, float)
    if weights is None:
        weights = np.random.default_rng(0).multinomial(9, np.full(10, 0.1), size=len(resamples)) * 10 / 9
    stratum = np.zeros(np.shape(weights)[1], int) if stratum is None else np.asarray(stratum)
    return crossed.Values(np.asarray(points, float), resamples, np.asarray(weights, float), stratum, True)


@pytest.mark.parametrize(("resamples", "seeds", "groups", "both", "total"), [
    ([[0.6, 0.7], [0.8, 0.9]], 0.005, 0.01, 0, 0.0125),  # seeds move together: no variance of both
    ([[0.6, 0.9], [0.8, 0.7]], 0, 0, 0.02, 0.01),  # seeds move apart: variance of both alone
    ([[0.6, 0.8], [0.8, 0.8]], 0, 0, 0.005, 0.0025),  # g + i/2 = .0025, g + i = .005: i = .005, s = .005 - i
    ([[0.7, 0.8], [0.7, 0.8]], 0.005, 0, 0, 0.0025),  # no resample differs: the spread of the seeds alone
])  # fmt: skip
def test_variances_by_hand(resamples, seeds, groups, both, total):
    """Points .7 and .8, of variance .005, which is s + i."""
    got = crossed.summary(values([0.7, 0.8], resamples), "accuracy", 0.95, is_difference=True)
    assert (got.var_seeds, got.var_groups, got.var_both) == pytest.approx((seeds, groups, both), abs=1e-15)
    assert got.se == pytest.approx(np.sqrt(total))
    assert got.estimate == pytest.approx(0.75)
    assert (got.n_seeds, got.n_groups) == (2, 10)


def test_seeds_alone_give_the_t_interval():
    x = [0.1, 0.25, -0.05, 0.2, 0.15, 0.3]
    got = crossed.summary(values(x, np.tile(x, (30, 1))), "accuracy", 0.9, is_difference=True)
    assert got[:3] == pytest.approx(stats.mean_interval(x, 0.9)[:3], abs=1e-12)
    assert got.p == pytest.approx(scipy_stats.ttest_1samp(x, 0).pvalue, abs=1e-12)


def plain_summary(metric, true, probs, groups, n_resamples, seed, sign=None):
    """Estimate, standard error and degrees of freedom by loops over resamples, runs and groups."""
    true, names = np.asarray(true), sorted(set(groups))
    stratum = [int(np.bincount([t for t, g in zip(true, groups) if g == name]).argmax()) for name in names]
    rng, drawn = np.random.Generator(np.random.PCG64(seed)), np.zeros((n_resamples, len(names)))
    for c in sorted(set(stratum)):
        mine = [k for k, s in enumerate(stratum) if s == c]
        drawn[:, mine] = rng.multinomial(len(mine) - 1, [1 / len(mine)] * len(mine), size=n_resamples)
    # Drawn groups are copied, and all copies multiplied so that those of a stratum of g weigh g / (g - 1) each.
    sizes = {c: stratum.count(c) for c in set(stratum)}
    least = int(np.lcm.reduce([g - 1 for g in sizes.values()]))
    copies = {c: g * least // (g - 1) for c, g in sizes.items()}
    v = np.zeros((n_resamples, len(probs)))
    for r in range(n_resamples):
        times = [round(drawn[r, names.index(g)] * copies[stratum[names.index(g)]]) for g in groups]
        chosen = np.repeat(np.arange(len(true)), times)
        v[r] = value_of(metric, true[chosen], probs[:, chosen])
    points = value_of(metric, true, probs)
    if sign is not None:
        half = len(probs) // 2
        v, points = v[:, :half] - v[:, half:], points[:half] - points[half:]
    s = len(points)
    a, b = np.var([np.mean(row) for row in v]), np.mean([np.var(column) for column in v.T])
    i = max(s / (s - 1) * (b - a), 0)
    g, between = max(a - i / s, 0), max(np.var(points, ddof=1) - i, 0)
    total = g + between / s + i / s
    shares, doubts = [], []
    for c in sizes:
        mine = [k for k, at in enumerate(stratum) if at == c]
        x = np.array([np.mean([(np.mean(row) - v.mean()) * (drawn[r, k] * len(mine) / (len(mine) - 1) - 1)
                               for r, row in enumerate(v)]) for k in mine])  # fmt: skip
        share, kurtosis = (x**2).sum() * (len(mine) - 1) / len(mine), len(mine) * (x**4).sum() / (x**2).sum() ** 2
        shares.append(share)
        doubts.append(share**2 * (2 / (len(mine) - 1) + max(kurtosis - 3, 0) / len(mine)))
    df = max(2 * sum(shares) ** 2 / sum(doubts), 1)
    if between > 0 or s < 5:
        df = total**2 / (a**2 / df + (between / s + i / s) ** 2 / (s - 1))
    return points.mean(), total**0.5, df


def value_of(metric, true, probs):
    scored = classification_scores([CLASSES[t] for t in true], probs, CLASSES)
    return next(s.values for s in scored if (s.metric, s.class_) == (metric, ""))


@pytest.mark.parametrize("n_seeds", [2, 5])
@pytest.mark.parametrize("metric", ["macro_f1", "auroc", "average_precision", "ece", "mcc", "brier", "log_loss"])
def test_two_way_and_paired_equal_a_plain_rewrite(metric, n_seeds):
    true, probs, groups = runs(n_seeds=2 * n_seeds)
    a, b = probs[:n_seeds], probs[n_seeds:] * 0.7 + 0.1
    got = stats.two_way(metric, true, a, groups, CLASSES, n_resamples=40, seed=5)
    estimate, se, df = plain_summary(metric, true, a, groups, 40, 5)
    assert (got.estimate, got.se) == pytest.approx((estimate, se), abs=1e-12)
    low, high = {"mcc": (-1, 1), "brier": (0, 2)}.get(metric, (0, 1))
    half = scipy_stats.t.ppf(0.975, df) * se
    if metric == "log_loss":
        bounds = estimate * np.exp(-half / estimate), estimate * np.exp(half / estimate)
    else:
        odds = (estimate - low) / (high - estimate)
        wider = np.exp(half * (high - low) / ((estimate - low) * (high - estimate)))
        bounds = [low + (high - low) * o / (1 + o) for o in (odds / wider, odds * wider)]
    assert (got.low, got.high) == pytest.approx(tuple(bounds), abs=1e-9)
    less = stats.paired(metric, true, a, b, groups, CLASSES, n_resamples=40, seed=5)
    estimate, se, df = plain_summary(metric, true, np.concatenate([a, b]), groups, 40, 5, sign=-1)
    half = scipy_stats.t.ppf(0.975, df) * se
    wanted = estimate, estimate - half, estimate + half, se, 2 * scipy_stats.t.sf(abs(estimate) / se, df)
    assert less[:5] == pytest.approx(wanted, abs=1e-9)


def test_variances_of_a_linear_metric_equal_their_closed_form():
    """Accuracy of single images of one class: g + i / S and g + i are sample variances over images, divided by n."""
    rng = np.random.default_rng(1)
    n, s = 300, 6
    right = rng.random((s, n)) < np.clip(0.7 + 0.25 * rng.normal(size=n) + 0.05 * rng.normal(size=(s, 1)), 0, 1)
    probs = np.stack([right, ~right], axis=-1) * 1.0
    got = stats.two_way("accuracy", np.zeros(n, int), probs, range(n), ["a", "b"], n_resamples=20_000)
    of_mean, of_one = right.mean(axis=0).var(ddof=1) / n, right.var(axis=1, ddof=1).mean() / n
    both = (of_one - of_mean) * s / (s - 1)
    seeds = max(right.mean(axis=1).var(ddof=1) - both, 0)
    assert (got.var_groups, got.var_both) == pytest.approx((of_mean - both / s, both), rel=0.05)
    assert got.var_seeds == pytest.approx(seeds, abs=0.05 * both)
    assert got.se == pytest.approx(np.sqrt(of_mean - both / s + (seeds + both) / s), rel=0.03)


def test_few_images_that_matter_leave_few_degrees_of_freedom():
    """One class; a mean of x has influences x - mean, hence 2 / (2 / (g - 1) + excess kurtosis / g)."""
    rng = np.random.Generator(np.random.PCG64(2))
    for x in (np.arange(30.0), np.where(np.arange(30) < 2, 9.0, 0) + 0.1 * np.arange(30)):
        weights = crossed.draw_groups(np.zeros(30, int), 40_000, rng)
        got = crossed._group_degrees(values([x.mean()], (weights @ x / 30)[:, None], weights))
        excess = max(scipy_stats.kurtosis(x), 0)
        assert got == pytest.approx(2 / (2 / 29 + excess / 30), rel=0.03)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0, 0.3), st.sampled_from([0.8, 0.95, 0.99]))
def test_p_is_below_the_level_exactly_where_the_interval_leaves_out_zero(seed, n_seeds, shift, confidence):
    rng = np.random.default_rng(seed)
    points = shift + 0.1 * rng.normal(size=n_seeds)
    resamples = points + 0.05 * rng.normal(size=(50, n_seeds)) + 0.1 * rng.normal(size=(50, 1))
    got = crossed.summary(values(points, resamples), "auroc", confidence, is_difference=True)
    assert (got.p < 1 - confidence) == (got.low > 0 or got.high < 0)


def test_a_less_b_is_the_mirror_of_b_less_a():
    true, probs, groups = runs(n_seeds=8)
    ab, ba = (stats.paired("auroc", true, probs[x], probs[y], groups, CLASSES, n_resamples=200)
              for x, y in ((slice(4), slice(4, 8)), (slice(4, 8), slice(4))))  # fmt: skip
    assert ab[:3] == pytest.approx((-ba.estimate, -ba.high, -ba.low))
    assert ab[3:] == pytest.approx(ba[3:])


def test_pairs_that_agree_on_what_is_hard_differ_less_than_they_would_apart():
    true, probs, groups = runs(n=90, n_seeds=4, seed=3)
    worse = probs * 0.95 + 0.05 / 3 + 0.02 * np.eye(3)[(true + 1) % 3]
    less = stats.paired("brier", true, probs, worse / worse.sum(-1, keepdims=True), groups, CLASSES)
    alone = stats.two_way("brier", true, probs, groups, CLASSES)
    assert less.se < 0.3 * alone.se
    assert less.high < 0
    assert less.p < 0.05


def test_one_seed_covers_groups_alone():
    """Accuracy of n = 400 at p = .8, one class: standard deviation sqrt(p q / (n - 1)) = .02."""
    wrong = np.arange(400) % 5 == 0
    probs = np.stack([~wrong, wrong], axis=-1)[None] * 1.0
    got = stats.two_way("accuracy", np.zeros(400, int), probs, range(400), ["a", "b"], n_resamples=8000)
    assert (got.estimate, got.se) == (0.8, pytest.approx(0.02, rel=0.03))
    assert (got.var_seeds, got.var_both, got.p) == (None, None, None)
    assert got.var_groups == pytest.approx(got.se**2)
    assert 0.8 - got.low > got.high - 0.8 > 0.03
    pair = stats.paired("accuracy", np.zeros(400, int), probs, 1 - probs, range(400), ["a", "b"])
    assert pair == stats.paired("accuracy", np.zeros(400, int), probs[0], 1 - probs[0], range(400), ["a", "b"])
    assert pair.se == pytest.approx(0.04, rel=0.05)


@pytest.mark.parametrize("groups", [
    ["a", "a", "b", "b", "c", "c"],  # one group of each class
    ["a", "x", "b", "y", "c", "c"],  # one group of one class
    ["a", "x", "b", "y", "m", "m"],  # the same
])  # fmt: skip
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_a_class_of_one_group_has_no_interval(groups, n_seeds):
    true = np.array([0, 0, 1, 1, 2, 2])
    probs = np.eye(3)[[[0, 1, 1, 0, 2, 2], [0, 0, 1, 0, 2, 1], [0, 1, 1, 1, 2, 2]]][:n_seeds]
    got = stats.two_way("accuracy", true, probs, groups, CLASSES)
    assert got[:5] == (pytest.approx((probs.argmax(-1) == true).mean()), None, None, None, None)
    two_each = stats.two_way("accuracy", true, probs, range(6), CLASSES)
    assert two_each.low < two_each.estimate < two_each.high


@pytest.mark.parametrize("metric", ["macro_f1", "auroc", "mcc"])
def test_images_that_are_all_right_have_no_interval(metric):
    """A width of zero would claim that no image can ever be wrong."""
    true = np.arange(30) % 3
    probs = np.tile(np.eye(3)[true], (4, 1, 1)) * 0.9 + 0.1 / 3
    got = stats.two_way(metric, true, probs, range(30), CLASSES)
    assert got[:7] == (1.0, None, None, None, None, 4, 30)
    assert stats.paired(metric, true, probs, probs, range(30), CLASSES)[:5] == (0.0, None, None, None, None)


def test_bounds_keep_to_the_range_where_the_spread_is_wide():
    """Two seeds, of which one is right and one wrong everywhere but twice: the plain formula would leave the range."""
    true = np.arange(40) % 2
    said = np.stack([true, 1 - true])
    said[:, :2] = [[1, 1], [0, 0]]
    for metric, least in [("accuracy", 0), ("mcc", -1), ("brier", 0)]:
        got = stats.two_way(metric, true, np.eye(2)[said], range(40), ["a", "b"])
        assert least <= got.low < got.estimate < got.high <= 1 + (metric == "brier")
        assert got.high - got.low > 0.9


def test_copies_of_images_narrow_nothing_and_the_order_changes_nothing():
    true, probs, groups = runs()
    once = stats.two_way("auroc", true, probs, groups, CLASSES, n_resamples=300)
    order = np.random.default_rng(1).permutation(3 * len(true)) % len(true)
    thrice = stats.two_way("auroc", true[order], probs[:, order], np.array(groups)[order], CLASSES, n_resamples=300)
    assert thrice == pytest.approx(once, abs=1e-9)
    assert stats.two_way("auroc", true, probs, groups, CLASSES, n_resamples=300, seed=1) != once
    seeds = stats.two_way("auroc", true, probs[::-1], groups, CLASSES, n_resamples=300)
    assert seeds == pytest.approx(once, abs=1e-9)


def test_a_class_that_lies_in_groups_of_another_alone_has_no_interval():
    """Some resamples leave out group m, and with it the only malignant image: they have no AUROC, and are left out."""
    probs = np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]])
    got = stats.two_way("auroc", [0, 0, 0, 1], probs, ["a", "b", "m", "m"], CLASSES[:2], n_resamples=100)
    assert got[:5] == (pytest.approx(2 / 3), None, None, None, None)
    assert 0 < got.var_groups < 0.25


def test_what_cannot_be_estimated_is_said():
    true, probs, groups = runs()
    with pytest.raises(UnknownName, match="did you mean 'auroc'"):
        stats.two_way("aurok", true, probs, groups, CLASSES)
    with pytest.raises(BusistoreError, match="no predictions"):
        stats.two_way("auroc", [], np.empty((0, 0, 3)), [], CLASSES)
    with pytest.raises(BusistoreError, match="no predictions"):
        stats.two_way("auroc", true, probs[:0], groups, CLASSES)
    with pytest.raises(BusistoreError, match=r"auroc is undefined on these 45 test images; take some of two classes"):
        stats.two_way("auroc", np.zeros(45, int), probs, groups, CLASSES)
    with pytest.raises(BusistoreError, match=r"\(4, 45, 3\) and \(3, 45, 3\) are no pairs"):
        stats.paired("auroc", true, probs, probs[:3], groups, CLASSES)


N_SIMULATED = 400


def simulated_coverage(n_seeds, seed_sd=1.0, image_sd=1.0, n_groups=(33, 16, 10), pairs=False):
    """How often the 95 % interval holds the true balanced accuracy; to give no bounds counts as a miss.

    A prediction is right where 0.6 + seed + image + noise > 0, all normal, the noise of variance 1: the balanced
    accuracy of all seeds and images there could be is Phi(0.6 / sqrt(1 + seed_sd^2 + image_sd^2)). A pair has one seed
    and the same images, and the second is right where that is 0.2 less.
    """
    from scipy.special import ndtr

    rng = np.random.default_rng(n_seeds)
    true = np.repeat(np.arange(3), n_groups)
    truth, other = ndtr(np.array([0.6, 0.4]) / np.sqrt(1 + seed_sd**2 + image_sd**2))
    held = 0
    for _ in range(N_SIMULATED):
        common = seed_sd * rng.normal(size=(n_seeds, 1)) + image_sd * rng.normal(size=len(true))
        right = np.array([0.6, 0.4])[:, None, None] + common + rng.normal(size=(2, n_seeds, len(true))) > 0
        a, b = np.eye(3)[np.where(right, true, (true + 1) % 3)]
        images = (range(len(true)), CLASSES)
        if pairs:
            got, wanted = stats.paired("balanced_accuracy", true, a, b, *images, n_resamples=300), truth - other
        else:
            got, wanted = stats.two_way("balanced_accuracy", true, a, *images, n_resamples=300), truth
        held += got.low is not None and got.low <= wanted <= got.high
    return held / N_SIMULATED


@pytest.mark.parametrize("pairs", [False, True])
def test_the_interval_of_ten_seeds_covers_new_seeds_and_images(pairs):
    """Three standard errors of 400 simulations are 0.033."""
    assert 0.95 - 0.033 <= simulated_coverage(10, pairs=pairs) <= 0.95 + 0.033


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("n_groups", [(33, 16, 10), (8, 6, 6)])
@pytest.mark.parametrize(("seed_sd", "image_sd"), [(0, 0), (0, 1), (0.3, 1), (1, 0)])
@pytest.mark.parametrize("n_seeds", [2, 3, 5, 10])
def test_the_interval_covers_under_other_spreads(n_seeds, seed_sd, image_sd, n_groups, pairs):
    """At least 0.93, less three standard errors; more than 0.95 where the noise of single predictions prevails."""
    assert simulated_coverage(n_seeds, seed_sd, image_sd, n_groups, pairs) >= 0.93 - 0.038
