"""The section on lesion masks: their scores, by lesion size too, the trainings, and what the masks look like."""

from __future__ import annotations

import polars as pl

from busistore.report import mask_panels, pictures
from busistore.report.mask_panels import Ceiling
from busistore.report.mask_tables import Row, by_stratum, ceilings, names, place, prompt, scores_of, tables, trainings
from busistore.report.mask_words import ORACLE, is_oracle, words
from busistore.report.parts import Figure, Gallery, Picture, Section, Table, cell, decimal, plural
from busistore.report.sources import Source, Sources

MOST_PANELS, MOST_GALLERIES, MOST_PICTURES = 6, 2, 6
TRAIN, SEGMENT = "busistore train-segmenter unet", "busistore segment --segmenter unet"
LEGEND = [(f"rgb{colour}", said) for colour, said in pictures.LEGEND]
BY_DICE = "{by}, {part} part; by Dice, one image of each near-duplicate group."
CAPTIONS = {
    "worst": BY_DICE, "best": BY_DICE,
    "marked": "Normal images of the {part} part that were marked by {by}; the largest marks first.",
}  # fmt: skip


def section(sources: Sources) -> Section:
    """All on masks, or the command that makes them."""
    made = Section("masks", "Where is the lesion?")
    trained, found = sources.ask("trained-segmenters", "trained_segmenters"), sources.ask("masks", "report_masks")
    rows = found.rows()
    if not rows:
        made.missing = "No lesion mask has been predicted yet."
        made.command = SEGMENT if trained.frame.height else TRAIN
    agreed = sources.ask("annotation-ceiling", "annotation_ceiling")
    of_trained = names([*trained.rows(), *rows])
    if rows:
        scores = sources.ask("mask-scores", "mask_scores")
        made.words += words(rows, agreed.rows())
        made.items += tables(found, scores, agreed, of_trained)
        made.items += _sizes(sources, rows, of_trained, scores, agreed)
    if trained.frame.height:
        made.items += [*_curves(sources, of_trained, agreed), trainings(trained, of_trained)]
    if rows:
        made.items += _galleries(sources, rows, of_trained, scores)
    return made


def shown(rows: list[Row]) -> list[Row]:
    """Test before validation, prompts of no oracle first, random weights last."""
    return sorted(rows, key=lambda r: (r["part"] != "test", r["init"] == "random", is_oracle(r["prompt"])))


def _sizes(
    sources: Sources, rows: list[Row], named: dict[str, str], scores: Source, agreed: Source
) -> list[Figure | Table]:
    of = ceilings(agreed)
    lesion = {r["source_id"]: scores_of(scores, r).drop_nulls("missed") for r in shown(rows)}
    drawn = [r for r in shown(rows) if lesion[r["source_id"]].height][:MOST_PANELS]
    if not drawn:
        return []
    share = pl.concat([lesion[r["source_id"]]["lesion_share"] for r in drawn])
    ends = float(share.min()), float(share.max())
    panels = [
        mask_panels.by_size(lesion[r["source_id"]], named[r["segmenter_id"]], place(r),
                            of.get(r["dataset"]), ends)
        for r in drawn
    ]  # fmt: skip
    caption = ("One point for each image with a lesion, all its lesions together; cross: missed. Bars: means of small "
               "(below 3% of the image), medium and large (10% and more) lesions. " + band_words(of))  # fmt: skip
    strata = sources.ask("masks-by-size", "segmentation_strata")
    made: list[Figure | Table] = [Figure("dice-by-size", "Dice against the size of the lesion", caption.strip(), panels,
                                         [scores, agreed], 1 if len(panels) == 1 else 2)]  # fmt: skip
    return [*made, by_stratum(strata, drawn, named)]


def band_words(of: dict[str, Ceiling]) -> str:
    """What the band is, for captions; nothing where there is none."""
    if not of:
        return ""
    return ("Green band: the middle half of the Dice between true masks of near-duplicate images, its median dashed; "
            "no segmenter can be asked for more.")  # fmt: skip


def _curves(sources: Sources, named: dict[str, str], agreed: Source) -> list[Figure]:
    curves = sources.ask("segmenter-curves", "segmenter_curves")
    ids = list(dict.fromkeys(curves.frame["segmenter_id"]))
    if not ids:
        return []
    lines = {named[i]: curves.frame.filter(pl.col("segmenter_id") == i) for i in ids[:MOST_PANELS]}
    of, datasets = ceilings(agreed), curves.frame["dataset"].unique()
    ceiling = of.get(datasets[0]) if len(datasets) == 1 else None
    panels = [mask_panels.curves(lines, "val_dice", "Dice on validation lesions", ceiling),
              mask_panels.curves(lines, "train_loss", "Loss on training lesions")]  # fmt: skip
    caption = ("Dot: the epoch that was kept, by its Dice on the lesions of the validation part, at the pixels of the "
               "network. " + band_words(of if ceiling else {}))  # fmt: skip
    left = len(ids) - len(lines)
    caption += f" {plural(left, 'more training')} not drawn." if left else ""
    return [Figure(curves.name, "Trainings of segmenters", caption.strip(), panels, [curves, agreed], 2)]


def _galleries(sources: Sources, rows: list[Row], named: dict[str, str], scores: Source) -> list[Gallery]:
    made = []
    for k, row in enumerate(shown(rows)[:MOST_GALLERIES]):
        suffix = "" if k == 0 else f"-{k + 1}"
        by = f"{named[row['segmenter_id']]}, prompt {prompt(row)}"
        oracle = f" {ORACLE}" if is_oracle(row["prompt"]) else ""
        lesion = scores_of(scores, row).drop_nulls("missed").sort("dice", "image_id")
        lesion = lesion.unique("group_id", keep="first", maintain_order=True)
        half = min(MOST_PICTURES, (lesion.height + 1) // 2)
        normal = scores_of(scores, row).filter(pl.col("false_positive") == 1).sort("predicted_area_px", descending=True)
        best = lesion.tail(min(half, lesion.height - half)).reverse()
        kinds = (("worst", "Worst masks", lesion.head(half)), ("best", "Best masks", best),
                 ("marked", "Marks on normal images", normal.head(MOST_PICTURES)))  # fmt: skip
        for kind, title, some in kinds:
            pictured = _pictures(sources, row, some.to_dicts())
            if pictured:
                caption = CAPTIONS[kind].format(by=by, part=row["part"]) + oracle
                made.append(Gallery(f"masks-{kind}{suffix}", title, caption, pictured, [scores], LEGEND))
    return made


def _pictures(sources: Sources, row: Row, some: list[Row]) -> list[Picture]:
    of = {r["image_id"]: r for r in some}
    return [_picture(uri, of[i]) for i, uri in pictures.overlays(sources.store, row["source_id"], list(of))]


def _picture(uri: str, row: Row) -> Picture:
    label = cell(row["label"])
    if row["missed"] is None:
        said = (label, f"marked: {plural(row['predicted_area_px'], 'pixel')}")
    elif row["missed"]:
        said = (label, "missed", f"{100 * row['lesion_share']:.1f}% of the image")
    else:
        said = (label, f"Dice {decimal(row['dice'], 2)}, HD95 {decimal(row['hd95_px'], 0)} px",
                f"{100 * row['lesion_share']:.1f}% of the image")  # fmt: skip
    return Picture(uri, f"Ultrasound image {row['image_id']} with masks: {', '.join(said)}.", row["image_id"], said)
