"""What is burned into a picture: one row per finding, and all of an image's findings with the pixels to be filled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MARKS = ("caliper+", "caliperx")
KINDS = (*MARKS, "line", "text", "digit", "logo", "scale", "focus", "bodymark", "colour", "doppler")


@dataclass(frozen=True)
class Finding:
    """One thing a scanner drew, in original pixels.

    `kind` is one of KINDS; `box` is (x0, y0, x1, y1), ends excluded; `polygon` its outline or, for a line, its two
    ends, as (x, y); `score` grows with certainty and compares within one kind only; `centre` (x, y) is that of a
    mark; `area_px` counts the pixels to be filled.
    """

    kind: str
    box: tuple[int, int, int, int]
    score: float
    polygon: tuple[tuple[float, float], ...] | None = None
    centre: tuple[float, float] | None = None
    area_px: int = 0


@dataclass(frozen=True)
class Artefacts:
    """An image's findings, the (H, W) bool mask of pixels to be filled, and what hinders filling.

    `flags` holds words: "too-much" (the mask is above the share of the area that may be filled), "doppler" (filled
    colour flow), "tinted" (the whole image has a tint).
    """

    findings: tuple[Finding, ...]
    mask: np.ndarray
    flags: frozenset[str] = frozenset()

    def of(self, *kinds: str) -> tuple[Finding, ...]:
        """The findings of these kinds, in their order."""
        return tuple(f for f in self.findings if f.kind in kinds)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1), ends excluded, of the True pixels of an (H, W) bool mask, which has at least one.

    >>> box_of(np.array([[False, False], [False, True]]))
    (1, 1, 2, 2)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
