"""Weight files into named tensors, unpickled safely, whatever wrapping and names their trainer gave them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from busistore.errors import MissingWeights
from busistore.models import records
from busistore.models.names import efficientnet_lite0, unimed

State = dict[str, Any]


def read(path: Path) -> State:
    """The tensors of a weight file by name: safetensors, a plain state dict, or a trainer's checkpoint of one.

    Raises:
        MissingWeights: the file cannot be read without running code that it carries, or holds something else.
    """
    state = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state or not all(_is_named_tensor(*item) for item in state.items()):
        raise MissingWeights(f"'{path}' holds something else than named tensors; get the published file")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _is_named_tensor(name: Any, value: Any) -> bool:
    import torch

    return isinstance(name, str) and isinstance(value, torch.Tensor)


def _safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError):
        raise _unreadable(path) from None


def _pickled(path: Path) -> State:
    """Only tensors, and the NumPy numbers that trainers keep beside them, are unpickled."""
    import numpy as np
    import torch

    scalar = (np._core.multiarray.scalar, "numpy.core.multiarray.scalar")  # the name it had before NumPy 2
    numbers = [scalar, np._core.multiarray.scalar, np.dtype, *(type(np.dtype(k)) for k in ("f8", "f4", "i8", "i4"))]
    try:
        with torch.serialization.safe_globals(numbers), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what a damaged file looks like
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except MemoryError:
        raise
    except Exception:  # damaged pickles end in errors of every kind
        raise _unreadable(path) from None


def _is_zip(path: Path) -> bool:
    """Files of torch 1.6 and later are archives, which can be mapped in place of read."""
    import zipfile

    return zipfile.is_zipfile(path)


def _unreadable(path: Path) -> MissingWeights:
    return MissingWeights(f"'{path}' is not a file of weights that can be read safely; get it again")


def _stock(path: Path, sha256: str) -> State:
    return read(path)


def _lite0(path: Path, sha256: str) -> State:
    return efficientnet_lite0(read(path))


def _unimed(path: Path, sha256: str) -> State:
    """UniMed-CLIP under open_clip's names, converted once: the trainer's file carries three times the weights."""
    if path.suffix == ".safetensors":
        return read(path)
    converted = records.folder() / "converted" / sha256 / "open_clip_model.safetensors"
    if converted.is_file() and records.file_sha256(converted) == records.recall("converted", sha256):
        return read(converted)
    state = {name: tensor.contiguous() for name, tensor in unimed(read(path)).items()}
    _save(state, converted)
    records.record("converted", sha256, records.file_sha256(converted))
    return state


def _save(state: State, path: Path) -> None:
    import os

    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        save_file(state, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


LAYOUTS: dict[str, Callable[[Path, str], State]] = {"stock": _stock, "lite0": _lite0, "unimed": _unimed}


def misfit(path: Path, said: str) -> MissingWeights:
    """The error for tensors that are not those of the network."""
    return MissingWeights(
        f"'{path}' does not fit the network ({said}); it may be another model's; get the published file"
    )


def load_strictly(network: Any, state: State, path: Path) -> Any:
    """The network with every tensor from the file, or MissingWeights: nothing stays as it was drawn at random."""
    kept = {n: t for n, t in state.items() if not n.endswith("position_ids")}  # a counter that older files carry
    try:
        network.load_state_dict(kept, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).splitlines()[1:2]).strip() or str(error)
        raise misfit(path, first[:160]) from None
    return network
