"""A loaded image tower: grey squares to vectors and tokens, in one forward pass.

Plain vision transformers run as their lean twin (`vit.py`); every other network as its library made it. On a GPU
copies in both directions overlap the computation: `submit` returns at once, the function it returns waits.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from busistore.errors import BusistoreError
from busistore.models import loaders
from busistore.models.plain import Plain
from busistore.models.spec import Located
from busistore.models.vit import lean

Outputs = dict[str, np.ndarray]


class Encoder:
    """A loaded image tower on a device. `encode` takes grey squares and gives vectors."""

    def __init__(self, located: Located, visual: Any, device: str = "cpu"):
        self.located, self.device, self.visual = located, device, visual
        given, precision = located.spec.input, located.precision
        twin = lean(visual, given, precision)
        self.is_lean = twin is not None
        self._network = (twin if twin is not None else Plain(visual, given, precision)).eval().to(device)
        self._reference: Encoder | None = None
        self._streams = _streams(device)

    def encode(self, squares: np.ndarray) -> np.ndarray:
        """(N, S, S) uint8 grey to (N, D) float32, as the network emits it (not normalised).

        Raises:
            BusistoreError: the pictures are not of the size that the model takes.
        """
        return self.outputs(squares)[self.located.output]

    def outputs(self, squares: np.ndarray, layers: Iterable[str] = ()) -> Outputs:
        """All that is asked for, from one pass over (N, S, S) uint8 grey pictures.

        Args:
            layers: "unprojected" (N, W): pooled before the projection; "grid" (N, h, w, D): patches after the last
                norm, projected like the pooled vector; "h5" (N, T, W): all tokens, class token first, as block 5
                (from 0) leaves them. "pooled" (N, D) always comes.

        Raises:
            BusistoreError: pictures of another size, or a layer that the network does not have.
        """
        return self.submit(squares, layers)()

    def submit(self, squares: np.ndarray, layers: Iterable[str] = ()) -> Callable[[], Outputs]:
        """Begin a pass; the returned function waits for it and gives what `outputs` gives."""
        self._check_size(squares)
        wanted = [name for name in dict.fromkeys((*layers, self.located.output)) if name != "pooled"]
        self._check_layers(wanted)
        stream = next(self._streams)
        with torch.inference_mode(), contextlib.nullcontext() if stream is None else torch.cuda.stream(stream):
            grey = torch.tensor(squares)
            if stream is not None:
                grey = grey.pin_memory().to(self.device, non_blocking=True)
            return _collected(self._network(grey, wanted), stream)

    def resume(self, states: np.ndarray, after: int) -> np.ndarray:
        """(N, T, W) tokens as block `after` left them to (N, D) vectors: equal to a whole pass bit for bit in fp32.

        Raises:
            BusistoreError: the network has no such block.
        """
        self._check_layers([f"h{after}"])
        with torch.inference_mode():
            tokens = torch.tensor(states).to(self.device).float()
            return self._network.resume(tokens, after).float().cpu().numpy()

    def least_cosine(self, squares: np.ndarray) -> float:
        """The least cosine between this encoder's vectors of some pictures and those in fp32; NaN if one is not finite.

        The fp32 twin is made at the first call and kept.
        """
        if self._reference is None:
            self._reference = Encoder(self.located.at("fp32"), self.visual, self.device)
        given, exact = (x.astype(np.float64) for x in (self.encode(squares), self._reference.encode(squares)))
        lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(exact, axis=1)
        return float(((given * exact).sum(axis=1) / lengths).min())

    def shapes(self, layers: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The shape of one image's part of each layer, from a pass over one black picture."""
        size = self.located.spec.input.size_px
        made = self.outputs(np.zeros((1, size, size), np.uint8), layers)
        return {name: made[name].shape[1:] for name in layers}

    def _check_size(self, squares: np.ndarray) -> None:
        size = self.located.spec.input.size_px
        if squares.shape[1:] != (size, size):
            name = self.located.spec.name
            raise BusistoreError(f"'{name}' takes {size} x {size} px, not {squares.shape[1:]}; choose another recipe")

    def _check_layers(self, layers: list[str]) -> None:
        """Blocks and vectors before the projection are a plain transformer's; other networks may have a grid."""
        n_blocks = self._network.n_blocks if self.is_lean else 0
        known = {"unprojected", *(f"h{k}" for k in range(n_blocks))} if n_blocks else set()
        for name in layers:
            if name != "grid" and name not in known:
                blocks = f"blocks 0 to {n_blocks - 1}" if n_blocks else "no blocks: only plain vision transformers have"
                raise BusistoreError(f"'{self.located.spec.name}' has no layer '{name.removeprefix('h')}'; {blocks}")


def load(located: Located, device: str = "cpu") -> Encoder:
    """The encoder with the weights found; every tensor of the network comes from the file, or nothing is loaded."""
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise BusistoreError(f"there is no device '{device}' here; use --device cpu") from None
    return Encoder(located, loaders.build(located).visual, device)


def _streams(device: str) -> Iterator[Any]:
    """Two streams of a GPU in turn, so that one batch is copied while another is computed; None on a processor."""
    if torch.device(device).type != "cuda":
        return itertools.repeat(None)
    torch.cuda.synchronize(device)  # the weights are there before another stream reads them
    return itertools.cycle([torch.cuda.Stream(device), torch.cuda.Stream(device)])


def _collected(made: dict[str, torch.Tensor], stream: Any) -> Callable[[], Outputs]:
    """A function that gives the tensors as arrays, once they have arrived from the device."""
    if stream is None:
        return lambda: {name: tensor.cpu().numpy() for name, tensor in made.items()}
    here = {name: torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for name, t in made.items()}
    for name, tensor in made.items():
        here[name].copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(stream)

    def wait() -> Outputs:
        arrived.synchronize()
        return {name: tensor.numpy() for name, tensor in here.items()}

    return wait
