"""Paired tests: areas against the published sums, ranks against scipy, Holm against its own words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from busistore import stats
from busistore.errors import BusistoreError
from busistore.stats import signed_ranks


def scored(n=50, m=3, seed=0, n_levels=None):
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.arange(n) < n // 3)
    scores = rng.normal(size=(m, n)) + positive * np.linspace(0.5, 1.5, m)[:, None] + rng.normal(size=n)
    return positive, scores if n_levels is None else np.round(scores * n_levels) / n_levels


def plain_delong(positive, scores, groups):
    """Areas and covariance by the sums of Obuchowski (1997), pair by pair and cluster by cluster."""
    pos, neg, m = np.flatnonzero(positive), np.flatnonzero(~positive), len(scores)

    def wins(x, y):
        return (x > y) + 0.5 * (x == y)

    v10 = [{i: np.mean([wins(row[i], row[j]) for j in neg]) for i in pos} for row in scores]
    v01 = [{j: np.mean([wins(row[i], row[j]) for i in pos]) for j in neg} for row in scores]
    areas = [np.mean(list(v.values())) for v in v10]
    names = sorted(set(groups))
    i10, i01, total = len({groups[i] for i in pos}), len({groups[j] for j in neg}), len(names)
    covariance = np.zeros((m, m))
    for a, b in itertools.product(range(m), repeat=2):
        s10 = s01 = s11 = s11_other = 0.0
        for name in names:
            mine_pos, mine_neg = [i for i in pos if groups[i] == name], [j for j in neg if groups[j] == name]
            x = [sum(v10[k][i] for i in mine_pos) - len(mine_pos) * areas[k] for k in (a, b)]
            y = [sum(v01[k][j] for j in mine_neg) - len(mine_neg) * areas[k] for k in (a, b)]
            s10, s01 = s10 + x[0] * x[1], s01 + y[0] * y[1]
            s11, s11_other = s11 + x[0] * y[1], s11_other + x[1] * y[0]
        p, q = len(pos), len(neg)
        s10, s01 = s10 * i10 / ((i10 - 1) * p), s01 * i01 / ((i01 - 1) * q)
        s11, s11_other = s11 * total / (total - 1), s11_other * total / (total - 1)
        covariance[a, b] = s10 / p + s01 / q + (s11 + s11_other) / (p * q)
    return areas, covariance


@pytest.mark.parametrize("n_levels", [None, 2])
@pytest.mark.parametrize("kind", ["alone", "of one kind", "mixed"])
def test_areas_and_covariance_equal_the_published_sums(kind, n_levels):
    from sklearn.metrics import roc_auc_score

    positive, scores = scored(n_levels=n_levels)
    number = np.random.default_rng(1).integers(20, size=50)
    groups = {"alone": list(range(50)), "mixed": number.tolist(),
              "of one kind": [f"{p}-{g}" for p, g in zip(positive, number)]}[kind]  # fmt: skip
    got = stats.delong(positive, scores, None if kind == "alone" else groups)
    areas, covariance = plain_delong(positive, scores, groups)
    assert got.areas == pytest.approx(areas, abs=1e-12)
    assert got.areas == pytest.approx([roc_auc_score(positive, s) for s in scores], abs=1e-12)
    assert got.covariance == pytest.approx(covariance, abs=1e-12)
    assert got.n_positive == len({g for g, p in zip(groups, positive) if p})


def test_without_groups_it_is_the_covariance_of_the_components():
    positive, scores = scored(n_levels=3)
    wins = (scores[:, positive, None] > scores[:, None, ~positive]) + 0.5 * (
        scores[:, positive, None] == scores[:, None, ~positive]
    )
    wanted = np.cov(wins.mean(axis=2)) / positive.sum() + np.cov(wins.mean(axis=1)) / (~positive).sum()
    assert stats.delong(positive, scores).covariance == pytest.approx(wanted, abs=1e-12)


def test_copies_of_images_narrow_nothing():
    positive, scores = scored()
    once = stats.delong(positive, scores)
    twice = stats.delong(np.tile(positive, 2), np.tile(scores, 2), list(range(50)) * 2)
    for a, b in zip(once, twice):
        assert a == pytest.approx(b, abs=1e-12)


def test_delong_agrees_with_the_bootstrap():
    positive, scores = scored(n=300, m=1, seed=2)
    groups = np.array([f"{p}-{i // 4}" for i, p in enumerate(positive)])
    p = 1 / (1 + np.exp(-scores[0]))
    weights = stats.image_weights(positive.astype(int), groups, 4000)
    values = stats.resampled("auroc", positive.astype(int), np.stack([1 - p, p], axis=1), weights, ["no", "yes"])
    assert stats.delong(positive, scores, groups).covariance[0, 0] == pytest.approx(values.var(), rel=0.12)


def test_intervals_of_areas_by_hand():
    positive, scores = scored(m=2)
    found = stats.delong(positive, scores)
    area, sd = found.areas[1], np.sqrt(found.covariance[1, 1])
    got = stats.area_interval(found, 1, 0.9)
    logit, half = np.log(area / (1 - area)), scipy_stats.norm.ppf(0.95) * sd / (area * (1 - area))
    assert got[:3] == pytest.approx((area, 1 / (1 + np.exp(half - logit)), 1 / (1 + np.exp(-half - logit))))
    less = stats.area_difference(found, 1, 0)
    se = np.sqrt(found.covariance[0, 0] + found.covariance[1, 1] - 2 * found.covariance[0, 1])
    d = found.areas[1] - found.areas[0]
    wanted = d, d - 1.959963985 * se, d + 1.959963985 * se, 2 * scipy_stats.norm.sf(abs(d) / se)
    assert less == pytest.approx(wanted, abs=1e-9)


def test_score_type_bounds_are_the_published_ones():
    """Eleven of twelve pairs (of 6 and 7): 90 and 95 % bounds as SingleCaseES prints them for Newcombe's method 5."""
    assert stats.newcombe(11 / 12, 6, 7, 0.9) == pytest.approx((0.6591091902, 0.9822247871), abs=1e-9)
    assert stats.newcombe(11 / 12, 6, 7) == pytest.approx((0.5973193600, 0.9859976894), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.integers(1, 80), st.integers(1, 80))
