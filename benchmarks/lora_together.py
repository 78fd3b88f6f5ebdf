"""Independent runs of LoRA together: one after the other, joined in one batch, or each on a core of its own.

Random ViT-B/16, rank 16 in q, k, v, o of the last blocks. One after the other, each run has all threads and batches of
8. Joined, the batches of n runs go through the frozen weights as one of 8 n; adapters are shared here, which costs less
than adapters for each image, so that its gain is an upper bound. Apart, each run is a process with one thread. What is
timed is a training step of every run, in turn, and reported per image and in times of the first.

    python benchmarks/lora_together.py    # three minutes; nothing else may run
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time

BATCH, CLASSES = 8, 3


def stepper(blocks: int | None, precision: str, n_images: int, n_threads: int):
    """A function that makes one training step on that many images."""
    import open_clip
    import torch
    import torch.nn.functional as F  # noqa: N812

    from busistore.methods.dropout import Noise
    from busistore.methods.lora import Lora
    from busistore.models.spec import InputTransform
    from busistore.models.trainable import of_tower

    torch.set_num_threads(n_threads)
    torch.manual_seed(0)
    network = of_tower(open_clip.create_model("ViT-B-16").visual.eval(), InputTransform(), blocks, "split", precision)
    states = torch.randn(n_images, network.n_tokens, network.width)
    network = Lora(blocks=blocks, dropout=0, precision=precision).open(network, Noise()).train()
    head, labels = torch.nn.Linear(512, CLASSES), torch.arange(n_images) % CLASSES
    optimiser = torch.optim.AdamW([p for p in [*network.parameters(), *head.parameters()] if p.requires_grad])

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(head(F.normalize(network(states))), labels).backward()
        optimiser.step()

    return step


def seconds(step, n_steps: int) -> float:
    """Of one step, over that many."""
    started = time.perf_counter()
    for _ in range(n_steps):
        step()
    return (time.perf_counter() - started) / n_steps


def apart(blocks: int | None, precision: str, rounds: int, n_steps: int, ready, told) -> None:
    """What each process does: steps in every round, begun together with the others."""
    step = stepper(blocks, precision, BATCH, 1)
    step()
    for _ in range(rounds):
        ready.wait()
        told.put(seconds(step, n_steps))
        ready.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    n = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    print("| tower | one after the other, ms an image | joined | each on a core |\n|---|---|---|---|")
    for blocks, precision in ((None, "fp32"), (4, "fp32"), (4, "bf16")):
        ready, told = context.Barrier(n + 1), context.Queue()
        processes = [
            context.Process(target=apart, args=(blocks, precision, given.rounds, given.steps, ready, told), daemon=True)
            for _ in range(n)
        ]  # fmt: skip
        for process in processes:
            process.start()
        one, joined = (stepper(blocks, precision, k * BATCH, n) for k in (1, n))
        one(), joined()
        times = []
        for _ in range(given.rounds):
            ready.wait()
            both = max(told.get() for _ in range(n)) / n
            ready.wait()
            times.append((seconds(one, given.steps), seconds(joined, given.steps) / n, both))
        base = statistics.median(t[0] for t in times)
        gains = [statistics.median(t[0] / t[k] for t in times) for k in (1, 2)]
        name = f"{'all blocks' if blocks is None else f'last {blocks}'}, {precision}"
        print(f"| {name} | {1e3 * base / BATCH:.0f} | {gains[0]:.2f} times | {gains[1]:.2f} times |", flush=True)
        for process in processes:
            process.join()


if __name__ == "__main__":
    main()
