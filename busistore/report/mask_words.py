"""What a reader must be told of masks: prompts from the truth, random weights, the ceiling, BUSSAM's release."""

from __future__ import annotations

from typing import Any

from busistore.report.parts import count, decimal, plural

ORACLE = "Oracle: the prompt is taken from the truth."
INITS = {
    "random": ["random weights"], "sam": ["from SAM's weights"], "bussam": ["published weights"],
    "fine-tuned": ["from SAM trained on elsewhere"],
}  # fmt: skip
POLICY = (
    "Masks are compared in the pixels of the original images. Dice and NSD count 0 for a missed lesion and for a "
    "normal image that got a mask; normal images rightly left empty are not in the mean. The distance of a missed "
    "lesion is the diagonal of the image."
)
BUSSAM = (
    f"BUSSAM's released code builds adapters between its branches that never run: {count(23_607_568)} of the "
    f"{count(25_052_432)} parameters it calls trainable get no gradient, and {count(1_444_864)} are really trained.",
    "What BUSSAM's release calls HD is no Hausdorff distance: the truth against itself scores 8.97 on 647 lesions of "
    "BUSI. It stands here as hd_bussam_compat, to compare with published numbers alone; the distance is HD95.",
    "Every published number of BUSSAM uses a click taken from the true mask, which is the prompt oracle-click here.",
)


def is_oracle(prompt: str) -> bool:
    """Whether a protocol of prompts looks at the truth."""
    return prompt.startswith("oracle")


def words(rows: list[dict[str, Any]], agreed: list[dict[str, Any]]) -> list[str]:
    """The sentences above the table of `report_masks`.

    Args:
        rows: of `report_masks`.
        agreed: of `annotation_ceiling`.
    """
    said = [POLICY, *(_ceiling(r) for r in agreed if r["pairs"] == "all" and r["dice_median"] is not None)]
    said += [_kinds(agreed)] if len({r["pairs"] for r in agreed} - {"all"}) > 1 else []
    if any(is_oracle(r["prompt"]) for r in rows):
        said.append(f"{ORACLE} Such rows answer how well an outline is drawn once someone has pointed at the lesion. "
                    "They do not compare with rows of the prompt auto, and say nothing of normal images, where nobody "
                    "would point.")  # fmt: skip
    if any(r["init"] == "random" for r in rows):
        said.append("Random weights: the frozen part of the network was never trained on anything. Such rows say what "
                    "a training costs, not what the segmenter can do.")  # fmt: skip
    if any(r["part"] == "val" for r in rows):
        said.append("Part val: the epoch was chosen on lesions of these very images, so these scores are optimistic.")
    return said + (list(BUSSAM) if any(r["segmenter"] == "bussam" for r in rows) else [])


def _ceiling(row: dict[str, Any]) -> str:
    pairs, groups = plural(row["n_pairs"], "pair"), plural(row["n_groups"], "group")
    equal = f" In {plural(row['n_equal'], 'pair')} both masks are the same." if row["n_equal"] else ""
    equal += f" In {plural(row['n_apart'], 'pair')} the masks share no pixel." if row["n_apart"] else ""
    half = f"{decimal(row['dice_q1'])} to {decimal(row['dice_q3'])}"
    return (
        f"Annotation ceiling of {row['dataset']}: laid over each other, the true masks of {pairs} of near-duplicate "
        f"images (of {groups}) agree with a median Dice of {decimal(row['dice_median'])}, the middle half from {half}, "
        f"and a median HD95 of {decimal(row['hd95_px_median'], 1)} px.{equal} A higher score is no better outline, but "
        "a habit of drawing that was learned. Masks copied from an image to its twin would raise the ceiling; errors "
        "of the alignment lower it."
    )


def _kinds(agreed: list[dict[str, Any]]) -> str:
    kinds = [f"{decimal(r['dice_median'])} in {plural(r['n_pairs'], 'pair')} of {WHAT[r['pairs']]} ({r['dataset']})"
             for r in agreed if r["pairs"] in WHAT]  # fmt: skip
    return "Told apart, the median Dice is " + ", ".join(kinds) + "."


WHAT = {"identical": "identical pictures", "similar": "pictures that are merely alike"}