def test_score_type_bounds_hold_the_area_and_have_a_width(area, m, n):
    low, high = stats.newcombe(area, m, n)
    assert 0 <= low <= area <= high <= 1
    assert high - low > 0.01
    assert stats.newcombe(1 - area, n, m) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    narrow = stats.newcombe(area, m, n, 0.8)
    assert low <= narrow[0]
    assert narrow[1] <= high


def test_perfect_areas_fall_back_and_never_have_no_width():
    positive = np.arange(20) < 8
    found = stats.delong(positive, np.stack([positive * 1.0, positive * 2.0, np.zeros(20)]))
    assert found.areas == pytest.approx([1, 1, 0.5])
    assert stats.area_interval(found, 0) == (1.0, *stats.newcombe(1.0, 8, 12), 20)
    same = stats.area_difference(found, 0, 1)
    low = stats.newcombe(1.0, 8, 12)[0]
    assert same == pytest.approx((0, low - 1, 1 - low, 1))
    better = stats.area_difference(found, 0, 2)
    assert 0 < better.low < 0.5 < better.high
    assert 0 < better.p < 0.05
    edge = stats.area_difference(found, 0, 2, 1 - better.p)
    assert edge.low == pytest.approx(0, abs=1e-9)


def test_too_few_images_for_an_area_are_said():
    with pytest.raises(BusistoreError, match="positives in 1 and negatives in 3 groups"):
        stats.delong([True, False, False, False], [1, 2, 3, 4])
    with pytest.raises(BusistoreError, match="positives in 1 and negatives in 2 groups"):
        stats.delong([True, True, False, False], [1, 2, 3, 4], ["a", "a", "b", "c"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=9))
def test_signed_ranks_equal_scipy_over_all_signs(x):
    if not any(x):
        assert stats.wilcoxon(x) == 1
        return
    method = scipy_stats.PermutationMethod(n_resamples=np.inf)
    wanted = scipy_stats.wilcoxon(x, zero_method="pratt", method=method).pvalue
    assert stats.wilcoxon(x) == pytest.approx(min(wanted, 1), abs=1e-12)


