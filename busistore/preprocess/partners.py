"""Faint marks where a line from a sure mark ends: too little to be found alone, and just where one has to be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from busistore.preprocess.crosses import points_in
from busistore.preprocess.lines import Line, is_clear, profiles
from busistore.preprocess.mark import Mark, level_of
from busistore.preprocess.marks import of_level


@dataclass(frozen=True)
class PartnerSettings:
    """What is enough at the end of a line; sizes in original pixels."""

    partner_score: float = 3.0
    """Least score there, where a mark alone needs `mark_score`."""
    partner_level_score: float = 30.0
    """The same on the pixels of the sure mark's level, where a mark alone needs `level_score`."""
    partner_arm: float = 60.0
    """Least mean grey level of an arm there."""
    partner_before_px: float = 14.0
    """It is looked for from so far before the last spot that was followed..."""
    partner_beyond_px: float = 26.0
    """...to so far beyond..."""
    partner_beside_px: float = 4.0
    """...and so far beside the line."""
    partner_darker: float = 60.0
    """The line's spots are darker than the sure mark by no more."""
    partner_size_px: int = 2
    """Its half-arm differs by no more from the sure mark's."""


def with_partners(
    grey: np.ndarray, chroma: np.ndarray | None, marks: list[Mark], lines: list[Line], settings
) -> tuple[list[Mark], list[Line]]:
    """The marks and what is found at the far ends of their lines; lines that found one are lines between two."""
    marks, out = list(marks), [line for line in lines if len(line.ends) == 2]
    for n in dict.fromkeys(line.ends[0] for line in lines if len(line.ends) == 1):
        mark = marks[n]
        plane = chroma if mark.plane == "chroma" else grey
        rays = [ray for ray in lines if ray.ends == (n,) and _is_of(mark, ray, plane, settings)]
        partners = [(ray, partner) for ray in rays if (partner := _partner(plane, mark, ray, settings))]
        if partners:
            ray, partner = max(partners, key=lambda found: found[1].score)
            at = [k for k, m in enumerate(marks) if max(abs(m.x - partner.x), abs(m.y - partner.y)) < 5]
            marks += [] if at else [partner]
            end = at[0] if at else len(marks) - 1
            out += [replace(ray, x1=marks[end].x, y1=marks[end].y, ends=(n, end))] if end != n else []
        else:
            out += [ray for ray in rays if is_clear(ray, grey.shape, settings)][:1]
    return marks, out


def _is_of(mark: Mark, line: Line, plane: np.ndarray, settings) -> bool:
    """Whether the spots of a line are as bright as the mark: a streak of tissue is not."""
    along = np.arange(settings.line_margin_px, line.length)
    own = profiles(plane, (line.x0, line.y0), *line.direction, along)[0]
    size = min(settings.window_px, len(own))
    spots = np.lib.stride_tricks.sliding_window_view(own, size).max(axis=1)
    return float(np.median(spots)) >= level_of(plane, mark) - settings.partner_darker


def _partner(plane: np.ndarray, mark: Mark, line: Line, settings) -> Mark | None:
    """The best mark of the same make beyond a line's last spot, or None."""
    found = _at_end(plane, line, mark, settings, settings.partner_score, settings.contrast_cap, settings.partner_arm)
    if mark.plane != "chroma":
        level = of_level(plane, round(mark.level), settings.level_tolerance)
        same = _at_end(level, line, mark, settings, settings.partner_level_score, 255.0, 0.0)
        found = np.concatenate([found, same * np.array([1, 1, settings.level_weight, 1])])
    if not len(found):
        return None
    x, y, score, _ = max(found.tolist(), key=lambda row: row[2])
    return replace(mark, x=x, y=y, arms=(float(np.median(mark.arms)),) * 4, score=score)


def _at_end(plane, line: Line, mark: Mark, settings, least: float, cap: float, least_arm: float) -> np.ndarray:
    """(N, 4) x, y, score, size of what the filter answers to in the part of the plane where the line ends."""
    reach, (height, width) = int(settings.partner_beyond_px) + 20, plane.shape
    left, top = max(int(line.x1) - reach, 0), max(int(line.y1) - reach, 0)
    right, bottom = min(int(line.x1) + reach + 1, width), min(int(line.y1) + reach + 1, height)
    name = "sizes" if mark.shape == "+" else "x_sizes"
    half = np.mean(mark.arms) * (1 if mark.shape == "+" else 0.7)
    sizes = tuple(s for s in getattr(settings, name) if abs(s[0] - half) <= settings.partner_size_px)
    if not sizes or min(right - left, bottom - top) < 8:
        return np.zeros((0, 4))
    like = replace(settings, **{name: sizes})
    points = points_in(plane, (left, top, right, bottom), mark.shape, like, least, cap, least_arm)
    along, across = line.turned(points[:, 0] - line.x1, points[:, 1] - line.y1)
    near = (along >= -settings.partner_before_px) & (along <= settings.partner_beyond_px)
    return points[near & (np.abs(across) <= settings.partner_beside_px)]
