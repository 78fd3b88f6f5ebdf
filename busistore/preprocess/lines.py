"""Dotted and dashed lines between caliper marks, and from a mark out of the frame.

A line is told from an edge of tissue by lines beside it: the small bright spots along it are brighter than along four
parallels, and there is one in every window longer than the scanner's period.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from busistore.preprocess.strokes import wider

ACROSS_PX = np.arange(-1, 2)  # a rounded point of a line lies this far beside it at most
PARALLEL_PX = (-8, -5, 5, 8)
OPPOSITE = float(np.cos(np.deg2rad(172)))


@dataclass(frozen=True)
class LineSettings:
    """Thresholds of lines; contrast is that of a top-hat, in grey levels."""

    tophat_px: int = 4
    """Spots smaller than this are kept."""
    line_margin_px: float = 8.0
    """A line is looked at from here on from a mark's centre: the arms are not part of it."""
    line_shortest_px: float = 24.0
    line_ratio: float = 1.7
    """Least contrast of a pair's line over that of its parallels."""
    line_contrast: float = 9.0
    """Least contrast of a pair's line above that of its parallels."""
    window_px: int = 12
    """A line has a spot in every window of this length; no scanner's period is longer."""
    window_share: float = 0.7
    """So many windows must have one."""
    ray_count: int = 240
    """Directions that are tried from a mark without a partner."""
    ray_first_px: int = 48
    """A ray must show for this long."""
    ray_tries: int = 6
    """So many of the clearest directions are followed."""
    ray_hidden: int = 2
    """So many windows in a row may show nothing."""
    ray_shortest_px: float = 80.0
    """A ray that neither leaves the frame nor ends at a mark is at least this long..."""
    ray_alone_ratio: float = 4.5
    """...and its contrast over that of its parallels is this, at least."""
    ray_ratio: float = 2.2
    ray_contrast: float = 14.0
    spot_share: float = 0.35
    """A pixel on a line is a spot when its top-hat is above this share of the line's spots."""
    line_near_px: float = 2.6
    """Spots are sought this far beside the line between two centres."""
    line_half_px: float = 1.6
    """Spots lie this far beside the middle of all of a line's spots."""
    band_half_px: float = 2.0
    """The band through the spots reaches this far beside their middle."""


