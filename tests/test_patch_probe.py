"""The probe that proposes where a lesion is, and the prompt that a proposal becomes."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from busistore.errors import BusistoreError
from busistore.segmenters.patch_probe import THRESHOLDS, features, fit
from busistore.segmenters.prompts import LESION, Click, of_proposal, of_truth


def made(n=6, side=8, width=5, seed=0):
    """Tokens that tell a lesion by their first number, with noise, and the share of each patch that is lesion."""
    rng = np.random.default_rng(seed)
    share = np.zeros((n, side, side))
    for k in range(n):
        y, x = rng.integers(0, side - 3, 2)
        share[k, y : y + 3, x : x + 3] = 1
    patches = rng.normal(size=(n, side, side, width)) * [1, 5, 1e-3, 1, 1] + [0, 3, 0, 0, 0]
    patches[..., 0] += 4 * share
    return patches, share


def in_batches(patches, share, size=4):
    return lambda: ((patches[k : k + size], share[k : k + size]) for k in range(0, len(patches), size))


def test_the_probe_is_a_ridge_on_standardised_features():
    patches, share = made()
    probe = fit(in_batches(patches, share), alpha=0.01)
    x = features(patches).reshape(-1, 10)
    scaled = StandardScaler().fit(x)
    wanted = Ridge(alpha=0.01 * len(x)).fit(scaled.transform(x), share.reshape(-1))
    np.testing.assert_allclose(probe.likely(patches).reshape(-1), wanted.predict(scaled.transform(x)), atol=1e-9)


def test_batches_do_not_matter():
    patches, share = made()
    one, many = fit(in_batches(patches, share, 6)), fit(in_batches(patches, share, 1))
    np.testing.assert_allclose(one.weights, many.weights, rtol=1e-9)
    assert one.threshold == many.threshold


def test_the_threshold_is_of_the_best_mean_dice():
    patches, share = made()
    probe = fit(in_batches(patches, share))
    found = []
    for threshold in THRESHOLDS:
        dice = []
        for likely, lesion in zip(probe.likely(patches), share >= 0.5):
            marked = likely > threshold
            dice.append(2 * (marked & lesion).sum() / (marked.sum() + lesion.sum()))
        found.append(np.mean(dice))
    assert probe.threshold == THRESHOLDS[int(np.argmax(found))]
    assert max(found) > 0.8


def test_a_feature_without_spread_does_no_harm():
    patches, share = made()
    patches[..., 3] = 7.0
    assert np.isfinite(fit(in_batches(patches, share)).likely(patches)).all()


def test_a_probe_of_nothing_is_refused():
    with pytest.raises(BusistoreError, match="needs training images with lesions"):
        fit(lambda: iter(()))


LIKELY = np.array(
    [
        [0.9, 0.9, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.6, 0.6, 0.6],
        [0.0, 0.0, 0.0, 0.6, 0.7, 0.6],
        [0.0, 0.0, 0.0, 0.6, 0.6, 0.6],
    ]
)


def test_the_click_is_innermost_in_the_strongest_part():
    assert of_proposal("auto", LIKELY, 0.5) == Click((4, 2), LESION)
    assert of_proposal("auto", LIKELY, 0.65) == Click((0, 0), LESION)  # 0.7 alone is less than 0.9 twice


def test_the_box_is_of_the_strongest_part():
    assert of_proposal("auto-box", LIKELY, 0.5) == (3, 1, 5, 3)


def test_corners_join_parts_and_the_edge_of_the_image_is_an_edge():
    likely = np.zeros((5, 5))
    likely[:3, :3] = 1
    likely[3, 3] = 1
    assert of_proposal("auto-box", likely, 0.5) == (0, 0, 3, 3)
    assert of_proposal("auto", likely, 0.5) == Click((1, 1), LESION)


@pytest.mark.parametrize("protocol", ["auto", "auto-box"])
def test_nothing_likely_is_no_prompt(protocol):
    assert of_proposal(protocol, LIKELY, 0.95) is None


def test_an_oracle_has_no_box_where_there_is_no_lesion():
    mask = np.zeros((4, 4), bool)
    assert of_truth("oracle-box", mask) is None
    assert of_truth("oracle-click", mask).label == 0
    mask[1, 2] = True
    assert of_truth("oracle-box", mask) == (2, 1, 2, 1)
    assert of_truth("oracle-click", mask) == Click((2, 1), LESION)
