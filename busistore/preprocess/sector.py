"""The insonified sector: the picture without the frame, side bars and black borders around it.

Echo is never flat. From each side, rows and columns are cut while nearly all of their pixels are of one level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SectorSettings:
    """When a row or column at the border shows no echo."""

    sector_spread: int = 3
    """Its pixels lie within this many levels of their median."""
    sector_share: float = 0.98
    """So large a share of them, ink aside."""
    sector_behind_px: int = 3
    """So many rows or columns of echo may stand before such a one and are cut with it: a frame's smeared line."""
    sector_least: float = 0.5
    """Of either side at least this share is left; else nothing is cut."""


def find_sector(grey: np.ndarray, ink: np.ndarray | None = None, settings: SectorSettings = SectorSettings()) -> Box:
    """(x0, y0, x1, y1), ends excluded, of an (H, W) uint8 image; pixels of `ink`, (H, W) bool, do not count.

    >>> find_sector(np.pad(np.arange(80, dtype=np.uint8).reshape(8, 10), 2))
    (2, 2, 12, 10)
    """
    ink = np.zeros(grey.shape, bool) if ink is None else ink
    height, width = grey.shape
    box = x0, y0, x1, y1 = _settled(grey, ink, settings)
    kept = x1 - x0 >= settings.sector_least * width and y1 - y0 >= settings.sector_least * height
    return box if kept else (0, 0, width, height)


def _settled(grey: np.ndarray, ink: np.ndarray, settings: SectorSettings) -> Box:
    """Columns, then rows, until neither is cut any more: a bar ends where the other direction was cut."""
    x0, y0, x1, y1 = 0, 0, grey.shape[1], grey.shape[0]
    while x0 < x1 and y0 < y1:
        part = np.s_[y0:y1, x0:x1]
        left, right = _cut(grey[part].T, ink[part].T, settings)
        part = np.s_[y0:y1, x0 + left : x1 - right]
        top, bottom = _cut(grey[part], ink[part], settings)
        if not (left or right or top or bottom):
            break
        x0, y0, x1, y1 = x0 + left, y0 + top, x1 - right, y1 - bottom
    return x0, y0, x1, y1


def _cut(grey: np.ndarray, ink: np.ndarray, settings: SectorSettings) -> tuple[int, int]:
    """How many rows are to be cut at the top and at the bottom."""
    flat = _flat(grey, ink, settings)
    if flat.all():
        return len(flat), 0
    return _leading(flat, settings.sector_behind_px), _leading(flat[::-1], settings.sector_behind_px)


def _flat(grey: np.ndarray, ink: np.ndarray, settings: SectorSettings) -> np.ndarray:
    """(H,) bool: rows that show one level only, or ink only."""
    if not grey.size:
        return np.ones(len(grey), bool)
    shown = np.ma.masked_array(grey, ink)
    level = np.ma.median(shown, axis=1).filled(0)[:, None]
    off = (np.abs(grey - level) > settings.sector_spread) & ~ink
    return off.sum(axis=1) <= (1 - settings.sector_share) * (~ink).sum(axis=1)


def _leading(flat: np.ndarray, behind: int) -> int:
    """Rows up to the last flat one of those at the start; up to `behind` others may stand between.

    >>> _leading(np.array([True, True, False, True, False, False, False, False, True]), 3)
    4
    """
    end = 0
    for k in np.flatnonzero(flat):
        if k - end > behind:
            break
        end = int(k) + 1
    return end
