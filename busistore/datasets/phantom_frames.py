"""One phantom frame without overlays, its adjacent frame, and the ways one frame is saved twice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from busistore.datasets import phantom_anatomy, phantom_lesions
from busistore.datasets.phantom_lesions import Lesion
from busistore.datasets.phantom_speckle import Noise, Scanner, compound, compress

MARGIN_PX = 16  # drawn on both sides and cropped, so that an adjacent frame can slide

MIMICS = {"benign": (0.7, 0.25, 0.05), "malignant": (0.7, 0.25, 0.05), "normal": (0.35, 0.45, 0.20)}  # none, one, two


@dataclass(frozen=True)
class Frame:
    """A clean frame.

    grey: (H, W) uint8. masks: one (H, W) bool per lesion, none of them empty. lesions: as drawn, same order,
    positions in the pixels in which the frame was first drawn. mm_per_px: size of a pixel now.
    """

    label: str
    grey: np.ndarray
    masks: tuple[np.ndarray, ...]
    lesions: tuple[Lesion, ...]
    mm_per_px: float


def sample_size(rng: np.random.Generator) -> tuple[int, int]:
    """(height, width) in pixels as the scanner draws: a full screen, or a crop of one."""
    if rng.random() < 0.6:
        return int(rng.integers(462, 476)), int(rng.integers(550, 568))
    height = int(rng.integers(330, 476))
    return height, int(np.clip(height * rng.uniform(0.85, 1.5), 350, 600))


def sample_zoom(rng: np.random.Generator) -> float:
    """How much the screen was enlarged or reduced when it was saved; most were not."""
    return float(rng.choice([1.0, rng.uniform(1.18, 1.24), rng.uniform(0.9, 1.15)], p=[0.6, 0.22, 0.18]))


def sample_scanner(rng: np.random.Generator) -> Scanner:
    """Draw the settings of one examination."""
    return Scanner(axial_px=rng.uniform(1.15, 1.55), lateral_px=rng.uniform(2.6, 4.0), spread=rng.uniform(1.0, 1.9),
                   focus=rng.uniform(0.25, 0.5), n_looks=int(rng.integers(4, 6)),
                   dynamic_range_db=rng.uniform(50, 60), noise_db=rng.uniform(-62, -51),
                   gamma=rng.uniform(0.9, 1.15), smoothing_px=rng.uniform(0.6, 0.9))


def _sample_lesions(rng: np.random.Generator, label: str, size: tuple[int, int]) -> list[Lesion]:
    """Lesions of one frame: none, one (sometimes on a lateral border), or two to three small ones."""
    if label == "normal":
        return []
    if rng.random() < (0.08 if label == "benign" else 0.03):
        return [phantom_lesions.sample_lesion(rng, label, size, small=True) for _ in range(int(rng.integers(2, 4)))]
    return [phantom_lesions.sample_lesion(rng, label, size, on_edge=bool(rng.random() < 0.05))]


def _place(lesions: list[Lesion], size: tuple[int, int]) -> tuple[list[Lesion], list[np.ndarray]]:
    """Lesions with their masks; one that would come closer than 8 px to an earlier one is left out."""
    kept, masks, taken = [], [], np.zeros(size, np.uint8)
    for lesion in lesions:
        mask = phantom_lesions.mask_of(lesion, size)
        if (mask & (cv2.dilate(taken, np.ones((17, 17), np.uint8)) > 0)).any():
            continue
        taken |= mask.astype(np.uint8)
        kept.append(lesion)
        masks.append(mask)
    return kept, masks


def _convex_corners(grey: np.ndarray, masks: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Black upper corners of a trapezoid field, unless they would cover a lesion."""
    height, width = grey.shape
    run, drop = int(width * rng.uniform(0.05, 0.14)), int(height * rng.uniform(0.4, 0.9))
    corner = np.zeros(grey.shape, np.uint8)
    cv2.fillPoly(corner, [np.array([[0, 0], [run, 0], [0, drop]], np.int32)], 1)
    corner |= corner[:, ::-1]
    if any((m & (corner > 0)).any() for m in masks):
        return grey
    return np.where(corner > 0, np.uint8(0), grey)


def _drifted(lesions: list[Lesion], drift: np.random.SeedSequence, anatomy: np.random.Generator,
             speckle: np.random.Generator) -> tuple[list[Lesion], tuple[Noise, Noise], int]:
    """Lesions, noise of anatomy and speckle, and lateral slide in pixels of the next frame of a sweep."""
    move, new_anatomy, new_speckle = (np.random.default_rng(s) for s in drift.spawn(3))
    slide = int(move.integers(-MARGIN_PX + 4, MARGIN_PX - 3))
    lesions = [les.moved(*move.normal(0, 1.5, 2), move.uniform(0.94, 1.06)) for les in lesions]
    noises = Noise(anatomy, new_anatomy, move.uniform(0.12, 0.25)), Noise(speckle, new_speckle, move.uniform(0.7, 1.1))
    return lesions, noises, slide


