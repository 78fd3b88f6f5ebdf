"""What an epoch of LoRA costs: as usually done, against states from the cache. Random ViT-B/16: cost and exactness.

The usual way keeps nothing between epochs: each image is decoded, squared and normalised again, the whole tower runs
in fp32 with adapters in split attention (q, k, v, o of all blocks, rank 16), and validation goes in batches of 8. Ours
trains from states: embedded patches where all blocks are adapted, hidden states where the last four are. One training
batch of 8 and one pass over validation images are timed for each side in turn; an epoch at 8 and 32 shots of three
classes is 3 or 12 such batches and 93 validation images. Both sides start from the same adapters, whose logits and
gradients must agree.

    python benchmarks/lora_cost.py ../shared/busi    # four minutes
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image, ImageOps
from torch import nn

from busistore.methods.dropout import Noise
from busistore.methods.lora import Lora
from busistore.models.spec import InputTransform
from busistore.models.trainable import of_tower

BATCH, N_VAL, CLASSES = 8, 93, 3
OURS = {
    "all blocks, fp32": (None, "fp32"), "all blocks, bf16": (None, "bf16"),
    "last 4 from the cache, fp32": (4, "fp32"), "last 4 from the cache, bf16": (4, "bf16"),
}  # fmt: skip
GIVEN = InputTransform()
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in (GIVEN.mean, GIVEN.std))


class Split(nn.Module):
    """Attention of open_clip's blocks as four linear layers, called as the library calls it."""

    def __init__(self, fused: nn.MultiheadAttention):
        super().__init__()
        self.n_heads, width = fused.num_heads, fused.embed_dim
        for k, name in enumerate(("q_proj", "k_proj", "v_proj")):
            layer = nn.Linear(width, width)
            layer.weight.data = fused.in_proj_weight.data[k * width : (k + 1) * width].clone()
            layer.bias.data = fused.in_proj_bias.data[k * width : (k + 1) * width].clone()
            setattr(self, name, layer)
        self.out_proj = nn.Linear(width, width)
        self.out_proj.load_state_dict(fused.out_proj.state_dict())

    def forward(self, q, k, v, need_weights=False, attn_mask=None):
        x = q.contiguous()
        made = (f(x).unflatten(-1, (self.n_heads, -1)) for f in (self.q_proj, self.k_proj, self.v_proj))
        heads = [h.transpose(1, 2) for h in made]
        return self.out_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)), None


def usual(visual: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    for block in visual.transformer.resblocks:
        block.attn = Split(block.attn)
    targets = r"transformer\.resblocks\.\d+\.attn\.(q_proj|k_proj|v_proj|out_proj)"
    return get_peft_model(visual.requires_grad_(False), LoraConfig(r=16, lora_alpha=32, target_modules=targets))


def squared(paths: list[Path]) -> np.ndarray:
    """(N, 224, 224) uint8."""
    return np.stack([np.asarray(ImageOps.pad(Image.open(p).convert("L"), (224, 224), Image.BICUBIC)) for p in paths])


def decoded(paths: list[Path]) -> torch.Tensor:
    """(N, 3, 224, 224) straight from the files."""
    grey = torch.from_numpy(squared(paths))[:, None].float() / 255
    return ((grey - MEAN) / STD).contiguous()


def same_adapters(one: nn.Module, other: nn.Module) -> None:
    """Random adapters in the first; in the second those of its blocks."""
    torch.manual_seed(1)
    drawn = {}
    for name, p in one.named_parameters():
        if "lora_" in name:
            p.data = 0.02 * torch.randn_like(p)
            drawn[name.partition("resblocks.")[2]] = p.data
    for name, p in other.named_parameters():
        if "lora_" in name:
            p.data = drawn[name.partition("blocks.")[2]].clone()


def step(network: nn.Module, head: nn.Linear, x: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """One training batch; the gradient of the head and of the adapters, flat."""
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad] + list(head.parameters())
    loss = F.cross_entropy(head(F.normalize(network(x))), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)]).numpy()


@torch.no_grad()
def validated(network: nn.Module, head: nn.Linear, x: torch.Tensor, size: int) -> np.ndarray:
    network.eval()
    return torch.cat([head(F.normalize(network(part))) for part in x.split(size)]).numpy()


