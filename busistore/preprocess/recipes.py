"""Recipes: named, versioned ways to make the square picture. A recipe's id changes with anything that moves a pixel.

The steps are always the same: decode, find what is burned in and change that (where a recipe asks for it), fit to the
square. A recipe is data; `prepare` and `apply` are the only code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from PIL import Image, ImageOps

from busistore.errors import BusistoreError, lookup
from busistore.ids import content_id
from busistore.preprocess.artefacts import Settings
from busistore.preprocess.cleaning import DEFAULTS, clean
from busistore.preprocess.colour import check_image, luma
from busistore.preprocess.findings import Artefacts
from busistore.preprocess.geometry import ToOriginal, placed
from busistore.preprocess.masking import artefacts_only, lesion_blacked, lesion_only
from busistore.preprocess.sector import SectorSettings, find_sector
from busistore.preprocess.text import check_reader, reader_version

SECTOR = SectorSettings()
OF_LESION = frozenset({"lesion-only", "lesion-blacked"})  # steps that are given the true mask
OF_ARTEFACTS = frozenset({"clean", "artefacts-only"})  # steps that look for what is burned in


@dataclass(frozen=True)
class Recipe:
    """How an image becomes a square of `size_px`.

    `steps` of STEPS come first, "clean" before all others; `fit` is "pad" (keep the aspect, centre on black) or
    "stretch" (fill the square). `code` counts changes of the code of this package that move a pixel.
    """

    name: str
    summary: str
    fit: str
    size_px: int = 224
    resample: str = "bicubic"
    code: int = 1
    steps: tuple[str, ...] = ()
    artefacts: Settings = DEFAULTS
    sector: SectorSettings = SECTOR
    ocr: bool = False

    @property
    def recipe_id(self) -> str:
        """Name and hash of all that can move a pixel; the summary cannot, nor can settings of steps not taken."""
        idle = {"summary"} | ({"artefacts", "ocr"} if not self.finds_artefacts else set())
        idle |= {"sector"} if "sector" not in self.steps else set()
        idle |= {"steps"} if not self.steps else set()
        key = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in idle}
        return content_id(self.name, key | ({"reader": reader_version()} if self.ocr and "ocr" in key else {}))

    @property
    def needs_lesion(self) -> bool:
        """Whether it is given the true mask."""
        return bool(OF_LESION & set(self.steps))

    @property
    def finds_artefacts(self) -> bool:
        """Whether it looks for what is burned in."""
        return bool(OF_ARTEFACTS & set(self.steps))


def _named(name: str, summary: str, *steps: str) -> Recipe:
    return Recipe(name, summary, "pad", steps=steps)


RECIPES = {
    r.name: r
    for r in (
        Recipe("pad224", "grey, aspect kept, zero-padded to 224 x 224 (the published protocol)", "pad"),
        Recipe("stretch224", "grey, stretched to 224 x 224", "stretch"),
        _named("clean224", "as pad224, calipers, lines, text and overlays filled", "clean"),
        replace(_named("clean224-ocr", "as clean224, with a text reader besides (extra: ocr)", "clean"), ocr=True),
        _named("sector224", "as clean224, cropped to the insonified sector", "clean", "sector"),
        _named("lesion-only224", "as pad224, black but for the lesion of the true mask", "lesion-only"),
        _named("lesion-blacked224", "as pad224, the lesion of the true mask black", "lesion-blacked"),
        _named("lesion-blacked-clean224", "as clean224, the lesion of the true mask black", "clean", "lesion-blacked"),
        _named("artefacts-only224", "as pad224, black but for what clean224 would fill", "artefacts-only"),
    )
}


@dataclass(frozen=True)
class Prepared:
    """An image before it is fitted: (h, w) uint8 grey, where in the original its first pixel lies, and the findings.

    `artefacts` are in original pixels, None where nothing was looked for; `filled` says whether cleaning fills
    them.
    """

    grey: np.ndarray
    origin: tuple[int, int] = (0, 0)
    artefacts: Artefacts | None = None
    filled: bool = False


@dataclass(frozen=True)
class Preprocessed:
    """A picture made by a recipe: (size, size) uint8 grey, the way back to original pixels, what it is made from."""

    pixels: np.ndarray
    to_original: ToOriginal
    prepared: Prepared


def check(recipe: Recipe) -> None:
    """Raise a BusistoreError for a recipe that needs what is not installed, before any image is made with it."""
    if recipe.ocr:
        check_reader()


def recipe(name: str) -> Recipe:
    """The recipe called `name`."""
    return lookup("recipe", name, RECIPES)


def apply(recipe: Recipe, image: np.ndarray, lesion: np.ndarray | None = None) -> Preprocessed:
    """The preprocessed picture of an (H, W) or (H, W, 3) uint8 image.

    Args:
        lesion: (H, W) bool, the true mask, for recipes that need one; no other recipe may be given it.

    Raises:
        BusistoreError: the recipe is given a mask that it must not see, or lacks the one that it needs.
        BadInput: the image has another dtype or shape than images have, or another size than its mask.
    """
    prepared = prepare(recipe, image, lesion)
    pixels, there = _fitted(recipe, prepared.grey)
    x0, y0 = prepared.origin
    return Preprocessed(pixels, ToOriginal(there.sx, there.sy, there.tx + x0, there.ty + y0), prepared)


def prepare(recipe: Recipe, image: np.ndarray, lesion: np.ndarray | None = None) -> Prepared:
    """All of `apply` but the fitting, in original pixels."""
    if recipe.needs_lesion != (lesion is not None):
        word = "needs" if recipe.needs_lesion else "must not see"
        raise BusistoreError(f"the recipe '{recipe.name}' {word} the true mask of an image")
    check_image(image, least=1)
    made = Prepared(luma(image))
    for step in recipe.steps:
        made = lookup("step", step, STEPS)(made, recipe, image, lesion)
    return made


def _clean(made: Prepared, recipe: Recipe, image: np.ndarray, lesion: None) -> Prepared:
    cleaned = clean(image, recipe.artefacts, recipe.ocr)
    return Prepared(cleaned.pixels, artefacts=cleaned.artefacts, filled=cleaned.filled)


def _sector(made: Prepared, recipe: Recipe, image: np.ndarray, lesion: None) -> Prepared:
    x0, y0, x1, y1 = find_sector(made.grey, made.artefacts and made.artefacts.mask, recipe.sector)
    return replace(made, grey=made.grey[y0:y1, x0:x1], origin=(x0, y0))


def _lesion_only(made: Prepared, recipe: Recipe, image: np.ndarray, lesion: np.ndarray) -> Prepared:
    return replace(made, grey=lesion_only(made.grey, lesion))


def _lesion_blacked(made: Prepared, recipe: Recipe, image: np.ndarray, lesion: np.ndarray) -> Prepared:
    return replace(made, grey=lesion_blacked(made.grey, lesion))


def _artefacts_only(made: Prepared, recipe: Recipe, image: np.ndarray, lesion: None) -> Prepared:
    cleaned = _clean(made, recipe, image, lesion)
    ink = cleaned.artefacts.mask if cleaned.filled else np.zeros(made.grey.shape, bool)
    return replace(cleaned, grey=artefacts_only(made.grey, ink))


STEPS = {
    "clean": _clean, "sector": _sector, "lesion-only": _lesion_only, "lesion-blacked": _lesion_blacked,
    "artefacts-only": _artefacts_only,
}  # fmt: skip


def _fitted(recipe: Recipe, grey: np.ndarray) -> tuple[np.ndarray, ToOriginal]:
    """The square, and the way back to (x, y) of `grey`."""
    image = Image.fromarray(np.ascontiguousarray(grey))
    size = (recipe.size_px, recipe.size_px)
    inner = ImageOps.contain(image, size, Image.Resampling[recipe.resample.upper()]) if recipe.fit == "pad" else (
        image.resize(size, Image.Resampling[recipe.resample.upper()])
    )
    offset = (round((size[0] - inner.width) / 2), round((size[1] - inner.height) / 2))
    square = Image.new("L", size, 0)
    square.paste(inner, offset)
    return np.asarray(square), placed(image.size, inner.size, offset)
