"""Small stand-ins: pictures that look like nothing but differ by class, and a network of one layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from busistore import models
from busistore.datasets import CLASSES
from busistore.jobs import segmenters

FAKE_DIM = 12


def speckle(seed: int, height: int = 72, width: int = 96) -> np.ndarray:
    """(H, W) uint8 noise, another picture for another seed."""
    coarse = np.random.default_rng(seed).normal(size=(height // 4 + 1, width // 4 + 1))
    noise = np.kron(coarse, np.ones((4, 4)))[:height, :width]
    return np.clip(110 + 35 * noise, 0, 255).astype(np.uint8)


def busi_folder(root: Path, n_per_class: int, classes: tuple[str, ...] = CLASSES) -> Path:
    """A folder in the layout of BUSI: dark squares (benign), darker ones (malignant), one image with two masks."""
    for k, label in enumerate(classes):
        (root / label).mkdir(parents=True)
        for n in range(1, n_per_class + 1):
            pixels, lesion = speckle(100 * k + n), np.zeros((72, 96), bool)
            if label != "normal":
                lesion[20 : 40 + n, 30 : 60 + n] = True
                pixels[lesion] //= 2 if label == "benign" else 5
            Image.fromarray(pixels).save(root / label / f"{label} ({n}).png")
            save_mask(root / label / f"{label} ({n})_mask.png", lesion)
            if label == "benign" and n == 1:
                second = np.zeros((72, 96), bool)
                second[60:72, 0:10] = True
                save_mask(root / label / f"{label} (1)_mask_1.png", second)
    return root


def save_mask(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def register_model(monkeypatch, weight_file: Path, name: str = "fake") -> str:
    """Put a one-layer model into MODELS for the time of a test."""
    import torch

    from busistore.models import loaders, weights

    torch.save({"weight": torch.randn(FAKE_DIM, 64, generator=torch.Generator().manual_seed(0))}, weight_file)
    carried = models.Weights("weights.pt", 0.1, "none", package="no-such-package")
    given = models.InputTransform(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    monkeypatch.setitem(models.MODELS, name, models.ModelSpec(name, "fake", "one-layer", FAKE_DIM, carried, given))
    monkeypatch.setitem(loaders.LOADERS, "fake", lambda located, path: loaders.Network(_build(path)))
    real = weights.packaged
    monkeypatch.setattr(weights, "packaged", lambda w: {w.file: weight_file} if w == carried else real(w))
    return name


def _build(path: Path):
    """The mean grey of 8 x 8 squares of the picture, times a matrix."""
    import torch

    weight = torch.load(path, weights_only=True)["weight"]

    class OneLayer(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.adaptive_avg_pool2d(images[:, :1], 8).flatten(1) @ weight.T

    return OneLayer()


def rows(store, table: str, where: str | None = None) -> list[dict]:
    """Rows of a stored table as dicts."""
    return store.read(table, where=where).to_pylist()


def part(store, name: str) -> list[str]:
    """Sorted ids of the images of one part of the only split."""
    return sorted(r["image_id"] for r in rows(store, "splits", f"part = '{name}'"))


def loaded(store, row: dict, weights: Path | None = None):
    """A stored segmenter, what it began with, and its network."""
    segmenter, start = segmenters.begun(row, weights)
    return segmenter, start, segmenters.network_of(store, row, segmenter, start)
