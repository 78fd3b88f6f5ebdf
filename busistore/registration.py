"""Whether two images show one frame: local features align them, and their speckle must then agree."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Registration:
    """How two images are aligned and compared. Lengths are pixels of the working image, never enlarged."""

    side_px: int = 512
    """Longest side of the working image."""
    n_features: int = 500
    """ORB key points per image, at most."""
    fast_threshold: int = 10
    """Contrast of a key point, in grey levels."""
    match_bits: int = 64
    """Largest Hamming distance between two matched descriptors of 256 bits."""
    ransac_px: float = 3.0
    """Residual below which a match supports the similarity transform."""
    refine_px: float = 1.5
    """Residual below which a match enters the final affine fit."""
    min_inliers: int = 12
    max_scale: float = 4.0
    max_stretch: float = 1.5
    """Ratio of the two axes' scales: some copies were resized without keeping their shape."""
    min_overlap: float = 0.25
    """Share of the smaller image that the two have in common."""
    min_overlap_px: int = 1024
    highpass_px: float = 8.0
    """Sigma of the Gaussian whose removal leaves texture and borders."""
    noise_levels: float = 2.0
    """Local contrast, in grey levels, below which an area counts less and less: black margins carry nothing."""
    min_similarity: float = 0.6
    """Copies of one frame of BUSI reach 0.85 and more; unrelated images, 0.12; adjacent frames rarely align."""
    seed: int = 0


@dataclass(frozen=True)
class Features:
    """A working image (H, W) uint8 with its key points (K, 2) float32 x, y in px and descriptors (K, 32) uint8.

    The key points are in order of falling response.
    """

    image: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray


def features(gray: np.ndarray, settings: Registration) -> Features:
    """Key points of a (H, W) uint8 image; K is 0 where nothing stands out."""
    scale = settings.side_px / max(gray.shape)
    if scale < 1:
        size = [max(1, round(s * scale)) for s in gray.shape[::-1]]
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    image = np.ascontiguousarray(gray)
    orb = cv2.ORB_create(nfeatures=settings.n_features, fastThreshold=settings.fast_threshold)
    found, descriptors = orb.detectAndCompute(image, None) if min(image.shape) > 1 else ((), None)
    if not found:
        return Features(image, np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    order = sorted(range(len(found)), key=lambda k: (-found[k].response, found[k].pt))[: settings.n_features]
    return Features(image, np.float32([found[k].pt for k in order]), descriptors[order])


def register(fixed: Features, moving: Features, settings: Registration) -> float:
    """Similarity of the area two images share once aligned, from -1 to 1; 0 where no alignment is found.

    It is the correlation of the two textures: high-passed, then divided by their local contrast, so that burned-in
    text and calipers count no more than the speckle they cover.
    """
    moving_to_fixed = align(fixed, moving, settings)
    if moving_to_fixed is None:
        return 0.0
    height, width = fixed.image.shape
    warped = cv2.warpAffine(moving.image, moving_to_fixed, (width, height), flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.ones_like(moving.image), moving_to_fixed, (width, height), flags=cv2.INTER_NEAREST)
    margin = 2 * round(settings.highpass_px) + 1
    shared = cv2.erode(inside, np.ones((margin, margin), np.uint8), borderValue=0) > 0
    smaller = min(fixed.image.size, moving.image.size * abs(np.linalg.det(moving_to_fixed[:, :2])))
    if inside.sum() < settings.min_overlap * smaller or shared.sum() < settings.min_overlap_px:
        return 0.0
    # outside the moving image the fixed one stands in, so that the filter sees no edge there
    warped = np.where(inside > 0, warped, fixed.image)
    return correlation(texture(fixed.image, settings)[shared], texture(warped, settings)[shared])


def align(fixed: Features, moving: Features, settings: Registration) -> np.ndarray | None:
    """The (2, 3) affine transform from moving to fixed pixels that enough matches support, or None."""
    if min(len(fixed.points), len(moving.points)) < settings.min_inliers:
        return None
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(fixed.descriptors, moving.descriptors)
    matches = [m for m in matches if m.distance <= settings.match_bits]
    if len(matches) < settings.min_inliers:
        return None
    target = fixed.points[[m.queryIdx for m in matches]]
    source = moving.points[[m.trainIdx for m in matches]]
    cv2.setRNGSeed(settings.seed)
    transform, _ = cv2.estimateAffinePartial2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=settings.ransac_px, maxIters=500
    )
    for residual_px in (settings.ransac_px, settings.refine_px):
        transform = _refit(transform, source, target, residual_px, settings)
    return transform


def _refit(transform, source, target, residual_px: float, settings: Registration) -> np.ndarray | None:
    """Least-squares affine transform of the matches within `residual_px` of `transform`; None if implausible."""
    if transform is None:
        return None
    rows = np.column_stack([source, np.ones(len(source))])
    near = np.linalg.norm(rows @ transform.T - target, axis=1) < residual_px
    if near.sum() < settings.min_inliers:
        return None
    refined = np.linalg.lstsq(rows[near], target[near], rcond=None)[0].T
    large, small = np.linalg.svd(refined[:, :2], compute_uv=False)
    plausible = (
        np.linalg.det(refined[:, :2]) > 0
        and large <= settings.max_scale
        and small >= 1 / settings.max_scale
        and large <= settings.max_stretch * small
    )
    return refined if plausible else None


def texture(image: np.ndarray, settings: Registration) -> np.ndarray:
    """(H, W) float32: the image less its Gaussian mean, over its local contrast."""
    detail = image.astype(np.float32)
    detail -= cv2.GaussianBlur(detail, (0, 0), settings.highpass_px)
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), settings.highpass_px))
    return detail / (contrast + settings.noise_levels)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two equally long vectors; 0 where either is constant."""
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0
