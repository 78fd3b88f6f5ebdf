"""Mask metrics against MONAI, slow plain rewrites and numbers worked by hand; the policy for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import cdist

from busistore import lesion_shape
from busistore.errors import BadInput
from busistore.lesion_shape import lesion_shapes, shape_of
from busistore.metrics import METRICS, bussam_distance, lesions, masks, overlap, surface
from busistore.metrics.masks import MASK_METRICS, mask_metrics

DISTANCES = ("hausdorff", "hd95", "assd")
NSD = tuple(f"nsd_{t}px" for t in surface.TOLERANCES_PX)


def drawn(text):
    """A mask from rows of `.` and `#`."""
    return np.array([[c == "#" for c in row] for row in text.split()])


def ellipse(x, y, half_width, half_height, shape=(256, 256)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return ((columns - x) / half_width) ** 2 + ((rows - y) / half_height) ** 2 <= 1


def blobs(seed, shape=(47, 60), sigma=3.0, above=0.3):
    """Smooth random regions, some of them at the edge of the image; never empty, never full."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return field > above * field.max()


pairs = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([0.1, 0.4, 0.8]))


def small(drawn_pair):
    """Two masks of independent pixels, either of which may be empty or full."""
    height, width, seed, share = drawn_pair
    return np.random.default_rng(seed).random((2, height, width)) < share


def plain_border(mask):
    """The (row, column) of each pixel of the mask with a side neighbour outside of it."""
    inside = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    sides = ((-1, 0), (1, 0), (0, -1), (0, 1))
    return sorted((r, c) for r, c in inside if any((r + i, c + j) not in inside for i, j in sides))


# against others


@pytest.fixture(scope="module")
def monai():
    return pytest.importorskip("monai.metrics")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of MONAI, about itself
@pytest.mark.parametrize("seed", range(8))
def test_metrics_of_masks_with_lesions_equal_monai(monai, seed):
    import torch

    pred, true = blobs(2 * seed), blobs(2 * seed + 1, above=0.1 + 0.05 * seed)
    p, t = (torch.from_numpy(mask)[None, None].float() for mask in (pred, true))
    theirs = {
        "dice": monai.compute_dice(p, t), "iou": monai.compute_iou(p, t),
        "hausdorff": monai.compute_hausdorff_distance(p, t, include_background=True),
        "hd95": monai.compute_hausdorff_distance(p, t, include_background=True, percentile=95),
        "assd": monai.compute_average_surface_distance(p, t, include_background=True, symmetric=True),
    }  # fmt: skip
    for tolerance in surface.TOLERANCES_PX:
        theirs[f"nsd_{tolerance}px"] = monai.compute_surface_dice(p, t, [float(tolerance)], include_background=True)
    ours = mask_metrics(pred, true)
    assert {name: ours[name] for name in theirs} == pytest.approx({k: float(v) for k, v in theirs.items()}, rel=1e-6)
    counts = monai.get_confusion_matrix(p, t)
    for name, theirs_of in (("sensitivity", "sensitivity"), ("specificity", "specificity"), ("pixel_accuracy", "acc")):
        their = float(monai.compute_confusion_matrix_metric(theirs_of, counts))
        assert ours[name] == pytest.approx(their, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_distances_equal_distance_transforms(seed):
    pred, true = blobs(seed, (120, 150)), blobs(seed + 50, (120, 150), sigma=5)
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (pred, true)]
    to_pred, to_true = (ndimage.distance_transform_edt(~each) for each in borders)
    found = surface.border_distances(pred, true)
    np.testing.assert_array_equal(np.sort(found.pred_to_true), np.sort(to_true[borders[0]]))
    np.testing.assert_array_equal(np.sort(found.true_to_pred), np.sort(to_pred[borders[1]]))


