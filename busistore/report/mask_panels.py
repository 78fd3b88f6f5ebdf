"""Drawings on masks: Dice against the size of the lesion, and what a training lost and gained by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from busistore.metrics.masks import STRATA
from busistore.report.parts import decimal, plural
from busistore.report.style import INK, MUTED, PAPER, SERIES, Panel, drawing, look, panel, short, title

TICKS = (0.1, 0.3, 1, 3, 10, 30, 100)  # percent of the image
BAND = "agreement of true masks"


class Ceiling(NamedTuple):
    """How well true masks of near-duplicates agree: quartiles of Dice over `n_pairs`."""

    low: float
    median: float
    high: float
    n_pairs: int


def by_size(scores: pl.DataFrame, first: str, second: str, ceiling: Ceiling | None, shares: Sequence[float]) -> Panel:
    """One point for each lesion image; a line for the mean of each stratum, a cross for a miss, a band for the ceiling.

    Args:
        scores: rows of `mask_scores` of one source; images without a lesion are left out.
        first, second: the two lines of the title.
        shares: least and greatest share of an image that any panel shows.
    """
    size, dice, missed = (scores[c].to_numpy() for c in ("lesion_share", "dice", "missed"))
    with drawing(360, 290) as (figure, axes):
        _band(axes, ceiling)
        there = missed < 1
        axes.plot(100 * size[there], dice[there], "o", color=SERIES[0], markersize=4.5, alpha=0.75,
                  markeredgecolor=PAPER, markeredgewidth=0.5)  # fmt: skip
        axes.plot(100 * size[~there], dice[~there], "x", color=SERIES[1], markersize=6, markeredgewidth=1.6,
                  clip_on=False)  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(TICKS, [f"{tick:g}%" for tick in TICKS])
        axes.minorticks_off()
        axes.set(xlim=(75 * min(shares), min(133 * max(shares), 100)), ylim=(-0.03, 1.1))
        _strata(axes, size, dice)
        axes.set(xlabel="Lesion's share of the image", ylabel="Dice")
        axes.set_title(title(first, second, 52), loc="left", fontsize=11.5, color=INK)
        return panel(figure, _alt(size, dice, missed, first, second, ceiling))


def _band(axes, ceiling: Ceiling | None) -> None:
    if ceiling is None:
        return
    axes.axhspan(ceiling.low, ceiling.high, color=SERIES[2], alpha=0.18, linewidth=0)
    axes.axhline(ceiling.median, color=SERIES[2], linewidth=1.2, linestyle=(0, (5, 2)))
    axes.annotate(BAND, (1, 1), (0, 5), "axes fraction", "offset points", ha="right", va="bottom", fontsize=9.5,
                  color=SERIES[2])  # fmt: skip


def _strata(axes, size: np.ndarray, dice: np.ndarray) -> None:
    """Thresholds, names and means of the strata, as far as they are shown."""
    left, right = axes.get_xlim()
    for name, low, high in bounds():
        ends = max(100 * low, left), min(100 * high, right)
        if ends[0] >= ends[1]:
            continue
        if ends[0] > left:
            axes.axvline(ends[0], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(name, (np.sqrt(ends[0] * ends[1]), 1), (0, -1), ("data", "axes fraction"), "offset points",
                      ha="center", va="top", fontsize=9.5, color=MUTED)  # fmt: skip
        among = (size >= low) & (size < high)
        if among.any():
            axes.plot(ends, [dice[among].mean()] * 2, color=INK, linewidth=1.6, solid_capstyle="butt")


def bounds() -> list[tuple[str, float, float]]:
    """Name, lower and upper bound of each stratum of lesion size, as shares of the image.

    >>> bounds()[0]
    ('small', 0.0, 0.03)
    """
    ends = [0.0, *STRATA.values()]
    return [(name, low, high) for name, low, high in zip(STRATA, ends, ends[1:])]


def _alt(
    size: np.ndarray, dice: np.ndarray, missed: np.ndarray, first: str, second: str, ceiling: Ceiling | None
) -> str:
    said = []
    for name, low, high in bounds():
        among = (size >= low) & (size < high)
        if among.any():
            said.append(f"{name} {decimal(float(dice[among].mean()))} ({plural(int(among.sum()), 'image')})")
    band = f" True masks of near-duplicates agree at a median of {decimal(ceiling.median)}." if ceiling else ""
    return (f"Dice of {first}, {second}, by size of the lesion; means: {', '.join(said)}; "
            f"{plural(int(missed.sum()), 'lesion')} missed.{band}")  # fmt: skip


def curves(lines: dict[str, pl.DataFrame], column: str, label: str, ceiling: Ceiling | None = None) -> Panel:
    """A value of each training by epoch; a dot stands at the epoch that was kept.

    Args:
        lines: rows of `segmenter_curves` by the name of the training.
        column: train_loss or val_dice.
        ceiling: drawn as a band, where the value is Dice.
    """
    with drawing(360, 290) as (figure, axes):
        _band(axes, ceiling)
        for k, (name, rows) in enumerate(lines.items()):
            colour, _, dashes = look(k)
            rows = rows.drop_nulls(column)
            axes.plot(rows["epoch"], rows[column], color=colour, linestyle=dashes, label=short(name, 40), linewidth=1.5)
            kept = rows.filter("kept")
            axes.plot(kept["epoch"], kept[column], "o", color=colour, markersize=6, markeredgecolor=PAPER)
        if column == "val_dice":
            axes.set_ylim(-0.03, 1.03)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="Epoch", ylabel=label)
        axes.legend(loc="lower right" if column == "val_dice" else "upper right", labelcolor="linecolor",
                    facecolor=PAPER, framealpha=0.8, edgecolor="none", handlelength=2.4,
                    prop={"size": 10, "weight": "bold"})  # fmt: skip
        axes.set_title(label, loc="left", fontsize=11.5, color=INK)
        return panel(figure, _curves_alt(lines, column, label))


def _curves_alt(lines: dict[str, pl.DataFrame], column: str, label: str) -> str:
    said = []
    for name, rows in lines.items():
        values, kept = rows.drop_nulls(column), rows.filter("kept")
        if values.height:
            at = f", {decimal(kept[column][0])} at epoch {kept['epoch'][0]}, which was kept" if kept.height else ""
            said.append(f"{name} from {decimal(values[column][0])} to {decimal(values[column][-1])}{at}")
    return f"{label} by epoch: {'; '.join(said)}."
