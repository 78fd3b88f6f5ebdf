"""Split conformal prediction: sets of classes that hold the true one with a chosen confidence."""

from __future__ import annotations

import math

import numpy as np

from busistore.errors import BusistoreError


def conformal_threshold(p_true: np.ndarray, confidence: float = 0.9) -> float:
    """The largest 1 - p that a class of a prediction set may have, from images that the classifier never learned from.

    With n of them it is the k-th smallest of their scores 1 - p_true, k = ceil((n + 1) confidence); infinite where
    n < k, too few images for the confidence, so that every set holds all classes.

    A set of a new image holds its true class with a chance of at least `confidence`, over draws of the n images and the
    new one together, if those are exchangeable. Near-duplicates are not: n images in fewer groups tell less than n,
    and the chance for one given set of them spreads the more. It says nothing of a class, or of images of another
    hospital.

    Args:
        p_true: (N,) probability that each image's true class was given.
        confidence: above 0 and below 1.

    Raises:
        BusistoreError: a confidence outside that range.

    Source: Sadinle, Lei and Wasserman (2019), Journal of the American Statistical Association 114, 223-234 (least
    ambiguous sets); Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World.

    >>> conformal_threshold(np.array([0.9, 0.75, 0.5]), 0.7)
    0.5
    """
    check_confidence(confidence)
    scores = np.sort(1 - np.asarray(p_true, np.float64))
    k = math.ceil((len(scores) + 1) * confidence - 1e-9)  # .55 of 100 is 55.00000000000001 in floating point
    return float(scores[k - 1]) if k <= len(scores) else math.inf


def prediction_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """(..., C) bool: the classes with 1 - p of at most `conformal_threshold`; a set may be empty."""
    return 1 - np.asarray(probabilities, np.float64) <= threshold


def check_confidence(confidence: float) -> None:
    """Raises BusistoreError where it is no share above 0 and below 1."""
    if not 0 < confidence < 1:
        raise BusistoreError(f"the confidence is a share above 0 and below 1, such as 0.9, not {confidence:g}")
