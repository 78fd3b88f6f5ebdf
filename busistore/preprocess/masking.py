"""What is left of an image when a part is taken out, to ask where a result comes from: the lesion, what lies around it,
or the scanner's ink.

They are for such questions alone: the first two need the true mask, which no image from the clinic brings.
"""

from __future__ import annotations

import numpy as np

from busistore.errors import BadInput


def lesion_only(grey: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """The lesion on black; an image without one is black. Both (H, W), uint8 and bool."""
    return np.where(_fitting(grey, lesion), grey, np.uint8(0))


def lesion_blacked(grey: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """The image with its lesion black, ink upon it too; one without a lesion stays as it is. Both (H, W).

    The outline stays to be seen, so that what is learned from it is an upper bound for what lies around.
    """
    return np.where(_fitting(grey, lesion), np.uint8(0), grey)


def artefacts_only(grey: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """The pixels of the findings on black; an image without any is black. Both (H, W), uint8 and bool."""
    return np.where(_fitting(grey, ink), grey, np.uint8(0))


def _fitting(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if mask.shape != grey.shape:
        (h, w), (height, width) = mask.shape, grey.shape
        raise BadInput(f"a mask of {w} x {h} px for an image of {width} x {height}; make them of one size")
    return mask
