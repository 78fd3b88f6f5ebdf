"""Fully developed speckle for tests: the log of the envelope of filtered complex noise."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np


@cache
def speckle(seed: int, height: int = 300, width: int = 400) -> np.ndarray:
    """(H, W) uint8 speckle over a smooth background, read-only; seeds that differ share nothing."""
    draw = np.random.default_rng(seed)
    fields = [cv2.GaussianBlur(draw.standard_normal((height, width)), (0, 0), 2.5) for _ in range(2)]
    envelope = 20 * np.log10(np.hypot(*fields) / np.std(fields) + 1e-3)
    background = cv2.resize(draw.uniform(-12, 12, (4, 5)), (width, height), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(110 + 4 * (envelope + background), 0, 255).astype(np.uint8)
    picture.setflags(write=False)
    return picture


def cropped(gray: np.ndarray, share: float) -> np.ndarray:
    """The lower right `share` of an image's area."""
    height, width = (round(s * share**0.5) for s in gray.shape)
    return gray[-height:, -width:]
