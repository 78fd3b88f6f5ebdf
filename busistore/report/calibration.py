"""The table of calibration: expected errors, and intercept, slope and the Brier score's parts of p(malignant)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from busistore import stats
from busistore.comparison import Outcomes
from busistore.metrics import ece
from busistore.report.parts import Table, count, decimal
from busistore.report.settings import Setting
from busistore.report.sources import Source

HEAD = ["Setting", "Encoder", "ECE", "ECE, equal mass", "Intercept", "Slope", "Runs with a slope", "Brier",
        "Reliability", "Resolution", "Uncertainty", "Within bins"]  # fmt: skip
NOTE = ("ECE: of the predicted class, mean over runs, in bins of equal width and of as many predictions each. The rest "
        "is of p(malignant) against all other classes. Intercept (ideally 0; below 0, p is too high) and slope "
        "(ideally 1; below 1, p is too extreme): medians over the runs that have one. A run has no slope where its p "
        "parts the classes, or where more than 1% of its p are exactly 0 or 1, and no intercept where these alone "
        "exceed the share that is true; a dash where no run has one. Brier: mean squared error of p(malignant), mean "
        "over runs; reliability less resolution plus uncertainty plus what lies within the bins.")  # fmt: skip


def table(name: str, found: Sequence[tuple[Setting, Outcomes]], sources: list[Source]) -> Table:
    """One line for each setting, from what its runs predicted."""
    lines = [[setting.how, setting.where, *_errors(said), *_malignant(said)] for setting, said in found]
    return Table(name, "Calibration", HEAD, lines, sources, NOTE)


def equal_mass(said: Outcomes) -> float:
    """Expected calibration error of the predicted class in bins of equal mass, a mean over the runs."""
    right, sure = said.probs.argmax(axis=-1) == said.true, said.probs.max(axis=-1)
    return float(stats.ece_equal_mass(right, sure).mean())


def _errors(said: Outcomes) -> list[str]:
    return [decimal(float(ece(said.true, said.probs).mean())), decimal(equal_mass(said))]


def _malignant(said: Outcomes) -> list[str]:
    """The cells on p(malignant); dashes where no class has that name, or all test images or none are of it."""
    positive = said.true == (said.classes.index("malignant") if "malignant" in said.classes else -1)
    if positive.all() or not positive.any():
        return [decimal(None)] * (len(HEAD) - 4)
    p = said.probs[:, :, said.classes.index("malignant")]
    slopes = stats.calibration_slope(positive, p)
    parts = stats.brier_parts(positive, p)
    brier = float(np.square(p - positive).mean())
    values = [float(np.mean(part)) for part in parts]
    return [decimal(_median(stats.calibration_intercept(positive, p))), decimal(_median(slopes)),
            count(int(np.isfinite(slopes).sum())), decimal(brier), *(decimal(v, 4) for v in values)]  # fmt: skip


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