@dataclass(frozen=True)
class Line:
    """A line from (x0, y0) to (x1, y1), joining the points numbered `ends`.

    `spot` is the top-hat of its spots, `ratio` its contrast over that of its parallels.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    spot: float
    ratio: float
    ends: tuple[int, ...] = ()

    @property
    def length(self) -> float:
        return float(np.hypot(self.x1 - self.x0, self.y1 - self.y0))

    @property
    def direction(self) -> tuple[float, float]:
        """(dx, dy) of a step of 1 px from its start to its end."""
        return (self.x1 - self.x0) / self.length, (self.y1 - self.y0) / self.length

    def turned(self, u, v):
        """Steps (u, v) in x and y, numbers or arrays, as steps along the line and to its right."""
        dx, dy = self.direction
        return u * dx + v * dy, v * dx - u * dy


def tophat(plane: np.ndarray, settings) -> np.ndarray:
    """(H, W) uint8: what an opening of `tophat_px` takes away."""
    import cv2

    return cv2.morphologyEx(plane, cv2.MORPH_TOPHAT, np.ones((settings.tophat_px,) * 2, np.uint8))


def find_lines(spots: np.ndarray, points: np.ndarray, settings) -> list[Line]:
    """Lines between pairs of (N, 2) mark centres, and rays from those without one: of each, all that it might have.

    `spots` is the (H, W) uint8 top-hat. `ends` of a line counts the points it joins.
    """
    lines = _not_through(pair_lines(spots, points, settings), points)
    joined = {n for line in lines for n in line.ends}
    return lines + [ray for n in range(len(points)) if n not in joined for ray in _rays(spots, points, n, settings)]


def pair_lines(spots: np.ndarray, points: np.ndarray, settings) -> list[Line]:
    """A line for every two points that are joined by one, those included that run through a third."""
    pairs = combinations(range(len(points)), 2)
    return [line for i, j in pairs if (line := _between(spots, points, i, j, settings))]


def at_crossings(lines: list[Line], points: np.ndarray, within_px: float = 4.0) -> set[int]:
    """Numbers of the points that are nothing but the crossing of two lines between four others."""
    found = set()
    for n, point in enumerate(points):
        ends = [line.ends for line in lines if n not in line.ends and on_line(line, point, within_px)]
        if any(not set(a) & set(b) for a, b in combinations(ends, 2)) or _is_hub(n, lines, points):
            found.add(n)
    return found


def _is_hub(n: int, lines: list[Line], points: np.ndarray) -> bool:
    """Whether three lines or more end at a point, two of them from opposite sides: no mark measures so much."""
    others = [sum(line.ends) - n for line in lines if n in line.ends]
    away = points[others] - points[n]
    unit = away / np.linalg.norm(away, axis=1, keepdims=True)
    return len(others) >= 3 and bool((unit @ unit.T).min() < OPPOSITE)


def _between(spots, points, i: int, j: int, settings) -> Line | None:
    (x0, y0), (x1, y1) = points[i], points[j]
    length = np.hypot(x1 - x0, y1 - y0)
    if length < settings.line_shortest_px:
        return None
    along = np.arange(settings.line_margin_px, length - settings.line_margin_px + 1)
    profile = profiles(spots, (x0, y0), (x1 - x0) / length, (y1 - y0) / length, along)
    spot, ratio, ok = _judge(profile, settings, settings.line_ratio, settings.line_contrast)
    return Line(float(x0), float(y0), float(x1), float(y1), spot, ratio, (i, j)) if ok else None


def profiles(spots: np.ndarray, start, dx, dy, along: np.ndarray) -> np.ndarray:
    """(..., 5, L) brightest spot across the line, and across each of its parallels, at every px along it.

    `dx`, `dy` are scalars or arrays of directions. Outside the image there is nothing.
    """
    dx, dy = (np.asarray(d, float)[..., None, None, None] for d in (dx, dy))
    beside = (np.array((0, *PARALLEL_PX))[:, None] + ACROSS_PX)[:, :, None]  # (5, 3, 1)
    x = np.floor(start[0] + dx * along - dy * beside + 0.5).astype(int)
    y = np.floor(start[1] + dy * along + dx * beside + 0.5).astype(int)
    height, width = spots.shape
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    values = np.where(inside, spots[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)], 0)
    return values.max(axis=-2)


def _judge(profile: np.ndarray, settings, least_ratio: float, least_contrast: float) -> tuple[float, float, bool]:
    """Spot level, ratio to the parallels, and whether a (5, L) profile is a line's."""
    means = profile.mean(axis=1)
    own, others = float(means[0]), float(means[1:].mean())
    size = min(settings.window_px, profile.shape[1])
    windows = np.lib.stride_tricks.sliding_window_view(profile, size, axis=1).max(axis=2)
    spot = float(np.median(windows[0]))
    beside = np.median(windows[1:], axis=0)
    share = float((windows[0] > np.maximum(1.15 * beside, 0.4 * spot)).mean())
    ok = own >= least_ratio * others and own - others >= least_contrast and share >= settings.window_share
    return spot, own / max(others, 1.0), ok


def _not_through(lines: list[Line], points: np.ndarray) -> list[Line]:
    """Lines less those that run through a third mark, which are two lines in one."""
    return [
        line for line in lines if not any(n not in line.ends and on_line(line, point) for n, point in enumerate(points))
    ]


def on_line(line: Line, point, within_px: float = 3.0) -> bool:
    """Whether (x, y) lies between the ends of a line and so near to it."""
    along, across = line.turned(point[0] - line.x0, point[1] - line.y0)
    return abs(across) < within_px and 0 < along < line.length


def _rays(spots, points, n: int, settings) -> list[Line]:
    """The clearest lines that go out from a point and end at no other, as far as they go; the longest first."""
    x, y = points[n]
    angles = 2 * np.pi * np.arange(settings.ray_count) / settings.ray_count
    along = settings.line_margin_px + np.arange(settings.ray_first_px)
    means = profiles(spots, (x, y), np.cos(angles), np.sin(angles), along).mean(axis=-1)
    contrast = means[:, 0] - means[:, 1:].mean(axis=1)
    rays = []
    for _ in range(settings.ray_tries):
        k = int(np.argmax(contrast))
        if ray := _followed(spots, (x, y), float(angles[k]), settings):
            rays.append(replace(ray, ends=(n,)))
        contrast[np.arange(k - 3, k + 4) % len(contrast)] = -np.inf
    return sorted(rays, key=lambda ray: -ray.length)


