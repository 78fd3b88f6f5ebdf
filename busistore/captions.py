"""Captions: one sentence for an image, from its label and the geometry of its lesion mask."""

from __future__ import annotations

from collections.abc import Sequence

CODE = 1  # counts changes that move a word: it is part of the key of what is learned from captions
LARGE, MEDIUM = 0.10, 0.03  # of the image's area; about a quarter of the lesions of BUSI are larger, a third smaller
LEFT, RIGHT = 0.40, 0.60  # of the image's width, for the middle of the lesion's box
NORMAL = "normal"


def caption(label: str, width_px: int, height_px: int, area_px: int, bbox_px: Sequence[int] | None) -> str:
    """What a picture shows, with the words of a report: finding, size, orientation and place.

    A lesion is large from a tenth of the image's area on, medium-sized from three hundredths on, and small below. It
    is taller than wide where its box is, and wider than tall otherwise, a square included. It lies on the left or
    right where the middle of its box is in the outer two fifths, else in the centre. Without a mask nothing is said
    of these. An image that is labelled normal is one without a lesion, whatever its mask.

    Args:
        width_px, height_px: of the image.
        area_px: of the mask.
        bbox_px: the mask's box (x0, y0, x1, y1), ends excluded; None for an empty mask.

    >>> caption("malignant", 500, 400, 24_000, (20, 100, 140, 320))
    'A malignant lesion in a breast ultrasound image, large, taller than wide, on the left.'
    """
    if label == NORMAL:
        return "No lesion in a breast ultrasound image, normal tissue."
    name = label.replace("_", " ")
    article = "An" if name[:1].lower() in "aeiou" else "A"
    words = [] if bbox_px is None else [
        _size(area_px / (width_px * height_px)), _orientation(bbox_px), _place(bbox_px, width_px)
    ]  # fmt: skip
    return ", ".join([f"{article} {name} lesion in a breast ultrasound image", *words]) + "."


def _size(share: float) -> str:
    return "large" if share >= LARGE else "medium-sized" if share >= MEDIUM else "small"


def _orientation(bbox_px: Sequence[int]) -> str:
    x0, y0, x1, y1 = bbox_px
    return "taller than wide" if y1 - y0 > x1 - x0 else "wider than tall"


def _place(bbox_px: Sequence[int], width_px: int) -> str:
    middle = (bbox_px[0] + bbox_px[2]) / 2 / width_px
    return "on the left" if middle < LEFT else "on the right" if middle > RIGHT else "in the centre"
