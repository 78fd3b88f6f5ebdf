"""Cleaning: an image without what is burned into it. What shows none of that comes back bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from busistore.preprocess.artefacts import Settings, detect
from busistore.preprocess.colour import luma
from busistore.preprocess.filling import fill
from busistore.preprocess.findings import Artefacts
from busistore.preprocess.strokes import Found
from busistore.preprocess.text import find_text

DEFAULTS = Settings()
LOOKS = 3  # at most; more than two have not been needed
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

    Digits stand close to marks and touch them; once the marks are gone they stand alone, so letters are looked for
    again until none is found.

    Raises:
        BadInput: another shape or dtype.
    """
    artefacts, grey = detect(image, settings, ocr), luma(image)
    pixels = grey
    for _ in range(LOOKS):
        if not is_fillable(artefacts):
            return Cleaned(grey.copy(), artefacts)
        pixels = fill(grey, artefacts.mask)
        more = find_text(pixels, settings, ocr)
        if not more:
            break
        artefacts = with_more(artefacts, more, settings)
    return Cleaned(pixels, artefacts)


def with_more(artefacts: Artefacts, more: list[Found], settings: Settings = DEFAULTS) -> Artefacts:
    """The artefacts and what was found later, flagged where all of it is too much."""
    mask = np.any([artefacts.mask, *(m for _, m in more)], axis=0)
    too_much = {"too-much"} if mask.mean() > settings.most_share else set()
    return Artefacts((*artefacts.findings, *(f for f, _ in more)), mask, artefacts.flags | too_much)


def is_fillable(artefacts: Artefacts) -> bool:
    """Whether there is something to fill, and it may be."""
    return bool(artefacts.mask.any()) and not artefacts.flags & UNFILLABLE
