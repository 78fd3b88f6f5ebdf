"""Proof that LoRA learns: a small vision transformer, taught on other phantoms, adapted on the sets of a probe.

The transformer is taught on drawn phantoms, patch by patch, where the lesion is and which words of the BI-RADS lexicon
describe it. Its patches then know what lies behind a lesion; its vector, which is read off the class token, was never
taught anything. On phantoms that it never saw, of another seed, the classes are what lies behind the lesion:
enhancement, shadowing or nothing of note. LoRA's rates were chosen on phantoms of a third seed. The linear probe and
LoRA answer on the same support sets of 32 images a class, with groups of near-duplicates kept apart, and are compared
as `busistore compare` does.

    python benchmarks/lora_learns.py    # twenty minutes on two cores
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file

from busistore import comparison, datasets, models
from busistore.datasets import ImageRecord, phantom, phantom_lesions
from busistore.jobs.encode import encode
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.split import split
from busistore.preprocess.recipes import apply, recipe
from busistore.store import Store

SMALL = {"patch_size": 16, "embed_dim": 128, "depth": 6, "num_heads": 4}
GRID = 224 // SMALL["patch_size"]
NAME, ARCHITECTURE = "phantom-vit", "vit_tiny_patch16_224"
WORDS = {
    "shape": sorted(phantom_lesions.SHAPES["benign"]), "margin": sorted(phantom_lesions.MARGINS["malignant"]),
    "orientation": ["not parallel", "parallel"], "pattern": sorted(phantom_lesions.PATTERNS["benign"]),
    "posterior": sorted(phantom_lesions.POSTERIORS["benign"]),
}  # fmt: skip
RATE, BATCH = 1e-3, 32


class Behind:
    """Phantoms with one lesion, their label what lies behind it."""

    name, summary = "behind", "phantoms by what lies behind the lesion"

    def records(self, root: Path) -> Iterator[ImageRecord]:
        """Those of a folder that was drawn."""
        with (root / "truth.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["n_lesions"] == "1"]
        for row in rows:
            (lesion,), folder = json.loads(row["lesions"]), root / row["label"]
            masks = sorted(folder.glob(f"{row['image']}_mask*.png"))
            image_id = f"behind/{row['image'].replace(' ', '').strip('()')}"
            path = folder / f"{row['image']}.png"
            yield ImageRecord(image_id, self.name, lesion["posterior"], path, tuple(masks))


def drawn(task: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Phantoms `first` to `last` of a seed: (N, 224, 224) uint8, lesion (N, G, G) share of each patch, (N, 5) words.

    A word is -1 where there is not one lesion alone.
    """
    seed, first, last = task
    plans, made = phantom.plan(last, seed), recipe("pad224")
    squares, shares, words = [], [], []
    for k in range(first, last):
        picture = phantom.render(plans, k, seed)
        grey = picture.pixels if picture.pixels.ndim == 2 else picture.pixels.mean(axis=2).astype(np.uint8)
        mask = np.any(picture.masks, axis=0) if picture.masks else np.zeros(grey.shape, bool)
        squares.append(apply(made, grey).pixels)
        covered = apply(made, mask.astype(np.uint8) * 255).pixels
        shares.append(cv2.resize(covered, (GRID, GRID), interpolation=cv2.INTER_AREA))
        lesions = json.loads(picture.truth["lesions"])
        one = len(lesions) == 1
        words.append([of.index(lesions[0][name]) if one else -1 for name, of in WORDS.items()])
    return np.stack(squares), np.stack(shares).astype(np.float32) / 255, np.array(words)


