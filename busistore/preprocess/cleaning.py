"""Cleaning: an image without what is burned into it. What shows none of that comes back bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from busistore.preprocess.artefacts import Settings, detect
from busistore.preprocess.colour import luma
from busistore.preprocess.filling import fill
from busistore.preprocess.findings import Artefacts

DEFAULTS = Settings()
LOOKS = 3  # again, at most; more than one has not been needed
UNFILLABLE = frozenset({"too-much", "doppler"})
"""Flags of images that are left as they are: so large a fill, or one of flow, would be invention."""


@dataclass(frozen=True)
class Cleaned:
    """(H, W) uint8 grey after cleaning, and what was found; `artefacts.flags` says why nothing was filled."""

    pixels: np.ndarray
    artefacts: Artefacts

    @property
    def filled(self) -> bool:
        """Whether the findings were taken out."""
        return is_fillable(self.artefacts)


def clean(image: np.ndarray, settings: Settings = DEFAULTS, ocr: bool = False) -> Cleaned:
    """An (H, W) or (H, W, 3) uint8 image as grey, the pixels of its findings filled; pixels are all it sees.

    Digits stand close to marks and touch them, and one mark hides another; so what was filled is looked at again until
    nothing more is found, and a second cleaning has nothing to do.

    Raises:
        BadInput: another shape or dtype.
    """
    artefacts, grey = detect(image, settings, ocr), luma(image)
    pixels = _filled(grey, artefacts)
    for _ in range(LOOKS):
        if not is_fillable(artefacts):
            break
        more = detect(pixels, settings, ocr, inked=True)
        if not more.mask.any() and not more.flags & UNFILLABLE:
            break
        artefacts = with_more(artefacts, more, settings)
        pixels = _filled(grey, artefacts)
    return Cleaned(pixels, artefacts)


def _filled(grey: np.ndarray, artefacts: Artefacts) -> np.ndarray:
    return fill(grey, artefacts.mask) if is_fillable(artefacts) else grey.copy()


def with_more(artefacts: Artefacts, more: Artefacts, settings: Settings = DEFAULTS) -> Artefacts:
    """The artefacts and what was found later, flagged where all of it is too much."""
    mask = artefacts.mask | more.mask
    too_much = {"too-much"} if mask.mean() > settings.most_share else set()
    return Artefacts((*artefacts.findings, *more.findings), mask, artefacts.flags | too_much | more.flags & UNFILLABLE)


def is_fillable(artefacts: Artefacts) -> bool:
    """Whether there is something to fill, and it may be."""
    return bool(artefacts.mask.any()) and not artefacts.flags & UNFILLABLE
