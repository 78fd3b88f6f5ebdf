"""Overlays: one image with the outline of what was marked in it, and what was said of it below, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from busistore.sheet import GAP_PX, INK, LABELS, MUTED, PAPER, PLAIN, SMALL, TITLE, font, height_of, wrapped

SHOWN_PX = 720  # the longer side of the picture at least, so that an outline of a small one can be seen
MOST_PX = 1600  # and at most
EDGE_PX = 2  # of the outline, with as much black around it, which keeps it visible on bright tissue


def draw(
    grey: np.ndarray, mask: np.ndarray | None, title: str, lines: Sequence[str], remarks: Sequence[str] = (),
    corners: Sequence[tuple[int, int]] = (),
) -> Image.Image:  # fmt: skip
    """RGB: the picture, enlarged or made smaller to be seen, with the outline of the mask.

    Args:
        grey: (H, W) uint8.
        mask: (H, W) bool, or None where nothing was asked of it.
        title: in the colour of a class where it begins with one.
        lines, remarks: below it, the latter smaller.
        corners: (x, y) in pixels of `grey` at which 1, 2, ... are written.
    """
    colour = LABELS.get(title.split()[0].rstrip(",:") if title else "", INK)
    picture = outlined(grey, mask, colour)
    width = picture.width - 2 * GAP_PX
    text = [(line, TITLE, colour) for line in wrapped(title, TITLE, width)]
    text += [(line, PLAIN, INK) for one in lines for line in wrapped(one, PLAIN, width)]
    text += [(line, SMALL, MUTED) for one in remarks for line in wrapped(one, SMALL, width)]
    page = Image.new("RGB", (picture.width, picture.height + 2 * GAP_PX + sum(height_of(s) for _, s, _ in text)), PAPER)
    page.paste(picture, (0, 0))
    pen, y, scale = ImageDraw.Draw(page), picture.height + GAP_PX, picture.width / grey.shape[1]
    for k, (x, top) in enumerate(corners, start=1):
        at = (min(x * scale, picture.width - 2 * PLAIN), max(top * scale - height_of(PLAIN), 0))
        pen.text(at, str(k), INK, font(PLAIN), stroke_width=2, stroke_fill=PAPER)
    for line, size, ink in text:
        pen.text((GAP_PX, y), line, ink, font(size))
        y += height_of(size)
    return page


def outlined(grey: np.ndarray, mask: np.ndarray | None, colour: str) -> Image.Image:
    """RGB: an (H, W) uint8 picture at the size at which it is shown, with the outline of an (H, W) bool mask."""
    from scipy import ndimage

    longer = max(grey.shape)
    scale = SHOWN_PX / longer if longer < SHOWN_PX else min(1.0, MOST_PX / longer)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    shown = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")).copy()
    if mask is not None and mask.any():
        levels = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        inside = np.asarray(levels) > 127
        edge = inside & ~ndimage.binary_erosion(inside, iterations=EDGE_PX)
        shown[ndimage.binary_dilation(edge, iterations=EDGE_PX) & ~edge] = 0
        shown[edge] = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    return Image.fromarray(shown)
