"""What a step of BUSSAM's training costs: as released, in ours, in bf16, and on kept tokens. Random ViT-B: cost only.

Each side trains on the same batch of real images in a process of its own, one after the other, and tells wall seconds
and processor seconds of a step (medians) and the peak memory of the process. "As released" is the published set of
weights through segment-anything's own blocks and norms, all images of the batch at once. Tokens are computed once an
image, which the kept sides do not pay in a step: that cost is told apart.

    python benchmarks/bussam_cost.py ../shared/busi    # ten minutes
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Block

from busistore import pixels
from busistore.segmenters import Lesions
from busistore.segmenters import training as trainer
from busistore.segmenters.answers import batch
from busistore.segmenters.bussam_encoder import LeanBlock
from busistore.segmenters.bussam_layers import ChannelNorm
from busistore.segmenters.bussam_segmenter import BussamSegmenter

SIDES = {
    "as released, fp32": {}, "published, fp32": {}, "published, bf16": {"precision": "bf16"},
    "published, fp32, 2 at once": {"at_once": 2}, "kept tokens, fp32": {"cache": "vit"},
    "kept tokens, bf16": {"cache": "vit", "precision": "bf16"},
}  # fmt: skip


def read(folder: Path, n: int) -> Lesions:
    """The first images with a lesion."""
    masks = sorted(p for p in folder.rglob("*_mask.png") if not p.name.startswith("normal"))[:n]
    images = [p.with_name(p.name.replace("_mask", "")) for p in masks]
    lesions = [pixels.mask(p.read_bytes()) for p in masks]
    return Lesions([pixels.grey(p.read_bytes(), p.name) for p in images], lesions)


def measure(side: str, given: argparse.Namespace) -> dict[str, float]:
    """Steps of one side in this process."""
    if side.startswith("as released"):
        LeanBlock.forward, ChannelNorm.forward = Block.forward, LayerNorm2d.forward
    made = BussamSegmenter(init="random", **SIDES[side])
    images, network = read(given.folder, given.batch), made.network()
    told: dict[str, float] = {}
    if made.kept:
        started = time.perf_counter(), time.process_time()
        tokens = np.concatenate([made.tokens(network, [image]).numpy() for image in images.images]).astype(np.float16)
        told["tokens_s"] = (time.perf_counter() - started[0]) / given.batch
        told["tokens_cpu_s"] = (time.process_time() - started[1]) / given.batch
        images = Lesions(images.images, images.masks, lambda rows: tokens[rows].astype(np.float32))
    held = trainer.Training(made, network, 1000)
    network.train()
    walls, cpus = [], []
    for k in range(given.steps + 1):
        samples, clicks = zip(*(trainer._sample(made, images, row, k) for row in range(given.batch)))
        started = time.perf_counter(), time.process_time()
        trainer._step(held, batch(samples, clicks, images, np.arange(given.batch)), samples, k)
        walls.append(time.perf_counter() - started[0])
        cpus.append(time.process_time() - started[1])
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    return told | {"wall_s": statistics.median(walls[1:]), "cpu_s": statistics.median(cpus[1:]), "peak_gib": peak}


def apart(side: str, given: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, str(given.folder), "--side", side]
    command += ["--batch", str(given.batch), "--steps", str(given.steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a BUSI folder")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--side", choices=list(SIDES), help="only measure one side, as JSON")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measure(given.side, given)))
        return
    print(f"batch of {given.batch}, {torch.get_num_threads()} threads, medians of {given.steps} steps, random weights")
    print(f"{'side':<28} {'wall, s':>8} {'CPU, s':>8} {'share of CPU':>13} {'peak, GiB':>10}", flush=True)
    first: dict[str, float] = {}
    for side in SIDES:
        told = apart(side, given)
        first = first or told
        print(in_words(side, told, first), flush=True)


def in_words(side: str, told: dict[str, float], first: dict[str, float]) -> str:
    """A line of the table; shares are of the side `first`."""
    if not told:
        return f"{side:<28} ended without an answer; what it said stands above"
    share = f"1/{first['cpu_s'] / told['cpu_s']:.1f}"
    line = f"{side:<28} {told['wall_s']:8.2f} {told['cpu_s']:8.2f} {share:>13} {told['peak_gib']:10.2f}"
    if "tokens_s" not in told:
        return line
    return f"{line}  and tokens, once an image: {told['tokens_s']:.2f} s, {told['tokens_cpu_s']:.2f} CPU s"


if __name__ == "__main__":
    main()