def peak(name: str, paths: list[Path]) -> None:
    """Print the peak memory, GiB, of a process in which that side alone trains on a batch and validates."""
    torch.manual_seed(0)
    visual = open_clip.create_model("ViT-B-16-quickgelu").visual.eval()
    readout, labels = nn.Linear(512, CLASSES), torch.arange(BATCH) % CLASSES
    if name == "usual":
        network, train, val, size = usual(visual), decoded(paths[:BATCH]), decoded(paths[BATCH:][:8]), 8
    else:
        blocks, precision = OURS[name]
        network = of_tower(visual, GIVEN, blocks, "split", precision)
        del visual
        states = torch.cat([network.states(part) for part in torch.from_numpy(squared(paths)).split(8)])
        network = Lora(blocks=blocks, dropout=0, precision=precision).open(network, Noise())
        train, val, size = states[:BATCH], states[BATCH:], 32
    step(network, readout, train, labels)
    validated(network, readout, val, size)
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would tell the greatest of the parent too
    print(f"{int(next(line for line in lines if line.startswith('VmHWM')).split()[1]) / 2**20:.2f}")


def peak_apart(name: str, given: argparse.Namespace) -> str:
    """`peak` in a process of its own."""
    command = [sys.executable, __file__, str(given.folder), "--val", str(given.val), "--peak", name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a BUSI folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--val", type=int, default=24, help="validation images timed; an epoch has 93")
    parser.add_argument("--peak", metavar="SIDE", help="only print the peak memory of one side, GiB")
    given = parser.parse_args()
    paths = sorted(p for p in given.folder.rglob("*.png") if "_mask" not in p.name)[: BATCH + given.val]
    if given.peak:
        return peak(given.peak, paths)
    torch.manual_seed(0)
    visual = open_clip.create_model("ViT-B-16-quickgelu").visual.eval()
    readout, labels = nn.Linear(512, CLASSES), torch.arange(BATCH) % CLASSES
    grey, sides, told = torch.from_numpy(squared(paths)), {}, {}
    for name, (blocks, precision) in OURS.items():
        network = of_tower(visual, GIVEN, blocks, "split", precision)
        states = torch.cat([network.states(part) for part in grey.split(8)])
        sides[name] = (Lora(blocks=blocks, dropout=0, precision=precision).open(network, Noise()), states)
    plain = usual(visual)
    for network, _ in sides.values():
        same_adapters(plain, network)

    def plain_epoch() -> tuple[float, float, np.ndarray, np.ndarray]:
        started = time.perf_counter()
        gradient = step(plain, readout, decoded(paths[:BATCH]), labels)
        middle = time.perf_counter()
        parts = [paths[k : k + 8] for k in range(BATCH, len(paths), 8)]
        logits = np.concatenate([validated(plain, readout, decoded(part), 8) for part in parts])
        return middle - started, (time.perf_counter() - middle) / given.val, gradient, logits

    def our_epoch(name: str) -> tuple[float, float, np.ndarray, np.ndarray]:
        network, states = sides[name]
        started = time.perf_counter()
        gradient = step(network, readout, states[:BATCH], labels)
        middle = time.perf_counter()
        logits = validated(network, readout, states[BATCH:], 32)
        return middle - started, (time.perf_counter() - middle) / given.val, gradient, logits

    spent: dict[str, list[tuple[float, float]]] = {"usual": [], **{name: [] for name in sides}}
    for _ in range(given.rounds + 1):
        for name in spent:
            train, val, gradient, logits = plain_epoch() if name == "usual" else our_epoch(name)
            spent[name].append((train, val))
            told[name] = gradient, logits
    head = ("side", "train batch, s", "one validation image, ms", "epoch at 8 shots, s", "times", "epoch at 32, s",
            "times", "largest gap of logits", "gradient, cosine", "peak memory, GiB")  # fmt: skip
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    usual_epochs = [[n * t + N_VAL * v for t, v in spent["usual"][1:]] for n in (3, 12)]
    for name, timed in spent.items():
        epochs = [[n * t + N_VAL * v for t, v in timed[1:]] for n in (3, 12)]
        ratios = [statistics.median(a / b for a, b in zip(u, e)) for u, e in zip(usual_epochs, epochs)]
        gap = np.abs(told[name][1] - told["usual"][1]).max() if "4" not in name else float("nan")
        a, b = told["usual"][0], told[name][0]
        cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) if len(a) == len(b) else float("nan")
        train, val = (statistics.median(x[k] for x in timed[1:]) for k in (0, 1))
        few, many = (statistics.median(e) for e in epochs)
        print(f"| {name} | {train:.2f} | {1e3 * val:.0f} | {few:.1f} | {ratios[0]:.1f} | {many:.1f} | "
              f"{ratios[1]:.1f} | {gap:.1e} | {cosine:.6f} | {peak_apart(name, given)} |")


if __name__ == "__main__":
    main()
