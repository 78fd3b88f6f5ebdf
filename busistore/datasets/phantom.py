"""A synthetic breast-ultrasound data set in the BUSI layout, drawn from a seed, with known truth.

Image k depends on the seed and on k alone: a longer drawing begins with the shorter one.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from busistore.datasets import phantom_overlays as overlays
from busistore.datasets.phantom_frames import Frame, draw_frame, saved_again
from busistore.errors import BadInput

SHARES = {"benign": 0.56, "malignant": 0.27, "normal": 0.17}
CALIPERS = {"benign": 0.24, "malignant": 0.18, "normal": 0.0}
VARIANT_EVERY = 5  # every fifth image shows a frame that an earlier image shows, or the one next to it
VARIANTS = ("calipers", "adjacent", "recrop", "brightness", "rescale", "recrop", "adjacent", "calipers")
TWIN_AT = 59  # this image is, byte for byte, an earlier benign one filed as malignant
COLUMNS = ("image", "label", "width_px", "height_px", "n_masks", "union_mask_area_px", "same_frame_group", "leak_group",
           "has_caliper", "text", "has_colour", "touches_edge", "multi_lesion", "body_mark", "spans_classes",
           "n_lesions", "mode", "variant", "variant_of", "mm_per_px", "lesions", "marks")

WORDS = ("shape", "margin", "orientation", "pattern", "posterior", "halo", "calcified")


@dataclass(frozen=True)
class Plan:
    """What image `index` shows. `parent` is the index of the image it repeats, or its own."""

    index: int
    label: str
    number: int
    parent: int
    variant: str

    @property
    def name(self) -> str:
        return f"{self.label} ({self.number})"


@dataclass(frozen=True)
class Picture:
    """One finished image: RGB (H, W, 3) or grey (H, W) uint8, masks (H, W) bool per lesion, and its truth."""

    pixels: np.ndarray
    masks: tuple[np.ndarray, ...]
    truth: dict


def _seeds(seed: int, index: int, part: int) -> np.random.SeedSequence:
    """Independent streams per image and part (0 plan, 1 frame, 2 drift, 3 overlays)."""
    return np.random.SeedSequence(seed, spawn_key=(index, part))


def plan(n_images: int, seed: int) -> list[Plan]:
    """What each image will show; the plan of a longer drawing begins with that of a shorter one."""
    plans: list[Plan] = []
    counts: Counter = Counter()
    for k in range(n_images):
        rng = np.random.default_rng(_seeds(seed, k, 0))
        label, parent, variant = _next(plans, counts, rng)
        counts[label] += 1
        plans.append(Plan(k, label, counts[label], parent, variant))
    return plans


def _next(plans: list[Plan], counts: Counter, rng: np.random.Generator) -> tuple[str, int, str]:
    """Label, parent and variant of the image that follows `plans`."""
    k = len(plans)
    label = max(SHARES, key=lambda name: SHARES[name] * (k + 1) - counts[name])
    if k % VARIANT_EVERY != VARIANT_EVERY - 1:
        return label, k, ""
    variant = "twin" if k == TWIN_AT else VARIANTS[(k // VARIANT_EVERY) % len(VARIANTS)]
    lesion_only, benign_only = variant == "calipers", variant == "twin"
    parents = [p for p in plans if not p.variant and not (lesion_only and p.label == "normal")
               and not (benign_only and p.label != "benign")]
    parent = parents[int(rng.integers(len(parents)))]
    return ("malignant" if variant == "twin" else parent.label), parent.index, variant


def _frame(plans: list[Plan], k: int, seed: int) -> Frame:
    """The clean frame of image k."""
    entry = plans[k]
    seeds, label = _seeds(seed, entry.parent, 1), plans[entry.parent].label
    if entry.variant == "adjacent":
        return draw_frame(label, seeds, _seeds(seed, k, 2))
    frame = draw_frame(label, seeds)
    return saved_again(frame, entry.variant, np.random.default_rng(_seeds(seed, k, 2))) if entry.variant else frame


def _burn(frame: Frame, entry: Plan, rng: np.random.Generator) -> tuple[overlays.Overlay, str]:
    """Overlays of an image and the text among them; every random number is drawn whether it is used or not."""
    overlay = overlays.Overlay.empty(frame.grey.shape)
    chance = rng.random(5)
    if frame.masks and (entry.variant == "calipers" or chance[0] < CALIPERS[frame.label]):
        overlays.add_calipers(overlay, max(frame.masks, key=np.count_nonzero), rng)
    if chance[1] < 0.62:
        overlays.add_vendor_glyph(overlay, rng)
    if chance[2] < 0.12:
        overlays.add_depth_scale(overlay, frame.mm_per_px)
    if chance[3] < 0.03:
        overlays.add_body_mark(overlay, rng)
    text = overlays.add_text(overlay, rng) if chance[4] < 0.2 else ""
    return overlay, text


def render(plans: list[Plan], k: int, seed: int) -> Picture:
    """Draw image k of a plan."""
    entry = plans[k]
    if entry.variant == "twin":
        other = render(plans, entry.parent, seed)
        return Picture(other.pixels, other.masks, other.truth | {"image": entry.name, "label": entry.label})
    frame = _frame(plans, k, seed)
    rng = np.random.default_rng(_seeds(seed, k, 3))
    overlay, text = _burn(frame, entry, rng)
    rgb = overlay.burn(frame.grey)
    coloured = bool((rgb.max(axis=2) != rgb.min(axis=2)).any())
    grey = not coloured and rng.random() < 0.65
    truth = _truth(entry, frame, overlay, text) | {"has_colour": int(coloured), "mode": "L" if grey else "RGB"}
    return Picture(rgb[:, :, 0] if grey else rgb, frame.masks, truth)


def _truth(entry: Plan, frame: Frame, overlay: overlays.Overlay, text: str) -> dict:
    """The truth of one image that needs no other image."""
    height, width = frame.grey.shape
    union = np.any(frame.masks, axis=0) if frame.masks else np.zeros((height, width), bool)
    kinds = {m["kind"] for m in overlay.marks}
    on_edge = union[0].any() or union[-1].any() or union[:, 0].any() or union[:, -1].any()
    return {
        "image": entry.name, "label": entry.label, "width_px": width, "height_px": height,
        "n_masks": max(1, len(frame.masks)), "union_mask_area_px": int(union.sum()),
        "has_caliper": int(bool(kinds & {"+", "x", "gap"})), "text": text, "touches_edge": int(on_edge),
        "multi_lesion": int(len(frame.masks) > 1), "body_mark": int("body mark" in kinds),
        "n_lesions": len(frame.masks), "mm_per_px": round(frame.mm_per_px, 5),
        "lesions": json.dumps([_described(les, m) for les, m in zip(frame.lesions, frame.masks)]),
        "marks": json.dumps(overlay.marks),
    }


def _described(lesion, mask: np.ndarray) -> dict:
    """Lexicon words of a lesion and where it is in the saved image."""
    ys, xs = np.nonzero(mask)
    box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
    return {**{word: getattr(lesion, word) for word in WORDS}, "box": box, "area_px": len(xs)}


def _grouped(plans: list[Plan]) -> list[dict]:
    """Group columns of the truth: same frame (empty when alone), leak group, variant and its parent."""
    frame_of = [p.index if p.variant == "adjacent" else p.parent for p in plans]
    sizes = Counter(frame_of)
    classes = {root: {p.label for p in plans if p.parent == root} for root in {p.parent for p in plans}}
    return [{"same_frame_group": f"F{frame:04d}" if sizes[frame] > 1 else "", "leak_group": f"L{p.parent:04d}",
             "spans_classes": int(len(classes[p.parent]) > 1), "variant": p.variant,
             "variant_of": plans[p.parent].name if p.variant else ""} for p, frame in zip(plans, frame_of)]


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a grey or RGB uint8 array."""
    data = pixels if pixels.ndim == 2 else pixels[:, :, ::-1]
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(data))[1].tobytes())


