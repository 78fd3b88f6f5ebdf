"""Where a segmenter is told to look: a click or a box. NumPy alone, so that looking something up loads no network.

Coordinates are (x, y) of pixel centres: the middle of the top left pixel is (0, 0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from busistore.errors import BadInput

LESION, BACKGROUND = 1, 0

PROTOCOLS = {
    "oracle-click": "one click on the true lesion; every published BUSSAM number is of this kind",
    "oracle-box": "the box around the true lesion, and no mask at all where there is none",
    "auto": "a click where a proposer that sees the image alone finds a lesion; no prompt where none is needed",
    "auto-box": "the box around what that proposer finds",
}
Box = tuple[float, float, float, float]


class Click(NamedTuple):
    """A place (x, y), a pixel as a rule, and what is there: LESION or BACKGROUND, which are also SAM's own labels."""

    xy: tuple[float, float]
    label: int


def _candidates(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Row-major numbers of the lesion's pixels, or of all pixels where there is no lesion; the label of either."""
    where = np.flatnonzero(mask)
    return (where, LESION) if len(where) else (np.arange(mask.size), BACKGROUND)


def _click(mask: np.ndarray, pick: int, label: int) -> Click:
    y, x = divmod(int(pick), mask.shape[1])
    return Click((x, y), label)


def centre_click(mask: np.ndarray) -> Click:
    """The published click of validation and test: the middle one of the lesion's pixels in row-major order.

    It halves the lesion's area by rows, and is no centroid: it may lie at the very edge. Without a lesion it is the
    middle one of all pixels, labelled BACKGROUND.

    Args:
        mask: (H, W) bool.

    Source: Tu et al. (2024), arXiv 2404.14837, as released.

    >>> centre_click(np.array([[False, True, True], [True, False, False]]))
    Click(xy=(2, 0), label=1)
    """
    where, label = _candidates(mask)
    return _click(mask, where[len(where) // 2], label)


def random_click(mask: np.ndarray, rng: np.random.Generator) -> Click:
    """The published click of training: any pixel of the lesion, all alike; without a lesion any pixel, BACKGROUND.

    Args:
        mask: (H, W) bool, after augmentation.
        rng: one whole number is drawn from it, whatever the mask.
    """
    where, label = _candidates(mask)
    return _click(mask, where[int(rng.random() * len(where))], label)


def box_of(mask: np.ndarray, margin: int = 0) -> Box:
    """(x0, y0, x1, y1) of the smallest box around all lesions: its first and its LAST columns and rows.

    Both corners are pixels of the box, since SAM's prompt encoder adds one half to either.

    Args:
        mask: (H, W) bool.
        margin: pixels that each side moves outwards, as far as the image goes.

    Raises:
        BadInput: there is no lesion.

    >>> box_of(np.array([[False, True, True], [False, False, False]]))
    (1, 0, 2, 0)
    """
    if not mask.any():
        raise BadInput("a mask without a lesion has no box; prompt such an image by a click, or leave it out")
    x0, x1 = np.flatnonzero(mask.any(axis=0))[[0, -1]]
    y0, y1 = np.flatnonzero(mask.any(axis=1))[[0, -1]]
    height, width = mask.shape
    return (
        int(max(x0 - margin, 0)), int(max(y0 - margin, 0)),
        int(min(x1 + margin, width - 1)), int(min(y1 + margin, height - 1)),
    )  # fmt: skip


def of_truth(protocol: str, mask: np.ndarray) -> Click | Box | None:
    """The prompt of an oracle for a true mask (H, W) bool; None for the box of no lesion."""
    if protocol == "oracle-click":
        return centre_click(mask)
    return box_of(mask) if mask.any() else None


def squeezed(prompt: Click | Box | None, size: tuple[int, int], side: int) -> Click | Box | None:
    """A prompt in pixels of an image of `size` (height, width) in those of the square that it is squeezed into.

    >>> squeezed(Click((3, 0), LESION), (2, 8), 4), squeezed((0, 0, 7, 1), (2, 8), 4)
    (Click(xy=(1.25, 0.5), label=1), (-0.25, 0.5, 3.25, 2.5))
    """
    y, x = (side / n for n in size)
    if prompt is None:
        return None
    if isinstance(prompt, Click):
        return Click(((prompt.xy[0] + 0.5) * x - 0.5, (prompt.xy[1] + 0.5) * y - 0.5), prompt.label)
    return tuple((n + 0.5) * scale - 0.5 for n, scale in zip(prompt, (x, y, x, y)))


def of_proposal(protocol: str, likely: np.ndarray, threshold: float) -> Click | Box | None:
    """The prompt that a map of where a lesion is likely gives: of its strongest connected part above the threshold.

    The strongest is that of the largest sum. The click is at its innermost pixel, the first of those that are as far
    from its edge.

    Args:
        likely: (H, W) float.

    Returns:
        None where nothing is above the threshold.
    """
    from scipy import ndimage

    parts, n_parts = ndimage.label(likely > threshold, np.ones((3, 3)))
    if not n_parts:
        return None
    strength = ndimage.sum_labels(likely, parts, range(1, n_parts + 1))
    part = parts == 1 + int(np.argmax(strength))
    if protocol == "auto-box":
        return box_of(part)
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    return _click(part, int(np.argmax(depth)), LESION)
