"""Classification metrics of one run, by definitions that scikit-learn shares.

Functions of the confusion matrix and of rankings work along the last axes, so that many episodes or resamples are
one call. An undefined value (a ranking with one class only) is NaN inside and left out of what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

N_BINS = 15


class Metric(NamedTuple):
    """One number of one run; `class_` is '' for the whole run, `n_used` the images it was computed on."""

    metric: str
    class_: str
    value: float
    n_used: int


@dataclass(frozen=True)
class MetricKind:
    """What a metric is; `higher_is_better` is None for counts; `scope` is overall, class or both, or prompt."""

    description: str
    higher_is_better: bool | None = True
    scope: str = "overall"


METRICS = {
    "accuracy": MetricKind("share of images whose most probable class is the true one"),
    "balanced_accuracy": MetricKind("mean recall over the classes of the truth"),
    "macro_f1": MetricKind("mean F1 over the classes"),
    "weighted_f1": MetricKind("mean F1 over the classes, weighted by their number of images"),
    "macro_precision": MetricKind("mean precision over the classes"),
    "macro_recall": MetricKind("mean recall over the classes"),
    "precision": MetricKind("share of the images called this class that are; 0 if none was called", scope="class"),
    "recall": MetricKind("share of this class's images that were called so", scope="class"),
    "f1": MetricKind("harmonic mean of precision and recall", scope="class"),
    "support": MetricKind("images of this class in the truth", None, "class"),
    "auroc": MetricKind("area under the ROC curve, class against rest; overall: mean over classes", scope="both"),
    "auroc_malignant_vs_benign": MetricKind("AUROC of p(malignant) among images truly malignant or benign"),
    "average_precision": MetricKind("step-wise area under precision and recall; overall: mean", scope="both"),
    "mcc": MetricKind("Matthews correlation of many classes (Gorodkin), -1 to 1"),
    "brier": MetricKind("squared error of the probabilities summed over classes, 0 to 2", False),
    "log_loss": MetricKind("mean -log of the probability given to the true class", False),
    "ece": MetricKind(f"expected calibration error of the top class, {N_BINS} bins of equal width, 0 to 1", False),
    "auroc_without": MetricKind("overall AUROC of all prompts of the set but this one", scope="prompt"),
    "macro_f1_without": MetricKind("macro-F1 of all prompts of the set but this one", scope="prompt"),
    "auroc_added": MetricKind("overall AUROC of all prompts less that without this one", scope="prompt"),
    "macro_f1_added": MetricKind("macro-F1 of all prompts less that without this one", scope="prompt"),
}


def classification_metrics(
    labels: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
    positive: str = "malignant",
    negative: str = "benign",
) -> list[Metric]:
    """Every metric of METRICS that is defined for these images, but those of prompts; empty without images.

    Args:
        labels: true class of each of N images.
        probabilities: (N, C), rows sum to 1, columns in the order of `classes`.
        positive, negative: the two classes of `auroc_{positive}_vs_{negative}`, left out if either is unknown.

    Raises:
        ValueError: a label that is no class, or rows that are no probabilities.
    """
    true, probs = _checked(labels, probabilities, classes)
    if not len(true):
        return []
    counts = confusion(true, probs.argmax(axis=1), len(classes))
    rows = [Metric(name, "", float(of(counts)), len(true)) for name, of in CONFUSION_METRICS.items()]
    rows += [Metric(name, "", of(true, probs), len(true)) for name, of in PROBABILITY_METRICS.items()]
    rows += _per_class(counts, classes)
    rows += _rankings(true, probs, classes)
    if positive in classes and negative in classes:
        rows.append(_two_class_auroc(true, probs, list(classes), positive, negative))
    return [row for row in rows if not np.isnan(row.value)]


def _checked(labels: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    at = {label: i for i, label in enumerate(classes)}
    unknown = sorted(set(labels) - set(at))
    if unknown:
        raise ValueError(f"labels {unknown} are not among the classes {list(classes)}")
    probs = np.asarray(probabilities, np.float64).reshape(len(labels), len(classes))
    if not (np.all(probs >= 0) and np.allclose(probs.sum(axis=1), 1, atol=1e-6)):  # NaN fails both
        raise ValueError("each row of the probabilities must be non-negative and sum to 1")
    return np.array([at[label] for label in labels], np.int64), probs


def _per_class(counts: np.ndarray, classes: Sequence[str]) -> Iterator[Metric]:
    n, support = int(counts.sum()), counts.sum(axis=1)
    absent = support + counts.sum(axis=0) == 0  # neither in the truth nor predicted
    left_out = {"precision": absent, "recall": support == 0, "f1": absent}
    for name, of in (("precision", precision), ("recall", recall), ("f1", f1)):
        values = np.where(left_out[name], np.nan, of(counts))
        yield from (Metric(name, label, float(value), n) for label, value in zip(classes, values))
    yield from (Metric("support", label, float(value), n) for label, value in zip(classes, support))


def _rankings(true: np.ndarray, probs: np.ndarray, classes: Sequence[str]) -> Iterator[Metric]:
    """Each class against the rest, and the mean over the classes for which that is defined."""
    positive = true == np.arange(len(classes))[:, None]
    for name, of in (("auroc", auroc), ("average_precision", average_precision)):
        values = of(positive, probs.T)
        defined = values[~np.isnan(values)]
        yield Metric(name, "", float(defined.mean()) if len(defined) else np.nan, len(true))
        yield from (Metric(name, label, float(value), len(true)) for label, value in zip(classes, values))


def _two_class_auroc(true: np.ndarray, probs: np.ndarray, classes: list[str], positive: str, negative: str) -> Metric:
    pos, neg = classes.index(positive), classes.index(negative)
    among = (true == pos) | (true == neg)
    pair = probs[among][:, [pos, neg]]
    score = _ratio(pair[:, 0], pair.sum(axis=1), 0.5)
    return Metric(f"auroc_{positive}_vs_{negative}", "", float(auroc(true[among] == pos, score)), int(among.sum()))


def confusion(true: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(C, C) int64 counts, rows the truth, columns the predictions.

    Args:
        true, predicted: (N,) class numbers from 0.
    """
    cells = np.asarray(true, np.int64) * n_classes + np.asarray(predicted, np.int64)
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def _ratio(top: np.ndarray, bottom: np.ndarray, undefined: float = 0.0) -> np.ndarray:
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, undefined), where=bottom != 0)


