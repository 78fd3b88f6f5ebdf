"""Text, glyphs, scales, pictograms and colour, drawn on speckle and, where they are at hand, on real images."""

import csv
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from busistore import pixels
from busistore.errors import BusistoreError
from busistore.preprocess import text as reading
from busistore.preprocess.colour import ColourSettings, find_colours, is_tinted, luma
from busistore.preprocess.overlays import OverlaySettings, find_ink, find_overlays
from busistore.preprocess.strokes import Stroke, StrokeSettings, box_around, grown, shared, strokes
from busistore.preprocess.text import TextSettings, find_digits, find_text, is_cross
from tests.speckle import speckle

FONT = {
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "T": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    "2": (".###.", "#...#", "....#", "...#.", "..#..", ".#...", "#####"),
}


def glyph(name: str) -> np.ndarray:
    """A letter of 10 x 14 px with strokes of 2 px."""
    rows = np.array([[c == "#" for c in row] for row in FONT[name]])
    return rows.repeat(2, axis=0).repeat(2, axis=1)


def typed(base: np.ndarray, word: str, x: int, y: int, level: int = 226) -> tuple[np.ndarray, np.ndarray]:
    """The picture with a word on it, and the pixels of the word."""
    mask = np.zeros(base.shape, bool)
    for n, name in enumerate(word):
        if name != " ":
            mask[y : y + 14, x + 13 * n : x + 13 * n + 10] |= glyph(name)
    return np.where(mask, level, base).astype(np.uint8), mask


def kinds(found) -> list[str]:
    return sorted(f.kind for f, _ in found)


@pytest.mark.parametrize("level", [160, 210, 226, 255])
def test_a_word_is_found_with_its_exact_pixels(level):
    drawn, word = typed(np.minimum(speckle(1), 100), "LT2", 120, 200, level)
    [(finding, mask)] = find_text(drawn)
    assert (finding.kind, finding.box) == ("text", (120, 200, 156, 214))
    assert mask[word].all()
    assert not mask[~cv2.dilate(word.view(np.uint8), np.ones((5, 5), np.uint8)).view(bool)].any()


