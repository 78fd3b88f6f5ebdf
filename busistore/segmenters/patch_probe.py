"""Where a lesion is likely, by a linear map of frozen tokens: what proposes prompts without a true mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from busistore.errors import BusistoreError

CODE = 1  # counts changes that move a proposal
THRESHOLDS = np.arange(0.05, 0.96, 0.05)
Batches = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class PatchProbe:
    """The share of each patch that is lesion, as a linear map of its tokens and of where it lies.

    weights (F,) float64 and intercept are of raw features; `threshold` is the share above which a patch is lesion.
    """

    weights: np.ndarray
    intercept: float
    threshold: float

    def likely(self, patches: np.ndarray) -> np.ndarray:
        """(B, S, S, C) tokens to (B, S, S) float64: about 0 outside lesions and 1 inside."""
        return features(patches) @ self.weights + self.intercept


def features(patches: np.ndarray) -> np.ndarray:
    """(B, S, S, C) to (B, S, S, C + 5) float64: with the place of each patch, x, y, xx, yy and xy from -1 to 1."""
    side = np.linspace(-1, 1, patches.shape[1])
    y, x = np.meshgrid(side, side, indexing="ij")
    places = np.stack([x, y, x * x, y * y, x * y], axis=-1)
    return np.concatenate([patches, np.broadcast_to(places, (len(patches), *places.shape))], axis=-1, dtype=np.float64)


def fit(batches: Batches, alpha: float = 1e-3) -> PatchProbe:
    """The probe of least squared error on training images, its threshold the one of the best mean Dice on them.

    Features are standardised, and `alpha` times the number of patches is the ridge on their weights. Memory is that
    of a batch and of one square matrix: the images pass by twice.

    Args:
        batches: makes an iterator of (patches (B, S, S, C), share of each that is lesion (B, S, S)).

    Raises:
        BusistoreError: there is no image.

    Source: Hoerl and Kennard (1970), Technometrics 12(1), 55-67.
    """
    n, sums, squares, target, products = 0, 0.0, 0.0, 0.0, 0.0
    for patches, share in batches():
        x, y = features(patches).reshape(-1, patches.shape[-1] + 5), share.reshape(-1)
        n, sums, target = n + len(x), sums + x.sum(axis=0), target + y.sum()
        squares, products = squares + x.T @ x, products + x.T @ y
    if not n:
        raise BusistoreError("a patch probe needs training images with lesions, and there are none")
    weights, intercept = _solved(n, sums, squares, target, products, alpha)
    probe = PatchProbe(weights, intercept, 0.5)
    return PatchProbe(weights, intercept, _best_threshold(probe, batches))


def _solved(
    n: int, sums: np.ndarray, squares: np.ndarray, target: float, products: np.ndarray, alpha: float
) -> tuple[np.ndarray, float]:
    mean, level = sums / n, target / n
    covariance = squares / n - np.outer(mean, mean)
    scale = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
    standard = covariance / np.outer(scale, scale) + alpha * np.eye(len(mean))
    weights = np.linalg.solve(standard, (products / n - mean * level) / scale) / scale
    return weights, float(level - mean @ weights)


def _best_threshold(probe: PatchProbe, batches: Batches) -> float:
    """The first of the best: mean Dice over images, where a patch counts as lesion from half of it on."""
    scores = []
    for patches, share in batches():
        likely, true = probe.likely(patches), share >= 0.5
        for one, lesion in zip(likely, true):
            marked = one[None] > THRESHOLDS[:, None, None]
            shared = (marked & lesion).sum(axis=(1, 2))
            scores.append((2 * shared + 1e-5) / (marked.sum(axis=(1, 2)) + lesion.sum() + 1e-5))
    return float(THRESHOLDS[int(np.argmax(np.mean(scores, axis=0)))])
