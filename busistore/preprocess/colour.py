"""Colour in a grey picture: drawn in colour (marks, letters, the border of a colour box), or filled in (flow).

A picture that is tinted as a whole has no overlay for that; what counts is colour beyond the picture's own tint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from busistore.errors import BadInput
from busistore.preprocess.findings import Finding, box_of
from busistore.preprocess.strokes import Found, wider


@dataclass(frozen=True)
class ColourSettings:
    """What is coloured; chroma is the difference of channels, 0..255, beyond what the tint explains."""

    chroma_strong: float = 60.0  # surely coloured: the largest difference of channels beyond the picture's tint
    chroma_weak: float = 40.0  # coloured, where it touches what surely is
    frame_chroma: float = 12.0  # of the border of a colour box
    frame_px: int = 41  # least length of its sides
    colour_area_px: int = 10  # least number of surely coloured pixels
    flow_px: int = 7  # a square of this side fits into flow, which is red or blue
    filled_px: int = 11  # a square of this side fits into filled colour of any hue, not where thick strokes meet
    flow_least_px: int = 250  # of filled colour in all
    flow_purity: float = 0.55  # red or blue exceeds green by this share of itself: yellow, orange and cyan do not
    sign_px: int = 40  # a filled sign is no larger...
    sign_edge: float = 0.15  # ...and no further from the edge, as a share of the picture
    tint: float = 0.03  # channels of a tinted picture differ by this share of its grey
    group_px: int = 14  # pixels no further apart belong to one finding


def check_image(image: np.ndarray, least: int = 0) -> None:
    """Raise BadInput unless an image is (H, W) or (H, W, 3) uint8 of at least so many numbers."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or image.size < least:
        raise BadInput(f"an image of {image.dtype} {image.shape}; wanted is uint8, (H, W) or (H, W, 3)")


def luma(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 grey of an (H, W) or (H, W, 3) uint8 image, by the ITU-R 601 weights in Pillow's rounding."""
    if image.ndim == 2:
        return image
    weighted = image.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def is_tinted(image: np.ndarray, settings: ColourSettings = ColourSettings()) -> bool:
    """Whether an (H, W, 3) uint8 image as a whole is of one hue; an (H, W) image never is."""
    return image.ndim == 3 and float(np.abs(_tint(image)).max()) >= settings.tint


def _tint(image: np.ndarray) -> np.ndarray:
    """(2,) float: red and blue less green, as a share of the grey; medians, so that an overlay does not count."""
    rgb = image.reshape(-1, 3)[::7].astype(np.float32)
    bright = rgb[rgb.max(axis=1) >= 40]
    if not len(bright):
        return np.zeros(2)
    return np.median((bright[:, [0, 2]] - bright[:, [1]]) / bright.mean(axis=1, keepdims=True), axis=0)


def find_colours(image: np.ndarray, settings: ColourSettings) -> list[Found]:
    """What is drawn ("colour") or filled in ("doppler") in colour in an (H, W, 3) uint8 image."""
    chroma = _chroma(image)
    strong = chroma >= settings.chroma_strong
    if not strong.any():
        return []
    coloured = _touching(chroma >= settings.chroma_weak, strong) | _frame(chroma, settings)
    pure = strong & _red_or_blue(image, settings)
    full = opened(pure, settings.flow_px, settings.flow_px) | opened(strong, settings.filled_px, settings.filled_px)
    flow = wider(full, settings.flow_px // 2) & coloured
    if flow.sum() < settings.flow_least_px or _is_pictogram(flow, settings):
        flow = np.zeros_like(flow)
    drawn = groups("colour", coloured & ~flow, settings.group_px, settings.colour_area_px)
    return [*groups("doppler", flow, settings.group_px), *drawn]


def _touching(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected parts of an (H, W) bool mask that hold a seed."""
    import cv2

    _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    held = np.zeros(labels.max() + 1, bool)
    held[labels[seeds & mask]] = True
    held[0] = False
    return held[labels]


def _frame(chroma: np.ndarray, settings: ColourSettings) -> np.ndarray:
    """Thin upright and level lines of a colour that export has washed out: the border of a colour box."""
    import cv2

    faint = chroma >= settings.frame_chroma
    lines = opened(faint, 1, settings.frame_px) | opened(faint, settings.frame_px, 1)
    crest = chroma >= 0.6 * cv2.dilate(chroma, np.ones((5, 5), np.uint8))
    return lines & crest & ~opened(faint, 7, 7)


def opened(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """The pixels of an (H, W) bool mask that some rectangle of True of this size covers."""
    import cv2

    return cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, np.ones((height, width), np.uint8)).view(bool)


def _chroma(image: np.ndarray) -> np.ndarray:
    """(H, W) float32: the largest difference of two channels beyond what the picture's tint explains."""
    rgb = image.astype(np.float32)
    tint = np.insert(_tint(image), 1, 0.0).astype(np.float32)
    plain = rgb - rgb.mean(axis=2, keepdims=True) * tint
    return plain.max(axis=2) - plain.min(axis=2)


def _red_or_blue(image: np.ndarray, settings: ColourSettings) -> np.ndarray:
    """(H, W) bool: the hues of flow to and from the probe."""
    red, green, blue = (image[..., k].astype(np.float32) for k in range(3))
    most = np.maximum(red, blue)
    return most - green >= settings.flow_purity * np.maximum(most, 1)


def _is_pictogram(flow: np.ndarray, settings: ColourSettings) -> bool:
    """Whether all that is filled is one small sign near the edge of the picture."""
    x0, y0, x1, y1 = box_of(flow)
    small = max(x1 - x0, y1 - y0) <= settings.sign_px
    edge = min(x0 / flow.shape[1], y0 / flow.shape[0], 1 - x1 / flow.shape[1], 1 - y1 / flow.shape[0])
    return small and edge <= settings.sign_edge


def groups(kind: str, mask: np.ndarray, reach: int, least_px: int = 1) -> Iterator[Found]:
    """One finding for the True pixels that lie within `reach` of each other, where there are enough."""
    import cv2

    _, labels = cv2.connectedComponents(wider(mask, reach // 2).view(np.uint8), connectivity=8)
    sizes = np.bincount(labels[mask], minlength=1)
    for k in (k for k in range(1, len(sizes)) if sizes[k] >= least_px):
        mine = mask & (labels == k)
        yield Finding(kind, box_of(mine), float(mine.sum())), wider(mine, 1)
