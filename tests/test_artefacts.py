"""Marks, lines and their pixels: on drawn speckle with known truth, and on real images where they are at hand."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from busistore import pixels
from busistore.errors import BadInput
from busistore.preprocess import crosses, levels, lines
from busistore.preprocess import mark as mark_of
from busistore.preprocess.artefacts import Settings, detect, planes
from busistore.preprocess.findings import KINDS, Artefacts, Finding, box_of
from tests.speckle import speckle

SETTINGS = Settings()
LEVEL = 226


def tissue(seed: int = 0, mean: float = 70.0) -> np.ndarray:
    """(200, 260) uint8 of speckle, as an image without overlay."""
    grain = speckle(seed, 200, 260).astype(float)
    return np.clip(mean * grain / grain.mean(), 0, 250).astype(np.uint8)


def plus(image: np.ndarray, x: int, y: int, half: int = 8, thick: int = 3, level=LEVEL) -> np.ndarray:
    """Draws a '+' in place; the (H, W) bool pixels it covers."""
    ink = np.zeros(image.shape[:2], bool)
    low, high = thick // 2, thick - thick // 2
    ink[y - low : y + high, max(x - half, 0) : x + half + 1] = True
    ink[max(y - half, 0) : y + half + 1, max(x - low, 0) : x + high] = True
    image[ink] = level
    return ink


def cross(image: np.ndarray, x: int, y: int, arm: int = 7, level=LEVEL) -> np.ndarray:
    ink = np.zeros(image.shape[:2], bool)
    for k in range(-arm, arm + 1):
        for dx in (-1, 0, 1):
            ink[y + k, x + k + dx] = ink[y + k, x - k + dx] = True
    image[ink] = level
    return ink


def dots(image: np.ndarray, start, end, period: int = 5, level=LEVEL) -> np.ndarray:
    ink, (start, end) = np.zeros(image.shape[:2], bool), (np.array(p, float) for p in (start, end))
    length = np.hypot(*(end - start))
    for at in np.arange(12, length - 12, period):
        x, y = np.rint(start + (end - start) * at / length).astype(int)
        ink[y : y + 2, x : x + 2] = True
    image[ink] = level
    return ink


def measured_image(draw=plus) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Speckle with a pair of marks and a dotted line; the pixels of all, and the centres."""
    image, centres = tissue(), [(60, 100), (180, 120)]
    ink = dots(image, *centres)
    for x, y in centres:
        ink |= draw(image, x, y)
    return image, ink, centres


def centres_of(found: Artefacts, kind: str) -> list[tuple[int, int]]:
    return sorted((round(f.centre[0]), round(f.centre[1])) for f in found.of(kind))


@pytest.mark.parametrize(("half", "thick"), [(5, 1), (9, 1), (6, 2), (10, 2), (6, 3), (11, 3)])
def test_a_plus_is_found_at_its_centre(half, thick):
    image = tissue()
    ink = plus(image, 120, 80, half, thick)
    (mark,) = detect(image).of("caliper+")
    x, y = np.argwhere(ink).mean(axis=0)[::-1]
    assert abs(mark.centre[0] - x) <= 0.75
    assert abs(mark.centre[1] - y) <= 0.75


def test_a_pair_has_its_line_and_no_other_findings():
    image, _, centres = measured_image()
    found = detect(image)
    assert centres_of(found, "caliper+") == centres
    (line,) = found.of("line")
    assert sorted((round(x), round(y)) for x, y in line.polygon) == centres


def test_an_x_is_found_in_pairs():
    image, _, centres = measured_image(cross)
    assert centres_of(detect(image), "caliperx") == centres


@pytest.mark.parametrize("draw", [plus, cross])
def test_the_mask_holds_the_ink_and_stays_near_it(draw):
    import cv2

    image, ink, _ = measured_image(draw)
    mask = detect(image).mask
    assert (mask & ink).sum() >= 0.97 * ink.sum()
    assert not (mask & ~(cv2.dilate(ink.astype(np.uint8), np.ones((9, 9))) > 0)).any()


