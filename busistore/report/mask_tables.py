"""Tables of masks: names of segmenters, scores with intervals, lesions found, strata and trainings."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import numpy as np
import polars as pl

from busistore.report.mask_panels import Ceiling
from busistore.report.mask_words import INITS, ORACLE, is_oracle
from busistore.report.parts import NONE, Table, cell, count, decimal, duration
from busistore.report.sources import Source
from busistore.stats import grouped_mean

Row = dict[str, Any]
WHO = ("Segmenter", "Prompt, part")
MEANS = ("Dice", "HD95, px", "NSD at 3 px", "Images", "Missed", "Marked")


def names(rows: list[Row]) -> dict[str, str]:
    """The shortest name of each trained segmenter, by its id: its kind, in what it differs, and its first weights."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["segmenter_id"], row)
    named = {}
    for segmenter_id, row in first.items():
        others = [r for r in first.values() if r["segmenter"] == row["segmenter"]]
        named[segmenter_id] = ", ".join([row["segmenter"], *_differs(row, others), *INITS.get(row["init"], [])])
    same = {name for name, of in itertools.groupby(sorted(named.values())) if len(list(of)) > 1}
    return {i: i if name in same else name for i, name in named.items()}


def _differs(row: Row, others: list[Row]) -> list[str]:
    """The parameters of a row in which it differs from others of its kind."""
    mine, theirs = _parameters(row), [_parameters(r) for r in others]
    varied = sorted({k for o in theirs for k in {*o, *mine} if o.get(k) != mine.get(k)})
    return [f"{k} {mine[k]}" for k in varied if k in mine]


def _parameters(row: Row) -> Row:
    return json.loads(row.get("parameters") or "{}")


def prompt(row: Row) -> str:
    """The protocol of prompts of a row, with what proposes them where that is known; of its hash four digits.

    >>> prompt({"prompt": "auto", "proposer": "unet-b81be5fc75b9.a629bfff5c35"})
    'auto (unet-b81b)'
    """
    proposer = re.sub(r"(-[0-9a-f]{4})[0-9a-f]{8}(\.[0-9a-f]+)?$", r"\1", row["proposer"] or "")
    return f"{row['prompt']} ({proposer})" if proposer else row["prompt"]


def place(row: Row) -> str:
    """The prompt and the part of a row."""
    return f"{prompt(row)}, {row['part']}"


def scores_of(scores: Source, row: Row) -> pl.DataFrame:
    return scores.frame.filter(pl.col("source_id") == row["source_id"])


def ceilings(agreed: Source) -> dict[str, Ceiling]:
    """By data set, how well the true masks of near-duplicates agree."""
    every = (r for r in agreed.rows() if r["pairs"] == "all" and r["dice_median"] is not None)
    return {r["dataset"]: Ceiling(r["dice_q1"], r["dice_median"], r["dice_q3"], r["n_pairs"]) for r in every}


def tables(found: Source, scores: Source, agreed: Source, named: dict[str, str]) -> list[Table]:
    """The means with their intervals and counts, and the lesions one by one."""
    rows, used = found.rows(), [found, scores]
    several = len({r["dataset"] for r in rows}) > 1
    who = [[_who(r, named, several), place(r)] for r in rows]
    lines = [[*first, *_means(r, scores_of(scores, r))] for first, r in zip(who, rows)]
    for r in (r for r in agreed.rows() if r["pairs"] == "all" and r["dice_mean"] is not None):
        means = decimal(r["dice_mean"]), decimal(r["hd95_px_mean"], 1), decimal(r["nsd_3px_mean"])
        whose = "Annotation ceiling" + (f", {r['dataset']}" if several else "")
        lines.append([whose, NONE, *means, f"{count(r['n_pairs'])} pairs", NONE, NONE])
    note = ("Means with 95% intervals: bootstrap over near-duplicate groups of images, within the classes; they cover "
            "new images of the same source, not another training. Images: those with a Dice, and those with an HD95. "
            "Missed: lesion images with an empty mask. Marked: normal images with any.")  # fmt: skip
    note += f" {ORACLE}" if any(is_oracle(r["prompt"]) for r in rows) else ""
    means = Table(found.name, "Predicted masks against the truth", [*WHO, *MEANS], lines, [*used, agreed], note)
    compat = any(r["segmenter"] == "bussam" for r in rows)
    head = [*WHO, "Lesions found", "False marks", "False marks per image", *["hd_bussam_compat"] * compat]
    lines = [[*first, *_lesions(r, scores_of(scores, r), compat)] for first, r in zip(who, rows)]
    note = "A lesion is found where a marked region meets it with an IoU of 0.1 or more; one that meets none is false."
    return [means, Table("lesions-found", "Lesions one by one", head, lines, used, note)]


