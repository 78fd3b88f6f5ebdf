"""Sheets for a look at what a recipe does to one image: original, findings, mask and result, pixel by pixel."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from busistore.errors import BadInput, BusistoreError
from busistore.preprocess.findings import Finding
from busistore.preprocess.recipes import RECIPES, Prepared, Recipe
from busistore.sheet import INK, LARGE, MUTED, PAPER, SMALL, font

MASK = (255, 60, 60)
GAP_PX, TITLE_PX, HEAD_PX = 12, 22, 58
COLOURS = {"caliper+": "#ffd23c", "caliperx": "#ffd23c", "line": "#5ab4f0", "text": "#3cc8a0", "digit": "#3cc8a0"}
OTHER = "#f0965a"
PANELS = ("original", "findings", "mask", "result")


def check(recipe: Recipe, folder: Path) -> None:
    """Refuse sheets that would show nothing, or have no place, before any work is done for them.

    Raises:
        BusistoreError: the recipe changes nothing before it fits the image to the square.
        BadInput: there is a file of the folder's name, or no folder to make it in.
    """
    if not recipe.steps:
        known = ", ".join(name for name, r in RECIPES.items() if r.steps)
        raise BusistoreError(f"the recipe '{recipe.name}' looks for nothing, so a sheet shows nothing; take {known}")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"'{folder}' is a file; name a folder for the sheets")
    if not folder.parent.is_dir():
        raise BadInput(f"there is no folder '{folder.parent}' for the sheets; make it first")
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        raise BadInput(f"'{folder}' cannot be written; name another folder for the sheets")


def draw(name: str, image: np.ndarray, prepared: Prepared) -> Image.Image:
    """The sheet, RGB, of an (H, W) or (H, W, 3) uint8 image; two rows of two panels at full size."""
    original = Image.fromarray(image).convert("RGB")
    width, height = original.size
    tall = HEAD_PX + 2 * (TITLE_PX + height + GAP_PX)
    sheet = Image.new("RGB", (3 * GAP_PX + 2 * width, tall), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP_PX, 6), name, INK, font(LARGE))
    pen.text((GAP_PX, 34), " · ".join(remarks(prepared)), MUTED, font(SMALL))
    made = (original, _with_findings(original, prepared), _with_mask(original, prepared), _result(original, prepared))
    for k, (title, panel) in enumerate(zip(PANELS, made)):
        x, y = GAP_PX + k % 2 * (width + GAP_PX), HEAD_PX + k // 2 * (TITLE_PX + height + GAP_PX)
        pen.text((x, y), title, MUTED, font(SMALL))
        sheet.paste(panel, (x, y + TITLE_PX))
    return sheet


def remarks(prepared: Prepared) -> list[str]:
    """What was found, how much of the image it covers, and whether it was filled."""
    found = prepared.artefacts
    if found is None:
        return ["nothing was looked for"]
    counts = Counter(f.kind for f in found.findings)
    kinds = [f"{n} {kind}" for kind, n in sorted(counts.items())] or ["nothing found"]
    flags = [f"flagged {flag}" for flag in sorted(found.flags)]
    return [*kinds, f"{100 * found.mask.mean():.2f} % masked", "filled" if prepared.filled else "not filled", *flags]


def _with_findings(original: Image.Image, prepared: Prepared) -> Image.Image:
    """Boxes around the findings, scores beside them; lines from end to end."""
    panel = original.copy()
    pen = ImageDraw.Draw(panel)
    for finding in prepared.artefacts.findings if prepared.artefacts else ():
        _mark(pen, finding, panel.size)
    return panel


def _mark(pen: ImageDraw.ImageDraw, finding: Finding, size: tuple[int, int]) -> None:
    x0, y0, x1, y1 = finding.box
    colour = COLOURS.get(finding.kind, OTHER)
    if finding.kind == "line" and finding.polygon:
        pen.line([tuple(p) for p in finding.polygon], colour, 1)
    else:
        pen.rectangle((x0 - 2, y0 - 2, x1 + 1, y1 + 1), outline=colour)
    words = f"{finding.kind} {finding.score:.0f}" if finding.score >= 10 else f"{finding.kind} {finding.score:.2g}"
    long = font(SMALL - 3).getlength(words)
    pen.text((max(0, min(x1 + 3, size[0] - long)), max(0, y0 - 4)), words, colour, font(SMALL - 3))


def _with_mask(original: Image.Image, prepared: Prepared) -> Image.Image:
    """The image darkened, the masked pixels red."""
    panel = np.asarray(original) // 2
    if prepared.artefacts:
        panel[prepared.artefacts.mask] = MASK
    return Image.fromarray(panel)


def _result(original: Image.Image, prepared: Prepared) -> Image.Image:
    """What is fitted to the square, where it lies in the original."""
    panel = Image.new("RGB", original.size, PAPER)
    panel.paste(Image.fromarray(np.ascontiguousarray(prepared.grey)).convert("RGB"), prepared.origin)
    return panel