def loss_of(made: torch.Tensor, share: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Where the lesion is, of (N, G G, 1 + words) patch logits, and how it is described, of their mean over it."""
    where = made[..., 0].view(-1, GRID, GRID)
    odds = where.sigmoid()
    dice = (2 * (odds * share).sum(dim=(1, 2)) + 1) / ((odds + share).sum(dim=(1, 2)) + 1)
    loss = F.binary_cross_entropy_with_logits(where, share) + (1 - dice).mean()
    weight = share.flatten(1) / (share.flatten(1).sum(dim=1, keepdim=True) + 1e-6)
    described = (made[..., 1:] * weight[..., None]).sum(dim=1).split([len(of) for of in WORDS.values()], dim=1)
    for k, logits in enumerate(described):
        if (words[:, k] >= 0).any():
            loss = loss + 0.3 * F.cross_entropy(logits, words[:, k], ignore_index=-1)
    return loss


def taught(n_images: int, epochs: int) -> dict[str, torch.Tensor]:
    """Weights of a transformer that outlines and describes lesions on phantoms of seed 1."""
    half = n_images // 2
    with get_context("spawn").Pool(2) as pool:
        parts = pool.map(drawn, [(1, 0, half), (1, half, n_images)])
    grey, share, words = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts))
    torch.manual_seed(0)
    network = timm.create_model(ARCHITECTURE, num_classes=0, **SMALL)
    heads = torch.nn.Linear(SMALL["embed_dim"], 1 + sum(map(len, WORDS.values())))
    trained = [*network.parameters(), *heads.parameters()]
    optimiser, n_steps, step = torch.optim.AdamW(trained, weight_decay=0.05), epochs * (n_images // BATCH), 0
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(n_images)[: n_images // BATCH * BATCH].split(BATCH):
            for group in optimiser.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / n_steps)) / 2
            x, y = grey[rows], share[rows]
            if torch.rand(1) < 0.5:
                x, y = x.flip(2), y.flip(2)
            patches = network.forward_features(((x[:, None].float() / 255 - 0.5) / 0.5).expand(-1, 3, -1, -1))[:, 1:]
            loss = loss_of(heads(patches), y, words[rows])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            step, total = step + 1, total + loss.item()
        print(f"epoch {epoch + 1} of {epochs}: loss {total * epochs / n_steps:.3f}", flush=True)
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def registered(weights: Path) -> None:
    """The transformer as a model of the registry, its weights given by `weights`."""
    half = models.InputTransform(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    carried = models.Weights(weights.name, 1.0, "none", package="made-here")
    config = SMALL | {"num_classes": 0}
    models.MODELS[NAME] = models.ModelSpec(NAME, "timm", ARCHITECTURE, SMALL["embed_dim"], carried, half, config=config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--others", type=int, default=2000, help="phantoms that the transformer is taught on")
    parser.add_argument("--images", type=int, default=1200, help="phantoms that are split")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--blocks", default="2", help="that LoRA adapts")
    parser.add_argument("--folder", type=Path, help="where weights and phantoms stay for another time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, started = given.folder or Path(folder), time.perf_counter()
        root.mkdir(parents=True, exist_ok=True)
        weights = root / "phantom-vit.safetensors"
        if not weights.exists():
            save_file(taught(given.others, given.epochs), weights)
        registered(weights)
        datasets.DATASETS["behind"] = Behind()
        if not (root / "phantoms").exists():
            phantom.draw(root / "phantoms", given.images, seed=2)
        store = Store.create(Path(folder) / "store")
        ingest(store, "behind", root / "phantoms")
        split(store, "behind")
        encode(store, NAME, weights=weights, precision="fp32")
        print(f"ready after {time.perf_counter() - started:.0f} s")
        grid = {"shots": [32], "seeds": range(given.seeds), "weights": weights, "precision": "fp32"}
        adapted = {"adapter_rate": "5e-3", "head_rate": "2e-2", "blocks": given.blocks}
        for method, parameters in (("linear-probe", {}), ("lora", adapted)):
            begun = time.perf_counter()
            report = evaluate(store, [method], [NAME], parameters=parameters, executor="processes", **grid)
            print(f"{method}: {report.written} runs, {time.perf_counter() - begun:.0f} s")
        print("| metric | linear probe | LoRA | difference | 95 % interval | p |\n|---|---|---|---|---|---|")
        for metric in ("macro_f1", "auroc"):
            (row,) = comparison.compare(store, "lora", "linear-probe", metric)
            d = row.difference
            print(f"| {metric} | {d.mean_b:.3f} | {d.mean_a:.3f} | {d.both.estimate:+.3f} | "
                  f"{d.both.low:+.3f} to {d.both.high:+.3f} | {d.both.p:.4f} |")


if __name__ == "__main__":
    main()
