"""What a mask says of a lesion's size and orientation, in the pixels of the mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from busistore.metrics.lesions import MIN_LESION_PX, regions


class Shape(NamedTuple):
    """Size and orientation of a lesion.

    `bbox_px` is (x0, y0, x1, y1), ends excluded. `longest_axis_px` is the greatest distance between two points of the
    outline (Feret), corners of pixels included: a row of three pixels has the root of 10. `taller_than_wide` compares
    the sides of the box, which is BI-RADS' "not parallel" where rows of the image run along the skin and pixels are
    square; equal sides are not taller.

    Source: ACR BI-RADS Atlas (2013), ultrasound, orientation.
    """

    bbox_px: tuple[int, int, int, int]
    area_px: int
    longest_axis_px: float
    taller_than_wide: bool


def shape_of(mask: np.ndarray) -> Shape:
    """The shape of all that an (H, W) bool mask marks, taken as one.

    Raises:
        ValueError: an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise ValueError("an empty mask has no shape")
    x0, y0, x1, y1 = (int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return Shape((x0, y0, x1, y1), int(np.count_nonzero(mask)), _longest_axis(mask), y1 - y0 > x1 - x0)


def lesion_shapes(mask: np.ndarray, min_area_px: int = MIN_LESION_PX) -> list[Shape]:
    """The shape of each lesion of an (H, W) bool mask (see `regions`), the largest first; empty if there is none."""
    found = regions(mask, min_area_px)
    return [shape_of(found.labels == k) for k in range(1, len(found.areas_px) + 1)]


def _longest_axis(mask: np.ndarray) -> float:
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    corners = _outer_corners(mask)
    return float(pdist(corners[ConvexHull(corners).vertices]).max())  # the farthest two lie on the hull


def _outer_corners(mask: np.ndarray) -> np.ndarray:
    """(4 R, 2) x and y of the corners of the first and last pixel of each of R rows; the hull has no others."""
    y = np.flatnonzero(mask.any(axis=1))
    first = mask[y].argmax(axis=1)
    end = mask.shape[1] - mask[y, ::-1].argmax(axis=1)
    return np.array([(x, row) for x in (first, end) for row in (y, y + 1)]).swapaxes(1, 2).reshape(-1, 2)
