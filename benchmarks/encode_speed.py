"""How fast pictures become vectors: ViT-B/16 at 224 px, from the store's PNGs to committed rows, against a plain loop.

The plain loop decodes with PIL, makes three channels, normalises, runs open_clip in fp32 on batches of 32, and writes.
Both sides take the same pictures, weights (random: speed and direction only), process and threads, in turn, and write
to a store. Beside them the matrix products of the same shapes alone, in both precisions: what the processor could do.

    python benchmarks/encode_speed.py ../shared/busi --images 64 --rounds 5
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from busistore import models
from busistore.jobs.encode import encode, vectors
from busistore.jobs.ingest import ingest
from busistore.jobs.preprocess import preprocess
from busistore.preprocess.recipes import recipe
from busistore.schema import PREPROCESSED, embeddings_name, embeddings_table
from busistore.store import Store

NAME, LAYERS, WIDTH, TOKENS, BATCH = "clip", 12, 768, 197, 16
PRODUCTS = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]  # of one block: (in, out)


def prepared(folder: Path, root: Path, n_images: int) -> tuple[Store, set[str]]:
    """A store with the pictures made, and which of them to encode."""
    store = Store.create(root / "store")
    ingest(store, "busi", folder)
    ids = sorted(store.read("images", ["image_id"])["image_id"].to_pylist())
    some = {ids[k] for k in np.linspace(0, len(ids) - 1, n_images).astype(int)}
    preprocess(store, only=some)
    return store, some


def checkpoint(root: Path) -> tuple[torch.nn.Module, Path]:
    """open_clip's network with random weights, and its file in the published layout."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = open_clip.create_model("ViT-B-16-quickgelu", load_weights=False).eval()
    path = root / "open_clip_model.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return network, path


def plain(store: Store, ids: set[str], network: torch.nn.Module, model_id: str) -> float:
    """Seconds of the plain loop, until its rows are committed."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (models.InputTransform().mean, models.InputTransform().std))
    started = time.perf_counter()
    files = dict(store.files(PREPROCESSED).stream(sorted(ids)))
    found = []
    with torch.inference_mode():
        for k in range(0, len(files), 32):
            images = []
            for data in list(files.values())[k : k + 32]:
                pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
                images.append((torch.tensor(pixels).permute(2, 0, 1) / 255 - mean) / std)
            found.append(network.encode_image(torch.stack(images)).numpy())
    table = embeddings_table(model_id, "plain", 512)
    always = {"model_id": model_id, "recipe_id": "plain", "input_sha256": ""}
    rows = [
        {**always, "image_id": i, "crc32": zlib.crc32(v), "vector": v} for i, v in zip(files, np.concatenate(found))
    ]
    store.put(table, rows)
    return time.perf_counter() - started


def ours(store: Store, ids: set[str], weights: Path, precision: str) -> float:
    """Seconds of the job, the network loaded beforehand as it is for the plain loop."""
    started = time.perf_counter()
    report = encode(store, NAME, weights=weights, precision=precision, only=ids)
    assert report.written == len(ids)
    return time.perf_counter() - started


def replay(dtype: torch.dtype, n_batches: int) -> float:
    """Billions of operations a second of the blocks' matrix products alone, at the batch size of the job."""
    pairs = [(torch.randn(BATCH * TOKENS, a, dtype=dtype), torch.randn(b, a, dtype=dtype)) for a, b in PRODUCTS]
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(n_batches * LAYERS):
            for x, weight in pairs:
                torch.nn.functional.linear(x, weight)
    n_operations = n_batches * LAYERS * sum(2 * BATCH * TOKENS * a * b for a, b in PRODUCTS)
    return n_operations / (time.perf_counter() - started) / 1e9


def operations(last_block_whole: bool = False) -> float:
    """Billions of operations that one picture takes: blocks, attention, patches; the last block for one token."""
    block = sum(2 * TOKENS * a * b for a, b in PRODUCTS) + 4 * TOKENS * TOKENS * WIDTH
    alone = 2 * TOKENS * WIDTH * 2 * WIDTH + 4 * TOKENS * WIDTH + sum(2 * a * b for a, b in PRODUCTS[1:])
    return ((LAYERS - 1) * block + (block if last_block_whole else alone) + 2 * 196 * 256 * WIDTH) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("busi", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        measure(given.busi, Path(root), given.images, given.rounds)


def measure(busi: Path, root: Path, n_images: int, n_rounds: int) -> None:
    store, ids = prepared(busi, root, n_images)
    network, path = checkpoint(root)
    located = {p: models.locate(NAME, path, p) for p in ("fp32", "bf16")}
    loaded = {p: models.load(one) for p, one in located.items()}
    models.load = lambda one, device="cpu": loaded[one.precision]  # both sides find their network loaded
    sides = {
        "plain": lambda: plain(store, ids, network, located["fp32"].model_id),
        "fp32": lambda: ours(store, ids, path, "fp32"), "bf16": lambda: ours(store, ids, path, "bf16"),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    limits: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for k in range(n_rounds + 1):
        for name in sorted(sides, reverse=k % 2 == 1):
            spent = sides[name]()
            seconds[name] += [spent] if k else []  # the first round warms up
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            limits[name] += [replay(dtype, 1)] if k else []
        if k < n_rounds:
            for table in store.names():
                if table.startswith("embeddings."):
                    shutil.rmtree(store.path / f"{table}.lance")
    show(store, located, seconds, limits, n_images)


def show(store: Store, located: dict, seconds: dict, limits: dict, n_images: int) -> None:
    recipe_id = recipe("pad224").recipe_id
    exact = vectors(store, located["fp32"].model_id, "plain")[2]
    print("| side | pictures/s | times the plain loop, median (range) | of the matrix limit | greatest 1 - cosine |")
    print("|---|---|---|---|---|")
    for name, spent in seconds.items():
        rate = n_images / statistics.median(spent)
        ratios = sorted(a / b for a, b in zip(seconds["plain"], spent))
        kind = "fp32" if name == "plain" else name
        share = [operations(name == "plain") * n_images / s / g for s, g in zip(spent, limits[kind])]
        mine = exact if name == "plain" else vectors(store, located[name].model_id, recipe_id)[2]
        print(f"| {name} | {rate:.1f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f}, {ratios[-1]:.2f}) | "
              f"{statistics.median(share):.0%} of {kind} | {away(exact, mine):.1e} |")  # fmt: skip
    for name, found in limits.items():
        print(f"matrix products alone, {name}: {statistics.median(found):.0f} billion operations a second")
    assert embeddings_name(located["bf16"].model_id, recipe_id) in store.names()


def away(exact: np.ndarray, other: np.ndarray) -> float:
    a, b = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (exact, other))
    return float((1 - (a * b).sum(axis=1)).max())


if __name__ == "__main__":
    main()
