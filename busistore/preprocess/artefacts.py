"""Everything that is burned into an image: marks, lines, text, overlays, what each of them is, and the exact pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from busistore.preprocess.colour import check_image, is_tinted, luma
from busistore.preprocess.crumbs import CrumbSettings, find_crumbs
from busistore.preprocess.findings import Artefacts, Finding, box_of
from busistore.preprocess.levels import LevelSettings, flat_levels
from busistore.preprocess.lines import (
    Line,
    LineSettings,
    at_crossings,
    find_lines,
    line_ink,
    on_line,
    pair_lines,
    tophat,
)
from busistore.preprocess.mark import Mark, is_even, is_thin, mark_ink, slenderness
from busistore.preprocess.marks import MarkSettings, find_marks
from busistore.preprocess.overlays import OverlaySettings, find_ink
from busistore.preprocess.partners import PartnerSettings, with_partners
from busistore.preprocess.strokes import Found
from busistore.preprocess.text import find_digits, find_text


@dataclass(frozen=True)
class Settings(MarkSettings, LevelSettings, LineSettings, PartnerSettings, CrumbSettings, OverlaySettings):
    """Every threshold of the detector, each named where it is used.

    `artefact_code` is raised whenever equal thresholds find or fill other pixels.
    """

    artefact_code: int = 1
    least_side_px: int = 32
    """A smaller image has no room for a mark and its surroundings."""
    most_marks: int = 40
    """No scanner draws more marks than this."""
    most_share: float = 0.04
    """Above this share of the area the mask is not to be filled."""
    text_aspect: float = 2.2
    """A mark inside a text box this many times as wide as tall is a letter."""
    word_aspect: float = 1.0
    """A mark in one this wide is a letter, too, unless a line ends there: a digit beside a mark looks like that."""
    clear_score: float = 72.0
    """A '+' of this score is no letter."""
    weak_score: float = 24.0
    """A mark below this counts only when a line or a sure mark of its level speaks for it."""
    lone_slender: float = 1.7
    """The arms of a mark that nothing else speaks for are so many times as long as its bars are thick, or even."""
    lone_step: float = 0.5
    """Between its arms the picture is darker, by this share of its contrast at least: a round echo is not."""
    twin_px: float = 2.0
    """The arms of two marks of one make differ by no more..."""
    twin_levels: float = 60.0
    """...and their levels by no more."""


def detect(image: np.ndarray, settings: Settings = Settings(), ocr: bool = False, inked: bool = False) -> Artefacts:
    """The findings, their pixels and the flags of an (H, W) or (H, W, 3) uint8 image.

    It sees pixels only. Raises BadInput for another shape or dtype.

    Args:
        inked: marks or words of this image are known already; without any, a glyph alone is a bright echo.
    """
    grey, chroma = planes(image, settings)
    if min(grey.shape) < settings.least_side_px:
        return Artefacts((), np.zeros(grey.shape, bool))
    ink = find_ink(image, settings, ocr)
    words = ink if chroma is None else [*ink, *find_text(grey, settings), *find_text(chroma, settings)]
    drawn, marks = marks_and_lines(grey, chroma, words, settings)
    if len(marks) > settings.most_marks:  # a test chart, or noise
        return Artefacts((), np.zeros(grey.shape, bool), frozenset({"too-much"}))
    if not (inked or marks or any(f.kind == "text" for f, _ in ink)):
        ink = [(f, pixels) for f, pixels in ink if f.kind != "digit"]
    beside = [(m.x, m.y, m.level) for m in marks]
    found = drawn + ink + find_digits(grey, beside, union(grey.shape, drawn), settings)
    found += find_crumbs(grey, beside, union(grey.shape, found), settings)
    mask = union(grey.shape, found)
    flags = {
        "too-much": mask.mean() > settings.most_share,
        "doppler": any(f.kind == "doppler" for f, _ in found),
        "tinted": is_tinted(image, settings),
    }
    findings = tuple(replace(f, area_px=int(pixels.sum())) for f, pixels in found)
    return Artefacts(findings, mask, frozenset(flag for flag, holds in flags.items() if holds))


def union(shape: tuple[int, int], found: list[Found]) -> np.ndarray:
    """(H, W) bool pixels of all findings."""
    mask = np.zeros(shape, bool)
    for _, pixels in found:
        mask |= pixels
    return mask


def planes(image: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) uint8 grey, and chroma above that of the image as a whole, None where next to nothing is coloured."""
    check_image(image)
    if image.ndim == 2:
        return np.ascontiguousarray(image), None
    grey = luma(image)
    span = image.max(axis=2) - image.min(axis=2)
    if not (span > settings.least_chroma).any():
        return grey, None
    tint = int(np.median(span))
    chroma = np.where(span > tint, span - tint, 0).astype(np.uint8)
    return grey, chroma if int((chroma > settings.least_chroma).sum()) >= settings.least_coloured_px else None


def marks_and_lines(grey, chroma, text: list[Found], settings: Settings) -> tuple[list[Found], list[Mark]]:
    """Marks that are marks and the lines that join them, with their pixels; and the marks."""
    marks = find_marks(grey, chroma, settings, flat_levels(grey, settings))
    marks = [m for m in marks if not in_text(m, text, settings, settings.text_aspect)]
    doubtful = {(m.x, m.y) for m in marks if in_text(m, text, settings, settings.word_aspect)}
    spots = tophat(grey, settings)
    if chroma is not None:
        spots = np.maximum(spots, tophat(chroma, settings))
    marks, lines = with_roles(marks, doubtful, (grey, chroma, spots), settings)
    out = []
    for mark in marks:
        ink = mark_ink(mark, grey.shape)
        out.append((Finding(f"caliper{mark.shape}", box_of(ink), mark.score, None, (mark.x, mark.y)), ink))
    for line in lines:
        ink = line_ink(line, spots, settings)
        if ink.any():
            ends = ((line.x0, line.y0), (line.x1, line.y1))
            out.append((Finding("line", box_of(ink), line.ratio, ends), ink))
    return out, marks


