"""Panels of what the runs predicted: confusion matrices, ROC curves and reliability diagrams."""

from __future__ import annotations

import numpy as np
import polars as pl

from busistore.comparison import Outcomes
from busistore.metrics import N_BINS, auroc, share_of_pair
from busistore.report import style
from busistore.report.calibration import equal_mass
from busistore.report.parts import decimal
from busistore.report.settings import Setting
from busistore.report.style import GRID, INK, MARKERS, MUTED, PAPER, SERIES, Panel, drawing, panel, short, title
from busistore.stats import reliability_curve, roc_curve

GRID_POINTS = 200
Curve = tuple[np.ndarray, np.ndarray, float]  # false and true positive rates, and the area
FEW = 10  # a bin of fewer predictions is drawn hollow and not joined to the line


def confusion(rows: pl.DataFrame, classes: list[str], setting: Setting) -> Panel:
    """One matrix: rows the truth, columns the predictions; cells the mean count per run and its share of the row.

    Args:
        rows: rows of `confusion` of one setting: label, predicted, n_images.
        classes: in the order of the axes.
    """
    matrix = np.zeros((len(classes), len(classes)))
    for label, predicted, n in rows.select("label", "predicted", "n_images").iter_rows():
        matrix[classes.index(label), classes.index(predicted)] = n
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-12)
    size = 56 * len(classes) + 100
    with drawing(max(size + 24, 240), max(size, 200)) as (figure, axes):
        axes.grid(False)
        for (i, j), value in np.ndenumerate(shares):
            axes.add_patch(_cell(i, j, value))
            colour = style.ink_on("s1", opacity(value))
            axes.text(j, i - 0.1, f"{100 * value:.0f}%", ha="center", va="center", color=colour, fontsize=12)
            axes.text(j, i + 0.24, f"{matrix[i, j]:.1f}", ha="center", va="center", color=colour, fontsize=9.5)
        ticks = range(len(classes))
        axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5), aspect="equal")
        names = [short(c, 11) for c in classes]
        axes.set_xticks(ticks, names)
        axes.set_yticks(ticks, names, rotation=90, va="center")
        axes.set(xlabel="Predicted class", ylabel="True class")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title(setting.how, setting.where), loc="left", fontsize=11.5)
        return panel(figure, _confusion_alt(shares, classes, setting))


def opacity(share: float) -> float:
    """How much of its colour a cell of that share shows; an empty one still shows a little."""
    return 0.06 + 0.94 * share


def _cell(i: int, j: int, value: float):
    from matplotlib.patches import Rectangle

    return Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, facecolor=SERIES[0], alpha=opacity(value), linewidth=0)


def _confusion_alt(shares: np.ndarray, classes: list[str], setting: Setting) -> str:
    rows = "; ".join(
        f"of {label}: " + ", ".join(f"{100 * v:.0f}% predicted {predicted}" for predicted, v in zip(classes, row))
        for label, row in zip(classes, shares)
    )
    return f"Confusion matrix of {setting}: {rows}."


def mean_roc(said: Outcomes) -> Curve | None:
    """Mean over seeds of the ROC curves: false positive rates, mean true positive rates, mean area.

    None where the test images are not both malignant and benign. The score is p(malignant) as a share of p(malignant)
    + p(benign), as in the metric `auroc_malignant_vs_benign`.
    """
    if not {"malignant", "benign"} <= set(said.classes):
        return None
    malignant, benign = said.classes.index("malignant"), said.classes.index("benign")
    among = (said.true == malignant) | (said.true == benign)
    positive = said.true[among] == malignant
    if positive.all() or not positive.any():
        return None
    scores = share_of_pair(said.probs[:, among, malignant], said.probs[:, among, benign])
    grid = (np.arange(GRID_POINTS) + 0.5) / GRID_POINTS
    mean = np.mean([np.interp(grid, *roc_curve(positive, score)) for score in scores], axis=0)
    area = float(auroc(positive, scores).mean())
    return np.concatenate([[0], grid, [1]]), np.concatenate([[0], mean, [1]]), area


def roc(curves: dict[str, tuple[int, Curve]], where: str) -> Panel:
    """ROC curves of one encoder: by method, the number of its look and its `mean_roc`."""
    with drawing(320, 330) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        ranked = sorted(curves.items(), key=lambda item: -item[1][1][2])
        for method, (k, (x, y, area)) in ranked:
            colour, _, dashes = style.look(k)
            axes.plot(x, y, color=colour, linestyle=dashes, label=f"{short(method, 26)}  {decimal(area)}")
        axes.legend(loc="lower right", labelcolor="linecolor", facecolor=PAPER, framealpha=0.8, edgecolor="none",
                    handlelength=2.6, borderaxespad=0.2, prop={"size": 10.5, "weight": "bold"})  # fmt: skip
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xlabel="1 \N{MINUS SIGN} specificity", ylabel="Sensitivity (malignant)")
        axes.set_title(title("ROC, with area under the curve", where), loc="left", fontsize=11.5)
        areas = ", ".join(f"{method} {decimal(area)}" for method, (_, (_, _, area)) in ranked)
        return panel(figure, f"ROC curves of {where}, malignant against benign; area under the curve: {areas}.")


def reliability(said: Outcomes, setting: Setting, error: float | None) -> Panel:
    """How often the predicted class was right, by its probability, over a histogram of the predictions of all seeds.

    Args:
        error: the expected calibration error to write beside it, a mean over runs.
    """
    right, sure = (said.probs.argmax(axis=-1) == said.true).ravel(), said.probs.max(axis=-1).ravel()
    share, score, n = reliability_curve(right, sure, N_BINS)
    with drawing(280, 330, nrows=2, sharex=True, height_ratios=(3.4, 1)) as (figure, (top, below)):
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        full = n >= FEW
        top.plot(score[full], share[full], color=SERIES[0], marker=MARKERS[0])
        top.plot(score[~full], share[~full], color=SERIES[0], marker=MARKERS[0], fillstyle="none", linestyle="none")
        top.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), ylabel="Share right")
        top.text(0.03, 0.9, f"ECE {decimal(error)}", color=INK, fontsize=11, fontweight="bold")
        top.text(0.03, 0.81, f"equal mass {decimal(equal_mass(said))}", color=INK, fontsize=9.5)
        top.set_title(title(setting.how, setting.where), loc="left", fontsize=11.5)
        below.hist(sure, np.linspace(0, 1, N_BINS + 1), color=SERIES[0], alpha=0.75, edgecolor=GRID, linewidth=0.5)
        below.set(xlabel="Probability of the predicted class", ylabel="Predictions")
        below.locator_params(axis="y", nbins=2)
        k = int(np.argmax(n))
        return panel(figure, f"Reliability of {setting}: expected calibration error {decimal(error)}; in the fullest "
                     f"bin, {n[k]} predictions of mean probability {decimal(float(score[k]), 2)}, "
                     f"{100 * share[k]:.0f}% were right.")  # fmt: skip