def _who(row: Row, named: dict[str, str], several: bool) -> str:
    return named[row["segmenter_id"]] + (f", {row['dataset']}" if several else "")


def _means(row: Row, scores: pl.DataFrame) -> list[str]:
    values = [_interval(scores, c, digits) for c, digits in (("dice", 3), ("hd95_px", 1), ("nsd_3px", 3))]
    used = ", ".join(count(scores[c].count()) for c in ("dice", "hd95_px"))
    missed = f"{count(row['n_missed'])} of {count(scores['missed'].count())}"
    marked = f"{count(row['n_false_positive'])} of {count(scores['false_positive'].count())}"
    return [*values, used, missed, marked]


def _lesions(row: Row, scores: pl.DataFrame, compat: bool) -> list[str]:
    found, per_image = row["n_found"], (row["n_false_marks"] or 0) / max(row["n_images"], 1)
    share = f" ({found / row['n_lesions']:.0%})" if row["n_lesions"] else ""
    more = [decimal(scores["hd_bussam_compat"].mean(), 2)] if compat else []
    of = f"{count(found)} of {count(row['n_lesions'])}{share}"
    return [of, count(row["n_false_marks"]), decimal(per_image, 2), *more]


def _interval(scores: pl.DataFrame, column: str, digits: int) -> str:
    """The mean of a score with its interval over groups."""
    values = scores[column].to_numpy().astype(np.float64)
    if np.isnan(values).all():
        return NONE
    _, true = np.unique(scores["label"].fill_null("").to_numpy(), return_inverse=True)
    found = grouped_mean(values, true, scores["group_id"].to_list())
    mean = decimal(found.estimate, digits)
    return mean if found.low is None else f"{mean} ({decimal(found.low, digits)}–{decimal(found.high, digits)})"


def by_stratum(strata: Source, drawn: list[Row], named: dict[str, str]) -> Table:
    head = [*WHO, "Lesions", "Images", "Missed", "Dice, mean", "Dice, median", "HD95, px",
            "NSD at 3 px"]  # fmt: skip
    lines = [
        [named[r["segmenter_id"]], place(r), s["stratum"], count(s["n_images"]), count(s["n_missed"]),
         decimal(s["dice"]), decimal(s["dice_median"]), decimal(s["hd95_px"], 1), decimal(s["nsd_3px"])]
        for r in drawn for s in strata.rows() if s["source_id"] == r["source_id"]
    ]  # fmt: skip
    return Table(strata.name, "Masks by the size of the lesion", head, lines, [strata])


def trainings(trained: Source, named: dict[str, str]) -> Table:
    head = ["Segmenter", "Training lesions", "Validation lesions", "Numbers trained", "Epochs", "Epoch kept",
            "Dice, validation", "Time", "Processor time", "Device", "First weights"]  # fmt: skip
    lines = [
        [named[r["segmenter_id"]], count(r["n_train"]), count(r["n_val"]), count(r["n_trained"]), count(r["n_epochs"]),
         count(r["best_epoch"]), decimal(r["val_dice"]), duration(r["seconds"]), duration(r["cpu_seconds"]),
         cell(r["device"]), cell(r["weights_source"])]
        for r in trained.rows()
    ]  # fmt: skip
    return Table(trained.name, "Trained segmenters", head, lines, [trained])
