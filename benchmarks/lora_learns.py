"""Proof that LoRA learns: a small vision transformer, taught on other phantoms, adapted on the sets of a probe.

The transformer is taught on drawn phantoms to tell whether there is a lesion, and nothing of its kind. On phantoms
that it never saw, of another seed, the linear probe and LoRA then answer on the same support sets of 32 images a class,
with groups of near-duplicates kept apart, and are compared as `busistore compare` does.

    python benchmarks/lora_learns.py    # ten minutes on two cores
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file

from busistore import comparison, models, pixels
from busistore.datasets.phantom import draw
from busistore.jobs.encode import encode
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.split import split
from busistore.preprocess.recipes import apply, recipe
from busistore.store import Store

SMALL = {"patch_size": 16, "embed_dim": 128, "depth": 6, "num_heads": 4}
NAME, ARCHITECTURE = "phantom-vit", "vit_tiny_patch16_224"


def squares(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, 224, 224) uint8 pictures, and (N,) whether there is a lesion."""
    made, paths = recipe("pad224"), sorted(p for p in folder.rglob("*.png") if "_mask" not in p.name)
    found = [apply(made, pixels.grey(p.read_bytes())).pixels for p in paths]
    return np.stack(found), np.array(["normal" not in p.name for p in paths])


def taught(folder: Path, epochs: int) -> dict[str, torch.Tensor]:
    """Weights of a transformer that tells lesions from none on the pictures of a folder."""
    grey, lesion = squares(folder)
    x, y = torch.from_numpy(grey), torch.from_numpy(lesion.astype(np.int64))
    torch.manual_seed(0)
    network = timm.create_model(ARCHITECTURE, num_classes=2, **SMALL)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0.05)
    weight = 1 / torch.bincount(y).float()
    for epoch in range(epochs):
        right = 0
        for rows in torch.randperm(len(x)).split(32):
            flipped = x[rows].flip(2) if epoch % 2 else x[rows]
            logits = network(((flipped[:, None].float() / 255 - 0.5) / 0.5).expand(-1, 3, -1, -1))
            loss = F.cross_entropy(logits, y[rows], weight / weight.sum())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            right += int((logits.argmax(dim=1) == y[rows]).sum())
        print(f"\repoch {epoch + 1} of {epochs}: {right / len(x):.3f} right", end="", flush=True)
    print()
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def registered(weights: Path) -> None:
    """The transformer as a model of the registry, its weights given by `weights`."""
    half = models.InputTransform(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    carried = models.Weights(weights.name, 1.0, "none", package="made-here")
    config = SMALL | {"num_classes": 2}
    models.MODELS[NAME] = models.ModelSpec(
        NAME, "timm", ARCHITECTURE, SMALL["embed_dim"], carried, half, config=config
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--others", type=int, default=600, help="phantoms that the transformer is taught on")
    parser.add_argument("--images", type=int, default=480, help="phantoms that are split")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, started = Path(folder), time.perf_counter()
        draw(root / "others", given.others, seed=1)
        weights = root / "phantom-vit.safetensors"
        save_file(taught(root / "others", given.epochs), weights)
        registered(weights)
        draw(root / "phantoms", given.images, seed=0)
        store = Store.create(root / "store")
        ingest(store, "phantom", root / "phantoms")
        split(store, "phantom")
        encode(store, NAME, weights=weights, precision="fp32")
        print(f"ready after {time.perf_counter() - started:.0f} s")
        grid = {"shots": [32], "seeds": range(given.seeds), "weights": weights, "precision": "fp32"}
        for method, parameters in (("linear-probe", {}), ("lora", {"adapter_rate": "1e-3", "epochs": "60"})):
            begun = time.perf_counter()
            report = evaluate(store, [method], [NAME], parameters=parameters, **grid)
            print(f"{method}: {report.written} runs, {time.perf_counter() - begun:.0f} s")
        print("| metric | linear probe | LoRA | difference | 95 % interval | p |\n|---|---|---|---|---|---|")
        for metric in ("macro_f1", "auroc", "auroc_malignant_vs_benign"):
            (row,) = comparison.compare(store, "lora", "linear-probe", metric)
            d = row.difference
            print(f"| {metric} | {d.mean_b:.3f} | {d.mean_a:.3f} | {d.both.estimate:+.3f} | "
                  f"{d.both.low:+.3f} to {d.both.high:+.3f} | {d.both.p:.4f} |")


if __name__ == "__main__":
    main()