def _save(folder: Path, picture: Picture) -> None:
    """Write an image and its masks; a normal image has one black mask."""
    stem = picture.truth["image"]
    masks = picture.masks or (np.zeros(picture.pixels.shape[:2], bool),)
    _write_png(folder / f"{stem}.png", picture.pixels)
    for i, mask in enumerate(masks):
        _write_png(folder / f"{stem}_mask{f'_{i}' if i else ''}.png", mask.astype(np.uint8) * 255)


def draw(folder: Path, n_images: int = 120, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> None:
    """Draw a data set into `folder`: FOLDER/<label>/<label> (N).png, its masks, and truth.csv last.

    Args:
        folder: made if absent; may hold other things, but no drawing.
        n_images: at least 1; from 4 on every class is there, from 60 on a byte-identical pair across classes.
        progress: called after each image with the number drawn and n_images.

    Raises:
        BadInput: `n_images` or `seed` out of range, or a drawing in the way.
    """
    folder = Path(folder)
    _check(folder, n_images, seed)
    work = folder / ".drawing"  # an interrupted drawing leaves only this behind, and the next one clears it
    shutil.rmtree(work, ignore_errors=True)
    for label in SHARES:
        (work / label).mkdir(parents=True)
    plans = plan(n_images, seed)
    rows = []
    for k, groups in enumerate(_grouped(plans)):
        picture = render(plans, k, seed)
        _save(work / plans[k].label, picture)
        rows.append(picture.truth | groups)
        if progress is not None:
            progress(k + 1, n_images)
    with (work / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for name in (*SHARES, "truth.csv"):
        os.replace(work / name, folder / name)
    work.rmdir()


def _check(folder: Path, n_images: int, seed: int) -> None:
    if n_images < 1:
        raise BadInput(f"cannot draw {n_images} phantoms: give 1 or more")
    if seed < 0:
        raise BadInput(f"seed {seed} is negative: give 0 or more")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"'{folder}' is a file: name a folder for the phantoms")
    taken = [name for name in (*SHARES, "truth.csv") if (folder / name).exists()]
    if taken:
        raise BadInput(f"'{folder}' already holds '{taken[0]}': name an empty folder, or delete that drawing first")
