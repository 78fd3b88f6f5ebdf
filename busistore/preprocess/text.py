"""Typed text: glyphs of one level in a row, and, where the extra `ocr` is installed, what a text reader finds.

The rows need no reader: letters of a scanner are strokes of one level and stand on one line. The reader adds what
lies on saturated tissue or was smeared by resampling.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from busistore.errors import BusistoreError
from busistore.preprocess.findings import Finding
from busistore.preprocess.strokes import (
    Box,
    Found,
    Stroke,
    StrokeSettings,
    box_around,
    grown,
    moved,
    painted,
    shared,
    strokes,
    wider,
)


@dataclass(frozen=True)
class TextSettings(StrokeSettings):
    """When strokes are text; sizes in original pixels, or in heights of a glyph where the name says so."""

    glyph_height_px: tuple[int, int] = (6, 34)
    glyph_width_px: int = 48
    glyph_edge_share: float = 0.72  # least share of the outline of a glyph in a row that jumps
    glyph_weak_share: float = 0.5  # the same, where a row is known already
    glyph_alone_share: float = 0.95  # the same, for a glyph without a neighbour
    glyph_alone_spread: float = 10.0  # largest standard deviation of a glyph without a neighbour, levels
    digit_edge_share: float = 0.6  # the same, for a digit beside a mark
    digit_band: int = 8  # half-width of the band of a mark's level
    digit_spread: float = 5.0  # largest standard deviation of a digit in it, levels
    digit_jump: float = 14.0  # least jump of the grey just outside of it, levels
    digit_exact_share: float = 0.8  # least share of its outline that jumps
    digit_reach_px: int = 34  # its middle is no further from the mark's
    digit_levels: float = 24.0  # and its level differs no more from the mark's
    row_gap_heights: float = 1.3  # widest gap between neighbours
    row_rise: float = 0.15  # largest difference of base lines, heights
    row_levels: float = 16.0  # largest difference of grey levels
    logo_zone_px: tuple[int, int] = (120, 40)  # width and height of the corner that holds the vendor's name
    ocr_confidence: float = 0.5
    ocr_characters: int = 2  # letters and digits; a '+2' is a mark and its number


def find_text(grey: np.ndarray, settings: TextSettings = TextSettings(), ocr: bool = False) -> list[Found]:
    """Rows of text ("text"), glyphs alone ("digit"), and the vendor's name in the top left corner ("logo").

    Args:
        grey: (H, W) uint8.
        ocr: also ask the reader of the extra `ocr`.

    Returns:
        Findings with the mask of their glyphs, black outlines and all, grown by two pixels.

    Raises:
        BusistoreError: `ocr` without the extra.
    """
    glyphs = _glyphs(grey, settings)
    rows = [_completed(grey, row, settings) for row in _rows(glyphs, settings)]
    taken = [box_around(g.box for g in row) for row in rows]
    alone = [g for g in glyphs if _stands_alone(g, grey.shape, settings)]
    alone = [g for g in alone if not any(shared(g.box, box) > 0.5 for box in taken)]
    found = [_found(grey, row, "text", settings) for row in rows]
    found += [_found(grey, [g], "digit", settings) for g in alone]
    if ocr:
        found = _joined(found, [(f, _inked(grey, f.box, settings)) for f in read(grey, settings)])
    return found


def _glyphs(grey: np.ndarray, settings: TextSettings) -> list[Stroke]:
    low, high = settings.glyph_height_px

    def fits(w: np.ndarray, h: np.ndarray) -> np.ndarray:
        return (h >= low) & (h <= high) & (w <= settings.glyph_width_px) & (w <= 2.2 * h)

    return strokes(grey, settings, fits)


def _rows(glyphs: list[Stroke], settings: TextSettings) -> list[list[Stroke]]:
    """Glyphs that stand side by side on one line, two at least, from left to right."""
    letters = [g for g in glyphs if g.edge >= settings.glyph_edge_share and not is_cross(g.pixels)]
    group = list(range(len(letters)))
    for i, a in enumerate(letters):
        for j in range(i):
            if _neighbours(a, letters[j], settings):
                old, new = group[i], group[j]
                group = [new if g == old else g for g in group]
    rows = [[g for g, k in zip(letters, group) if k == name] for name in dict.fromkeys(group)]
    return [sorted(row, key=lambda g: g.box) for row in rows if len(row) >= 2]


def _neighbours(a: Stroke, b: Stroke, settings: TextSettings) -> bool:
    height, lower = max(a.height, b.height), min(a.height, b.height)
    gap = max(a.box[0], b.box[0]) - min(a.box[2], b.box[2])
    rise = min(abs(a.box[3] - b.box[3]), abs(a.box[1] - b.box[1]))
    return (
        gap <= settings.row_gap_heights * height
        and gap > -0.5 * lower
        and height <= 1.7 * lower
        and rise <= max(2, settings.row_rise * height)
        and abs(a.level - b.level) <= settings.row_levels
    )


def find_digits(
    grey: np.ndarray, marks: list[tuple[float, float, float]], ink: np.ndarray, settings: TextSettings = TextSettings()
) -> list[Found]:
    """The number beside each caliper mark: of what is of the mark's level, the best glyph; none belongs to two marks.

    Args:
        grey: (H, W) uint8. marks: rows of x, y, level. ink: (H, W) bool, pixels of marks and lines, which are no digit.
    """
    rest, out, taken = np.where(wider(ink, 1), 0, grey).astype(np.uint8), [], np.zeros(grey.shape, bool)
    for x, y, level in marks:
        near = [g for g in _numbers(rest, x, y, level, settings) if not taken[_part(g.box)].any()]
        if near:
            best = max(near, key=lambda g: (g.edge - g.spread / 50, g.area_px))
            out.append(_found(grey, [best], "digit", settings))
            taken |= out[-1][1]
    return out


def _numbers(rest: np.ndarray, x: float, y: float, level: float, settings: TextSettings) -> list[Stroke]:
    """Glyphs beside a mark: of just its level, though the tissue is nearly as bright; or clear, and near its level."""
    reach = settings.digit_reach_px
    left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
    part = rest[top : int(y) + reach + 1, left : int(x) + reach + 1]

    def fits(w: np.ndarray, h: np.ndarray) -> np.ndarray:
        return (h >= settings.glyph_height_px[0]) & (h <= 24) & (w <= h) & (w >= 2)

    exact = replace(
        settings, stroke_band=settings.digit_band, stroke_jump=settings.digit_jump, stroke_sharp_spread=0.0,
        stroke_spread=settings.digit_spread, stroke_edge_share=settings.digit_exact_share,
    )  # fmt: skip
    clear = replace(settings, stroke_edge_share=settings.digit_edge_share)
    found = strokes(part, exact, fits, [level]) + strokes(part, clear, fits)
    return [replace(g, box=moved(g.box, left, top)) for g in found if abs(g.level - level) <= settings.digit_levels]


def _part(box: Box) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def _completed(grey: np.ndarray, row: list[Stroke], settings: TextSettings) -> list[Stroke]:
    """The row with fainter glyphs of its level beside and between its own."""
    x0, y0, x1, y1 = box_around(g.box for g in row)
    level, high = float(np.median([g.level for g in row])), y1 - y0
    left, top = max(x0 - 5 * high, 0), max(y0 - 2, 0)
    strip = grey[top : y1 + 2, left : x1 + 5 * high]

    def fits(w: np.ndarray, h: np.ndarray) -> np.ndarray:
        return (h >= 0.55 * high) & (h <= 1.5 * high) & (w <= 2.2 * h)

    weak = strokes(strip, replace(settings, stroke_edge_share=settings.glyph_weak_share), fits, [level])
    weak = [replace(g, box=moved(g.box, left, top)) for g in weak if not is_cross(g.pixels)]
    more = [g for g in weak if not any(shared(g.box, known.box) > 0.3 for known in row)]
    while near := [g for g in more if any(_beside(g, known, settings) for known in row)]:
        row = row + near
        more = [g for g in more if not any(g is known for known in near)]
    return sorted(row, key=lambda g: g.box)


def _beside(g: Stroke, known: Stroke, settings: TextSettings) -> bool:
    """Whether a glyph continues a row: a neighbour, or, like the l after a p, one that shares most of its height."""
    gap = max(g.box[0], known.box[0]) - min(g.box[2], known.box[2])
    common = min(g.box[3], known.box[3]) - max(g.box[1], known.box[1])
    return gap <= settings.row_gap_heights * known.height and common >= 0.7 * min(g.height, known.height)


def _stands_alone(g: Stroke, shape: tuple[int, int], settings: TextSettings) -> bool:
    """Whether a stroke is a glyph for sure; of one that the frame cuts, too little of the outline is seen."""
    whole = min(g.box[:2]) > 0 and g.box[2] < shape[1] and g.box[3] < shape[0]
    return (
        whole and g.edge >= settings.glyph_alone_share and g.spread <= settings.glyph_alone_spread
        and g.height >= g.width and not is_cross(g.pixels)
    )  # fmt: skip


def is_cross(pixels: np.ndarray) -> bool:
    """Whether an (h, w) bool glyph is a '+': a bar of full width over one of full height, both near the middle, and
    nothing else."""
    h, w = pixels.shape
    if min(h, w) < 5 or max(h, w) > 1.5 * min(h, w):
        return False
    across, down = np.flatnonzero(pixels.mean(axis=1) >= 0.85), np.flatnonzero(pixels.mean(axis=0) >= 0.85)
    if not len(across) or not len(down) or len(across) > h / 3 or len(down) > w / 3:
        return False
    centred = abs(across.mean() - (h - 1) / 2) <= 0.2 * h and abs(down.mean() - (w - 1) / 2) <= 0.2 * w
    rest = pixels.copy()
    rest[across], rest[:, down] = False, False
    return bool(centred and rest.sum() <= 0.1 * pixels.sum())


def _found(grey: np.ndarray, glyphs: list[Stroke], kind: str, settings: TextSettings) -> Found:
    """The finding of one row and its mask: the glyphs, grown by two pixels, with the outline where there is one."""
    box = box_around(g.box for g in glyphs)
    kind = "logo" if in_corner(box, settings) else kind
    mask = grown(grey, painted(grey.shape, glyphs), settings)
    return Finding(kind, box, float(np.mean([g.edge for g in glyphs]))), mask


def in_corner(box: Box, settings: TextSettings) -> bool:
    """Whether a box lies where the vendor's name stands."""
    return box[2] <= settings.logo_zone_px[0] and box[3] <= settings.logo_zone_px[1]


