"""One training of a segmenter: batches, steps, epochs, validation, and going on after a stop.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from busistore import checkpoint
from busistore.checkpoint import Checkpoint
from busistore.errors import BusistoreError, RunFailed
from busistore.segmenters.answers import batch, dices, logits_of
from busistore.segmenters.augment import Augment, Sample, generator, plain
from busistore.segmenters.base import Batch, Lesions, Segmenter
from busistore.segmenters.losses import click_loss
from busistore.segmenters.prompts import Click, random_click
from busistore.segmenters.schedule import rate

Network = nn.Module
CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Progress:
    """How far a training is; `curves` are (epoch, name, value). Seconds are summed over attempts.

    `n_trained` numbers have ever had a gradient: what is open to training may hold parts that never run.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_dice: float = -1.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    n_trained: int = 0
    curves: list[tuple[int, str, float]] = field(default_factory=list)


@dataclass
class Training:
    """A network in training, with its optimiser and the best that it has been."""

    segmenter: Segmenter
    network: nn.Module
    total: int
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        s = self.segmenter
        self.trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        betas = (s.beta_1, s.beta_2)
        self.optimiser = torch.optim.AdamW(self.trained.values(), s.rate, betas, weight_decay=s.weight_decay)
        self.best = self.now()
        self.step = 0

    def now(self) -> dict[str, Tensor]:
        """A copy of what is trained."""
        return {name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in self.trained.items()}

    @torch.no_grad()
    def put(self, tensors: dict[str, Tensor]) -> None:
        """What is trained becomes these."""
        for name, tensor in tensors.items():
            self.trained[name].copy_(tensor)

    def state(self) -> Checkpoint:
        """All that a fresh training of the same making needs to go on."""
        tensors = {f"now.{name}": tensor for name, tensor in self.now().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        moments = self.optimiser.state_dict()["state"]
        tensors |= {f"moment.{k}.{n}": t.contiguous() for k, own in moments.items() for n, t in own.items()}
        return Checkpoint(tensors, {"step": self.step, **asdict(self.progress)})

    def resume(self, found: Checkpoint) -> None:
        """Go on from `state` of another."""
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "moment": {}}
        for name, tensor in found.tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = tensor
        self.put(parts["now"])
        self.best = parts["best"]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["moment"].items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = tensor
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        story = dict(found.story)
        self.step = story.pop("step")
        self.progress = Progress(**story | {"curves": [tuple(c) for c in story["curves"]]})

    def is_over(self) -> bool:
        """Whether all epochs are run, or too many without a better one."""
        progress, patience = self.progress, self.segmenter.patience
        waited = progress.epoch - progress.best_epoch
        return progress.epoch >= self.segmenter.epochs or bool(patience and waited >= patience)