def draw_frame(label: str, seeds: np.random.SeedSequence, drift: np.random.SeedSequence | None = None) -> Frame:
    """Draw the frame of a seed; with `drift`, the frame next to it in the same sweep.

    A seed sequence counts what it has spawned: pass a fresh one to draw the same frame again.
    """
    geometry, anatomy, speckle = (np.random.default_rng(s) for s in seeds.spawn(3))
    size, breast, scanner = sample_size(geometry), phantom_anatomy.sample_breast(geometry), sample_scanner(geometry)
    mm_per_px = float(geometry.uniform(32, 46)) / size[0]
    corners, zoom = bool(geometry.random() < 0.04), sample_zoom(geometry)
    lesions = [les.moved(MARGIN_PX, 0, 1.0) for les in _sample_lesions(geometry, label, size)]
    mimics = [phantom_lesions.sample_mimic(geometry, size) for _ in range(int(geometry.choice(3, p=MIMICS[label])))]
    noises, slide = (Noise(anatomy), Noise(speckle)), 0
    if drift is not None:
        lesions, noises, slide = _drifted(lesions, drift, anatomy, speckle)
    field = (size[0], size[1] + 2 * MARGIN_PX)
    lesions, masks = _place(lesions, field)
    tissue = phantom_anatomy.build(breast, field, noises[0])
    for lesion, mask in zip(*_place([*lesions, *mimics], field)):
        phantom_lesions.paint(lesion, mask, tissue, noises[0])
    grey = compress(compound(*phantom_anatomy.arriving(tissue), noises[1], scanner), scanner)
    window = slice(MARGIN_PX + slide, MARGIN_PX + slide + size[1])
    grey, masks = np.ascontiguousarray(grey[:, window]), [m[:, window] for m in masks]
    if corners:
        grey = _convex_corners(grey, masks, geometry)
    seen = [i for i, mask in enumerate(masks) if mask.any()]
    frame = Frame(label, grey, tuple(masks[i] for i in seen), tuple(lesions[i] for i in seen), mm_per_px)
    return frame if zoom == 1.0 else resized(frame, zoom)


def resized(frame: Frame, scale: float) -> Frame:
    """The frame at another pixel size; masks stay binary."""
    height, width = frame.grey.shape
    size = (max(32, round(width * scale)), max(32, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    masks = tuple(cv2.resize(m.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR) > 127 for m in frame.masks)
    grey = cv2.resize(frame.grey, size, interpolation=how)
    return replace(frame, grey=grey, masks=masks, mm_per_px=frame.mm_per_px / scale)


def recropped(frame: Frame, rng: np.random.Generator) -> Frame:
    """A part of the frame that still holds every lesion pixel: 78 to 95 % of each side where lesions allow."""
    height, width = frame.grey.shape
    x0, y0, x1, y1 = width // 2, height // 2, width // 2 + 1, height // 2 + 1
    if frame.masks:
        ys, xs = np.nonzero(np.any(frame.masks, axis=0))
        x0, y0, x1, y1 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    wide = max(int(width * rng.uniform(0.78, 0.95)), min(width, x1 - x0 + 8))
    high = max(int(height * rng.uniform(0.78, 0.95)), min(height, y1 - y0 + 8))
    left = int(rng.integers(max(0, x1 - wide), min(x0, width - wide) + 1))
    top = int(rng.integers(max(0, y1 - high), min(y0, height - high) + 1))
    window = (slice(top, top + high), slice(left, left + wide))
    masks = tuple(np.ascontiguousarray(m[window]) for m in frame.masks)
    return replace(frame, grey=np.ascontiguousarray(frame.grey[window]), masks=masks)


def brightened(frame: Frame, rng: np.random.Generator) -> Frame:
    """The frame under another brightness and contrast of the screen."""
    level = frame.grey.astype(np.float32) / 255.0
    level = np.clip(level * rng.uniform(0.88, 1.15), 0, 1) ** rng.uniform(0.82, 1.22)
    return replace(frame, grey=np.rint(255 * level).astype(np.uint8))


def saved_again(frame: Frame, how: str, rng: np.random.Generator) -> Frame:
    """The same frame as a second file: "recrop", "rescale", "brightness" or "calipers" (unchanged pixels)."""
    if how == "recrop":
        return resized(recropped(frame, rng), rng.uniform(0.85, 1.15))
    if how == "rescale":
        return resized(frame, rng.uniform(0.75, 1.2))
    return brightened(frame, rng) if how == "brightness" else frame