@pytest.mark.parametrize("n", [5, 20, 50, 60])
def test_signed_ranks_without_ties_equal_scipy_exactly(n):
    x = np.random.default_rng(n).normal(0.2, 1, size=n)
    assert stats.wilcoxon(x) == pytest.approx(scipy_stats.wilcoxon(x, method="exact").pvalue, rel=1e-10)


def test_many_signed_ranks_equal_scipy_s_normal_approximation():
    x = np.random.default_rng(0).integers(-5, 8, size=200)
    wanted = scipy_stats.wilcoxon(x, zero_method="pratt", method="asymptotic").pvalue
    assert stats.wilcoxon(x) == pytest.approx(wanted, rel=1e-10)


def test_the_normal_distribution_takes_over_without_a_step(monkeypatch):
    x = np.random.default_rng(3).normal(0.25, 1, size=60)
    exact = stats.wilcoxon(x)
    monkeypatch.setattr(signed_ranks, "_EXACT_PAIRS", 59)
    assert stats.wilcoxon(x) == pytest.approx(exact, rel=0.05)
    assert stats.wilcoxon(x) != exact


def test_signed_ranks_by_hand():
    """Ranks 1 (zero), 2.5, 2.5, 4: of 8 signs of the three, sums 0 and 2.5 (twice) are at or below 2.5: p = 6/8."""
    assert stats.wilcoxon([0, 1, -1, 2]) == pytest.approx(0.75)
    assert stats.wilcoxon(np.full(10, 0.3)) == pytest.approx(2 / 2**10)
    assert stats.wilcoxon([0.3 - 0.2, 0.6 - 0.7, 0.1]) == stats.wilcoxon([1, -1, 1]) == 1
    assert stats.wilcoxon([0.1 + 0.2 - 0.3, 2, 3]) == stats.wilcoxon([0, 2, 3]) == 0.5
    with pytest.raises(ValueError, match="0 differences"):
        stats.wilcoxon([])
    with pytest.raises(ValueError, match="2 differences, 1 of them no numbers"):
        stats.wilcoxon([1, np.nan])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_step_by_step(p):
    """At any level: the smallest p against level / m, the next against level / (m - 1), until one is kept."""
    adjusted = stats.holm(p)
    for level in (*np.linspace(0.001, 0.999, 23), *adjusted[adjusted < 1]):
        rejected = np.zeros(len(p), bool)
        for k, at in enumerate(np.argsort(p)):
            if p[at] * (len(p) - k) > level:
                break
            rejected[at] = True
        assert (adjusted <= level).tolist() == rejected.tolist()


def test_what_is_no_comparison_is_not_counted():
    got = stats.holm([0.04, np.nan, 0.01])
    assert got[[0, 2]] == pytest.approx([0.04, 0.02])
    assert np.isnan(got[1])
    assert stats.holm([]).tolist() == []


@pytest.mark.parametrize("n_pairs", [1, 2, 6, 10])
def test_the_least_p_is_that_of_differences_of_one_sign(n_pairs):
    assert stats.least_p(n_pairs) == pytest.approx(stats.wilcoxon(np.arange(1, n_pairs + 1)), rel=1e-12)


@pytest.mark.parametrize("n_pairs", [1, 5, 6, 7, 8, 10, 12])
@pytest.mark.parametrize("n_comparisons", [1, 2, 3, 12, 13, 25, 26, 102, 103])
def test_significance_is_unreachable_exactly_where_the_best_case_is_not_significant(n_pairs, n_comparisons):
    def best(pairs):
        return stats.holm([stats.least_p(pairs)] + [1.0] * (n_comparisons - 1))[0]

    said = stats.unreachable(n_pairs, n_comparisons)
    assert (said is None) == (best(n_pairs) <= 0.05)
    if said:
        enough = int(said.split("; take ")[1].split()[0])
        assert best(enough) <= 0.05 < best(enough - 1)


def test_the_sentence():
    assert stats.most_comparisons(10) == 25
    assert stats.unreachable(10, 26) == (
        "10 pairs give no p below 0.00195, so none of 26 comparisons can reach 0.05 after Holm's correction "
        "(at most 25 can); take 11 pairs or more"
    )
    assert "5 pairs give no p below 0.0625, so 1 comparison cannot reach 0.05; take 6" in stats.unreachable(5, 1)
