"""The way between original and preprocessed pixels, and back, as one affine map.

Coordinates are those of pixel centres: the middle of the top left pixel is (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ToOriginal:
    """x_original = sx * x + tx and y_original = sy * y + ty, for a point (x, y) of the preprocessed picture."""

    sx: float
    sy: float
    tx: float
    ty: float

    def as_row(self) -> list[float]:
        """Six numbers (a, b, c, d, e, f): x' = ax + by + c, y' = dx + ey + f; room for maps that also turn."""
        return [self.sx, 0.0, self.tx, 0.0, self.sy, self.ty]

    @classmethod
    def from_row(cls, row: list[float]) -> ToOriginal:
        """The map that `as_row` wrote."""
        a, b, c, d, e, f = row
        if b or d:
            raise ValueError(f"a map with shear or rotation is not supported: {row}")
        return cls(a, e, c, f)

    def points(self, xy: np.ndarray) -> np.ndarray:
        """(N, 2) points of the preprocessed picture in original pixels."""
        return np.asarray(xy, float) * (self.sx, self.sy) + (self.tx, self.ty)

    def inverse(self, xy: np.ndarray) -> np.ndarray:
        """(N, 2) points of the original in pixels of the preprocessed picture."""
        return (np.asarray(xy, float) - (self.tx, self.ty)) / (self.sx, self.sy)


def placed(original: tuple[int, int], inner: tuple[int, int], offset: tuple[int, int]) -> ToOriginal:
    """The map of an original of (width, height) resized to `inner` (width, height) and put down at `offset` (x, y).

    A resize maps edges to edges: the left edge of the first pixel, x = -1/2, stays the left edge.
    """
    sx, sy = original[0] / inner[0], original[1] / inner[1]
    return ToOriginal(sx, sy, (0.5 - offset[0]) * sx - 0.5, (0.5 - offset[1]) * sy - 0.5)


def mask_to_original(mask: np.ndarray, to_original: ToOriginal, shape: tuple[int, int]) -> np.ndarray:
    """A (h, w) bool mask of the preprocessed picture as a (H, W) bool mask of the original, nearest pixel.

    Original pixels that the preprocessed picture does not show are False.
    """
    rows, columns = np.indices(shape)
    xy = to_original.inverse(np.stack([columns.ravel(), rows.ravel()], axis=1))
    x, y = np.floor(xy + 0.5).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    out = np.zeros(shape[0] * shape[1], bool)
    out[inside] = mask[y[inside], x[inside]]
    return out.reshape(shape)
