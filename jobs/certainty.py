"""Certainty: the classes that an image may be of, at a chosen confidence, by the validation part of a classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from busistore import stats
from busistore.jobs import columns
from busistore.jobs.refit import Classifier
from busistore.schema import PREDICTIONS
from busistore.store import Store, quote


@dataclass(frozen=True)
class Certainty:
    """A prediction set and what it rests on: `n_val` images of `n_groups_val` groups.

    `coverage_test` is the share of the `n_test` test images whose set holds the true class, `mean_size_test` how many
    classes their sets have on average; None where the run has no stored predictions. `val_was_tuned_on` says whether
    the validation images chose the classifier too, so that the confidence is overstated.
    """

    classes: list[str]
    confidence: float
    threshold: float | None
    n_val: int
    n_groups_val: int
    val_was_tuned_on: bool
    coverage_test: float | None
    mean_size_test: float | None
    n_test: int

    def in_words(self) -> str:
        """The prediction set in one line."""
        held = ", ".join(self.classes) or "none at this confidence"
        return f"set at {100 * self.confidence:g} % confidence: {held} ({self.n_val} validation images)"


def certainty_of(
    store: Store, asked: Classifier, probabilities: np.ndarray, of_val: np.ndarray, confidence: float
) -> Certainty:
    """The prediction set of an image.

    Args:
        probabilities, of_val: what `asked.answer` gave.
    """
    split, classes = asked.split, np.array(asked.split.classes)
    true = np.searchsorted(classes, [split.label_of[i] for i in asked.val])
    threshold = stats.conformal_threshold(of_val[np.arange(len(true)), true], confidence)
    covered, size, n = _on_test(store, asked, threshold)
    return Certainty(
        [str(c) for c in classes[stats.prediction_sets(probabilities, threshold)]], confidence,
        threshold if math.isfinite(threshold) else None, len(true), len({split.group_of[i] for i in asked.val}),
        asked.run["exposure_val"] is not None, covered, size, n,
    )  # fmt: skip


def _on_test(store: Store, asked: Classifier, threshold: float) -> tuple[float | None, float | None, int]:
    """Share of the test images whose set holds the true class, mean size of the sets, and of how many images."""
    where = f"run_id = {quote(asked.run['run_id'])} AND part = 'test'"
    rows = list(columns(store.read(PREDICTIONS.name, ["label", "probabilities"], where)))
    if not rows:
        return None, None, 0
    labels, probabilities = zip(*rows)
    sets = stats.prediction_sets(np.array(probabilities), threshold)
    covered = sets[np.arange(len(rows)), np.searchsorted(asked.split.classes, labels)]
    return float(covered.mean()), float(sets.sum(axis=1).mean()), len(rows)
