"""Classification metrics by definitions that scikit-learn shares, of one run or of many at once.

Functions of the confusion matrix, of rankings and of probabilities work along the last axes, so that many episodes or
resamples are one call. An undefined value (a ranking with one class only) is NaN inside and left out of what is stored.
"""

from __future__ import annotations

from busistore.metrics.classification import Scores, classification_metrics, classification_scores
from busistore.metrics.confusion import CONFUSION_METRICS, confusion, f1, precision, recall
from busistore.metrics.kinds import METRICS, Metric, MetricKind
from busistore.metrics.probability import N_BINS, PROBABILITY_METRICS, bin_of, brier, ece, log_loss
from busistore.metrics.ranking import auroc, average_precision, share_of_pair

__all__ = [
    "CONFUSION_METRICS", "METRICS", "N_BINS", "PROBABILITY_METRICS", "Metric", "MetricKind", "Scores", "auroc",
    "average_precision", "bin_of", "brier", "classification_metrics", "classification_scores", "confusion", "ece", "f1",
    "log_loss", "precision", "recall", "share_of_pair",
]  # fmt: skip