@settings(max_examples=80, deadline=None)
@given(pairs)
def test_surface_metrics_equal_slow_plain_ones(pair):
    pred, true = small(pair)
    assume(pred.any() and true.any())
    np.testing.assert_array_equal(np.argwhere(surface.border(pred)), plain_border(pred))
    between = cdist(plain_border(pred), plain_border(true))
    there, back = between.min(axis=1), between.min(axis=0)
    far = {"hausdorff": max(there.max(), back.max()), "assd": (there.sum() + back.sum()) / (len(there) + len(back))}
    far["hd95"] = max(np.quantile(there, 0.95), np.quantile(back, 0.95))
    shares = {f"nsd_{t}px": ((there <= t).sum() + (back <= t).sum()) / sum(between.shape) for t in (1, 2, 3, 5)}
    assert surface.surface_metrics(pred, true) == pytest.approx(far | shares, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(pairs)
def test_overlap_equals_counting_pixel_by_pixel(pair):
    pred, true = small(pair)
    cells = [(bool(p), bool(t)) for p, t in zip(pred.ravel(), true.ravel())]
    tp, fp, fn, tn = (cells.count(which) for which in ((True, True), (True, False), (False, True), (False, False)))
    plain = {
        "dice": (2 * tp, 2 * tp + fp + fn), "iou": (tp, tp + fp + fn), "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp), "pixel_accuracy": (tp + tn, tp + fp + fn + tn),
    }  # fmt: skip
    expected = {name: top / bottom if bottom else math.nan for name, (top, bottom) in plain.items()}
    got = {name: float(of(pred, true)) for name, of in overlap.OVERLAP_METRICS.items()}
    assert got == pytest.approx(expected, abs=1e-12, nan_ok=True)


# worked by hand


def test_numbers_worked_by_hand():
    """A 3 x 3 square moved one column: every pixel but the middle is border."""
    true, pred = drawn("###... ###... ###... ......"), drawn(".###.. .###.. .###.. ......")
    got = mask_metrics(pred, true)
    assert got["dice"] == pytest.approx(2 * 6 / 18)
    assert got["iou"] == 6 / 12
    assert got["sensitivity"] == 6 / 9
    assert got["specificity"] == 12 / 15
    assert got["pixel_accuracy"] == 18 / 24
    # of the 8 border pixels 3 are 1 from the other border (one outer column); the middle of one is border of the other,
    # and the column before the outer one lies on it but for its middle row, 1 away
    assert sorted(surface.border_distances(pred, true).pred_to_true) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (got["hausdorff"], got["hd95"], got["assd"], got["nsd_1px"]) == (1, 1, 0.5, 1)


def test_hd95_is_the_greater_of_two_percentiles_and_not_a_pooled_one():
    """A line of 20 pixels inside one of 22: one way all 0, back two of 22 are at 1 (position 19.95 of 0 to 21)."""
    true, pred = drawn("." + 20 * "#" + "."), drawn(22 * "#")
    assert surface.hd95(surface.border_distances(true, pred)) == pytest.approx(0.95)
    pooled = np.concatenate(surface.border_distances(true, pred))
    assert np.percentile(pooled, 95) == 0


def test_a_tolerance_includes_its_own_distance():
    distances = surface.border_distances(drawn("#.. ..."), drawn("..# ..."))
    assert [surface.nsd(distances, t) for t in (1, 1.999, 2, 3)] == [0, 0, 1, 1]


def test_a_border_runs_along_the_edge_of_the_image():
    assert surface.border(np.ones((3, 4), bool)).tolist() == drawn("#### #..# ####").tolist()


# empty masks

EMPTY, FULL, SOME = np.zeros((30, 40), bool), np.ones((30, 40), bool), ellipse(20, 15, 8, 5, (30, 40))


def test_a_missed_lesion_is_as_bad_as_can_be():
    got = mask_metrics(EMPTY, SOME)
    assert [got[name] for name in ("dice", "iou", "sensitivity", *NSD)] == [0] * 7
    assert [got[name] for name in DISTANCES] == [50] * 3
    assert (got["missed"], got["specificity"], got["n_lesions"], got["n_lesions_found"]) == (1, 1, 1, 0)
    assert math.isnan(got["false_positive"])


def test_a_pixel_in_the_wrong_place_is_no_miss_and_on_a_normal_image_a_false_positive():
    corner = np.zeros_like(EMPTY)
    corner[0, 0] = True
    got = mask_metrics(corner, SOME)
    assert (got["dice"], got["missed"], got["n_false_lesions"]) == (0, 0, 0)
    assert 0 < got["hausdorff"] < 50
    got = mask_metrics(corner, EMPTY)
    assert (got["false_positive"], got["n_false_lesions"]) == (1, 0)


def test_a_mask_on_a_normal_image_is_a_false_positive_without_distances():
    got = mask_metrics(SOME, EMPTY)
    assert [got[name] for name in ("dice", "iou", *NSD)] == [0] * 6
    nothing = (*DISTANCES, "sensitivity", "hd_bussam_compat", "missed")
    assert all(math.isnan(got[name]) for name in nothing)
    assert (got["false_positive"], got["n_false_lesions"], got["n_lesions"]) == (1, 1, 0)
    assert got["specificity"] == got["pixel_accuracy"] == pytest.approx(1 - SOME.sum() / 1200)


def test_a_true_negative_is_left_out():
    got = mask_metrics(EMPTY, EMPTY)
    nothing = ("dice", "iou", "sensitivity", *NSD, *DISTANCES, "hd_bussam_compat", "missed")
    assert all(math.isnan(got[name]) for name in nothing)
    assert got["specificity"] == got["pixel_accuracy"] == 1
    assert got["false_positive"] == got["n_false_lesions"] == 0


def test_a_lesion_that_fills_the_image_leaves_no_specificity():
    assert math.isnan(mask_metrics(FULL, FULL)["specificity"])
    assert mask_metrics(FULL, FULL)["dice"] == 1


# properties


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_symmetry_and_bounds(pair):
    pred, true = small(pair)
    one, other = mask_metrics(pred, true), mask_metrics(true, pred)
    symmetric = ("dice", "iou", "pixel_accuracy", *NSD)
    assert [one[n] for n in symmetric] == pytest.approx([other[n] for n in symmetric], nan_ok=True)
    shares = ("dice", "iou", "sensitivity", "specificity", "pixel_accuracy", *NSD)
    assert all(math.isnan(one[n]) or 0 <= one[n] <= 1 for n in shares)
    if not (pred.any() and true.any()):
        return
    assert [one[n] for n in DISTANCES] == pytest.approx([other[n] for n in DISTANCES])
    assert 0 <= one["assd"] <= one["hausdorff"] < np.hypot(*true.shape)
    assert one["hd95"] <= one["hausdorff"]
    assert [one[n] for n in NSD] == sorted(one[n] for n in NSD)
    assert one["dice"] == pytest.approx(2 * one["iou"] / (1 + one["iou"]))


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_against_itself_is_perfect_but_for_the_released_number(seed):
    mask = blobs(seed)
    got = mask_metrics(mask, mask)
    assert [got[n] for n in ("dice", "iou", "sensitivity", "specificity", "pixel_accuracy", *NSD)] == [1] * 9
    assert [got[n] for n in DISTANCES] == [0] * 3
    assert got["n_lesions"] == got["n_lesions_found"]
    assert got["n_false_lesions"] == got["missed"] == 0
    assert got["hd_bussam_compat"] > 1


@pytest.mark.parametrize("down_right", [(0, 3), (4, 0), (5, 12)])
def test_a_shifted_mask_is_as_far_as_its_shift_and_moving_both_changes_nothing(down_right):
    down, right = down_right
    true = ellipse(30, 25, 9, 6, (60, 70))
    moved = np.roll(true, down_right, (0, 1))
    assert mask_metrics(moved, true)["hausdorff"] == pytest.approx(np.hypot(down, right))
    here, there = mask_metrics(moved, true), mask_metrics(*(np.roll(m, (3, -2), (0, 1)) for m in (moved, true)))
    still = [n for n in MASK_METRICS if n != "hd_bussam_compat"]
    assert [here[n] for n in still] == pytest.approx([there[n] for n in still], nan_ok=True)


def test_growing_from_inside_the_lesion_gets_better():
    """Nested disks: the nearer to the truth from within, the better is every metric; the ring between is their gap."""
    true = ellipse(64, 64, 40, 40, (128, 128))
    got = [mask_metrics(ellipse(64, 64, r, r, (128, 128)), true) for r in (10, 20, 30, 38)]
    assert [g["hausdorff"] for g in got] == pytest.approx([30, 20, 10, 2], abs=0.8)
    assert all(g["specificity"] == 1 for g in got)
    for name in ("dice", "iou", "sensitivity", "pixel_accuracy"):
        assert sorted(g[name] for g in got) == [g[name] for g in got]
    for name in DISTANCES:
        assert sorted((g[name] for g in got), reverse=True) == [g[name] for g in got]


def test_a_stack_of_masks_is_scored_one_by_one():
    pred, true = (np.stack([blobs(s + k) for s in range(6)]).reshape(2, 3, 47, 60) for k in (0, 10))
    pred[0, 1] = true[0, 1] = False
    for of in overlap.OVERLAP_METRICS.values():
        each = [[float(of(pred[i, j], true[i, j])) for j in range(3)] for i in range(2)]
        np.testing.assert_array_equal(of(pred, true), each)


# the number of the release


def test_the_released_number_of_ellipses_and_disks():
    """Values measured on the release; the second and fourth are what makes it void."""
    of, ell = bussam_distance.hd_bussam_compat, ellipse(128, 128, 40, 30)
    disks = ellipse(64, 64, 20, 20), ellipse(194, 194, 20, 20)
    assert of(ell, ell) == pytest.approx(8.794, abs=5e-4)
    assert of(ellipse(138, 128, 40, 30), ell) == pytest.approx(8.794, abs=5e-4)
    assert of(*disks) == pytest.approx(6.73, abs=5e-3)
    assert of(np.zeros_like(ell), ell) == pytest.approx(1.83, abs=5e-3)
    assert mask_metrics(*disks)["hausdorff"] == pytest.approx(183.8, abs=0.05)


def test_the_released_number_equals_its_formula_row_by_row(monkeypatch):
    monkeypatch.setattr(bussam_distance, "SIDE_PX", 24)
    pred, true = blobs(1, (40, 31)), blobs(2, (40, 31))
    p, t = (bussam_distance.nearest(mask, 24) for mask in (pred, true))
    worst = [max(math.sqrt(sum(a != b for a, b in zip(mine, row))) for mine in p) for row in t]
    assert bussam_distance.hd_bussam_compat(pred, true) == pytest.approx(sum(worst) / 24, abs=1e-12)


@pytest.mark.parametrize("shape", [(471, 562), (256, 256), (100, 301), (1, 7)])
def test_nearest_is_that_of_pillow(shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    resized = Image.fromarray(mask.astype(np.uint8)).resize((256, 256), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(bussam_distance.nearest(mask, 256), np.asarray(resized) > 0)


@pytest.mark.realdata
def test_true_masks_against_themselves_score_what_was_published_as_a_result(busi_dir):
    """8.97 over all 647 lesion images of BUSI; a part of them comes near."""
    paths = sorted(p for p in busi_dir.rglob("*_mask.png") if "normal" not in p.name)[::4]
    found = [np.asarray(Image.open(path).convert("L")) > 0 for path in paths]
    values = [bussam_distance.hd_bussam_compat(mask, mask) for mask in found]
    assert np.mean(values) == pytest.approx(8.97, abs=0.5)


# lesions one by one


def test_lesions_are_found_missed_and_made_up():
    true, pred = np.zeros((2, 60, 80), bool)
    true[5:15, 5:15] = true[5:15, 40:50] = true[40:50, 5:15] = True
    pred[5:15, 5:15] = True  # the first, exactly
    pred[5:15, 48:60] = True  # the second: 20 px shared of 200, IoU .1
    pred[40:50, 14:25] = True  # the third: 10 of 200, too little
    pred[30:40, 60:70] = True
    pred[55:57, 70:77] = True  # 14 px, a speck
    assert lesions.detection(pred, true) == (3, 2, 2)
    assert lesions.detection(pred, true, min_iou=0.101) == (3, 1, 3)
    assert lesions.detection(pred, true, min_iou=0.05) == (3, 3, 1)
    assert lesions.detection(pred, true, min_area_px=14) == (3, 2, 3)


def test_one_region_may_find_two_lesions_and_two_regions_one():
    two = np.zeros((20, 40), bool)
    two[5:15, 5:15] = two[5:15, 20:30] = True
    one = two.copy()
    one[5:15, 15:20] = True
    assert lesions.detection(one, two) == (2, 2, 0)
    assert lesions.detection(two, one) == (1, 1, 0)


@settings(max_examples=40, deadline=None)
@given(pairs, st.sampled_from([0.1, 0.3]))
def test_detection_equals_a_slow_plain_one(pair, min_iou):
    pred, true = small(pair)
    said, there = ([m for m in plain_parts(mask) if len(m) >= 2] for mask in (pred, true))
    met = [[len(p & t) / len(p | t) >= min_iou for p in said] for t in there]
    n_right = sum(any(row[k] for row in met) for k in range(len(said)))
    expected = (len(there), sum(map(any, met)), len(said) - n_right)
    assert lesions.detection(pred, true, min_iou, min_area_px=2) == expected


def plain_parts(mask):
    """The 8-connected parts of a mask as sets of pixels, by flooding."""
    left, parts = {(int(r), int(c)) for r, c in np.argwhere(mask)}, []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            r, c = edge.pop()
            part.add((r, c))
            near = {(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        parts.append(part)
    return parts


def test_regions_are_numbered_from_the_largest_and_join_at_corners():
    mask = drawn("##...# .....# ..#... ...##. ...##.")
    found = lesions.regions(mask, min_area_px=2)
    assert found.areas_px.tolist() == [5, 2, 2]
    assert (found.labels == 1).tolist() == drawn("...... ...... ..#... ...##. ...##.").tolist()
    assert found.labels[0].tolist() == [2, 2, 0, 0, 0, 3]
    assert lesions.regions(mask, min_area_px=3).labels.max() == 1


# sets of images


def test_means_come_with_what_they_leave_out():
    rows = [mask_metrics(*pair) for pair in ((SOME, SOME), (EMPTY, SOME), (SOME, EMPTY), (EMPTY, EMPTY))]
    means = masks.summary(rows)
    assert set(means) == set(MASK_METRICS)
    assert means["dice"] == (pytest.approx(1 / 3), 3, 1, 1)
    assert means["hd95"] == (25, 2, 1, 1)
    assert means["missed"] == (0.5, 2, 1, 1)
    assert means["false_positive"] == (0.5, 2, 1, 1)
    assert masks.detections(rows) == (2, 1, 1, 0.5, 0.25)


def test_misses_and_false_positives_are_counted_apart():
    rows = [mask_metrics(*pair) for pair in ((EMPTY, SOME), (EMPTY, SOME), (SOME, EMPTY), (EMPTY, EMPTY))]
    assert masks.summary(rows)["dice"] == (0, 3, 2, 1)
    assert masks.summary(rows)["specificity"][1:] == (4, 2, 1)


def test_rows_without_the_undefined_numbers_give_the_same_means():
    rows = [mask_metrics(*pair) for pair in ((SOME, SOME), (SOME, EMPTY), (EMPTY, EMPTY))]
    kept = [{name: value for name, value in row.items() if not math.isnan(value)} for row in rows]
    assert masks.summary(kept) == masks.summary(rows)


def test_no_images_have_no_means():
    assert masks.summary([])["dice"][1:] == (0, 0, 0)
    assert math.isnan(masks.summary([])["dice"].mean)
    assert math.isnan(masks.detections([]).recall)


@pytest.mark.parametrize(
    ("area_px", "name"), [(1, "small"), (29, "small"), (30, "medium"), (99, "medium"), (100, "large"), (1000, "large")]
)
def test_strata_begin_at_their_bounds(area_px, name):
    assert masks.stratum(area_px, 1000) == name


@pytest.mark.parametrize("area_px", [0, -3, 1001])
def test_no_lesion_is_in_no_stratum(area_px):
    with pytest.raises(ValueError, match=f"a lesion of {area_px} px"):
        masks.stratum(area_px, 1000)


def test_the_list_of_metrics_is_what_is_computed_and_takes_no_other_metric_s_name():
    assert list(mask_metrics(SOME, SOME)) == list(MASK_METRICS)
    taken = {name for name, kind in METRICS.items() if kind.scope != "mask"}
    assert not taken & set(MASK_METRICS)


# bad input


def test_masks_of_two_sizes_are_refused_with_both_sizes():
    with pytest.raises(BadInput, match="256 x 256 px, the true one 471 x 562"):
        mask_metrics(np.zeros((256, 256), bool), np.zeros((471, 562), bool))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_masks_that_are_no_masks_are_refused(dtype):
    with pytest.raises(BadInput, match=np.dtype(dtype).name):
        mask_metrics(np.zeros((4, 4), dtype), np.zeros((4, 4), bool))


def test_distances_from_nothing_are_refused():
    with pytest.raises(ValueError, match="no border"):
        surface.border_distances(EMPTY, SOME)


# shape


def test_the_shape_of_a_bar_and_of_a_pixel():
    mask = np.zeros((20, 30), bool)
    mask[4:14, 7:10] = True
    assert shape_of(mask) == ((7, 4, 10, 14), 30, pytest.approx(np.hypot(3, 10)), True)
    assert shape_of(mask.T) == ((4, 7, 14, 10), 30, pytest.approx(np.hypot(3, 10)), False)
    assert shape_of(np.ones((1, 1), bool)) == ((0, 0, 1, 1), 1, pytest.approx(np.sqrt(2)), False)


def test_a_slanted_ellipse_is_as_long_as_its_axis():
    rows, columns = np.mgrid[:200, :200] - 100
    along, across = 0.6 * columns + 0.8 * rows, -0.8 * columns + 0.6 * rows
    shape = shape_of((along / 70) ** 2 + (across / 25) ** 2 <= 1)
    assert shape.longest_axis_px == pytest.approx(140, abs=1.5)
    assert shape.taller_than_wide


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_the_longest_axis_equals_the_farthest_of_all_corners(pair):
    mask = small(pair)[0]
    assume(mask.any())
    corners = np.concatenate([np.argwhere(mask) + step for step in ((0, 0), (0, 1), (1, 0), (1, 1))])
    assert shape_of(mask).longest_axis_px == pytest.approx(cdist(corners, corners).max(), abs=1e-9)


def test_each_lesion_has_its_shape_the_largest_first():
    mask = np.zeros((40, 60), bool)
    mask[2:7, 3:7] = True
    mask[10:20, 30:50] = True
    mask[30, 5] = True
    assert [s.bbox_px for s in lesion_shapes(mask)] == [(30, 10, 50, 20), (3, 2, 7, 7)]
    assert [s.taller_than_wide for s in lesion_shapes(mask)] == [False, True]
    assert lesion_shapes(np.zeros((5, 5), bool)) == []
    with pytest.raises(ValueError, match="empty mask"):
        lesion_shape.shape_of(np.zeros((5, 5), bool))