def test_the_second_pass_finds_a_mark_darker_than_its_tissue():
    image = tissue()
    image[60:140, 150:] = np.clip(image[60:140, 150:].astype(int) + 175, 0, 255)  # gain to saturation
    image[60:140, 150:][image[60:140, 150:] > LEVEL - 8] = 255
    plus(image, 60, 100)
    plus(image, 200, 100)
    assert centres_of(detect(image), "caliper+") == [(60, 100), (200, 100)]


def test_a_coloured_mark_is_found_in_the_chroma():
    grey = tissue(mean=150.0)
    image = np.repeat(grey[:, :, None], 3, axis=2)
    plus(image, 60, 100, level=(255, 255, 0))
    plus(image, 180, 60, level=(255, 255, 0))
    assert centres_of(detect(image), "caliper+") == [(60, 100), (180, 60)]


def test_a_mark_cut_by_the_frame_is_found():
    image = tissue()
    plus(image, 4, 100)
    plus(image, 120, 100)
    assert centres_of(detect(image), "caliper+") == [(4, 100), (120, 100)]


@pytest.mark.parametrize("seed", range(4))
def test_speckle_is_left_alone(seed):
    found = detect(tissue(seed, mean=120.0))
    assert not found.findings
    assert not found.mask.any()


def test_rgb_and_grey_of_one_image_give_the_same():
    image, _, _ = measured_image()
    a, b = detect(image), detect(np.repeat(image[:, :, None], 3, axis=2))
    assert a.findings == b.findings
    assert (a.mask == b.mask).all()


def test_the_same_on_one_thread_and_on_many():
    import cv2

    image, _, _ = measured_image()
    before, answers = cv2.getNumThreads(), []
    for n in (1, 4):
        cv2.setNumThreads(n)
        answers.append(detect(image))
    cv2.setNumThreads(before)
    assert answers[0].findings == answers[1].findings
    assert answers[0].mask.tobytes() == answers[1].mask.tobytes()


def test_the_detector_is_given_pixels_and_thresholds_only():
    assert list(inspect.signature(detect).parameters) == ["image", "settings", "ocr", "inked"]


def test_an_image_turned_over_gives_the_findings_turned_over():
    image, _, centres = measured_image()
    found = detect(np.ascontiguousarray(image[:, ::-1]))
    turned = sorted((image.shape[1] - 1 - x, y) for x, y in centres)
    assert centres_of(found, "caliper+") == turned


@pytest.mark.parametrize("image", [np.zeros((200, 200)), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9), np.uint16)])
def test_what_is_no_8_bit_image_is_refused(image):
    with pytest.raises(BadInput, match="uint8"):
        detect(image)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (8, 300), (64, 64), (64, 64, 3)])
def test_flat_images_have_nothing(value, shape):
    found = detect(np.full(shape, value, np.uint8))
    assert found.findings == ()
    assert found.mask.shape == shape[:2]
    assert not found.mask.any()


def test_a_mask_above_the_share_is_flagged():
    image = tissue()
    plus(image, 120, 80)
    assert detect(image, Settings(most_share=1e-4)).flags == {"too-much"}
    assert detect(image).flags == set()


def test_flat_levels_are_those_of_the_scanner():
    image, _, _ = measured_image()
    assert levels.flat_levels(image, SETTINGS) == (LEVEL,)
    assert levels.flat_levels(tissue(), SETTINGS) == ()


@pytest.mark.parametrize(("draw", "shape"), [(plus, "+"), (cross, "x")])
def test_a_mark_nearly_as_bright_as_its_tissue_tells_its_level(draw, shape):
    image = tissue(mean=150.0)
    assert levels.cross_levels(image, shape, SETTINGS) == ()
    draw(image, 120, 80, level=170)
    assert levels.cross_levels(image, shape, SETTINGS) == (170,)


