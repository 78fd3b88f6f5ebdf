"""Contact sheets: what was asked and the pictures that were found, side by side, as one PNG for the screen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from busistore.errors import BadInput, BusistoreError

SIDE_PX = 224  # of a picture
GAP_PX = 18
COLUMNS = 5
MOST = 200  # pictures on one sheet; more would be too tall for a viewer

# As a reading room has it: pictures with black surrounds on a dark page, which does not dazzle.
PAPER, INK, MUTED, FRAME = "#14181d", "#e6e9ed", "#a3adb8", "#59636e"
LABELS = {"benign": "#5ab4f0", "malignant": "#f0965a", "normal": "#3cc8a0"}  # told apart by colour-blind eyes too
TITLE, LARGE, PLAIN, SMALL = 24, 20, 16, 14  # font sizes in pixels
LINE = 1.35  # height of a line, in font sizes
FOOT_PX = 82  # below a picture: rank and similarity, label, name


@dataclass(frozen=True)
class Tile:
    """One picture that was found, (H, W) uint8 grey, and what stands below it.

    `remark` stands beside the label, `part` beside the name.
    """

    pixels: np.ndarray
    rank: int
    similarity: float
    label: str
    name: str
    remark: str = ""
    part: str = ""


@dataclass(frozen=True)
class Question:
    """What was asked: words, or a picture, (H, W) uint8 grey, with its name and label. `remarks` are smaller print."""

    title: str
    remarks: tuple[str, ...] = ()
    picture: np.ndarray | None = None
    label: str | None = None


def draw(question: Question, tiles: Sequence[Tile]) -> Image.Image:
    """The sheet, RGB, of at most MOST tiles; the same arguments always give the same pixels.

    A picture that was asked with stands at the top left, words have the whole width.

    Raises:
        BusistoreError: more tiles than a sheet holds.
    """
    _check_number(len(tiles))
    width = GAP_PX + COLUMNS * (SIDE_PX + GAP_PX)
    picture = question.picture
    left = GAP_PX if picture is None else 2 * GAP_PX + SIDE_PX
    lines = _heading(question, width - left - GAP_PX)
    tall = sum(height_of(size) for _, size, _ in lines)
    top = 2 * GAP_PX + max(tall, 0 if picture is None else SIDE_PX)
    n_rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (width, top + n_rows * (SIDE_PX + FOOT_PX + GAP_PX)), PAPER)
    pen = ImageDraw.Draw(sheet)
    if picture is not None:
        _paste(sheet, pen, picture, GAP_PX, GAP_PX, INK)
    _write(pen, lines, left, GAP_PX)
    for k, tile in enumerate(tiles):
        x = GAP_PX + k % COLUMNS * (SIDE_PX + GAP_PX)
        _tile(sheet, pen, tile, x, top + k // COLUMNS * (SIDE_PX + FOOT_PX + GAP_PX))
    return sheet


def check(path: Path, n_tiles: int) -> None:
    """Refuse a sheet that could not be made, before any work is done for it.

    Raises:
        BadInput: the name is no PNG's, or there is no such folder.
        BusistoreError: more tiles than a sheet holds.
    """
    _check_number(n_tiles)
    if path.suffix.lower() != ".png":
        raise BadInput(f"a sheet is a PNG file, not '{path.name}'; name it '{path.stem or 'sheet'}.png'")
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder '{path.parent}' for the sheet; make it first")


def _check_number(n_tiles: int) -> None:
    if n_tiles > MOST:
        raise BusistoreError(f"a sheet holds at most {MOST} pictures, not {n_tiles}; ask for fewer with -k")


def save(sheet: Image.Image, path: Path) -> None:
    """Write the sheet whole or not at all; a sheet of that name is replaced.

    Raises:
        BadInput: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        sheet.save(temporary, "PNG")
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"'{path}' cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """The text in lines that fit `width` pixels, broken between words, and within a word only if it fills a line."""
    lines: list[str] = []
    for word in text.split():
        if lines and _length(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and _length(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _heading(question: Question, width: int) -> list[tuple[str, int, str]]:
    """Lines with their font sizes and colours."""
    by_words = question.picture is None
    title = f"“{question.title}”" if by_words else question.title
    lines = [("Images that match the words" if by_words else "Images similar to", SMALL, MUTED)]
    lines += [(line, TITLE, INK) for line in wrapped(title, TITLE, width)]
    lines += [(question.label, LARGE, LABELS.get(question.label, INK))] if question.label else []
    return lines + [(line, PLAIN, MUTED) for remark in question.remarks for line in wrapped(remark, PLAIN, width)]


def _tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, x: int, y: int) -> None:
    _paste(sheet, pen, tile.pixels, x, y, FRAME)
    right = x + SIDE_PX
    y += SIDE_PX + 6
    pen.text((x, y), str(tile.rank), INK, font(LARGE))
    _right(pen, f"{tile.similarity:.3f}", right, y, LARGE, INK)
    y += height_of(LARGE)
    colour = LABELS.get(tile.label, INK)
    pen.rectangle((x, y + 3, x + 11, y + 14), fill=colour)
    room = SIDE_PX - 18 - (_length(tile.remark, SMALL) + 8 if tile.remark else 0)
    pen.text((x + 18, y), _cut(tile.label, PLAIN, room), colour, font(PLAIN))
    _right(pen, tile.remark, right, y + 1, SMALL, MUTED)
    y += height_of(PLAIN)
    room = SIDE_PX - (_length(tile.part, SMALL) + 8 if tile.part else 0)
    pen.text((x, y), _cut(tile.name, SMALL, room), MUTED, font(SMALL))
    _right(pen, tile.part, right, y, SMALL, MUTED)


def _paste(sheet: Image.Image, pen: ImageDraw.ImageDraw, grey: np.ndarray, x: int, y: int, frame: str) -> None:
    picture = Image.fromarray(grey)
    if picture.size != (SIDE_PX, SIDE_PX):
        picture = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    sheet.paste(picture, (x, y))
    pen.rectangle((x - 1, y - 1, x + SIDE_PX, y + SIDE_PX), outline=frame)


def _write(pen: ImageDraw.ImageDraw, lines: Sequence[tuple[str, int, str]], x: int, y: int) -> None:
    for line, size, colour in lines:
        pen.text((x, y), line, colour, font(size))
        y += height_of(size)


def _right(pen: ImageDraw.ImageDraw, text: str, right: int, y: int, size: int, colour: str) -> None:
    pen.text((right - _length(text, size), y), text, colour, font(size))


def _cut(text: str, size: int, width: float) -> str:
    """The text, its middle left out where it is too long: names differ at their ends."""
    keep = len(text)
    shown = text
    while _length(shown, size) > width and keep > 2:
        keep -= 1
        shown = f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
    return shown


def height_of(size: int) -> int:
    """Of a line in a font of that size, pixels."""
    return round(LINE * size)


def _length(text: str, size: int) -> float:
    return font(size).getlength(text)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that a sheet looks the same on every machine."""
    return ImageFont.load_default(size)
