"""Clean images come back bit for bit, ink goes and nothing else, and what may not be filled is left as it is."""

import inspect
from dataclasses import replace
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from busistore import pixels
from busistore.errors import BadInput
from busistore.preprocess.artefacts import Settings
from busistore.preprocess.cleaning import clean
from busistore.preprocess.colour import luma
from busistore.preprocess.recipes import RECIPES, apply, prepare, recipe
from busistore.preprocess.sheets import draw, remarks
from tests.speckle import speckle


def tissue(seed: int, height: int = 240, width: int = 300) -> np.ndarray:
    grain = speckle(seed, height, width).astype(float)
    return np.clip(70 * grain / grain.mean(), 0, 250).astype(np.uint8)


def measured(seed: int, colour=226) -> tuple[np.ndarray, np.ndarray]:
    """Tissue with two pairs of marks and the dots between them, and its (H, W) bool ink."""
    image = tissue(seed) if np.isscalar(colour) else np.stack([tissue(seed)] * 3, axis=2)
    ink = np.zeros(image.shape[:2], bool)
    for x, y in ((60, 120), (200, 120), (130, 60), (130, 190)):
        ink[y - 1 : y + 2, x - 8 : x + 9] = ink[y - 8 : y + 9, x - 1 : x + 2] = True
    for k in range(70, 192, 5):
        ink[119:121, k : k + 2] = True
        if k < 180:
            ink[k : k + 2, 129:131] = True
    image[ink] = colour
    return image, ink


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_image_comes_back_bit_for_bit(seed):
    image = tissue(seed)
    for given in (image, np.stack([image] * 3, axis=2)):
        made = clean(given)
        assert (made.pixels == image).all()
        assert not made.filled
        assert not made.artefacts.mask.any()


@pytest.mark.parametrize("colour", [226, (255, 255, 0), (0, 255, 0)])
def test_ink_goes_and_nothing_else_changes(colour):
    image, ink = measured(1, colour)
    made = clean(image)
    mask, grey = made.artefacts.mask, luma(image)
    assert made.filled
    assert (made.pixels[~mask] == grey[~mask]).all()
    assert (mask & ink).sum() > 0.95 * ink.sum()
    error = np.abs(made.pixels.astype(int) - tissue(1))[ink]
    assert error.mean() < 15  # the ink itself is 150 levels away
    assert mask.sum() < 4 * ink.sum()


@pytest.mark.parametrize("seed", range(3))
def test_cleaning_again_changes_nothing(seed):
    once = clean(measured(seed)[0])
    assert once.filled
    assert np.array_equal(clean(once.pixels).pixels, once.pixels)


def test_one_thread_or_many():
    image, _ = measured(2)
    before = cv2.getNumThreads()
    try:
        made = []
        for n in (1, 4):
            cv2.setNumThreads(n)
            made.append(clean(image).pixels)
    finally:
        cv2.setNumThreads(before)
    assert (made[0] == made[1]).all()


def test_above_the_most_share_the_original_passes_unchanged():
    image, _ = measured(1)
    made = clean(image, Settings(most_share=0.005))
    assert "too-much" in made.artefacts.flags
    assert not made.filled
    assert made.artefacts.mask.any()
    assert (made.pixels == image).all()


def test_filled_colour_is_flagged_and_passes_unchanged():
    image = np.stack([measured(1)[0]] * 3, axis=2)
    y, x = np.indices(image.shape[:2])
    image[(y - 180) ** 2 + (x - 60) ** 2 < 30**2] = (30, 60, 250)
    made = clean(image)
    assert "doppler" in made.artefacts.flags
    assert (made.pixels == luma(image)).all()
    assert not prepare(recipe("clean224"), image).filled


def test_a_tint_is_no_overlay():
    image = (tissue(2)[:, :, None] * np.array([1.0, 0.86, 0.62])).astype(np.uint8)
    made = clean(image)
    assert not made.artefacts.findings
    assert made.artefacts.flags == {"tinted"}
    assert (made.pixels == luma(image)).all()


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("shape", [(1, 1), (5, 400), (33, 33), (64, 80), (64, 80, 3)])
def test_flat_and_tiny_images(shape, level):
    image = np.full(shape, level, np.uint8)
    assert (clean(image).pixels == level).all()
    for name, of in RECIPES.items():
        if of.ocr and not find_spec("rapidocr"):
            continue
        lesion = np.zeros(shape[:2], bool) if of.needs_lesion else None
        assert apply(recipe(name), image, lesion).pixels.shape == (224, 224)


def test_other_dtypes_are_refused():
    with pytest.raises(BadInput):
        clean(np.zeros((64, 64), np.uint16))


def test_the_cleaner_is_given_pixels_and_thresholds_only():
    assert list(inspect.signature(clean).parameters) == ["image", "settings", "ocr"]


def test_ink_alone_is_what_cleaning_would_fill():
    image, _ = measured(1)
    of = {name: prepare(recipe(name), image) for name in ("clean224", "artefacts-only224")}
    mask = of["clean224"].artefacts.mask
    assert (of["artefacts-only224"].artefacts.mask == mask).all()
    assert (of["artefacts-only224"].grey == np.where(mask, image, 0)).all()
    assert of["artefacts-only224"].filled
    too_much = replace(recipe("artefacts-only224"), artefacts=Settings(most_share=0.005))
    assert not prepare(too_much, image).grey.any()  # of which cleaning fills nothing


def test_a_blacked_lesion_is_black_whatever_was_filled():
    image, _ = measured(1)
    lesion = np.zeros(image.shape, bool)
    lesion[70:180, 70:190] = True
    raw, cleaned = (prepare(recipe(n), image, lesion).grey for n in ("lesion-blacked224", "lesion-blacked-clean224"))
    assert not raw[lesion].any()
    assert not cleaned[lesion].any()
    assert (raw == np.where(lesion, 0, image)).all()
    assert (cleaned == np.where(lesion, 0, clean(image).pixels)).all()


def test_a_sheet_shows_four_panels():
    image, _ = measured(1, (255, 255, 0))
    prepared = prepare(recipe("clean224"), image)
    sheet = np.asarray(draw("toy/benign-0001", image, prepared))
    places = [np.s_[80:320, 12:312], np.s_[80:320, 324:624], np.s_[354:594, 12:312], np.s_[354:594, 324:624]]
    original, findings, mask, result = (sheet[p] for p in places)
    assert (original == image).all()
    assert 0 < (findings != image).any(axis=2).mean() < 0.2
    assert ((mask == (255, 60, 60)).all(axis=2) == prepared.artefacts.mask).all()
    assert (result == prepared.grey[:, :, None]).all()
    assert any(r.endswith(" caliper+") for r in remarks(prepared))
    assert remarks(prepared)[-1] == "filled"


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["benign (234)", "benign (275)", "benign (366)", "malignant (123)", "malignant (157)"])
def test_real_caliper_images(busi_dir, name):
    path = busi_dir / name.split()[0] / f"{name}.png"
    image = np.asarray(pixels.open_image(path.read_bytes(), path.name))
    once = clean(image)
    assert once.filled
    mask = once.artefacts.mask
    assert (once.pixels[~mask] == luma(image)[~mask]).all()
    assert np.array_equal(clean(once.pixels).pixels, once.pixels)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["benign (337)", "malignant (186)", "benign (384)"])
def test_real_images_without_overlay(busi_dir, name):
    path = busi_dir / name.split()[0] / f"{name}.png"
    assert (clean(np.asarray(pixels.open_image(path.read_bytes(), path.name))).pixels
            == pixels.grey(path.read_bytes())).all()  # fmt: skip
