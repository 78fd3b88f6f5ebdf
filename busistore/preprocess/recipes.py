"""Recipes: named, versioned ways to make the square picture. A recipe's id changes with anything that moves a pixel.

The steps are always the same: decode to grey, clean (where a recipe asks for it: `artefacts.py` is the place),
fit to the square. A recipe is data; `apply` is the only code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from busistore.errors import lookup
from busistore.ids import content_id
from busistore.preprocess.geometry import ToOriginal, placed


@dataclass(frozen=True)
class Recipe:
    """How an image becomes a square of `size_px`.

    `fit` is "pad" (keep the aspect, centre on black) or "stretch" (fill the square). `code` counts changes of this
    module that move a pixel.
    """

    name: str
    summary: str
    fit: str
    size_px: int = 224
    resample: str = "bicubic"
    code: int = 1

    @property
    def recipe_id(self) -> str:
        """Name and hash of all that can move a pixel; the summary cannot."""
        return content_id(self.name, {k: v for k, v in vars(self).items() if k != "summary"})


RECIPES = {
    r.name: r
    for r in (
        Recipe("pad224", "grey, aspect kept, zero-padded to 224 x 224 (the published protocol)", "pad"),
        Recipe("stretch224", "grey, stretched to 224 x 224", "stretch"),
    )
}


@dataclass(frozen=True)
class Preprocessed:
    """A picture made by a recipe: (size, size) uint8 grey, and the way back to original pixels."""

    pixels: np.ndarray
    to_original: ToOriginal


def recipe(name: str) -> Recipe:
    """The recipe called `name`."""
    return lookup("recipe", name, RECIPES)


def apply(recipe: Recipe, grey: np.ndarray) -> Preprocessed:
    """The preprocessed picture of an (H, W) uint8 grey image."""
    image = Image.fromarray(grey)
    size = (recipe.size_px, recipe.size_px)
    inner = ImageOps.contain(image, size, Image.Resampling[recipe.resample.upper()]) if recipe.fit == "pad" else (
        image.resize(size, Image.Resampling[recipe.resample.upper()])
    )
    offset = (round((size[0] - inner.width) / 2), round((size[1] - inner.height) / 2))
    square = Image.new("L", size, 0)
    square.paste(inner, offset)
    return Preprocessed(np.asarray(square), placed(image.size, inner.size, offset))
