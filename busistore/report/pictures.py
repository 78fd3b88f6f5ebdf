"""Thumbnails of stored images with the outline of their true lesion, small enough to sit inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np

from busistore.schema import IMAGES, MASKS
from busistore.store import Store, quote

SIDE_PX = 240
LIMIT_BYTES = 22_000  # of JPEG; a third more once it is text
OUTLINE = (255, 196, 0)


def thumbnails(store: Store, image_ids: list[str], side_px: int = SIDE_PX) -> Iterator[tuple[str, str]]:
    """(image_id, data URI of a JPEG at most `side_px` long) for each id whose picture is stored, in order."""
    from PIL import Image

    images = store.files(IMAGES, _among(image_ids))
    masks = store.files(MASKS, f"source_id = 'truth' AND {_among(image_ids)}")
    for image_id, png in images.stream(i for i in image_ids if i in images.found):
        picture = Image.open(io.BytesIO(png)).convert("RGB")
        picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        mask = Image.open(io.BytesIO(masks[image_id])) if image_id in masks.found else None
        yield image_id, _uri(outline(np.asarray(picture), mask))


def _among(image_ids: list[str]) -> str:
    return f"image_id IN ({', '.join(map(quote, image_ids))})" if image_ids else "false"


def outline(pixels: np.ndarray, mask) -> np.ndarray:
    """The picture with a line just outside the mask's edge.

    Args:
        pixels: (H, W, 3) uint8.
        mask: a PIL image of any size, lesions above 127; None draws nothing.
    """
    if mask is None:
        return pixels
    height, width = pixels.shape[:2]
    inside = np.asarray(mask.convert("L").resize((width, height))) > 127
    grown = _grow(_grow(inside))
    drawn = pixels.copy()
    drawn[grown & ~inside] = OUTLINE
    return drawn


def _grow(inside: np.ndarray) -> np.ndarray:
    """The mask and its four neighbours."""
    grown = inside.copy()
    grown[1:] |= inside[:-1]
    grown[:-1] |= inside[1:]
    grown[:, 1:] |= inside[:, :-1]
    grown[:, :-1] |= inside[:, 1:]
    return grown


def _uri(pixels: np.ndarray) -> str:
    from PIL import Image

    for quality in (80, 65, 50, 35, 20):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= LIMIT_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