def _inked(grey: np.ndarray, box: Box, settings: TextSettings) -> np.ndarray:
    """The (H, W) bool mask of the letters in a box of the reader."""
    x0, y0, x1, y1 = box
    mask = np.zeros(grey.shape, bool)
    mask[y0:y1, x0:x1] = _lettering(grey[y0:y1, x0:x1], settings)
    return grown(grey, mask, settings)


def _lettering(part: np.ndarray, settings: TextSettings) -> np.ndarray:
    """The pixels of the letters in an (h, w) cut-out of one word: the level of which most lies in strokes."""
    import cv2

    best, most = np.zeros(part.shape, bool), 0
    for level in range(settings.stroke_first_level, 256, settings.stroke_level_step):
        band = cv2.inRange(part, level - settings.stroke_band, level + settings.stroke_band)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(band, connectivity=8)
        tall = stats[:, cv2.CC_STAT_HEIGHT] >= 0.35 * part.shape[0]
        tall[0] = False
        letters = tall[labels]
        thick = cv2.erode(letters.view(np.uint8), np.ones((5, 5), np.uint8)).sum()
        weight = int(letters.sum()) - 25 * int(thick)
        if weight > most:
            best, most = letters, weight
    return best


def _joined(found: list[Found], readings: list[Found]) -> list[Found]:
    """Findings and readings; a reading takes over the findings in its place, pixels and all."""
    for finding, mask in readings:
        same = [f for f in found if shared(f[0].box, finding.box) > 0.5]
        found = [f for f in found if not any(f is known for known in same)]
        box = box_around([finding.box, *(f.box for f, _ in same)])
        kind = "text" if any(f.kind == "text" for f, _ in same) else finding.kind
        found.append((replace(finding, box=box, kind=kind), np.any([mask, *(m for _, m in same)], axis=0)))
    return found


