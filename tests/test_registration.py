from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore.registration import Registration, align, correlation, features, register, texture
from tests.speckle import cropped, speckle

RULES = Registration()


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return register(features(a, RULES), features(b, RULES), RULES)


def test_an_image_agrees_with_itself():
    assert similarity(speckle(1), speckle(1)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: cropped(g, 0.7),
        lambda g: cropped(g, 0.4),
        lambda g: cv2.resize(g, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA),
        lambda g: cv2.resize(g, None, fx=1.2, fy=1.0, interpolation=cv2.INTER_CUBIC),
        lambda g: np.clip(g * 0.6 + 10, 0, 255).astype(np.uint8),
        lambda g: cv2.rotate(g, cv2.ROTATE_180),
    ],
    ids=["crop", "small crop", "rescale", "stretch", "darker", "turned"],
)
def test_a_changed_copy_is_still_the_same_frame(change):
    assert similarity(speckle(2), change(speckle(2))) > 0.8


def test_unrelated_speckle_has_no_alignment():
    assert max(similarity(speckle(k), speckle(k + 10)) for k in range(5)) < RULES.min_similarity / 2


def test_the_same_caption_on_unrelated_speckle_does_not_make_one_frame():
    pictures = [speckle(3).copy(), speckle(4).copy()]
    for picture in pictures:
        cv2.putText(picture, "LEFT BREAST", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.4, 255, 3)
        cv2.putText(picture, "12 o'clock RAD", (20, 250), cv2.FONT_HERSHEY_SIMPLEX, 1.4, 255, 3)
    assert similarity(*pictures) < RULES.min_similarity / 2


def test_calipers_on_one_copy_leave_it_the_same_frame():
    marked = speckle(5).copy()
    for centre in ((100, 100), (250, 180), (150, 220)):
        cv2.drawMarker(marked, centre, 255, cv2.MARKER_CROSS, 15, 2)
    assert similarity(speckle(5), marked) > 0.9


def test_alignment_finds_the_crop_offset():
    full = speckle(6)
    part = full[40:240, 60:330]
    transform = align(features(full, RULES), features(part, RULES), RULES)
    np.testing.assert_allclose(transform, [[1, 0, 60], [0, 1, 40]], atol=0.3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (2, 3000), (5, 5), (31, 31), (400, 400)])
def test_images_without_key_points_have_no_similarity(shape):
    blank = np.full(shape, 7, np.uint8)
    assert len(features(blank, RULES).points) == 0
    assert similarity(blank, speckle(1)) == 0


def test_features_come_strongest_first_and_never_more_than_asked():
    few = features(speckle(1), Registration(n_features=50))
    many = features(speckle(1), RULES)
    assert len(few.points) == len(few.descriptors) <= 50 < len(many.points) <= RULES.n_features


def test_long_images_are_worked_on_at_the_given_side():
    assert features(np.zeros((100, 2000), np.uint8), RULES).image.shape == (26, 512)
    assert features(np.zeros((100, 200), np.uint8), RULES).image.shape == (100, 200)


def test_texture_forgets_brightness_and_gain():
    gray = speckle(7).astype(np.float32)
    plain, changed = texture(gray, RULES), texture(gray * 3 + 20, RULES)
    assert correlation(plain.ravel(), changed.ravel()) > 0.99


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-99, 99), st.integers(-99, 99)), min_size=3, max_size=30))
def test_correlation_equals_numpys(rows):
    a, b = np.array(rows, dtype=float).T
    if a.std() == 0 or b.std() == 0:
        assert correlation(a, b) == 0
    else:
        assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-9)
