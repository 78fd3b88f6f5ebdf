"""The words of a caption follow from label and geometry, at the documented limits."""

import re

import pytest

from busistore.captions import caption

START = "A benign lesion in a breast ultrasound image"


def words(**changed) -> str:
    """The caption of a benign lesion of 20 x 20 in the middle of 100 x 100, less its beginning."""
    given = {"label": "benign", "width_px": 100, "height_px": 100, "area_px": 300, "bbox_px": (40, 40, 60, 60)}
    return caption(**given | changed).removeprefix(START)


@pytest.mark.parametrize(
    ("area_px", "size"), [(1, "small"), (299, "small"), (300, "medium-sized"), (999, "medium-sized"), (1000, "large")]
)
def test_size_is_the_share_of_the_image(area_px, size):
    assert words(area_px=area_px) == f", {size}, wider than tall, in the centre."
    assert words(area_px=4 * area_px, width_px=200, height_px=200, bbox_px=(80, 80, 120, 120)).startswith(f", {size},")


@pytest.mark.parametrize(
    ("box", "orientation"),
    [((40, 40, 60, 61), "taller than wide"), ((40, 40, 60, 60), "wider than tall"),
     ((40, 40, 61, 60), "wider than tall")],
)  # fmt: skip
def test_orientation_is_that_of_the_box(box, orientation):
    assert f", {orientation}," in words(bbox_px=box)


@pytest.mark.parametrize(
    ("x0", "x1", "place"),
    [(0, 10, "on the left"), (29, 50, "on the left"), (30, 50, "in the centre"), (50, 70, "in the centre"),
     (51, 70, "on the right"), (90, 100, "on the right")],
)  # fmt: skip
def test_place_is_the_middle_of_the_box(x0, x1, place):
    assert words(bbox_px=(x0, 0, x1, 10)).endswith(f", {place}.")


def test_a_normal_image_has_no_lesion_whatever_its_mask():
    told = "No lesion in a breast ultrasound image, normal tissue."
    assert caption("normal", 100, 100, 0, None) == caption("normal", 100, 100, 300, (0, 0, 30, 10)) == told


def test_without_a_mask_only_the_label_is_told():
    assert caption("malignant", 100, 100, 0, None) == "A malignant lesion in a breast ultrasound image."


@pytest.mark.parametrize(("label", "told"), [("probably_benign", "A probably benign"), ("atypical", "An atypical")])
def test_labels_of_other_data_sets_read_as_words(label, told):
    assert caption(label, 100, 100, 0, None) == f"{told} lesion in a breast ultrasound image."


def test_a_caption_is_one_sentence():
    for label in ("benign", "malignant", "normal"):
        assert re.fullmatch(r"[A-Z][^.]*\.", caption(label, 50, 60, 70, (1, 2, 30, 40)))