@given(st.integers(3, 340), st.integers(50, 280), st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_a_word_is_found_anywhere(x, y, seed):
    drawn, word = typed((speckle(seed) * 0.7).astype(np.uint8), "LT2", x, y)
    found = [(f, m) for f, m in find_text(drawn) if f.kind == "text"]
    assert len(found) == 1
    assert found[0][1][word].mean() > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_speckle_holds_no_ink(seed):
    base = speckle(seed)
    assert find_ink(base) == []
    assert find_ink(np.repeat(base[:, :, None], 3, axis=2)) == []


def test_words_on_two_lines_are_two_findings():
    drawn, _ = typed(np.minimum(speckle(2), 100), "LT", 60, 120)
    drawn, _ = typed(drawn, "TL2", 200, 220)
    assert [f.box for f, _ in find_text(drawn)] == [(60, 120, 83, 134), (200, 220, 236, 234)]


def test_a_glyph_alone_is_a_digit_and_a_cross_is_none():
    drawn, _ = typed(np.minimum(speckle(3), 100), "2", 100, 100)
    drawn[207:209, 192:210] = drawn[199:217, 200:202] = 226
    assert [(f.kind, f.box) for f, _ in find_text(drawn)] == [("digit", (100, 100, 110, 114))]


def test_a_black_outline_belongs_to_the_letters():
    base = np.full((120, 160), 120, np.uint8)
    _, word = typed(base, "LT", 60, 60)
    around = cv2.dilate(word.view(np.uint8), np.ones((5, 5), np.uint8)).view(bool)
    drawn = np.where(word, 226, np.where(around, 8, base)).astype(np.uint8)
    [(_, mask)] = find_text(drawn)
    assert mask[around].all()
    [(_, plain)] = find_text(np.where(word, 226, base).astype(np.uint8))
    assert plain.sum() < mask.sum()


def test_black_surroundings_are_no_outline():
    word = np.zeros((60, 60), bool)
    word[20:40, 30:32] = True
    mask = grown(np.where(word, 226, 0).astype(np.uint8), word, StrokeSettings())
    assert mask.sum() == 24 * 6


def test_the_same_word_in_the_corner_is_the_vendors():
    assert kinds(find_text(typed(np.minimum(speckle(4), 100), "LT", 20, 10)[0])) == ["logo"]


@pytest.mark.parametrize("beside", [True, False])
def test_a_number_is_looked_for_beside_a_mark(beside):
    base = np.full((120, 160), 150, np.uint8)
    drawn, number = typed(base, "2", 60, 60, 200)
    assert find_text(drawn, TextSettings(stroke_jump=60)) == []  # 200 is less than 60 above 150
    easy = TextSettings(stroke_jump=60, digit_edge_share=0.0)
    mark = (80.0, 66.0, 200.0) if beside else (140.0, 20.0, 200.0)
    found = find_digits(drawn, [mark], np.zeros(base.shape, bool), easy)
    assert kinds(found) == (["digit"] if beside else [])
    assert not beside or found[0][1][number].all()


def test_a_number_of_the_marks_level_is_found_on_tissue_nearly_as_bright():
    base = np.random.default_rng(0).integers(195, 206, (120, 160)).astype(np.uint8)
    drawn, number = typed(base, "2", 60, 60, 226)
    [(finding, mask)] = find_digits(drawn, [(80.0, 66.0, 226.0)], np.zeros(base.shape, bool))
    assert (finding.kind, finding.box) == ("digit", (60, 60, 70, 74))
    assert mask[number].all()
    assert find_digits(drawn, [(80.0, 66.0, 150.0)], np.zeros(base.shape, bool)) == []  # of another level


def test_a_glyph_that_the_frame_cuts_does_not_stand_alone():
    drawn = np.minimum(speckle(3), 100).copy()
    drawn[100:114, :3] = 226
    assert find_text(drawn) == []


def test_a_number_is_not_made_of_the_marks_own_ink():
    drawn = np.full((100, 100), 60, np.uint8)
    ink = np.zeros(drawn.shape, bool)
    ink[40:60, 49:52] = ink[49:52, 40:60] = True
    drawn[ink] = 226
    assert find_digits(drawn, [(50.0, 50.0, 226.0)], ink) == []


def test_crosses_are_told_from_letters():
    plus = np.zeros((19, 17), bool)
    plus[8:11] = plus[:, 7:10] = True
    assert is_cross(plus)
    assert not any(is_cross(glyph(name)) for name in FONT)


def test_boxes():
    assert shared((0, 0, 10, 10), (5, 5, 15, 25)) == 0.25  # 25 of the 100 of the smaller
    assert shared((0, 0, 4, 4), (4, 0, 8, 4)) == 0.0
    assert box_around([(3, 1, 5, 9), (0, 4, 4, 6)]) == (0, 1, 5, 9)


def test_a_stroke_is_measured_by_hand():
    grey = np.full((30, 30), 50, np.uint8)
    grey[5:20, 10:13] = 200
    [s] = strokes(grey, StrokeSettings(), lambda w, h: h >= 8)
    assert s == Stroke((10, 5, 13, 20), 200.0, 45, 1.0, 0.0, s.pixels)
    assert strokes(grey, replace(StrokeSettings(), stroke_thick_px=3), lambda w, h: h >= 8) == []


@pytest.mark.parametrize("cut", [0, 3, 6])
def test_an_outlined_glyph_in_the_corner_is_a_logo(cut):
    grey = speckle(5).copy()
    tile = np.zeros((18, 18), np.uint8)
    cv2.circle(tile, (9, 9), 6, 255, 2)
    light = tile > 0
    black = cv2.dilate(tile, np.ones((5, 5), np.uint8)) > 0
    patch = np.where(light, 200, np.where(black, 0, grey[:18, :18])).astype(np.uint8)
    grey[: 18 - cut, : 18 - cut] = patch[cut:, cut:]
    [(finding, mask)] = find_overlays(grey)
    assert finding.kind == "logo"
    assert mask[: 18 - cut, : 18 - cut][black[cut:, cut:]].mean() > 0.97
    assert mask[22:].sum() == mask[:, 22:].sum() == 0


@pytest.mark.parametrize("left", [True, False])
def test_ticks_at_equal_distances_are_a_scale(left):
    grey = np.minimum(speckle(6), 120)
    ticks = np.zeros(grey.shape, bool)
    for n, y in enumerate(range(30, 290, 40)):
        ticks[y, 2 : 12 if n % 2 else 7] = True
    ticks = ticks if left else ticks[:, ::-1]
    [(finding, mask)] = find_overlays(np.where(ticks, 200, grey).astype(np.uint8))
    assert (finding.kind, finding.score) == ("scale", 7.0)
    assert mask[ticks].all()


def test_ticks_at_unequal_distances_are_none():
    grey = np.minimum(speckle(6), 120).copy()
    for y in (20, 51, 67, 140, 163, 260):
        grey[y, 2:9] = 200
    assert find_overlays(grey) == []


def test_a_triangle_beside_the_edge_is_a_focus_mark():
    grey = np.minimum(speckle(7), 100).copy()
    cv2.fillPoly(grey, [np.array([[380, 150], [390, 145], [390, 155]])], 226)
    [(finding, mask)] = find_overlays(grey)
    assert finding.kind == "focus"
    assert mask[grey == 226].all()


def test_a_pictogram_is_one_finding():
    grey = np.minimum(speckle(8), 60).copy()
    cv2.circle(grey, (300, 250), 24, 200, 1)
    cv2.line(grey, (290, 240), (310, 240), 200, 1)
    cv2.circle(grey, (300, 250), 4, 200, 1)
    [(finding, mask)] = find_ink(grey)
    assert finding.kind == "bodymark"
    assert mask[grey == 200].mean() > 0.97


def coloured(seed: int) -> np.ndarray:
    return np.repeat((speckle(seed) * 0.7).astype(np.uint8)[:, :, None], 3, axis=2)


def test_a_coloured_line_is_colour_and_a_filled_spot_is_flow():
    rgb = coloured(9)
    cv2.rectangle(rgb, (80, 60), (300, 220), (200, 200, 40), 1)
    assert kinds(find_overlays(rgb)) == ["colour"]
    cv2.circle(rgb, (180, 140), 20, (20, 30, 220), -1)
    found = {f.kind: m for f, m in find_overlays(rgb)}
    assert sorted(found) == ["colour", "doppler"]
    assert found["doppler"][140, 180]
    assert not found["colour"][140, 180]
    assert found["colour"][60, 80:300].all()


def test_grey_text_within_a_coloured_box_is_still_text():
    rgb = coloured(10)
    cv2.rectangle(rgb, (80, 60), (300, 220), (200, 200, 40), 1)
    word = typed(np.zeros(rgb.shape[:2], np.uint8), "LT2", 150, 120)[1]
    rgb[word] = 226
    assert kinds(find_ink(rgb)) == ["colour", "text"]


def test_coloured_text_is_found_once():
    rgb = coloured(11)
    rgb[typed(np.zeros(rgb.shape[:2], np.uint8), "LT2", 150, 120)[1]] = (255, 255, 0)
    assert kinds(find_ink(rgb)) == ["colour"]


def test_a_tint_is_no_overlay():
    rgb = np.clip(coloured(12) * np.array([1.1, 1.0, 0.7]), 0, 255).astype(np.uint8)
    assert is_tinted(rgb)
    assert find_overlays(rgb) == []
    assert not is_tinted(coloured(12))
    assert not is_tinted(speckle(12))


def test_luma_is_pillows():
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(luma(rgb), np.asarray(Image.fromarray(rgb).convert("L")))


@pytest.fixture
def reader(monkeypatch):
    """Says what it is told to, in place of the reader of the extra `ocr`."""
    import threading
    from types import SimpleNamespace

    said = SimpleNamespace(boxes=None, txts=None, scores=None)
    monkeypatch.setattr(reading, "_engine", lambda: (lambda image: said, threading.Lock()))
    return said


def corners(x0, y0, x1, y1) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def test_what_the_reader_says_is_weighed(reader):
    reader.boxes = np.stack([corners(100 + 60 * n, 100, 150 + 60 * n, 120) for n in range(4)])
    reader.txts, reader.scores = ("LT 2", "LT", "+2", "2X"), (0.9, 0.4, 0.9, 0.8)
    assert [(f.kind, f.box) for f in reading.read(speckle(0))] == [
        ("text", (100, 100, 150, 120)), ("digit", (280, 100, 330, 120)),
    ]  # fmt: skip


def test_a_reader_that_finds_nothing_changes_nothing(reader):
    assert find_text(speckle(0), ocr=True) == []


def test_a_reading_without_ink_is_none(reader):
    black = np.zeros((200, 300), np.uint8)
    reader.boxes, reader.txts, reader.scores = corners(100, 100, 150, 120)[None], ("LT2",), (0.9,)
    assert find_ink(black, ocr=True) == []


def test_a_reading_takes_over_the_row_in_its_place(reader):
    drawn, word = typed(np.minimum(speckle(1), 100), "LT2", 120, 200)
    reader.boxes, reader.txts, reader.scores = corners(117, 197, 159, 217)[None], ("LT2",), (0.9,)
    [(finding, mask)] = find_text(drawn, ocr=True)
    assert (finding.kind, finding.box) == ("text", (117, 197, 159, 217))
    assert mask[word].all()


def test_reading_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    reading._engine.cache_clear()
    with pytest.raises(BusistoreError, match=r"pip install 'busistore\[ocr\]'"):
        find_text(speckle(0), ocr=True)


def test_settings_can_be_changed_in_one_place():
    drawn, _ = typed(np.minimum(speckle(1), 100), "LT2", 120, 200)
    assert find_ink(drawn, OverlaySettings(glyph_height_px=(15, 34))) == []


@pytest.mark.realdata
def test_text_is_found_on_real_images_and_nowhere_else(busi_dir):
    rows = list(csv.DictReader((busi_dir.parent / "truth.csv").open()))
    bare = [r for r in rows if not r["text"] and {r["has_caliper"], r["has_colour"], r["body_mark"]} == {"0"}]
    lettered = [r for r in rows if r["text"]]
    found = {}
    for row in bare[::30] + lettered[::9]:
        grey = pixels.grey((busi_dir / row["label"] / f"{row['image']}.png").read_bytes())
        found[row["image"]] = {f.kind for f, _ in find_ink(grey)} - {"logo"}
    assert sum("text" in found[r["image"]] for r in lettered[::9]) >= len(lettered[::9]) - 1
    assert sum(bool(found[r["image"]]) for r in bare[::30]) == 0


@pytest.mark.parametrize("width", [32, 40, 47])
def test_images_narrower_than_the_strips_are_looked_at_whole(width):
    image = (speckle(4, 80, 120) // 3)[:, :width].copy()
    for row in range(9):
        image[30 + row, 8 : 8 + 9 - abs(4 - row)] = 226
    assert {f.kind for f, _ in find_overlays(image, OverlaySettings())} <= {"focus", "logo", "scale", "bodymark"}


def test_a_small_coloured_pictogram_is_no_flow():
    """A filled sign of 28 x 26 px may be taken out; flow is more than that, and stays."""
    image = np.repeat((speckle(3, 200, 260) // 2)[:, :, None], 3, axis=2)
    sign, flow = image.copy(), image.copy()
    sign[20:46, 150:178] = (250, 120, 20)
    flow[40:90, 60:140] = (250, 30, 20)
    assert {f.kind for f, _ in find_colours(sign, ColourSettings())} == {"colour"}
    assert "doppler" in {f.kind for f, _ in find_colours(flow, ColourSettings())}
