"""The published augmentation of BUSSAM's training images. Every draw comes from the generator that is handed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from busistore.errors import BadInput

NEAREST, BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR


class Sample(NamedTuple):
    """image (S, S) uint8, mask (S, S) bool, low_mask (L, L) bool: the mask as large as the logits of a decoder."""

    image: np.ndarray
    mask: np.ndarray
    low_mask: np.ndarray


@dataclass(frozen=True)
class Draw:
    """What happens to one image; None, or False, where nothing does.

    Args:
        gamma: g, each grey value v of 255 becomes 255 (v / 255) ** (1 / g): brighter above 1.
        angle_deg: anticlockwise.
        scale: the image is stretched to this many times the final size, and a window of the final size cut out.
        offset: where, as shares from 0 to 1 of the room that there is in x and in y.
        contrast: 1 changes nothing, 0 leaves the mean grey alone.
    """

    gamma: float | None = None
    flip: bool = False
    angle_deg: float | None = None
    scale: float | None = None
    offset: tuple[float, float] = (0.0, 0.0)
    contrast: float | None = None


@dataclass(frozen=True)
class Augment:
    """Gamma, flip, rotation, scale with crop, contrast, each with a chance `p_` of its own; at last the resize.

    Defaults are the published ones, in the published order; `p_flip`, left and right, is not part of them.

    Args:
        gamma: the least and the greatest, in steps of `gamma_step`.
        rotate_deg: angles are uniform up to this either way; what comes into view is black, and no lesion.
        scale, contrast: the least and the greatest, uniform between.
        size_px: side of the image and the mask that come out, whatever their shape was: the aspect is not kept.
        low_px: side of the low mask.

    Source: Tu et al. (2024), arXiv 2404.14837, as released.
    """

    p_gamma: float = 0.5
    gamma: tuple[float, float] = (1.0, 2.4)
    gamma_step: float = 0.1
    p_flip: float = 0.0
    p_rotate: float = 0.5
    rotate_deg: float = 30.0
    p_scale: float = 0.5
    scale: tuple[float, float] = (1.0, 1.3)
    p_contrast: float = 0.5
    contrast: tuple[float, float] = (0.8, 2.0)
    size_px: int = 256
    low_px: int = 128

    def __post_init__(self) -> None:
        for name in ("p_gamma", "p_flip", "p_rotate", "p_scale", "p_contrast"):
            _require(0 <= getattr(self, name) <= 1, name, "from 0 to 1", getattr(self, name))
        for name, least in (("gamma", 0.01), ("scale", 1.0), ("contrast", 0.0)):
            span = getattr(self, name)
            fits = len(span) == 2 and least <= span[0] <= span[1]
            _require(fits, name, f"a least and a greatest number of at least {least:g}", span)
        _require(self.gamma_step > 0, "gamma_step", "above 0", self.gamma_step)
        _require(self.rotate_deg >= 0, "rotate_deg", "at least 0", self.rotate_deg)
        _require(self.size_px >= 1 and self.low_px >= 1, "size_px, low_px", "at least 1", (self.size_px, self.low_px))

    def draw(self, rng: np.random.Generator) -> Draw:
        """What happens to the next image: always eleven numbers of `rng`, whichever of them are made use of."""
        coins, values = rng.random(5), rng.random(6)
        chances = (self.p_gamma, self.p_flip, self.p_rotate, self.p_scale, self.p_contrast)
        gamma, flip, rotate, scale, contrast = (bool(coin < p) for coin, p in zip(coins, chances))
        return Draw(
            gamma=self._gamma(values[0]) if gamma else None,
            flip=flip,
            angle_deg=_between((-self.rotate_deg, self.rotate_deg), values[1]) if rotate else None,
            scale=_between(self.scale, values[2]) if scale else None,
            offset=(float(values[3]), float(values[4])) if scale else (0.0, 0.0),
            contrast=_between(self.contrast, values[5]) if contrast else None,
        )

    def _gamma(self, share: float) -> float:
        least, greatest = self.gamma
        n_levels = int((greatest - least) / self.gamma_step + 1e-6) + 1
        return round(least + int(share * n_levels) * self.gamma_step, 9)

    def apply(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Sample:
        """An image (H, W) uint8 and its lesion (H, W) bool, after what `rng` says happens to them.

        Raises:
            BadInput: mask and image differ in shape.
        """
        return self.carry_out(self.draw(rng), image, mask)

    def carry_out(self, draw: Draw, image: np.ndarray, mask: np.ndarray) -> Sample:
        """As `apply`, where the draw is known."""
        grey, lesion = _pictures(image, mask)
        if draw.gamma is not None:
            grey = grey.point(_gamma_table(draw.gamma))
        if draw.flip:
            grey, lesion = (p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in (grey, lesion))
        if draw.angle_deg is not None:
            grey, lesion = (p.rotate(draw.angle_deg, NEAREST, fillcolor=0) for p in (grey, lesion))
        if draw.scale is not None:
            side = int(draw.scale * self.size_px)
            window = self._window(side, draw.offset)
            grey = grey.resize((side, side), BILINEAR).crop(window)
            lesion = lesion.resize((side, side), NEAREST).crop(window)
        if draw.contrast is not None:
            grey = ImageEnhance.Contrast(grey).enhance(draw.contrast)
        return _resized(grey, lesion, self.size_px, self.low_px)

    def _window(self, side: int, offset: tuple[float, float]) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge in an image of `side` pixels; all places of it are alike."""
        room = side - self.size_px
        left, upper = (min(int(share * (room + 1)), room) for share in offset)
        return left, upper, left + self.size_px, upper + self.size_px


def plain(image: np.ndarray, mask: np.ndarray, size_px: int = 256, low_px: int = 128) -> Sample:
    """An image (H, W) uint8 and its lesion (H, W) bool, resized and nothing else: for validation and test.

    Raises:
        BadInput: mask and image differ in shape.
    """
    return _resized(*_pictures(image, mask), size_px, low_px)


def generator(seed: int, epoch: int, image: int) -> np.random.Generator:
    """The stream of one image in one epoch: it depends on no other image, so training may stop and go on anywhere.

    Args:
        image: its number in a list that does not change between epochs.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch, image))))


def _require(fits: bool, name: str, wanted: str, value: object) -> None:
    if not fits:
        raise BadInput(f"augmentation: {name} is {wanted}, not {value}")


def _between(span: tuple[float, float], share: float) -> float:
    return float(span[0] + (span[1] - span[0]) * share)


def _gamma_table(gamma: float) -> list[int]:
    """What each of 256 grey values becomes; cut, not rounded, so gamma 1 may lose a level where 255 (v / 255) < v."""
    return ((np.arange(256) / 255.0) ** (1.0 / gamma) * 255).astype(np.uint8).tolist()


def _pictures(image: np.ndarray, mask: np.ndarray) -> tuple[Image.Image, Image.Image]:
    if image.ndim != 2 or image.shape != mask.shape:
        raise BadInput(f"a mask {mask.shape} and an image {image.shape} are not both (rows, columns) of one size")
    return Image.fromarray(image), Image.fromarray(np.asarray(mask, bool).astype(np.uint8) * 255)


def _resized(grey: Image.Image, lesion: Image.Image, size_px: int, low_px: int) -> Sample:
    """The low mask is made of the resized one, as published, and not of the original."""
    lesion = lesion.resize((size_px, size_px), NEAREST)
    low = lesion.resize((low_px, low_px), NEAREST)
    image = grey.resize((size_px, size_px), BILINEAR)
    return Sample(np.array(image), np.asarray(lesion) > 127, np.asarray(low) > 127)
