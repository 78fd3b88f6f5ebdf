"""Overlays drawn on overlay-free breast ultrasound as scanners draw them, from a seed: picture, truth and positions.

A case keeps its clean picture (scaled and compressed like the drawn one), the changed pixels and every mark's centre.
Images are split by near-duplicate group into a part to tune a detector on and a part to score it on.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scanner_strokes import LAYERS, Base, Canvas, Mark, Text, calipers, doppler, label, pick_colour

from busistore import pixels
from busistore.datasets import phantom_overlays as phantom

PARTS = {"tune": 1, "score": 2}
"""Part of the bases -> first word of its seeds."""
OVERLAY_FLAGS = {"has_caliper": "0", "text": "", "has_colour": "0", "body_mark": "0"}
TROUBLE = {"": 0.74, "bright": 0.10, "cut": 0.10, "overlap": 0.06}
"""What is made hard on purpose, and in which share of the cases."""
MIN_CHANGE = 8
"""Grey levels by which a pixel must change to belong to the true mask; less is lost in speckle."""


@dataclass(frozen=True)
class Case:
    """A drawn image and its truth.

    clean: (H, W) uint8. drawn: (H, W) or, where something is coloured, (H, W, 3) uint8. mask: (H, W) bool, the pixels
    that the overlay changed. layer: (H, W) uint8, 1 + place in LAYERS where `mask`, else 0.
    """

    base: Base
    clean: np.ndarray
    drawn: np.ndarray
    mask: np.ndarray
    layer: np.ndarray
    marks: tuple[Mark, ...]
    texts: tuple[Text, ...]
    tags: frozenset[str]

    @property
    def holds_sign(self) -> bool:
        """Whether the clean image itself holds a vendor's sign, which may be taken out or not."""
        return has_sign(self.base.grey)