def test_a_faint_mark_is_found_where_a_line_from_a_sure_one_ends():
    image = tissue()
    image[70:150, 150:] = 90 + image[70:150, 150:] // 2
    dots(image, (60, 100), (180, 120))
    plus(image, 60, 100, 7)
    far = plus(np.zeros_like(image), 180, 120, 7)
    image[far] = np.clip(image[far].astype(int) + 16, 0, 255)  # smeared into its tissue by export
    far_mark = max(f.centre for f in detect(image).of("caliper+"))
    assert np.abs(np.array(far_mark) - (180, 120)).max() <= 1
    alone = Settings(partner_score=np.inf, partner_level_score=np.inf)
    assert centres_of(detect(image, alone), "caliper+") == [(60, 100)]
    (line,) = detect(image).of("line")
    assert np.abs(np.array(line.polygon) - [(60, 100), (180, 120)]).max() <= 1.5


def test_marks_that_touch_are_two():
    image = tissue()
    for x, y in ((60, 100), (66, 106), (180, 120)):
        plus(image, x, y, 6, 1)
    assert centres_of(detect(image), "caliper+") == [(60, 100), (66, 106), (180, 120)]


def test_a_streak_that_starts_at_a_mark_is_no_line():
    image = tissue(mean=40.0)
    plus(image, 60, 100)
    image[99:101, 70:140] = 130
    assert detect(image).of("line") == ()


def test_the_crossing_of_two_lines_is_no_mark():
    image = tissue(mean=40.0)
    for start, end in (((60, 100), (180, 100)), ((120, 40), (120, 160))):
        dots(image, start, end)
        plus(image, *start)
        plus(image, *end)
    assert centres_of(detect(image), "caliper+") == [(60, 100), (120, 40), (120, 160), (180, 100)]


def test_a_point_between_four_marks_whose_lines_end_at_it_is_a_crossing():
    points = np.array([[0.0, 0], [100, 0], [50, -50], [50, 50], [50, 0]])
    joined = [lines.Line(*points[k], *points[4], 100.0, 9.0, (k, 4)) for k in range(4)]
    assert lines.at_crossings(joined, points) == {4}
    assert lines.at_crossings(joined[:2], points) == set()


def test_run_counts_agree_with_a_plain_count():
    image = np.random.default_rng(0).integers(0, 3, (12, 15)).astype(np.uint8)
    want = np.zeros(256, int)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for y in range(12):
            for x in range(15):
                run = [(y + k * dy, x + k * dx) for k in range(4)]
                if all(0 <= v < 12 and 0 <= u < 15 for v, u in run) and len({image[p] for p in run}) == 1:
                    want[image[y, x]] += 1
    assert (levels.run_counts(image, 4) == want).all()


@pytest.mark.parametrize("width", [33, 64, 100, 101, 130])
@pytest.mark.parametrize(("shape", "sizes"), [("+", SETTINGS.sizes), ("x", SETTINGS.x_sizes)])
def test_the_mean_over_a_bar_is_that_of_its_pixels(width, shape, sizes):
    plane = np.random.default_rng(width).integers(0, 256, (40, width)).astype(np.uint8)
    pad = crosses.PAD_PX
    padded = np.pad(plane, pad, mode="edge")
    for size in sizes:
        arms = crosses._upright(crosses.Size(*size)) if shape == "+" else crosses._oblique(crosses.Size(*size))
        for bar in (bar for arm in arms for bar in arm):
            got = crosses._mean(padded, bar)
            pixels_of = [
                (bar.x + i + k * bar.dx, bar.y + j + k)
                for k in range(bar.n) for i in range(bar.width) for j in range(bar.height)
            ]  # fmt: skip
            want = np.mean([padded[pad + y :, pad + x :][:40, :width] for x, y in pixels_of], axis=0)
            assert np.abs(got - want).max() <= 1.5, bar


