"""One run of training: steps, epochs, validation, going on after a stop, and what is kept.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor, nn

from busistore import checkpoint
from busistore.errors import BusistoreError, RunFailed
from busistore.ids import canonical_json, sha256
from busistore.methods.base import Labelled, macro_f1
from busistore.methods.descent import batches
from busistore.methods.dropout import Noise
from busistore.methods.learner import Classifier, Learner, Progress

if TYPE_CHECKING:
    from busistore.methods.tuning import TowerTuning
    from busistore.models.trainable import TrainableViT

AT_ONCE = 32  # images of one batch where there are no gradients
LOOKED_AT = 8  # queries that a checkpoint is known by; training does not see them
HEAD = "head.safetensors"
Run = tuple[np.ndarray, Progress, dict[str, Any]]


def run(
    tuning: TowerTuning, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int,
    tower: Callable[[], TrainableViT], folder: Path | None, on_epoch: Callable[[], None],
) -> Run:  # fmt: skip
    """Train, keep what `tuning` keeps, and predict: see TowerTuning.fit_predict.

    Returns:
        (M, C) float64 logits of the queries, how training went, and {"n_trainable", "n_head", "cpu_seconds", "kept"}.
    """
    clock, noise = _Clock(), Noise()
    with _memory_told(tuning):
        network = tower()
        dim, network = network.dim, tuning.open(network, noise)
        learner = Learner(Classifier(network, dim, n_classes, tuning.init_seed), tuning)
        support = in_order(support)
        file = _File(learner, support, val, queries, folder)
        _fit(learner, noise, support, val, n_classes, file, clock, on_epoch)
        learner.take_best()
        logits = scores(learner, queries)
    _finite(float(logits.sum()), tuning, learner.progress.epoch)
    kept = {} if folder is None else _keep(learner, Path(folder))
    n_head = sum(p.numel() for p in learner.model.head.parameters())
    n_all = sum(p.numel() for p in learner.trained.values())
    clock.lap(learner.progress)
    spent = round(learner.progress.cpu_seconds, 3)
    return logits, learner.progress, {
        "n_trainable": n_all - n_head, "n_head": n_head, "cpu_seconds": spent, "kept": kept
    }  # fmt: skip


def _fit(
    learner: Learner, noise: Noise, support: Labelled, val: Labelled | None, n_classes: int, file: _File, clock: _Clock,
    on_epoch: Callable[[], None],
) -> None:  # fmt: skip
    """Train until it is over, from the checkpoint where there is one."""
    tuning = learner.tuning
    if found := file.read():
        learner.resume(found)
    while not learner.is_over():
        epoch = learner.progress.epoch + 1
        told = {"learning_rate": learner.set_rates(epoch)}
        told["train_loss"] = _train(learner, support, noise.start(tuning.init_seed, epoch), epoch)
        if val is not None:
            told |= _validate(learner, val, n_classes, epoch)
        learner.progress.curves += [(epoch, name, value) for name, value in told.items()]
        learner.ended(epoch, told.get("val_macro_f1"))
        clock.lap(learner.progress)
        if epoch % tuning.checkpoint_every == 0:
            file.write(learner.state())
        on_epoch()


def _train(learner: Learner, support: Labelled, rng: np.random.Generator, epoch: int) -> float:
    """One epoch: the mean cross-entropy of the images, each as it was when its step was taken."""
    tuning, model, total = learner.tuning, learner.model.train(), 0.0
    labels = torch.from_numpy(support.labels).to(model.head.weight.device)
    for rows in batches(len(support.labels), tuning.batch_size * tuning.accumulate, rng):
        learner.optimiser.zero_grad()
        for part in np.split(rows, range(tuning.batch_size, len(rows), tuning.batch_size)):
            logits = model(_states(support.features, part, labels.device, tuning))
            loss = F.cross_entropy(logits, labels[part], reduction="sum")
            total += _finite(loss.item(), tuning, epoch)
            (loss / len(rows)).backward()
        _finite(nn.utils.clip_grad_norm_(learner.trained.values(), tuning.clip).item(), tuning, epoch)
        learner.optimiser.step()
    return total / len(support.labels)


def _validate(learner: Learner, val: Labelled, n_classes: int, epoch: int) -> dict[str, float]:
    logits = scores(learner, val.features)
    odds = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(odds).sum(axis=1)) - odds[np.arange(len(odds)), val.labels]
    loss = _finite(float(losses.mean()), learner.tuning, epoch)
    return {"val_loss": loss, "val_macro_f1": float(macro_f1(val.labels, logits.argmax(axis=1), n_classes))}


def scores(learner: Learner, features: np.ndarray) -> np.ndarray:
    """(M, C) float64 logits of (M, T, W) states, without dropout."""
    model, device = learner.model.eval(), learner.model.head.weight.device
    parts = np.split(np.arange(len(features)), range(AT_ONCE, len(features), AT_ONCE))
    with torch.no_grad():
        found = [model(_states(features, part, device, learner.tuning)) for part in parts]
    return torch.cat(found).double().cpu().numpy()


def in_order(images: Labelled) -> Labelled:
    """The images by class and then by a sum over their states, so that batches do not depend on the order given.

    A sum, since states that differ by rounding must fall into the same order. The states themselves stay where they
    are.
    """
    order = np.lexsort([_numbers(images.features, range(len(images.labels))), images.labels])
    return Labelled(_Rows(images.features, order), np.asarray(images.labels)[order])


def _numbers(features: np.ndarray, rows: Iterable[int]) -> list[float]:
    return [_number(np.asarray(features[np.array([k])], np.float64)) for k in rows]


def _number(states: np.ndarray) -> float:
    """A sum with weights that no two places share, for a mean is much the same in all images."""
    with np.errstate(invalid="ignore"):  # what is not finite is told where it is trained on
        return float(states.ravel() @ np.cos(np.arange(states.size)))


@dataclass(frozen=True)
class _Rows:
    """Rows of states in another order."""

    states: np.ndarray
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.states[self.order[rows]]


def _states(features: np.ndarray, rows: np.ndarray, device: torch.device, tuning: TowerTuning) -> Tensor:
    x = np.require(np.asarray(features[rows], np.float32), requirements=["C", "W"])
    if not np.isfinite(x).all():
        remedy = "take tokens=float32" if tuning.tokens == "float16" else "encode those images again"
        raise BusistoreError(f"a state that is to be trained on is not finite; {remedy}")
    return torch.from_numpy(x).to(device)


def _finite(value: float, tuning: TowerTuning, epoch: int) -> float:
    if math.isfinite(value):
        return value
    safer = "" if tuning.precision == "fp32" else ", or take precision=fp32"
    rates = f"adapter_rate={tuning.adapter_rate} and head_rate={tuning.head_rate}"
    raise RunFailed(f"{tuning.name}: the loss or its gradient is not finite in epoch {epoch}; lower {rates}{safer}")


@contextmanager
def _memory_told(tuning: TowerTuning) -> Iterator[None]:
    """Say which knob to turn where memory ends, on whichever device."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        texts = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
        if isinstance(error, RuntimeError) and not any(text in str(error) for text in texts):
            raise
        blocks = "all blocks" if tuning.blocks is None else f"blocks={tuning.blocks}"
        raise RunFailed(
            f"{tuning.name}: out of memory at batch_size={tuning.batch_size} and {blocks}; lower batch_size and raise "
            "accumulate as much, or lower blocks"
        ) from error