def _diagonal(counts: np.ndarray) -> np.ndarray:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def precision(counts: np.ndarray) -> np.ndarray:
    """(..., C) precision from (..., C, C) counts; 0 where a class was never predicted."""
    return _ratio(_diagonal(counts), counts.sum(axis=-2))


def recall(counts: np.ndarray) -> np.ndarray:
    """(..., C) recall from (..., C, C) counts; 0 where a class is not in the truth."""
    return _ratio(_diagonal(counts), counts.sum(axis=-1))


def f1(counts: np.ndarray) -> np.ndarray:
    """(..., C) F1 from (..., C, C) counts; 0 where a class is neither in the truth nor predicted."""
    return _ratio(2 * _diagonal(counts), counts.sum(axis=-1) + counts.sum(axis=-2))


def accuracy(counts: np.ndarray) -> np.ndarray:
    """(...) accuracy from (..., C, C) counts."""
    return _ratio(_diagonal(counts).sum(axis=-1), counts.sum(axis=(-2, -1)), np.nan)


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """(...) mean recall over the classes of the truth, from (..., C, C) counts."""
    return _ratio(recall(counts).sum(axis=-1), (counts.sum(axis=-1) > 0).sum(axis=-1), np.nan)


def weighted_f1(counts: np.ndarray) -> np.ndarray:
    """(...) F1 weighted by the images of each class, from (..., C, C) counts."""
    support = counts.sum(axis=-1)
    return _ratio((f1(counts) * support).sum(axis=-1), support.sum(axis=-1), np.nan)