def train(
    segmenter: Segmenter, train_on: Lesions, val: Lesions, folder: Path | None = None, key: str = "",
    on_epoch: Callable[[Progress], None] = lambda progress: None, network: nn.Module | None = None,
) -> tuple[nn.Module, Progress]:  # fmt: skip
    """A network as it was after its best epoch, and how training went.

    Args:
        train_on, val: images with lesions.
        folder: where the checkpoint of an unfinished training lies; without it nothing is kept.
        key: stands for all that can change the numbers of the training: a checkpoint of another key is not gone on
            from.
        on_epoch: called after each epoch that is run now.
        network: of `segmenter.network`, made anew by default.

    Raises:
        BusistoreError: no images to train on or to validate on.
        RunFailed: the loss is not finite any more, or memory ends.
    """
    if not len(train_on) or not len(val):
        part = "validation" if len(train_on) else "training"
        raise BusistoreError(f"{segmenter.name}: no lesions in the {part} part; take a split that has some")
    with memory_told(segmenter):
        n_steps = -(-len(train_on) // segmenter.batch_size)
        training = Training(segmenter, network or segmenter.network(), segmenter.epochs * n_steps)
        path = None if folder is None else folder / CHECKPOINT
        if path is not None and (found := checkpoint.read(path, key)):
            training.resume(found)
        while not training.is_over():
            _epoch(training, train_on, val)
            if path is not None and training.progress.epoch % segmenter.checkpoint_every == 0:
                checkpoint.write(path, training.state(), key)
            on_epoch(training.progress)
        training.put(training.best)
        training.progress.n_trained = sum(p.numel() for p in training.optimiser.state)
    return training.network.eval(), training.progress


def _epoch(training: Training, train_on: Lesions, val: Lesions) -> None:
    progress, clocks = training.progress, (time.perf_counter(), time.process_time())
    number = progress.epoch + 1
    loss = _train(training, train_on, number)
    if not all(torch.isfinite(p).all() for p in training.trained.values()):
        raise RunFailed(f"{training.segmenter.name}: a weight is not finite after epoch {number}; lower rate")
    dice = float(np.mean(dices(training.segmenter, training.network, val)))
    told = {"train_loss": loss, "val_dice": dice, "learning_rate": training.optimiser.param_groups[0]["lr"]}
    progress.curves += [(number, name, value) for name, value in told.items()]
    progress.epoch = number
    if dice > progress.best_dice:
        progress.best_epoch, progress.best_dice, training.best = number, dice, training.now()
    progress.seconds += time.perf_counter() - clocks[0]
    progress.cpu_seconds += time.process_time() - clocks[1]


def _train(training: Training, lesions: Lesions, epoch: int) -> float:
    """One epoch: the mean loss of its steps, each as it was when the step was taken."""
    s, losses = training.segmenter, []
    training.network.train()
    order = generator(s.init_seed, epoch, len(lesions)).permutation(len(lesions))
    for rows in np.split(order, range(s.batch_size, len(order), s.batch_size)):
        samples, clicks = zip(*(_sample(s, lesions, int(k), epoch) for k in rows))
        for group in training.optimiser.param_groups:
            group["lr"] = rate(training.step, training.total, s.rate, s.warm_up, s.power)
        losses.append(_step(training, batch(samples, clicks, lesions, rows), samples, epoch))
        training.step += 1
    return float(np.mean(losses))


def _sample(segmenter: Segmenter, lesions: Lesions, k: int, epoch: int) -> tuple[Sample, Click]:
    rng = generator(segmenter.init_seed, epoch, k)
    image, mask = lesions.images[k], lesions.masks[k]
    moves = {"p_rotate": 0.0, "p_scale": 0.0} if segmenter.kept else {}  # tokens are of images as they lie
    sample = Augment(**moves).apply(image, mask, rng) if segmenter.augment else plain(image, mask)
    return sample, random_click(sample.mask, rng)


def _step(training: Training, inputs: Batch, samples: tuple[Sample, ...], epoch: int) -> float:
    """One step on the whole batch. Where it is held in parts, its loss is of the whole none the less: logits come
    first, without gradients; then those of each part are made again and given their share of the loss's gradient."""
    s, network = training.segmenter, training.network
    parts = [slice(k, k + s.at_once) for k in range(0, len(samples), s.at_once)]
    training.optimiser.zero_grad()
    with torch.set_grad_enabled(len(parts) == 1):
        logits = torch.cat([logits_of(s, network, inputs.part(rows)) for rows in parts])
    if len(parts) > 1:
        logits.requires_grad_()
    loss = click_loss(logits, _target(samples, logits), s.bce_weight, s.dice_weight, s.pos_weight)
    if not torch.isfinite(loss):
        remedy = f"lower rate={s.rate}{'' if s.precision == 'fp32' else ' or take precision=fp32'}"
        raise RunFailed(f"{s.name}: the loss is not finite in epoch {epoch}; {remedy}")
    loss.backward()
    for rows in parts if len(parts) > 1 else ():
        logits_of(s, network, inputs.part(rows)).backward(logits.grad[rows])
    training.optimiser.step()
    return loss.item()


def _target(samples: tuple[Sample, ...], logits: Tensor) -> Tensor:
    small = logits.shape[-1] == samples[0].low_mask.shape[-1]
    return torch.from_numpy(np.stack([x.low_mask if small else x.mask for x in samples]))[:, None]


@contextmanager
def memory_told(segmenter: Segmenter) -> Iterator[None]:
    """Say which knob to turn where memory ends, on whichever device."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        texts = ("out of memory", "can't allocate memory", "not enough memory")
        if isinstance(error, RuntimeError) and not any(text in str(error) for text in texts):
            raise
        knob = f"-p at_once={max(1, segmenter.at_once // 2)}" if segmenter.at_once > 1 else "precision=bf16"
        raise RunFailed(
            f"{segmenter.name}: out of memory with {segmenter.at_once} images at once; the same command with {knob} "
            "goes the same way in less"
        ) from error
