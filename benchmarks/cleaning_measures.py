"""Measures of overlay removal against drawn truth: marks, masks, what the filled pixels are worth, and flags.

T is the true mask, T2 is T dilated by a 5 x 5 square, P the mask that was filled. Images are (H, W) uint8, masks (H, W)
bool, marks rows of (x, y) in pixels. A measure without anything to measure is NaN and does not enter a mean.
"""

from __future__ import annotations

import cv2
import numpy as np

FAR_PX = 6.0
"""Masked pixels further than this from the true mask are false, px."""
RESIDUE_LEVELS = 40
"""A pixel of the true mask that is further from the clean image than this is still seen, grey levels."""
MOST_DB = 60.0
"""Peak signal-to-noise ratio of a perfect fill, so that a mean over images stays finite."""
CORNER = 0.2, 0.085
"""Share of width and of height, from the top left, where overlay-free images may hold a vendor's sign."""


def widened(mask: np.ndarray) -> np.ndarray:
    """T2: the mask dilated by a 5 x 5 square."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0


def corner(shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of the place where vendors sign; what is masked there is not counted as false."""
    out = np.zeros(shape, bool)
    out[: round(CORNER[1] * shape[0]), : round(CORNER[0] * shape[1])] = True
    return out


def match(true: np.ndarray, found: np.ndarray, within_px: float) -> list[tuple[int, int]]:
    """Pairs (row of true, row of found), nearest pair first, each row used once, no pair further than `within_px`."""
    true, found = (np.asarray(v, float).reshape(-1, 2) for v in (true, found))
    away = np.linalg.norm(true[:, None] - found[None], axis=2)
    pairs: list[tuple[int, int]] = []
    for k in np.argsort(away, axis=None, kind="stable"):
        i, j = np.unravel_index(k, away.shape)
        if away[i, j] > within_px:
            break
        if i not in {a for a, _ in pairs} and j not in {b for _, b in pairs}:
            pairs.append((int(i), int(j)))
    return pairs


def ratio(part: float, whole: float) -> float:
    """part / whole, NaN where there is no whole."""
    return part / whole if whole else float("nan")


def mask_recall(found: np.ndarray, true: np.ndarray) -> float:
    """|P and T| / |T|."""
    return ratio(int((found & true).sum()), int(true.sum()))


def iou(found: np.ndarray, true: np.ndarray) -> float:
    """|P and T2| / |P or T2|."""
    wide = widened(true)
    return ratio(int((found & wide).sum()), int((found | wide).sum()))


def distance_px(true: np.ndarray) -> np.ndarray:
    """(H, W) float distance of each pixel to the nearest pixel of the mask; infinite where there is none."""
    if not true.any():
        return np.full(true.shape, np.inf)
    return cv2.distanceTransform((~true).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def far_share(found: np.ndarray, true: np.ndarray) -> float:
    """Share of the image that is masked further than FAR_PX from T."""
    return float((found & (distance_px(true) > FAR_PX)).mean())


def masked_share(found: np.ndarray, with_corner: bool = False) -> float:
    """Share of the image that is masked; without the vendor's corner unless asked."""
    return float((found if with_corner else found & ~corner(found.shape)).mean())


def psnr(cleaned: np.ndarray, clean: np.ndarray, region: np.ndarray) -> float:
    """Peak signal-to-noise ratio in a region against a peak of 255, at most MOST_DB, dB."""
    if not region.any():
        return float("nan")
    error = np.mean((cleaned[region].astype(float) - clean[region]) ** 2)
    return min(MOST_DB, float(10 * np.log10(255**2 / error))) if error else MOST_DB


def ssim(cleaned: np.ndarray, clean: np.ndarray, region: np.ndarray) -> float:
    """Mean of the structural similarity map over a region.

    Source: Wang et al. (2004), IEEE Trans. Image Process. 13(4), 600-612, eq. 13: Gaussian window of 11 x 11 px with
    standard deviation 1.5, K1 = 0.01, K2 = 0.03, L = 255.
    """
    if not region.any():
        return float("nan")
    a, b = cleaned.astype(np.float64), clean.astype(np.float64)
    mean_a, mean_b = _window(a), _window(b)
    var_a, var_b = _window(a * a) - mean_a**2, _window(b * b) - mean_b**2
    both = _window(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    of_means = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((of_means * (2 * both + c2) / (var_a + var_b + c2))[region].mean())


def _window(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)


def mae(cleaned: np.ndarray, clean: np.ndarray, region: np.ndarray) -> float:
    """Mean absolute error in a region, grey levels."""
    return float(np.abs(cleaned[region].astype(float) - clean[region]).mean()) if region.any() else float("nan")


def residue(cleaned: np.ndarray, clean: np.ndarray, true: np.ndarray) -> float:
    """Share of T that is further from the clean image than RESIDUE_LEVELS."""
    return ratio(int((np.abs(cleaned.astype(int) - clean) > RESIDUE_LEVELS)[true].sum()), int(true.sum()))


def changed_outside(cleaned: np.ndarray, seen: np.ndarray, true: np.ndarray) -> float:
    """Share of the image that differs from the image as seen, outside T2."""
    return float(((cleaned != seen) & ~widened(true)).mean())


def sensitivity_specificity(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Share of the images with the flag that are found, and of those without that are left alone; both (N,) bool."""
    found, true = np.asarray(found, bool), np.asarray(true, bool)
    return ratio(int((found & true).sum()), int(true.sum())), ratio(int((~found & ~true).sum()), int((~true).sum()))


def mean(values: list[float]) -> float:
    """Mean of those that are not NaN; NaN when there is none."""
    kept = [v for v in values if v == v]
    return float(np.mean(kept)) if kept else float("nan")