class _File:
    """The checkpoint of one run, or nothing where no folder is given."""

    def __init__(
        self, learner: Learner, support: Labelled, val: Labelled | None, queries: np.ndarray, folder: Path | None
    ):
        self.path = None if folder is None else Path(folder) / ".partial" / "checkpoint.safetensors"
        self.key = "" if folder is None else self._key(learner, support, val, queries)

    @staticmethod
    def _key(learner: Learner, support: Labelled, val: Labelled | None, queries: np.ndarray) -> str:
        """Stands for all that the numbers of a training come from: method, labels, states, and the network's start."""
        tuning = learner.tuning
        labels = [None if images is None else np.asarray(images.labels).tolist() for images in (support, val)]
        shapes = {name: list(p.shape) for name, p in learner.trained.items()}
        made = {"method": tuning.name, "code": tuning.code, "parameters": tuning, "labels": labels, "shapes": shapes}
        few = np.unique(np.linspace(0, len(queries) - 1, min(len(queries), LOOKED_AT)).astype(int))
        looked = [(support.features, range(len(support.features))), (queries, few)]
        if val is not None:
            looked.append((val.features, range(len(val.features))))
        made["states"] = [[f"{x:.6g}" for x in _numbers(features, rows)] for features, rows in looked]
        sizes = (torch.linalg.vector_norm(p.detach(), dtype=torch.float64) for p in learner.model.parameters())
        made["network"] = [f"{float(size):.6g}" for size in sizes]
        return sha256(canonical_json(made).encode())

    def read(self) -> checkpoint.Checkpoint | None:
        return None if self.path is None else checkpoint.read(self.path, self.key)

    def write(self, found: checkpoint.Checkpoint) -> None:
        if self.path is not None:
            checkpoint.write(self.path, found, self.key)


class _Clock:
    """CPU-seconds of this process, and seconds, since the last look."""

    def __init__(self) -> None:
        self._last = time.process_time(), time.perf_counter()

    def lap(self, progress: Progress) -> None:
        """Add them to what was spent."""
        last, self._last = self._last, (time.process_time(), time.perf_counter())
        progress.cpu_seconds += self._last[0] - last[0]
        progress.seconds += self._last[1] - last[1]


def _keep(learner: Learner, folder: Path) -> dict[str, str]:
    """Write all files aside and then move them into place, the head last: a folder with a head is whole.

    Returns the SHA-256 of each file of weights, by its name.
    """
    aside, head = folder / ".partial" / f"kept.{os.getpid()}", folder / HEAD
    with checkpoint.written("nothing that was trained", folder):
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            _write(learner, aside)
            kept = {file.name: sha256(file.read_bytes()) for file in sorted(aside.glob("*.safetensors"))}
            head.unlink(missing_ok=True)  # of a run before, to which the other files will not belong
            for file in sorted(aside.iterdir(), key=lambda f: (f.name == HEAD, f.name)):
                os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return kept


def _write(learner: Learner, folder: Path) -> None:
    learner.tuning.keep(learner.model.network, folder)
    save_file({name: p.detach().contiguous() for name, p in learner.model.head.named_parameters()}, folder / HEAD)
    epochs: dict[int, dict[str, float]] = {}
    for epoch, name, value in learner.progress.curves:
        epochs.setdefault(epoch, {"epoch": epoch})[name] = value
    (folder / "curves.json").write_text(json.dumps(list(epochs.values()), indent=1) + "\n")