def truth(folder: Path) -> list[dict[str, str]]:
    """The rows of `truth.csv`, one per image."""
    with (folder / "truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def image_path(folder: Path, row: dict[str, str]) -> Path:
    return folder / "Dataset_BUSI_with_GT" / row["label"] / f"{row['image']}.png"


def part_of(group: str) -> str:
    """The part that a near-duplicate group belongs to; half of the groups each."""
    return list(PARTS)[hashlib.sha256(group.encode()).digest()[0] % 2]


def bases(folder: Path, part: str = "tune") -> list[Base]:
    """The overlay-free images of a part, in the order of a hash of their names, so that the first n are a fair draw."""
    rows = [r for r in truth(folder) if part_of(r["leak_group"]) == part]
    rows = [r for r in rows if all(r[flag] == clear for flag, clear in OVERLAY_FLAGS.items())]
    rows.sort(key=lambda r: hashlib.sha256(r["image"].encode()).digest())
    return [_base(image_path(folder, row), row) for row in rows]


def _base(path: Path, row: dict[str, str]) -> Base:
    masks = [pixels.mask(p.read_bytes(), p.name) for p in sorted(path.parent.glob(f"{path.stem}_mask*.png"))]
    grey = pixels.grey(path.read_bytes(), path.name)
    masks = [m for m in masks if m.shape == grey.shape]
    lesion = np.any([np.zeros(grey.shape, bool), *masks], axis=0)
    return Base(row["image"], row["label"], row["leak_group"], grey, lesion)


def cases(chosen: list[Base], part: str, n: int, seed: int = 0, extras: bool = False) -> list[Case]:
    """`n` cases over the bases, each base once before any comes again; the same for the same arguments."""
    seeds = [np.random.default_rng([PARTS[part], seed, k]) for k in range(n)]
    return [draw(chosen[k % len(chosen)], rng, extras) for k, rng in enumerate(seeds)]


def draw(base: Base, rng: np.random.Generator, extras: bool = False) -> Case:
    """One case: calipers on the lesion (or where one could be), perhaps a label and a vendor sign; then the export.

    With `extras`, also one of depth scale, focus mark, body mark and colour frame.
    """
    trouble = str(rng.choice(list(TROUBLE), p=list(TROUBLE.values())))
    base = brightened(base) if trouble == "bright" else base
    canvas = Canvas(base, phantom.Overlay.empty(base.grey.shape), np.zeros(base.grey.shape, np.uint8))
    tissue = doppler(canvas, rng) if rng.random() < 0.04 else base.grey
    colour, outlined = pick_colour(canvas, rng), bool(rng.random() < 0.5)
    calipers(canvas, colour, outlined, trouble, rng)
    if rng.random() < 0.5:
        label(canvas, colour, outlined, rng)
    if rng.random() < 0.3 and not has_sign(base.grey):
        _by_phantom(canvas, "logo", lambda ink: phantom.add_vendor_glyph(ink, rng))
    if extras:
        _extra(canvas, rng)
    drawn = _over(canvas.ink, tissue)
    return _exported(canvas, drawn if canvas.tags & {"colour", "doppler", "frame"} else drawn[:, :, 0], rng)


def brightened(base: Base) -> Base:
    """The base with so much gain, at most 1.8, that its brightest tissue saturates."""
    most = float(cv2.boxFilter(base.grey, cv2.CV_32F, (13, 13))[20:-20, 20:-20].max())
    grey = np.clip(base.grey * min(1.8, 255 / max(most, 1.0)), 0, 255).astype(np.uint8)
    return replace(base, grey=grey)


def _extra(canvas: Canvas, rng: np.random.Generator) -> None:
    kind = str(rng.choice(["scale", "focus", "bodymark", "frame"]))
    height, width = canvas.layer.shape
    if kind == "scale":
        _by_phantom(canvas, kind, lambda ink: phantom.add_depth_scale(ink, float(rng.uniform(0.06, 0.11))))
    elif kind == "bodymark":
        _by_phantom(canvas, kind, lambda ink: phantom.add_body_mark(ink, rng))
    elif kind == "focus":
        ink, x, y = np.zeros((height, width), np.float32), width - 12, int(rng.uniform(0.2, 0.7) * height)
        cv2.fillPoly(ink, [np.array([[x, y], [x + 9, y - 5], [x + 9, y + 5]])], 1.0)
        canvas.put(ink, (226, 226, 226), "other")
    else:
        ink = np.zeros((height, width), np.float32)
        x, y = (int(rng.uniform(0.1, 0.3) * side) for side in (width, height))
        cv2.rectangle(ink, (x, y), (x + width // 2, y + height // 2), 1.0, 1)
        canvas.put(ink, phantom.COLOURS[str(rng.choice(["yellow", "green"]))], "other")
    canvas.tags.add(kind)


def _by_phantom(canvas: Canvas, tag: str, add: Callable[[phantom.Overlay], None]) -> None:
    """Adds an element of the phantom's, whose ink covers what was there."""
    new = phantom.Overlay.empty(canvas.layer.shape)
    add(new)
    over = new.ink > 0
    canvas.ink.ink[over], canvas.ink.paint[over] = new.ink[over], new.paint[over]
    canvas.layer[over] = 1 + LAYERS.index("logo" if tag == "logo" else "other")
    canvas.tags.add(tag)


def has_sign(grey: np.ndarray) -> bool:
    """Whether the top left corner already holds white next to black, as a vendor's outlined sign does."""
    corner = grey[:24, :40]
    return bool(corner.max() > 170 and corner.min() < 30)


def _over(ink: phantom.Overlay, tissue: np.ndarray) -> np.ndarray:
    """(H, W, 3): the overlay on (H, W) or (H, W, 3) tissue."""
    if tissue.ndim == 2:
        return ink.burn(tissue)
    share = ink.ink[:, :, None]
    return np.rint(tissue * (1 - share) + ink.paint * share).astype(np.uint8)


def _exported(canvas: Canvas, drawn: np.ndarray, rng: np.random.Generator) -> Case:
    """The case after what happens between scanner and file: perhaps another scale, perhaps JPEG."""
    clean, layer, marks, texts, tags = canvas.base.grey, canvas.layer, canvas.marks, canvas.texts, set(canvas.tags)
    if rng.random() < 0.3:
        tags.add("rescaled")
        factor, how = rng.uniform(0.72, 0.95), int(rng.choice([cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
        clean, drawn = (cv2.resize(i, None, fx=factor, fy=factor, interpolation=how) for i in (clean, drawn))
        fx, fy = clean.shape[1] / layer.shape[1], clean.shape[0] / layer.shape[0]
        layer = _nearest(layer, clean.shape)
        marks = [Mark((m.x + 0.5) * fx - 0.5, (m.y + 0.5) * fy - 0.5, m.kind, m.half * fx, m.thickness * fx, m.level,
                      m.tags) for m in marks]  # fmt: skip
        texts = [Text(tuple(round(v * f) for v, f in zip(t.box, (fx, fy) * 2)), t.text, t.kind) for t in texts]
    change = np.abs(drawn.astype(int) - (clean if drawn.ndim == 2 else clean[:, :, None]))
    mask = (change if drawn.ndim == 2 else change.max(axis=2)) >= MIN_CHANGE
    if rng.random() < 0.2:
        tags.add("jpeg")
        quality = int(rng.integers(75, 93))
        clean, drawn = jpeg(clean, quality), jpeg(drawn, quality)
    return Case(canvas.base, clean, drawn, mask, np.where(mask, _spread(layer), 0).astype(np.uint8), tuple(marks),
                tuple(texts), frozenset(tags))  # fmt: skip


def _nearest(layer: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The layer at another scale; an overlay pixel wins over tissue, so that thin strokes stay."""
    return cv2.resize(cv2.dilate(layer, np.ones((2, 2), np.uint8)), shape[::-1], interpolation=cv2.INTER_NEAREST)


def _spread(layer: np.ndarray) -> np.ndarray:
    """Every tissue pixel within 2 px of ink belongs to it: smeared edges are changed pixels too."""
    return np.where(layer > 0, layer, cv2.dilate(layer, np.ones((5, 5), np.uint8)))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """A (H, W) or (H, W, 3) RGB image after JPEG."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if image.ndim == 2:
        return cv2.imdecode(cv2.imencode(".jpg", image, flags)[1], cv2.IMREAD_GRAYSCALE)
    coded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), flags)[1]
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[:, :, ::-1])
