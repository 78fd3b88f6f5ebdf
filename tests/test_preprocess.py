"""Recipes give the published pixels, and the way back to the original is exact."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from busistore import pixels
from busistore.errors import BusistoreError, UnknownName
from busistore.preprocess.geometry import ToOriginal, mask_to_original, placed
from busistore.preprocess.recipes import RECIPES, Recipe, apply, prepare, recipe
from tests.fakes import speckle
from tests.speckle import speckle as tissue

sizes = st.tuples(st.integers(32, 300), st.integers(32, 300))
AT_HAND = sorted(name for name, r in RECIPES.items() if not r.ocr or find_spec("rapidocr"))
CHEAP = sorted(name for name, r in RECIPES.items() if not r.finds_artefacts)  # to be drawn hundreds of times
SHOWING = sorted(set(AT_HAND) - {"artefacts-only224"})  # which shows nothing where nothing is burned in


def made_by(name: str, picture: np.ndarray):
    """The picture under a recipe, with a true mask where it needs one that takes nothing away."""
    whole = np.full(picture.shape, "lesion-only" in RECIPES[name].steps)
    return apply(recipe(name), picture, whole if RECIPES[name].needs_lesion else None)


@pytest.mark.parametrize("name", AT_HAND)
def test_every_recipe_gives_its_square(name):
    made = made_by(name, speckle(3, 60, 100))
    assert made.pixels.shape == (224, 224)
    assert made.pixels.dtype == np.uint8


@given(sizes)
def test_pad224_is_pillows_pad(size):
    picture = speckle(5, *size)
    published = ImageOps.pad(Image.fromarray(picture), (224, 224), Image.Resampling.BICUBIC, color=0)
    assert (apply(recipe("pad224"), picture).pixels == np.asarray(published)).all()


@pytest.mark.parametrize("name", CHEAP)
@given(sizes, st.integers(0, 2**32))
def test_corners_map_to_corners(name, size, seed):
    height, width = size
    made = made_by(name, np.full(size, 255, np.uint8))
    shown = made.pixels > 127
    x0, x1 = np.flatnonzero(shown.any(axis=0))[[0, -1]]
    y0, y1 = np.flatnonzero(shown.any(axis=1))[[0, -1]]
    corners = made.to_original.points(np.array([[x0 - 0.5, y0 - 0.5], [x1 + 0.5, y1 + 0.5]]))
    assert np.allclose(corners, [[-0.5, -0.5], [width - 0.5, height - 0.5]], atol=1e-9)
    points = np.random.default_rng(seed).uniform(-50, 300, (5, 2))
    assert np.allclose(made.to_original.inverse(made.to_original.points(points)), points)


def test_hand_worked_map():
    # 100 x 50 put to 224 x 112 under 56 black rows: the middle of the picture is the middle of the square
    there = placed((100, 50), (224, 112), (0, 56))
    assert np.allclose(there.points([[111.5, 111.5]]), [[49.5, 24.5]])
    assert there.as_row() == pytest.approx([100 / 224, 0, -0.5 + 50 / 224, 0, 50 / 112, -0.5 - 55.5 * 50 / 112])
    assert ToOriginal.from_row(there.as_row()) == there


@pytest.mark.parametrize("name", SHOWING)
def test_a_mask_comes_back_within_a_pixel(name):
    lesion = np.zeros((400, 600), bool)
    lesion[120:260, 300:500] = True
    made = made_by(name, lesion.astype(np.uint8) * 255)
    back = mask_to_original(made.pixels > 127, made.to_original, lesion.shape)
    wrong = np.argwhere(back != lesion)
    edges = [np.abs(wrong[:, :1] - [120, 259]).min(axis=1), np.abs(wrong[:, 1:] - [300, 499]).min(axis=1)]
    assert (np.minimum(*edges) <= max(made.to_original.sx, made.to_original.sy)).all()
    assert abs(int(back.sum()) - int(lesion.sum())) / lesion.sum() < 0.02


def test_a_sheared_map_is_refused():
    with pytest.raises(ValueError, match="shear"):
        ToOriginal.from_row([1, 0.1, 0, 0, 1, 0])


def test_the_id_names_what_moves_a_pixel():
    base = recipe("pad224")
    assert base.recipe_id == Recipe("pad224", "other words", "pad").recipe_id
    others = [
        Recipe("pad224", "", "stretch"), Recipe("pad224", "", "pad", size_px=256),
        Recipe("pad224", "", "pad", resample="lanczos"), Recipe("pad224", "", "pad", code=2),
        Recipe("pad224", "", "pad", steps=("clean",)), Recipe("pad224", "", "pad", steps=("sector",)),
    ]  # fmt: skip
    assert len({base.recipe_id, *(r.recipe_id for r in others)}) == 7


def test_thresholds_are_in_the_ids_of_recipes_that_use_them_and_of_no_other():
    for name, of in RECIPES.items():
        other = replace(of, artefacts=replace(of.artefacts, most_share=0.05))
        assert (other.recipe_id != of.recipe_id) == (name in FINDING), name
        assert (replace(of, ocr=not of.ocr).recipe_id != of.recipe_id) == (name in FINDING), name
        other = replace(of, sector=replace(of.sector, sector_spread=4))
        assert (other.recipe_id != of.recipe_id) == (name == "sector224"), name


FINDING = {"clean224", "clean224-ocr", "sector224", "lesion-blacked-clean224", "artefacts-only224"}


def test_ids_never_drift():
    """A changed id makes every stored picture stale: bump `code` when pixels move, and only then."""
    assert {name: r.recipe_id for name, r in RECIPES.items() if not r.ocr} == {
        "pad224": "pad224-b9cd8974ccdb",
        "stretch224": "stretch224-4e7767cc108d",
        "clean224": "clean224-268aeb8c5044",
        "sector224": "sector224-1bc321d59ae5",
        "lesion-only224": "lesion-only224-f2b1070e715a",
        "lesion-blacked224": "lesion-blacked224-940a8d4215a9",
        "lesion-blacked-clean224": "lesion-blacked-clean224-ac5ef7d55e9e",
        "artefacts-only224": "artefacts-only224-4fa017aa062a",
    }


def test_pixels_of_recipes_that_clean_never_drift():
    """Where this fails and the ids stand, raise `artefact_code`: stored pictures would pass as current."""
    picture = tissue(5, 90, 120).copy()
    for x, y in ((40, 40), (90, 55)):
        picture[y - 1 : y + 2, x - 8 : x + 9] = picture[y - 8 : y + 9, x - 1 : x + 2] = 226
    for k in range(52, 80, 5):
        picture[44 + (k - 52) // 5 * 2 : 46 + (k - 52) // 5 * 2, k : k + 2] = 226
    names = sorted(FINDING - {"clean224-ocr"})
    made = {name: pixels.pixels_sha256(made_by(name, picture).pixels)[:12] for name in names}
    cleaned = "9d9433533220"
    assert made == {
        "artefacts-only224": "5c574a51d9ce", "clean224": cleaned, "sector224": cleaned,
        "lesion-blacked-clean224": cleaned,
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_true_mask_is_for_recipes_that_need_it_and_for_no_other(name):
    picture, lesion = speckle(3), np.zeros((72, 96), bool)
    with pytest.raises(BusistoreError, match=f"'{name}' (needs|must not see) the true mask"):
        apply(recipe(name), picture, None if RECIPES[name].needs_lesion else lesion)


@pytest.mark.parametrize("name", SHOWING)
def test_a_picture_without_ink_and_lesion_is_that_of_pad224(name):
    picture = tissue(5, 90, 120)
    if RECIPES[name].fit == "pad":
        assert (made_by(name, picture).pixels == apply(recipe("pad224"), picture).pixels).all()


def test_shortcut_recipes_show_what_they_say():
    picture, lesion = speckle(5, 90, 120), np.zeros((90, 120), bool)
    lesion[30:50, 40:70] = True
    only, blacked = (prepare(recipe(f"lesion-{w}224"), picture, lesion).grey for w in ("only", "blacked"))
    assert (only + blacked == picture).all()
    assert not only[~lesion].any()
    assert not blacked[lesion].any()
    with pytest.raises(BusistoreError, match="a mask of 4 x 3 px for an image of 120 x 90"):
        apply(recipe("lesion-only224"), picture, np.zeros((3, 4), bool))


def test_the_sector_is_put_back_where_it_was():
    whole = np.zeros((150, 200), np.uint8)
    whole[20:140, 30:180] = tissue(4, 120, 150)
    prepared = prepare(recipe("sector224"), whole)
    made = apply(recipe("sector224"), whole)
    assert prepared.origin == (30, 20)
    assert (prepared.grey == whole[20:140, 30:180]).all()
    # 150 x 120 fills the width as 224 x 179, and 22 of the 45 black rows are above it
    corners = made.to_original.points(np.array([[-0.5, 21.5], [223.5, 200.5]]))
    assert np.allclose(corners, [[29.5, 19.5], [179.5, 139.5]], atol=1e-9)


@pytest.mark.parametrize("bad", [np.zeros((40, 40), np.uint16), np.zeros((40, 40, 4), np.uint8), np.zeros(9, np.uint8)])
def test_no_recipe_takes_what_is_no_image(bad):
    for name in ("pad224", "clean224"):
        with pytest.raises(BusistoreError, match="wanted is uint8"):
            apply(recipe(name), bad)


def test_unknown_recipe():
    with pytest.raises(UnknownName, match="did you mean 'pad224'"):
        recipe("pad-224")
