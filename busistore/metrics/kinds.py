"""What the metrics are: the names under which one number of one run is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from busistore.metrics.masks import MASK_METRICS
from busistore.metrics.probability import N_BINS


class Metric(NamedTuple):
    """One number of one run; `class_` is '' for the whole run, `n_used` the images it was computed on."""

    metric: str
    class_: str
    value: float
    n_used: int


@dataclass(frozen=True)
class MetricKind:
    """What a metric is; `higher_is_better` is None for counts.

    `scope` is overall, class or both, prompt, epoch or mask.
    """

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
    "train_loss": MetricKind("mean loss over an epoch, as it was trained on", False, "epoch"),
    "val_loss": MetricKind("mean cross-entropy over the validation part after an epoch", False, "epoch"),
    "val_macro_f1": MetricKind("macro-F1 on the validation part after an epoch", scope="epoch"),
    "learning_rate": MetricKind("learning rate of what is trained in the tower, in an epoch", None, "epoch"),
    "val_dice": MetricKind("mean Dice at 256 px over the lesions of the validation part after an epoch", scope="epoch"),
    **{name: MetricKind(text, is_better, "mask") for name, (text, is_better) in MASK_METRICS.items()},
}
