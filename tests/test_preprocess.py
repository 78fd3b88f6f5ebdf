"""Recipes give the published pixels, and the way back to the original is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from busistore.errors import UnknownName
from busistore.preprocess.geometry import ToOriginal, mask_to_original, placed
from busistore.preprocess.recipes import RECIPES, Recipe, apply, recipe
from tests.fakes import speckle

sizes = st.tuples(st.integers(32, 300), st.integers(32, 300))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_gives_its_square(name):
    made = apply(recipe(name), speckle(3, 60, 100))
    assert made.pixels.shape == (224, 224)
    assert made.pixels.dtype == np.uint8


@given(sizes)
def test_pad224_is_pillows_pad(size):
    picture = speckle(5, *size)
    published = ImageOps.pad(Image.fromarray(picture), (224, 224), Image.Resampling.BICUBIC, color=0)
    assert (apply(recipe("pad224"), picture).pixels == np.asarray(published)).all()


@pytest.mark.parametrize("name", sorted(RECIPES))
@given(sizes, st.integers(0, 2**32))
def test_corners_map_to_corners(name, size, seed):
    height, width = size
    made = apply(recipe(name), np.full(size, 255, np.uint8))
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


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_mask_comes_back_within_a_pixel(name):
    lesion = np.zeros((400, 600), bool)
    lesion[120:260, 300:500] = True
    made = apply(recipe(name), lesion.astype(np.uint8) * 255)
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
    ]  # fmt: skip
    assert len({base.recipe_id, *(r.recipe_id for r in others)}) == 5


def test_ids_never_drift():
    """A changed id makes every stored picture stale: bump `code` when pixels move, and only then."""
    assert {name: r.recipe_id for name, r in RECIPES.items()} == {
        "pad224": "pad224-b9cd8974ccdb",
        "stretch224": "stretch224-4e7767cc108d",
    }


def test_unknown_recipe():
    with pytest.raises(UnknownName, match="did you mean 'pad224'"):
        recipe("pad-224")
