"""What else a scanner draws: the vendor's glyph, a depth scale, a focus mark, a body mark, colour and flow.

All are told from tissue by how they were made, not by where BUSI has them: an outline of black and one flat level,
ticks at equal distances, thin curves with hard edges, colour that the rest of the picture lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from busistore.preprocess.colour import ColourSettings, find_colours, groups, luma, opened
from busistore.preprocess.findings import Finding, box_of
from busistore.preprocess.strokes import Found, Stroke, painted, strokes, wider
from busistore.preprocess.text import TextSettings, find_text


@dataclass(frozen=True)
class OverlaySettings(ColourSettings, TextSettings):
    """When something drawn is no letter; sizes in original pixels, levels of 0..255."""

    logo_black: int = 45  # darkest outline of the vendor's glyph
    logo_rise: int = 50  # from it to the glyph and to the tissue, levels
    logo_light: int = 120  # the glyph is at least this bright
    logo_outline_px: int = 12  # least number of pixels of a piece of outline
    logo_inside_px: int = 12  # least number of pixels inside it
    logo_flat_share: float = 0.5  # least share of those that are of one level
    scale_strip_px: int = 24  # how far from the left or right edge ticks and focus marks are looked for
    scale_jump: float = 35.0  # least jump of a tick above what is over and under it, levels
    scale_ticks: int = 4  # least number of ticks at equal distances
    scale_slack_px: float = 2.0  # by which those distances may differ
    focus_px: tuple[int, int] = (6, 16)  # sides of a focus mark
    focus_spread: float = 7.0  # largest standard deviation inside it, levels
    body_px: tuple[int, int] = (24, 140)  # longer side of one line of a body mark
    body_bend_px: float = 1.5  # a curve or corner strays this far from the straight line


def find_ink(image: np.ndarray, settings: OverlaySettings = OverlaySettings(), ocr: bool = False) -> list[Found]:
    """All that `find_overlays` and `find_text` find in an (H, W) or (H, W, 3) uint8 image, nothing of it twice."""
    drawn = find_overlays(image, settings)
    covered = np.any([np.zeros(image.shape[:2], bool), *(wider(m, 2) for _, m in drawn)], axis=0)
    written = [(f, m) for f, m in find_text(luma(image), settings, ocr) if m.any()]  # a reading may have no ink
    return drawn + [(f, m) for f, m in written if covered[m].mean() <= 0.5]


def find_overlays(image: np.ndarray, settings: OverlaySettings = OverlaySettings()) -> list[Found]:
    """Kinds "logo", "scale", "focus", "bodymark", and of an (H, W, 3) image "colour" and "doppler" (filled colour).

    A mask holds the pixels to be filled, grown by one; that of "doppler" is where colour hides the tissue, which no
    filling brings back.
    """
    grey = luma(image)
    found = [*_logo(grey, settings), *_scales(grey, settings), *_focus(grey, settings), *_body_marks(grey, settings)]
    return found + (find_colours(image, settings) if image.ndim == 3 else [])


def _logo(grey: np.ndarray, settings: OverlaySettings) -> Iterator[Found]:
    """A glyph in the top left corner, of one light level and outlined in black; the frame may cut it."""
    width, height = settings.logo_zone_px
    zone = grey[:height, :width]
    ink = _outlined(zone, settings) | _lit(zone, settings)
    if ink.any():
        mask = np.zeros(grey.shape, bool)
        mask[:height, :width] = wider(ink, 1)
        yield Finding("logo", box_of(mask), float(ink.sum())), mask


def _outlined(zone: np.ndarray, settings: OverlaySettings) -> np.ndarray:
    """Thin black lines that go around something of one light level, and that."""
    import cv2

    square = np.ones((7, 7), np.uint8)  # wider than a stroke of the glyph and than its outline
    closed = cv2.morphologyEx(zone, cv2.MORPH_CLOSE, square)
    black = (zone <= settings.logo_black) & (closed.astype(int) - zone >= settings.logo_rise)
    black &= ~opened(black, settings.logo_zone_px[0] // 2, 1)  # the upper edge of the sector
    _, labels, stats, _ = cv2.connectedComponentsWithStats(black.view(np.uint8), connectivity=8)
    w, h, area_px = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT], stats[:, cv2.CC_STAT_AREA]
    big = (area_px >= settings.logo_outline_px) & (w <= 5 * h)  # dark layers of tissue are level
    big[0] = False
    outline = big[labels]
    inside = _enclosed(outline) & (zone > settings.logo_black)
    light = zone[inside & (zone >= settings.logo_light)].astype(float)
    level = np.median(light) if light.size >= settings.logo_inside_px else np.inf
    flat = light.size and (np.abs(light - level) <= settings.stroke_band).mean() >= settings.logo_flat_share
    return (outline | inside) & bool(flat)


def _lit(zone: np.ndarray, settings: OverlaySettings) -> np.ndarray:
    """Light pieces of one level with black all around, though not far around, and that black."""
    ink = np.zeros(zone.shape, bool)
    black = zone <= settings.logo_black
    for piece in _flat_pieces(zone, settings):
        near = wider(piece, 1) & ~piece
        far = wider(piece, 6) & ~wider(piece, 4)
        outlined = near.any() and black[near].mean() >= settings.outline_share
        if outlined and far.any() and black[far].mean() < settings.outline_share:
            ink |= piece | (wider(piece, 2) & black)
    return ink


def _flat_pieces(zone: np.ndarray, settings: OverlaySettings) -> Iterator[np.ndarray]:
    import cv2

    for level in range(settings.logo_light + settings.stroke_band, 256, settings.stroke_level_step):
        band = cv2.inRange(zone, level - settings.stroke_band, level + settings.stroke_band)
        n, labels, stats, _ = cv2.connectedComponentsWithStats(band, connectivity=4)
        for k in range(1, n):
            piece = labels == k
            small = stats[k, cv2.CC_STAT_AREA] < settings.logo_inside_px
            if not small and zone[piece].std() <= settings.stroke_sharp_spread:
                yield piece


def _enclosed(outline: np.ndarray) -> np.ndarray:
    """What lies between black lines less than 7 px apart, or cannot be reached from right or below past them.

    Above and to the left the frame counts as black: it cuts the glyph.
    """
    import cv2

    framed = np.pad(outline, ((7, 7), (7, 7)))
    shut = cv2.morphologyEx(framed.view(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))[7:-7, 7:-7].view(bool)
    _, labels = cv2.connectedComponents((~shut).view(np.uint8), connectivity=4)
    outside = np.union1d(labels[-1], labels[:, -1])
    return ~np.isin(labels, outside[outside > 0])


def _scales(grey: np.ndarray, settings: OverlaySettings) -> Iterator[Found]:
    """Ticks of a depth scale along the left or right edge: short flat bars, one end in a line, at equal distances."""
    side = min(settings.scale_strip_px, grey.shape[1] // 2)
    for left in (0, grey.shape[1] - side):
        ticks = _ticks(grey[:, left : left + side], settings)
        row = max((_evenly(ticks, end, grey.shape[0], settings) for end in (0, 2)), key=len)
        if row:
            mask = np.zeros(grey.shape, bool)
            mask[:, left : left + side] = painted((grey.shape[0], side), row)
            yield Finding("scale", box_of(mask), float(len(row))), wider(mask, 1)


def _ticks(strip: np.ndarray, settings: OverlaySettings) -> list[Stroke]:
    import cv2

    grey = cv2.copyMakeBorder(strip, 2, 2, 0, 0, cv2.BORDER_REPLICATE).astype(np.int16)
    above = grey[2:-2] - np.maximum(grey[:-4], grey[4:])
    thin = (above >= settings.scale_jump).view(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(thin, connectivity=8)
    out = []
    for k in range(1, len(stats)):
        x, y, w, h, area_px = (int(v) for v in stats[k])
        mine = labels[y : y + h, x : x + w] == k
        spread = float(strip[y : y + h, x : x + w][mine].std())
        if 3 <= w <= 16 and h <= 3 and area_px >= 0.8 * w * h and spread <= settings.stroke_spread:
            level = float(strip[y : y + h, x : x + w][mine].mean())
            out.append(Stroke((x, y, x + w, y + h), level, area_px, 1.0, spread, mine))
    return out


def _evenly(ticks: list[Stroke], end: int, height: int, settings: OverlaySettings) -> list[Stroke]:
    """The most ticks of one level that share the x of one end and are equally far apart; none if there are few."""
    best: list[Stroke] = []
    for first in ticks:
        same = [t for t in ticks if abs(t.box[end] - first.box[end]) <= 1 and abs(t.level - first.level) <= 12]
        for second in same:
            step = second.box[1] - first.box[1]
            if step >= 8:
                steps = [(t, (t.box[1] - first.box[1]) / step) for t in same]
                row = [t for t, k in steps if k >= 0 and abs(k - round(k)) * step <= settings.scale_slack_px]
                full = step * len(row) >= 0.8 * (row[-1].box[1] - first.box[1])  # hardly a tick is missing
                best = max(best, row, key=len) if full else best
    long = best and best[-1].box[1] - best[0].box[1] >= 0.3 * height
    return best if long and len(best) >= settings.scale_ticks else []


def _focus(grey: np.ndarray, settings: OverlaySettings) -> Iterator[Found]:
    """A small filled triangle of one level beside the left or right edge."""
    low, high = settings.focus_px
    side = min(2 * settings.scale_strip_px, grey.shape[1] // 2)
    flat = dict.fromkeys(("stroke_spread", "stroke_sharp_spread"), settings.focus_spread)
    solid = replace(settings, stroke_thick_px=high, stroke_edge_share=settings.glyph_alone_share, **flat)

    def fits(w: np.ndarray, h: np.ndarray) -> np.ndarray:
        return (np.minimum(w, h) >= low) & (np.maximum(w, h) <= high)

    for left in (0, grey.shape[1] - side):
        for s in strokes(grey[:, left : left + side], solid, fits):
            if _is_triangle(s.pixels):
                mask = np.zeros(grey.shape, bool)
                mask[:, left : left + side] = painted((grey.shape[0], side), [s])
                yield Finding("focus", box_of(mask), s.edge), wider(mask, 1)


def _is_triangle(pixels: np.ndarray) -> bool:
    """Whether rows and columns of an (h, w) bool glyph are unbroken and it points left or right."""
    h, w = pixels.shape
    columns = pixels.sum(axis=0)
    points_left = bool((np.diff(columns) >= 0).all())
    unbroken = all(np.ptp(np.flatnonzero(c)) + 1 == c.sum() for c in pixels.T)
    points = points_left or bool((np.diff(columns) <= 0).all())
    return 0.6 <= w / h <= 1.6 and unbroken and points and 0.45 <= float(pixels.mean()) <= 0.7


def _body_marks(grey: np.ndarray, settings: OverlaySettings) -> list[Found]:
    """Thin bent lines of one level in the lower half, with what of that level is near them."""
    low, high = settings.body_px
    top = grey.shape[0] // 2

    def fits(w: np.ndarray, h: np.ndarray) -> np.ndarray:
        longer = np.maximum(w, h)
        return (longer >= low) & (longer <= high) & (np.minimum(w, h) >= 5)

    part = grey[top:]
    sharp = replace(settings, stroke_edge_share=settings.glyph_alone_share, stroke_thick_px=4)
    bent = [s for s in strokes(part, sharp, fits) if _is_curve(s, settings)]
    if not bent:
        return []
    seeds, level = painted(part.shape, bent), float(np.median([s.level for s in bent]))
    mask = np.zeros(grey.shape, bool)
    mask[top:] = _near_of_level(part, seeds, level, settings)
    return [(replace(f, score=float(len(bent))), m) for f, m in groups("bodymark", mask, settings.group_px)]


def _is_curve(s: Stroke, settings: OverlaySettings) -> bool:
    """Whether a stroke is one line, thin for its length, and not straight."""
    import cv2

    y, x = np.nonzero(s.pixels)
    square = np.ones((3, 3), np.uint8)
    whole = cv2.morphologyEx(np.pad(s.pixels, 2).view(np.uint8), cv2.MORPH_CLOSE, square)  # noise leaves pinholes
    thick = cv2.erode(whole, square).sum()
    if len(x) > 0.35 * s.pixels.size or thick > 0.15 * len(x):
        return False
    spread = np.linalg.eigvalsh(np.cov(np.stack([x, y])))
    return bool(spread[0] ** 0.5 >= settings.body_bend_px)


def _near_of_level(grey: np.ndarray, seeds: np.ndarray, level: float, settings: OverlaySettings) -> np.ndarray:
    """The seeds and the thin components of their level within reach of them, until none is left."""
    import cv2

    band = cv2.inRange(grey, level - settings.stroke_band, 255)  # the letter in a pictogram is brighter than its lines
    _, labels, stats, _ = cv2.connectedComponentsWithStats(band, connectivity=8)
    longer = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
    thin = (longer <= settings.body_px[1]) & (stats[:, cv2.CC_STAT_AREA] <= 5 * longer)
    mask = seeds
    while True:
        near = np.unique(labels[wider(mask, settings.group_px)])
        near = near[(near > 0) & thin[near]]
        new = mask | np.isin(labels, near)
        if (new == mask).all():
            return mask
        mask = new