def is_clear(ray: Line, shape: tuple[int, int], settings) -> bool:
    """Whether a ray leaves the frame, or is so long and clear that no streak of tissue looks like it."""
    edge = min(ray.x1, ray.y1, shape[1] - 1 - ray.x1, shape[0] - 1 - ray.y1)
    clear = ray.length >= settings.ray_shortest_px and ray.ratio >= settings.ray_alone_ratio
    return clear or edge <= settings.window_px


def _followed(spots, start, angle: float, settings) -> Line | None:
    """The ray from `start` at this angle to its last spots, or None where there is none.

    The further it goes, the finer its direction is known. It may fade for a while: tissue hides it.
    """
    length, step = settings.line_margin_px + settings.ray_first_px, settings.window_px
    angle, profile = _aimed(spots, start, angle, length, settings)
    spot, ratio, ok = _judge(profile, settings, settings.ray_ratio, settings.ray_contrast)
    if not ok:
        return None
    hidden = 0
    while hidden <= settings.ray_hidden:
        reach = length + (hidden + 1) * step
        finer, profile = _aimed(spots, start, angle, reach, settings)
        x, y = start[0] + np.cos(finer) * reach, start[1] + np.sin(finer) * reach
        ahead = profile[:, -step:]
        goes_on = ahead[0].max() > 0.5 * spot and ahead[0].mean() > settings.line_ratio * ahead[1:].mean()
        if not (0 <= x < spots.shape[1] and 0 <= y < spots.shape[0]):
            break
        angle, length, hidden = (finer, reach, 0) if goes_on else (angle, length, hidden + 1)
    x, y = start[0] + np.cos(angle) * length, start[1] + np.sin(angle) * length
    return Line(float(start[0]), float(start[1]), float(x), float(y), spot, ratio)


def _aimed(spots, start, angle: float, length: float, settings) -> tuple[float, np.ndarray]:
    """The brightest direction within 1.5 px of `angle` at the end of `length`, and its (5, L) profile."""
    angles = angle + np.linspace(-1.5, 1.5, 7) / length
    along = np.arange(settings.line_margin_px, length)
    seen = profiles(spots, start, np.cos(angles), np.sin(angles), along)
    best = int(np.argmax(seen[:, 0].mean(axis=1) - 1e-6 * np.abs(angles - angle)))
    return float(angles[best]), seen[best]


def line_ink(line: Line, spots: np.ndarray, settings) -> np.ndarray:
    """(H, W) bool pixels of a line: its spots and a band through them, 1 px wider on all sides."""
    height, width = spots.shape
    x0, x1 = (int(np.clip(v, 0, width - 1)) for v in (min(line.x0, line.x1) - 4, max(line.x0, line.x1) + 5))
    y0, y1 = (int(np.clip(v, 0, height - 1)) for v in (min(line.y0, line.y1) - 4, max(line.y0, line.y1) + 5))
    out = np.zeros(spots.shape, bool)
    yy, xx = np.mgrid[y0 : y1 + 1, x0 : x1 + 1]
    along, across = line.turned(xx - line.x0, yy - line.y0)
    near = (np.abs(across) <= settings.line_near_px) & (along >= 0) & (along <= line.length)
    out[y0 : y1 + 1, x0 : x1 + 1] = _band(along, across, near, spots[y0 : y1 + 1, x0 : x1 + 1], line, settings)
    return out


def _band(along, across, near, spots: np.ndarray, line: Line, settings) -> np.ndarray:
    """(h, w) bool of `line_ink` in a cut-out: from the first spot to the last, as wide as most spots are."""
    spotted = near & (spots >= settings.spot_share * line.spot)
    if not spotted.any():
        return spotted
    offsets, weights = across[spotted], spots[spotted].astype(float)
    middle = float((offsets * weights).sum() / weights.sum())
    on = near & (np.abs(across - middle) <= settings.line_half_px)
    ends = along[spotted & on]
    band = near & (np.abs(across - middle) <= settings.band_half_px)
    if ends.size:
        band &= (along >= ends.min()) & (along <= ends.max())
    return band | wider(spotted & on, 1)