def read(grey: np.ndarray, settings: TextSettings = TextSettings()) -> Iterator[Finding]:
    """The words that the reader finds in an (H, W) uint8 image; "digit" where it took a '+2' for 24, X2 or the like."""
    engine, lock = _engine()
    with lock:  # the engine keeps what it is at in itself
        said = engine(np.repeat(grey[:, :, None], 3, axis=2))
    for corners, word, score in zip(*((v if v is not None else ()) for v in (said.boxes, said.txts, said.scores))):
        if score >= settings.ocr_confidence and sum(map(str.isalnum, word)) >= settings.ocr_characters:
            x0, y0 = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int).tolist()
            x1, y1 = np.minimum(np.ceil(corners.max(axis=0)), grey.shape[::-1]).astype(int).tolist()
            kind = "text" if set(word.lower()) & set("abcdefghijklmnopqrstuvwyz") else "digit"
            box = (x0, y0, x1, y1)
            yield Finding("logo" if in_corner(box, settings) else kind, box, float(score))


def check_reader() -> None:
    """Raise a BusistoreError where the extra `ocr` is not installed, or not whole."""
    _engine()


def reader_version() -> str:
    """Which reader, and so which models, the extra has brought; '' where it is not installed."""
    try:
        return metadata.version("rapidocr")
    except metadata.PackageNotFoundError:
        return ""


@cache
def _engine() -> tuple[Any, threading.Lock]:
    one = {f"EngineConfig.onnxruntime.{name}_op_num_threads": 1 for name in ("intra", "inter")}
    try:
        from rapidocr import RapidOCR

        return RapidOCR(params={"Global.log_level": "critical", "Global.use_cls": False, **one}), threading.Lock()
    except ImportError:
        raise BusistoreError("reading text needs the extra 'ocr'; pip install 'busistore[ocr]'") from None
