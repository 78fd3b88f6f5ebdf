"""Every metric of METRICS, of many runs on the same images at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from busistore.metrics.confusion import CONFUSION_METRICS, confusion, f1, precision, recall
from busistore.metrics.kinds import Metric
from busistore.metrics.probability import PROBABILITY_METRICS
from busistore.metrics.ranking import auroc, average_precision, share_of_pair


class Scores(NamedTuple):
    """One metric of each of E runs; `class_` is '' for the whole run, `values` (E,) float64 with NaN if undefined."""

    metric: str
    class_: str
    values: np.ndarray
    n_used: int


def classification_metrics(
    labels: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
    positive: str = "malignant",
    negative: str = "benign",
) -> list[Metric]:
    """The metrics of one run, from (N, C) probabilities: those of `classification_scores` that are defined."""
    probs = np.asarray(probabilities, np.float64).reshape(1, len(labels), len(classes))
    scored = classification_scores(labels, probs, classes, positive, negative)
    return [Metric(s.metric, s.class_, float(s.values[0]), s.n_used) for s in scored if not np.isnan(s.values[0])]


def classification_scores(
    labels: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
    positive: str = "malignant",
    negative: str = "benign",
) -> list[Scores]:
    """Every metric of METRICS but those of prompts, for E runs on the same N images; empty without images.

    Args:
        labels: true class of each image.
        probabilities: (E, N, C), rows sum to 1, columns in the order of `classes`.
        positive, negative: the two classes of `auroc_{positive}_vs_{negative}`, left out if either is unknown.

    Raises:
        ValueError: a label that is no class, or rows that are no probabilities.
    """
    true, probs = _checked(labels, probabilities, classes)
    if not len(true):
        return []
    n = len(true)
    counts = confusion(true, probs.argmax(axis=-1), len(classes))
    scored = [Scores(name, "", of(counts), n) for name, of in CONFUSION_METRICS.items()]
    scored += [Scores(name, "", of(true, probs), n) for name, of in PROBABILITY_METRICS.items()]
    scored += _per_class(counts, classes, n)
    scored += _rankings(true, probs, classes)
    if positive in classes and negative in classes:
        scored.append(_two_class_auroc(true, probs, list(classes), positive, negative))
    return scored


def _checked(labels: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    at = {label: i for i, label in enumerate(classes)}
    unknown = sorted(set(labels) - set(at))
    if unknown:
        raise ValueError(f"labels {unknown} are not among the classes {list(classes)}")
    probs = np.asarray(probabilities, np.float64)
    if probs.shape[1:] != (len(labels), len(classes)):
        raise ValueError(f"probabilities of shape {probs.shape} for {len(labels)} images of {len(classes)} classes")
    if not (np.all(probs >= 0) and np.allclose(probs.sum(axis=-1), 1, atol=1e-6)):  # NaN fails both
        raise ValueError("each row of the probabilities must be non-negative and sum to 1")
    return np.array([at[label] for label in labels], np.int64), probs


def _per_class(counts: np.ndarray, classes: Sequence[str], n: int) -> Iterator[Scores]:
    support = counts.sum(axis=-1)
    absent = support + counts.sum(axis=-2) == 0  # neither in the truth nor predicted
    left_out = {"precision": absent, "recall": support == 0, "f1": absent}
    for name, of in (("precision", precision), ("recall", recall), ("f1", f1)):
        values = np.where(left_out[name], np.nan, of(counts))
        yield from (Scores(name, label, values[:, k], n) for k, label in enumerate(classes))
    yield from (Scores("support", label, support[:, k].astype(np.float64), n) for k, label in enumerate(classes))


def _rankings(true: np.ndarray, probs: np.ndarray, classes: Sequence[str]) -> Iterator[Scores]:
    """Each class against the rest, and the mean over the classes for which that is defined."""
    positive = true == np.arange(len(classes))[:, None]
    for name, of in (("auroc", auroc), ("average_precision", average_precision)):
        values = of(positive, np.swapaxes(probs, -1, -2))
        defined = ~np.isnan(values[0])  # the same classes in every run: the truth is one
        mean = values[:, defined].mean(axis=-1) if defined.any() else np.full(len(values), np.nan)
        yield Scores(name, "", mean, len(true))
        yield from (Scores(name, label, values[:, k], len(true)) for k, label in enumerate(classes))


def _two_class_auroc(true: np.ndarray, probs: np.ndarray, classes: list[str], positive: str, negative: str) -> Scores:
    pos, neg = classes.index(positive), classes.index(negative)
    among = (true == pos) | (true == neg)
    score = share_of_pair(probs[:, among, pos], probs[:, among, neg])
    return Scores(f"auroc_{positive}_vs_{negative}", "", auroc(true[among] == pos, score), int(among.sum()))
