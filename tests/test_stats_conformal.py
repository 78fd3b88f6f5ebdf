"""Prediction sets: hand-worked thresholds, a slow plain rewrite, and the coverage that the theorem promises."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busistore.errors import BusistoreError
from busistore.stats import conformal_threshold, prediction_sets

SHARES = st.floats(0, 1)


def test_the_threshold_worked_by_hand():
    """Nine images with scores .1 to .9: ceil(10 x .8) is the 8th, ceil(10 x .85) the 9th, ceil(10 x .95) is none."""
    p_true = 1 - np.arange(1, 10) / 10
    assert conformal_threshold(p_true, 0.8) == pytest.approx(0.8)
    assert conformal_threshold(p_true, 0.85) == pytest.approx(0.9)
    assert conformal_threshold(p_true, 0.9) == pytest.approx(0.9)
    assert conformal_threshold(p_true, 0.95) == math.inf
    assert conformal_threshold(np.empty(0), 0.5) == math.inf


def test_a_rank_that_floating_point_overshoots():
    assert 100 * 0.55 > 55
    assert conformal_threshold(1 - np.arange(1, 100) / 100, 0.55) == pytest.approx(0.55)


def test_sets_worked_by_hand():
    p = np.array([[0.5, 0.3, 0.2], [0.75, 0.25, 0.0], [0.34, 0.33, 0.33]])
    assert prediction_sets(p, 0.75).tolist() == [[True, True, False], [True, True, False], [True, True, True]]
    assert not prediction_sets(p[2], 0.5).any()  # none at this confidence
    assert prediction_sets(p, math.inf).all()


@given(st.lists(SHARES, min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_against_counting(p_true, confidence):
    """The least score that at least ceil((n + 1) confidence) of the n scores do not exceed."""
    scores, need = [1 - p for p in p_true], math.ceil((len(p_true) + 1) * confidence - 1e-9)
    fit = [s for s in scores if sum(other <= s for other in scores) >= need]
    assert conformal_threshold(np.array(p_true), confidence) == (min(fit) if fit else math.inf)


@given(st.lists(SHARES, min_size=2, max_size=30), st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.randoms())
def test_more_confidence_is_never_a_smaller_set_and_order_does_not_count(p_true, a, b, random):
    low, high = sorted((a, b))
    assert conformal_threshold(np.array(p_true), low) <= conformal_threshold(np.array(p_true), high)
    shuffled = random.sample(p_true, len(p_true))
    assert conformal_threshold(np.array(shuffled), a) == conformal_threshold(np.array(p_true), a)


@pytest.mark.parametrize("confidence", [0.6, 0.9])
def test_sets_cover_as_often_as_they_say(confidence):
    """Over 4,000 draws of 39 images and a new one from a classifier that is far too sure: ceil(40 c) / 40, which is c,
    within four standard errors."""
    rng, n, draws = np.random.default_rng(0), 39, 4000
    logits = rng.normal(size=(draws, n + 1, 3))
    true = (logits + rng.gumbel(size=logits.shape)).argmax(axis=-1)
    odds = np.exp(5 * logits)
    p = odds / odds.sum(axis=-1, keepdims=True)
    of_true = np.take_along_axis(p, true[..., None], axis=-1)[..., 0]
    held = [
        prediction_sets(p[k, n], conformal_threshold(of_true[k, :n], confidence))[true[k, n]] for k in range(draws)
    ]  # fmt: skip
    assert abs(np.mean(held) - confidence) < 4 * math.sqrt(confidence * (1 - confidence) / draws)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 90.0, -0.1, math.nan])
def test_a_confidence_is_a_share(confidence):
    with pytest.raises(BusistoreError, match=r"a share above 0 and below 1, such as 0\.9, not"):
        conformal_threshold(np.array([0.5]), confidence)
