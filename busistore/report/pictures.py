"""Thumbnails of stored images with the outlines of true and predicted lesions, small enough to sit inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np

from busistore import pixels
from busistore.schema import IMAGES, MASKS, PREPROCESSED
from busistore.store import Store, quote

SIDE_PX = 240
LIMIT_BYTES = 22_000  # of JPEG; a third more once it is text
OUTLINE = (255, 196, 0)
# Of overlays: warm is in the truth alone, blue in the prediction alone. Source: Okabe and Ito (2008), Color Universal
# Design.
TRUTH, PREDICTION = (240, 228, 66), (86, 180, 233)
AGREEMENT, MISSED, FALSE = (0, 158, 115), (230, 159, 0), (0, 114, 178)
LEGEND = (
    (AGREEMENT, "in both"), (MISSED, "missed: in the truth alone"), (FALSE, "false: in the prediction alone"),
    (TRUTH, "outline of the truth"), (PREDICTION, "outline of the prediction, dashed"),
)  # fmt: skip
TINT, DASH_PX = 0.4, 4


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


def overlays(store: Store, source_id: str, image_ids: list[str], side_px: int = 320) -> Iterator[tuple[str, str]]:
    """As `thumbnails`, with the true mask and that of a source laid over each picture; those without both are left out.

    Raises:
        StoreError: a stored picture is damaged.
    """
    from PIL import Image

    images = store.files(IMAGES, _among(image_ids))
    truth, said = (store.files(MASKS, f"source_id = {quote(s)} AND {_among(image_ids)}") for s in ("truth", source_id))
    wanted = (i for i in image_ids if all(i in files.found for files in (images, truth, said)))
    for image_id, png in images.stream(wanted):
        picture = Image.open(io.BytesIO(png)).convert("RGB")
        picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
        true, pred = (_fitted(files[image_id], picture.size) for files in (truth, said))
        yield image_id, _uri(overlay(np.asarray(picture), true, pred))


def cleaned(store: Store, recipe_of: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(image_id, data URI) of each picture as `pad224` makes it and, to the right, as stored under a recipe id.

    Raises:
        StoreError: a stored picture is damaged.
    """
    from busistore.preprocess import recipes

    raw, images = recipes.recipe("pad224"), store.files(IMAGES, _among(list(recipe_of)))
    for recipe_id in dict.fromkeys(recipe_of.values()):
        made = store.files(PREPROCESSED, f"recipe_id = {quote(recipe_id)} AND {_among(list(recipe_of))}")
        for image_id, png in made.stream(i for i, own in recipe_of.items() if own == recipe_id and i in images.found):
            left = recipes.apply(raw, pixels.grey(images[image_id], image_id)).pixels
            gap = np.full((left.shape[0], 4), 255, np.uint8)
            yield image_id, _uri(np.hstack([left, gap, pixels.grey(png, image_id)]))


def _fitted(png: bytes, size: tuple[int, int]) -> np.ndarray:
    """The (H, W) bool mask of a file, resized to (width, height)."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels.mask(png)).convert("L").resize(size)) > 127


def overlay(picture: np.ndarray, true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: areas tinted by who marked them, and the outlines of both masks, (H, W) bool, just inside."""
    drawn = picture.astype(np.float64)
    for area, colour in ((true & pred, AGREEMENT), (true & ~pred, MISSED), (pred & ~true, FALSE)):
        drawn[area] = (1 - TINT) * drawn[area] + TINT * np.array(colour)
    drawn[_edge(true)] = TRUTH
    y, x = np.indices(pred.shape)
    drawn[_edge(pred) & ((x + y) // DASH_PX % 2 == 0)] = PREDICTION
    return drawn.round().astype(np.uint8)


def _edge(inside: np.ndarray) -> np.ndarray:
    return inside & _grow(~inside)


def _among(image_ids: list[str]) -> str:
    return f"image_id IN ({', '.join(map(quote, image_ids))})" if image_ids else "false"


def outline(picture: np.ndarray, mask) -> np.ndarray:
    """The picture with a line just outside the mask's edge.

    Args:
        picture: (H, W, 3) uint8.
        mask: a PIL image of any size, lesions above 127; None draws nothing.
    """
    if mask is None:
        return picture
    height, width = picture.shape[:2]
    inside = np.asarray(mask.convert("L").resize((width, height))) > 127
    grown = _grow(_grow(inside))
    drawn = picture.copy()
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


def _uri(picture: np.ndarray) -> str:
    from PIL import Image

    for quality in (80, 65, 50, 35, 20):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= LIMIT_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
