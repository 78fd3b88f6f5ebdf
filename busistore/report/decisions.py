"""Decision curves: the net benefit of calling an image malignant above a threshold, against calling all or none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from busistore.comparison import Outcomes
from busistore.report import style
from busistore.report.parts import decimal
from busistore.report.style import MUTED, PAPER, Panel, drawing, panel, short, title
from busistore.stats import net_benefit, treat_all

THRESHOLDS = np.arange(1, 81) / 100
SAID = 0.2  # the threshold whose net benefit is told in words


class Decision(NamedTuple):
    """Net benefit at each of THRESHOLDS: mean over the seeds, and of calling every image malignant."""

    benefit: np.ndarray
    of_all: np.ndarray


def curve(said: Outcomes) -> Decision | None:
    """The mean decision curve of a setting's seeds; None where no test image, or every one, is malignant."""
    if "malignant" not in said.classes:
        return None
    k = said.classes.index("malignant")
    positive = said.true == k
    if positive.all() or not positive.any():
        return None
    benefit = net_benefit(positive, said.probs[:, :, k], THRESHOLDS).mean(axis=0)
    return Decision(benefit, treat_all(positive, THRESHOLDS))


def panel_of(curves: dict[str, tuple[int, Decision]], where: str) -> Panel:
    """The decision curves of one encoder: by method, the number of its look and its `curve`."""
    of_all = next(iter(curves.values()))[1].of_all
    best = max(float(line.benefit.max()) for _, line in curves.values())
    top = max(best, float(of_all.max()), 0.01)  # where nothing is worth doing, 0 still lies within the axis
    with drawing(320, 290) as (figure, axes):
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.plot(THRESHOLDS, of_all, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for method, (k, line) in curves.items():
            colour, _, dashes = style.look(k)
            axes.plot(THRESHOLDS, line.benefit, color=colour, linestyle=dashes, label=short(method, 26))
        axes.legend(loc="upper right", labelcolor="linecolor", facecolor=PAPER, framealpha=0.8, edgecolor="none",
                    handlelength=2.6, borderaxespad=0.2, prop={"size": 10.5, "weight": "bold"})  # fmt: skip
        axes.set(xlim=(0, THRESHOLDS[-1]), ylim=(-0.3 * top, 1.4 * top))
        at = int(np.argmax(of_all < 0)) if (of_all < 0).any() else len(of_all) - 1
        below = {"fontsize": 9.5, "color": MUTED, "textcoords": "offset points"}
        axes.annotate("all malignant", (THRESHOLDS[at], -0.2 * top), xytext=(14, 0), **below)
        axes.annotate("none", (THRESHOLDS[-1], 0), xytext=(-2, 3), ha="right", **below)
        axes.set(xlabel="Threshold of p(malignant)", ylabel="Net benefit")
        axes.set_title(title("Net benefit, malignant", where), loc="left", fontsize=11.5)
        at = int(np.argmin(np.abs(THRESHOLDS - SAID)))
        told = ", ".join(f"{method} {decimal(float(line.benefit[at]))}" for method, (_, line) in curves.items())
        return panel(figure, f"Decision curves of {where}; net benefit at a threshold of {SAID:g}: {told}; all called "
                     f"malignant {decimal(float(of_all[at]))}.")  # fmt: skip