def in_text(mark: Mark, text: list[Found], settings: Settings, aspect: float) -> bool:
    """Whether a mark is a letter of a word of at least that width over height, or part of the vendor's name.

    A sure '+' is no letter: its number beside it makes a word of the two.
    """
    for finding, _ in text:
        if mark.shape == "+" and mark.score >= settings.clear_score and finding.kind != "logo":
            continue
        x0, y0, x1, y1 = finding.box
        inside = x0 - 2 <= mark.x <= x1 + 1 and y0 - 2 <= mark.y <= y1 + 1
        word = finding.kind == "logo" or (finding.kind == "text" and x1 - x0 >= aspect * (y1 - y0))
        if inside and word:
            return True
    width, height = settings.logo_zone_px
    return mark.shape == "x" and mark.x < width and mark.y < height


def with_roles(
    marks: list[Mark], doubtful: set, planes_of: tuple[np.ndarray, np.ndarray | None, np.ndarray], settings: Settings
) -> tuple[list[Mark], list[Line]]:
    """The marks of the shape that this image is measured with, and their lines.

    A scanner draws one shape in an image; an 'x' never comes alone.
    """
    grey, chroma, spots = planes_of
    sides = []
    for shape in "+x":
        own = [m for m in marks if m.shape == shape]
        own = _less_crossings(own, pair_lines(spots, positions(own), settings), settings)
        lines = find_lines(spots, positions(own), settings)
        own, lines = with_partners(grey, chroma, own, lines, settings)
        own, lines = _vouched(grey, own, doubtful, lines, settings)
        sides.append((own, lines))
    (pluses, plus_lines), (crosses, cross_lines) = sides
    if _weight(crosses, cross_lines, settings) > _weight(pluses, plus_lines, settings) and len(crosses) > 1:
        return crosses, cross_lines
    return pluses, plus_lines


def _less_crossings(marks: list[Mark], lines: list[Line], settings: Settings) -> list[Mark]:
    """Marks less what is only the crossing of two lines, or a weak mark on the line between two far better ones."""
    crossed = at_crossings(lines, positions(marks))
    for n, mark in enumerate(marks):
        through = [line.ends for line in lines if n not in line.ends and on_line(line, (mark.x, mark.y))]
        if any(mark.score < settings.beside_share * min(marks[k].score for k in ends) for ends in through):
            crossed.add(n)
    return [mark for n, mark in enumerate(marks) if n not in crossed]


def positions(marks: list[Mark]) -> np.ndarray:
    """(N, 2) centres."""
    return np.array([(m.x, m.y) for m in marks], float).reshape(-1, 2)


def _weight(marks: list[Mark], lines: list[Line], settings: Settings) -> float:
    """What speaks for a set of marks: sure ones, and twice as much those that a line joins."""
    joined = {n for line in lines if len(line.ends) == 2 for n in line.ends}
    return sum(m.score >= settings.sure_score for m in marks) + 2 * len(joined)


def _is_strong(n: int, marks: list[Mark], grey: np.ndarray, settings: Settings) -> bool:
    """Whether a mark counts without a line: a '+' by its make; an 'x' by another like it, of which one is sure."""
    mark = marks[n]
    if mark.score < settings.weak_score:
        return False
    if mark.plane != "grey":
        return True
    if mark.shape == "+":
        is_cross = is_thin(grey, mark, settings.lone_step)
        return is_cross and (is_even(grey, mark, settings) or slenderness(mark) >= settings.lone_slender)
    others = (m for k, m in enumerate(marks) if k != n and m.score >= settings.weak_score)
    twins = [m for m in others if _are_twins(mark, m, settings)]
    return any(
        max(m.score, mark.score) >= settings.sure_score
        and (is_even(grey, m, settings) or is_even(grey, mark, settings))
        for m in twins
    )  # fmt: skip


def _are_twins(a: Mark, b: Mark, settings: Settings) -> bool:
    """Whether two marks are of one make; resampling changes the level of thin ones."""
    like = abs(np.mean(a.arms) - np.mean(b.arms)) <= settings.twin_px
    return like and abs(a.level - b.level) <= settings.twin_levels


def _vouched(
    grey: np.ndarray, marks: list[Mark], doubtful: set, lines: list[Line], settings: Settings
) -> tuple[list[Mark], list[Line]]:
    """Marks less those that nothing speaks for: a line, a sure mark of their level, or what `_is_strong` asks for."""
    clear = {n for n, mark in enumerate(marks) if (mark.x, mark.y) not in doubtful}
    strong = {n for n in clear if _is_strong(n, marks, grey, settings)}
    joined = {n for line in lines if len(line.ends) == 2 and strong & set(line.ends) for n in line.ends}
    sure = [marks[n] for n in strong if marks[n].score >= settings.sure_score]

    def vouched(n: int, mark: Mark) -> bool:
        same = any(abs(mark.level - other.level) <= 2 * settings.level_tolerance for other in sure)
        return n in joined or n in strong or (same and n in clear)

    kept = [n for n, mark in enumerate(marks) if vouched(n, mark)]
    lines = [line for line in lines if set(line.ends) <= set(kept)]
    return [marks[n] for n in kept], lines
