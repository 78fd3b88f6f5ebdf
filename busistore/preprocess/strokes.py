"""Thin strokes of one grey level with hard edges: what a scanner types and draws, and tissue never shows.

A scanner writes one level over the picture, so inside a stroke the grey hardly varies and at its edge it jumps within
a pixel or two. Echoes rise and fall over several pixels: cut out of them, a band of levels is filled evenly, and
next to it lies a grey that the band only just missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from busistore.preprocess.findings import Finding

Box = tuple[int, int, int, int]  # x0, y0, x1, y1, ends excluded
Found = tuple[Finding, np.ndarray]  # a finding and its (H, W) bool mask


@dataclass(frozen=True)
class StrokeSettings:
    """When a connected band of grey levels is a stroke; levels are of 0..255, sizes in original pixels."""

    stroke_first_level: int = 120  # darkest level that is searched
    stroke_level_step: int = 8  # between the bands
    stroke_band: int = 22  # half-width of a band, levels
    stroke_spread: float = 9.5  # largest standard deviation inside, levels
    stroke_sharp_spread: float = 16.0  # the same, where all of the outline jumps: smeared by resampling
    stroke_sharp_share: float = 0.95  # all of the outline
    stroke_jump: float = 45.0  # least jump of the grey just outside, levels
    stroke_edge_share: float = 0.7  # least share of the outline that jumps
    stroke_thick_px: int = 5  # a square of this side fits into no stroke
    outline_dark: int = 40  # a black outline is at most this level
    outline_share: float = 0.6  # of the pixels around a stroke that are this dark, where it has a black outline
    outline_px: int = 3  # how far a black outline reaches


@dataclass(frozen=True)
class Stroke:
    """One connected stroke: its box (x0, y0, x1, y1), ends excluded, grey level, pixel count and measures.

    `edge` is the share of its outline that jumps, `spread` the standard deviation inside, `pixels` the (h, w) bool
    of the box.
    """

    box: Box
    level: float
    area_px: int
    edge: float
    spread: float
    pixels: np.ndarray

    @property
    def width(self) -> int:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]


Fits = Callable[[np.ndarray, np.ndarray], np.ndarray]  # widths and heights (N,) -> (N,) bool: worth measuring


def strokes(
    grey: np.ndarray, settings: StrokeSettings, fits: Fits, levels: Iterable[float] | None = None
) -> list[Stroke]:
    """Strokes of an (H, W) uint8 image whose box `fits`, of overlapping ones the best, from the top down.

    `levels` are the middles of the bands to look at; by default one every few levels from a dark grey to white.
    """
    levels = range(settings.stroke_first_level, 256, settings.stroke_level_step) if levels is None else levels
    return _best([s for level in levels for s in _of_level(grey, level, settings, fits)])


def _of_level(grey: np.ndarray, level: float, settings: StrokeSettings, fits: Fits) -> Iterator[Stroke]:
    import cv2

    band = cv2.inRange(grey, max(level - settings.stroke_band, 1), level + settings.stroke_band)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(band, connectivity=8)
    good = fits(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    good[0] = False
    for k in np.flatnonzero(good):
        x, y, w, h, area_px = (int(v) for v in stats[k])
        stroke = _measured(grey, labels, k, (x, y, x + w, y + h), area_px, settings)
        if stroke is not None:
            yield stroke


def _measured(grey, labels, k, box, area, settings) -> Stroke | None:
    """The component as a stroke, or None when it is thick, uneven, or not set off from what surrounds it."""
    import cv2

    x0, y0, x1, y1 = box
    top, left = max(y0 - 2, 0), max(x0 - 2, 0)
    part = (slice(top, y1 + 2), slice(left, x1 + 2))
    mine, around = (labels[part] == k).view(np.uint8), grey[part]
    inside = around[mine > 0]
    spread, level = float(inside.std()), float(inside.mean())
    if spread > max(settings.stroke_spread, settings.stroke_sharp_spread):
        return None
    side = settings.stroke_thick_px
    if cv2.erode(mine, np.ones((side, side), np.uint8), borderValue=0).any():
        return None
    near = cv2.dilate(mine, np.ones((3, 3), np.uint8))
    far = cv2.dilate(near, np.ones((3, 3), np.uint8))
    ring = around[(far > near)].astype(float)
    edge = float((np.abs(ring - level) >= settings.stroke_jump).mean()) if ring.size else 0.0
    sharp = edge >= settings.stroke_sharp_share
    most = settings.stroke_sharp_spread if sharp else settings.stroke_spread
    if edge < settings.stroke_edge_share or spread > most:
        return None
    return Stroke(box, level, area, edge, spread, labels[y0:y1, x0:x1] == k)


def _best(found: list[Stroke]) -> list[Stroke]:
    """Of strokes whose boxes share more than half of the smaller, the one with most pixels; then the sharper."""
    kept: list[Stroke] = []
    for s in sorted(found, key=lambda s: (-s.area_px, -s.edge, s.spread, s.box)):
        if all(shared(s.box, k.box) <= 0.5 for k in kept):
            kept.append(s)
    return sorted(kept, key=lambda s: (s.box[1], s.box[0]))


def shared(a: Box, b: Box) -> float:
    """The part of the smaller box that the other covers, 0 to 1."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def painted(shape: tuple[int, int], found: Iterable[Stroke]) -> np.ndarray:
    """The pixels of strokes as one (H, W) bool mask."""
    mask = np.zeros(shape, bool)
    for s in found:
        x0, y0, x1, y1 = s.box
        mask[y0:y1, x0:x1] |= s.pixels
    return mask


def box_around(boxes: Iterable[Box]) -> Box:
    """The smallest box around all of some boxes."""
    x0, y0, x1, y1 = zip(*boxes)
    return min(x0), min(y0), max(x1), max(y1)


def moved(box: Box, dx: int, dy: int) -> Box:
    return box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy


def grown(grey: np.ndarray, mask: np.ndarray, settings: StrokeSettings) -> np.ndarray:
    """An (H, W) bool mask of strokes, two pixels wider, with the black outline around them where there is one."""
    near, edge = wider(mask, 2), wider(mask, 1)
    dark = grey <= settings.outline_dark
    ring = edge & ~mask
    if ring.any() and dark[ring].mean() >= settings.outline_share:
        reach = wider(mask, settings.outline_px)
        beyond = wider(mask, settings.outline_px + 3) & ~wider(mask, settings.outline_px + 1)
        if not beyond.any() or dark[beyond].mean() < settings.outline_share / 2:
            near |= wider(reach & dark, 1)
    return near


def wider(mask: np.ndarray, by_px: int) -> np.ndarray:
    """An (H, W) bool mask with every pixel grown to a square that reaches so much further."""
    import cv2

    side = 2 * by_px + 1
    return cv2.dilate(mask.view(np.uint8), np.ones((side, side), np.uint8)).view(bool)