def test_thinning_keeps_the_best_of_neighbours():
    points = np.array([[10, 10, 5.0, 0], [14, 10, 9.0, 1], [30, 10, 1.0, 2]])
    assert crosses.thinned(points, 9).tolist() == [[14, 10, 9.0, 1], [30, 10, 1.0, 2]]


def test_the_ink_of_a_plus_by_hand():
    mark = mark_of.Mark(5, 5, "+", (2, 2, 2, 2), (0, 0), (0, 0), 80.0, 226.0)
    want = np.zeros((11, 11), bool)
    want[3:8, 1:10] = want[1:10, 3:8] = True  # arms of 2 and bars of 1 px, two pixels wider on every side
    assert (mark_of.mark_ink(mark, (11, 11)) == want).all()


def test_a_ray_follows_a_line_out_of_the_frame():
    image = tissue(mean=40.0)
    plus(image, 60, 100)
    dots(image, (60, 100), (300 - 60, 100))
    spots = lines.tophat(image, SETTINGS)
    line = lines.find_lines(spots, np.array([[60.0, 100.0]]), SETTINGS)[0]
    assert line.x1 > 190
    assert abs(line.y1 - 100) < 6


def test_kinds_and_boxes():
    assert {"caliper+", "caliperx", "line", "text"} <= set(KINDS)
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    assert box_of(mask) == (2, 1, 6, 3)
    found = Artefacts((Finding("line", (0, 0, 1, 1), 1.0), Finding("text", (0, 0, 1, 1), 1.0)), mask)
    assert [f.kind for f in found.of("text")] == ["text"]


def test_planes_leave_a_tint_out():
    grey = tissue()
    tinted = np.stack([grey, grey, grey // 2], axis=2)
    assert planes(np.repeat(grey[:, :, None], 3, axis=2), SETTINGS)[1] is None
    assert planes(tinted, SETTINGS)[0].shape == grey.shape


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "pluses"),
    [("benign (206)", 4), ("benign (229)", 4), ("benign (6)", 4), ("benign (265)", 4), ("benign (416)", 4)],
)
def test_real_calipers(busi_dir, name, pluses):
    from PIL import Image

    path = busi_dir / name.split()[0] / f"{name}.png"
    image = pixels.open_image(path.read_bytes(), name)
    assert isinstance(image, Image.Image)
    assert len(detect(np.asarray(image)).of("caliper+")) == pluses


def test_specks_of_a_marks_level_that_touch_its_ink_are_found():
    """Two pixels that digits leave beside a mark; a speck of that level far from all ink is tissue."""
    image = tissue()
    plus(image, 120, 80)
    image[70:72, 125:127] = LEVEL  # three px from an arm
    image[150:152, 40:43] = LEVEL
    mask = detect(image).mask
    assert mask[70:72, 125:127].all()
    assert not mask[150:152, 40:43].any()


def test_a_mark_of_one_level_is_found_in_tissue_of_nearly_that_level():
    """No arm is brighter than its tissue; but it is exactly flat, and tissue is not."""
    image = tissue(mean=130.0)
    ink = plus(image, 120, 80, 5, 2, level=125) | plus(image, 60, 140, 5, 2, level=125)
    found = detect(image)
    assert len(found.of("caliper+")) == 2
    assert (found.mask & ink).sum() >= 0.95 * ink.sum()
    assert not detect(tissue(mean=130.0)).findings


@pytest.mark.parametrize("shape", ["+", "x"])
def test_places_of_a_level_are_where_crosses_are(shape):
    image = np.zeros((120, 160), np.uint8)
    (plus if shape == "+" else cross)(image, 100, 60, level=255)
    image[5:9, 5:50] = 255  # a bar is no cross
    (box,) = levels.places(image, shape, 7)
    assert box[0] < 80
    assert box[1] < 40
    assert box[2] > 120
    assert box[3] > 80
    assert levels.places(np.zeros_like(image), shape, 7) == []
