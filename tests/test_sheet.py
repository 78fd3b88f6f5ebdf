"""A sheet shows every picture unchanged with its words below, the same pixels every time, and is written whole."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from busistore import sheet
from busistore.errors import BadInput, BusistoreError
from busistore.sheet import COLUMNS, GAP_PX, INK, LABELS, MOST, PAPER, SIDE_PX, Question, Tile, draw


def picture(seed: int, side: int = SIDE_PX) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def tiles(n: int, **changed) -> list[Tile]:
    return [
        Tile(**{"pixels": picture(k), "rank": k + 1, "similarity": 0.9 - k / 100, "label": "benign",
                "name": f"toy/benign-{k:04d}"} | changed)
        for k in range(n)
    ]  # fmt: skip


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"))


def holds(image: Image.Image, pixels: np.ndarray) -> bool:
    """Whether a picture stands in the sheet pixel by pixel, at a place where a column begins."""
    page = grey(image)
    columns = [GAP_PX + k * (SIDE_PX + GAP_PX) for k in range(COLUMNS)]
    rows = range(page.shape[0] - SIDE_PX + 1)
    return any((page[y : y + SIDE_PX, x : x + SIDE_PX] == pixels).all() for x in columns for y in rows)


def colours(image: Image.Image) -> set[str]:
    return {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in image.getcolors(1 << 24)}


@pytest.mark.parametrize(("n", "n_rows"), [(1, 1), (5, 1), (6, 2), (11, 3)])
def test_every_picture_is_there_pixel_by_pixel(n, n_rows):
    some, asked = tiles(n), picture(99)
    made = draw(Question("toy/benign-0099", picture=asked), some)
    assert all(holds(made, tile.pixels) for tile in some)
    assert holds(made, asked)
    assert made.width == GAP_PX + COLUMNS * (SIDE_PX + GAP_PX)
    one = draw(Question("toy/benign-0099", picture=asked), tiles(1))
    assert (made.height - one.height) % (n_rows - 1 or 1) == 0
    assert (made.height > one.height) == (n_rows > 1)


def test_a_picture_of_another_size_is_shown_at_the_common_one():
    made = draw(Question("q"), tiles(1, pixels=np.full((100, 100), 200, np.uint8)))
    assert holds(made, np.full((SIDE_PX, SIDE_PX), 200, np.uint8))


def test_the_same_question_gives_the_same_pixels():
    question = Question("an oval mass", ("10 most similar",))
    assert draw(question, tiles(3)).tobytes() == draw(question, tiles(3)).tobytes()


@pytest.mark.parametrize(
    "changed",
    [{"rank": 7}, {"similarity": 0.123}, {"label": "malignant"}, {"name": "toy/other"}, {"remark": "group of no. 1"},
     {"part": "train"}],
)  # fmt: skip
def test_all_that_is_known_of_a_picture_is_written_below_it(changed):
    plain, other = draw(Question("q"), tiles(1)), draw(Question("q"), tiles(1, **changed))
    assert plain.size == other.size
    top = plain.height - GAP_PX - sheet.FOOT_PX
    differ = (np.asarray(plain) != np.asarray(other)).any(axis=(1, 2))
    assert differ.any()
    assert not differ[:top].any()


def test_a_label_has_its_colour_and_words_have_the_ink():
    found = colours(draw(Question("q"), tiles(1, label="malignant")))
    assert {PAPER, INK, LABELS["malignant"]} <= found
    assert LABELS["benign"] not in found
    assert LABELS["normal"] in colours(draw(Question("q", picture=picture(1), label="normal"), []))


def test_words_keep_their_distance_from_one_another():
    """A long label and name are cut in the middle, so that remark and part stay legible beside them."""
    beside = {"remark": "R" * 8, "part": "train"}
    long = tiles(1, label="a very long label of a lesion indeed", name="toy/" + "x" * 80, **beside)
    made, bare = draw(Question("q"), long), draw(Question("q"), tiles(1, label="", name="", **beside))
    right = slice(GAP_PX + SIDE_PX - 30, GAP_PX + SIDE_PX)
    foot = slice(made.height - GAP_PX - sheet.FOOT_PX + 34, made.height)
    assert (np.asarray(made)[foot, right] == np.asarray(bare)[foot, right]).all()


def test_a_long_question_is_broken_between_words_and_pushes_the_pictures_down():
    words = "a small anechoic mass with posterior enhancement and a thin echogenic capsule " * 4
    lines = sheet.wrapped(words, sheet.TITLE, 600)
    assert " ".join(lines) == words.strip()
    assert all(sheet._length(line, sheet.TITLE) <= 600 for line in lines)
    short, long = draw(Question("a mass"), tiles(1)), draw(Question(words), tiles(1))
    assert long.height > short.height
    assert holds(long, picture(0))


def test_a_word_that_fills_a_line_is_broken_within():
    lines = sheet.wrapped("mass " + "x" * 200, sheet.TITLE, 300)
    assert "".join(lines[1:]) == "x" * 200
    assert all(sheet._length(line, sheet.TITLE) <= 300 for line in lines)


def test_nothing_to_show_is_a_heading_alone():
    assert sheet.wrapped("  ", sheet.TITLE, 300) == []
    assert draw(Question("q"), []).height < SIDE_PX


def test_a_sheet_holds_so_many_and_no_more(tmp_path):
    small = tiles(1)[0]
    draw(Question("q"), [small] * MOST)
    for refused in (lambda: draw(Question("q"), [small] * (MOST + 1)), lambda: sheet.check(tmp_path / "a.png", 201)):
        with pytest.raises(BusistoreError, match="at most 200 pictures, not 201; ask for fewer with -k"):
            refused()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("found.jpg", "a sheet is a PNG file, not 'found.jpg'; name it 'found.png'"),
     ("found", "name it 'found.png'"), ("nowhere/found.png", "there is no folder")],
)  # fmt: skip
def test_a_name_is_refused_before_the_work(tmp_path, name, reason):
    with pytest.raises(BadInput, match=reason):
        sheet.check(tmp_path / name, 10)


def test_a_sheet_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "found.png"
    sheet.check(path, 2)
    sheet.save(draw(Question("q"), tiles(1)), path)
    os.link(path, tmp_path / "old.png")
    sheet.save(draw(Question("q"), tiles(2)), path)
    assert Image.open(path).tobytes() == draw(Question("q"), tiles(2)).tobytes()
    assert Image.open(tmp_path / "old.png").tobytes() == draw(Question("q"), tiles(1)).tobytes()  # not written into
    assert sorted(os.listdir(tmp_path)) == ["found.png", "old.png"]


def test_a_sheet_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "found.png"
    path.write_bytes(b"old")

    def full(self, file, *_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(BadInput, match=r"found.png' cannot be written \(No space left on device\)"):
        sheet.save(draw(Question("q"), tiles(1)), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["found.png"]