def _macro(of: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The mean of a per-class metric over the classes that are in the truth or among the predictions."""

    def macro(counts: np.ndarray) -> np.ndarray:
        n_present = ((counts.sum(axis=-1) + counts.sum(axis=-2)) > 0).sum(axis=-1)
        return _ratio(of(counts).sum(axis=-1), n_present, np.nan)

    return macro


def mcc(counts: np.ndarray) -> np.ndarray:
    """(...) Matthews correlation from (..., C, C) counts; 0 if all predictions are one class, NaN if all truth is.

    Source: Gorodkin (2004), Computational Biology and Chemistry 28, 367-374.
    """
    counts = counts.astype(np.float64)
    total, truth, called = counts.sum(axis=(-2, -1)), counts.sum(axis=-1), counts.sum(axis=-2)
    covariance = _diagonal(counts).sum(axis=-1) * total - (truth * called).sum(axis=-1)
    truth_spread = total**2 - (truth**2).sum(axis=-1)
    called_spread = total**2 - (called**2).sum(axis=-1)
    value = _ratio(covariance, np.sqrt(truth_spread * called_spread))
    return np.where(truth_spread == 0, np.nan, value)


CONFUSION_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": _macro(f1), "weighted_f1": weighted_f1,
    "macro_precision": _macro(precision), "macro_recall": _macro(recall), "mcc": mcc,
}  # fmt: skip


def _ties(ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last position of the run of equal values that each position of (..., N) sorted values is in."""
    n = ranked.shape[-1]
    new = np.ones(ranked.shape, bool)
    new[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    end = np.ones(ranked.shape, bool)
    end[..., :-1] = new[..., 1:]
    first = np.maximum.accumulate(np.where(new, np.arange(n), 0), axis=-1)
    last = np.minimum.accumulate(np.where(end, np.arange(n), n)[..., ::-1], axis=-1)[..., ::-1]
    return first, last


def auroc(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(...) chance that a positive scores above a negative, ties counted half; NaN without either.

    Args:
        positive: (..., N) bool.
        scores: (..., N), higher for more likely positive.
    """
    positive, scores = np.broadcast_arrays(np.asarray(positive, bool), np.asarray(scores, np.float64))
    order = np.argsort(scores, axis=-1, kind="stable")
    first, last = _ties(np.take_along_axis(scores, order, -1))
    hits = np.take_along_axis(positive, order, -1)
    n_pos = hits.sum(axis=-1)
    n_neg = hits.shape[-1] - n_pos
    ranks = np.where(hits, (first + last) / 2 + 1, 0).sum(axis=-1)
    return _ratio(ranks - n_pos * (n_pos + 1) / 2, n_pos * n_neg, np.nan)


def average_precision(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(...) sum over thresholds of precision times the step in recall; NaN unless both kinds are there.

    Args:
        positive: (..., N) bool.
        scores: (..., N), higher for more likely positive.
    """
    positive, scores = np.broadcast_arrays(np.asarray(positive, bool), np.asarray(scores, np.float64))
    order = np.argsort(-scores, axis=-1, kind="stable")
    _, last = _ties(np.take_along_axis(scores, order, -1))
    hits = np.take_along_axis(positive, order, -1)
    precisions = np.take_along_axis(np.cumsum(hits, axis=-1), last, -1) / (last + 1)
    n_pos = hits.sum(axis=-1)
    value = _ratio(np.where(hits, precisions, 0).sum(axis=-1), n_pos, np.nan)
    return np.where(n_pos == hits.shape[-1], np.nan, value)


def brier(true: np.ndarray, probs: np.ndarray) -> float:
    """Mean over images of the squared error summed over classes: 0 (certain and right) to 2 (certain and wrong).

    Args:
        true: (N,) class numbers.
        probs: (N, C).
    """
    return float(np.square(probs - np.eye(probs.shape[1])[true]).sum(axis=1).mean())


def log_loss(true: np.ndarray, probs: np.ndarray) -> float:
    """Mean -log of the true class's probability, never below 2.2e-16: (N,) class numbers and (N, C)."""
    eps = np.finfo(np.float64).eps
    return float(0 - np.log(np.clip(probs[np.arange(len(true)), true], eps, 1)).mean())


def bin_of(confidence: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """(N,) number of the bin of equal width that each confidence lies in; bins include their upper edge."""
    return np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], confidence)


def ece(true: np.ndarray, probs: np.ndarray, n_bins: int = N_BINS) -> float:
    """Mean gap between confidence and accuracy over bins of the top probability, weighted by their images.

    Args:
        true: (N,) class numbers.
        probs: (N, C).

    Source: Guo et al. (2017), ICML, equation 3.
    """
    confidence = probs.max(axis=1)
    gap = np.bincount(bin_of(confidence, n_bins), weights=confidence - (probs.argmax(axis=1) == true))
    return float(np.abs(gap).sum() / len(true))


PROBABILITY_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "brier": brier, "log_loss": log_loss, "ece": ece,
}  # fmt: skip
