"""A linear map from the vectors of images to those of texts, for two towers that share no space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from busistore.errors import BusistoreError
from busistore.methods.base import normalise

CODE = 1  # counts changes that move a number: it is part of the key of what is read through a map


@dataclass(frozen=True)
class Alignment:
    """A fitted map: `weights` (D, T) and `centre` (T,), the mean text of those it was fitted on; float64.

    Ridge regression: with X the images' vectors, each of length 1, and Y the texts less their mean, the weights
    minimise |X W - Y|^2 + alpha |W|^2.

    Source: Hoerl and Kennard (1970), Technometrics 12(1), 55-67.
    """

    weights: np.ndarray
    centre: np.ndarray

    @classmethod
    def fit(cls, images: np.ndarray, texts: np.ndarray, alpha: float) -> Alignment:
        """The map that takes each image nearest to its text.

        Solved through whichever of X'X (D, D) and XX' (N, N) is smaller; both give the same weights.

        Args:
            images: (N, D), of any length but zero.
            texts: (N, T).
            alpha: above zero; larger values draw what is mapped towards the mean text.

        Raises:
            BusistoreError: alpha is not positive, there is no image, or a vector is zero or not finite.
        """
        if not (0 < alpha < np.inf):
            raise BusistoreError(f"alpha is {alpha}; a ridge needs a finite number above 0")
        x, y = normalise(images, "training"), np.asarray(texts, np.float64)
        if len(x) != len(y):
            raise ValueError(f"{len(x)} images, {len(y)} texts")
        if not len(x):
            raise BusistoreError("no image to learn a map from; the split has an empty training part")
        centre = y.mean(axis=0)
        return cls(_ridge(x, y - centre, alpha), centre)

    def map(self, images: np.ndarray) -> np.ndarray:
        """(N, D) image vectors to (N, T) float64 in the space of the texts, not normalised."""
        return normalise(images) @ self.weights + self.centre


def _ridge(x: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    n, d = x.shape
    if n < d:
        return x.T @ np.linalg.solve(x @ x.T + alpha * np.eye(n), y)
    return np.linalg.solve(x.T @ x + alpha * np.eye(d), x.T @ y)
