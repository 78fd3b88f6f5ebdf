"""Weights of SAM and of BUSSAM into a network, each tensor accounted for.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from busistore.errors import MissingWeights
from busistore.models import checkpoints, records
from busistore.segmenters.bussam import Bussam
from busistore.segmenters.bussam_encoder import SamSize
from busistore.segmenters.bussam_groups import ADDED, group

SAM_FILE = "sam_vit_b_01ec64.pth"
SAM_URL = f"https://dl.fbaipublicfiles.com/segment_anything/{SAM_FILE}"
SAM_SHA256 = "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
SAM_BYTES = 375_042_383
SAM_LICENCE = "Apache-2.0"
N_NAMED = 3  # tensors that an error names before it counts the rest
State = dict[str, Tensor]


class LoadReport(NamedTuple):
    """The names of tensors as they were in the file, of those resized to fit, and of those that it does not have."""

    copied: tuple[str, ...]
    resized: tuple[str, ...] = ()
    left_at_init: tuple[str, ...] = ()


def default_path() -> Path:
    """Where torch.hub keeps SAM's file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / SAM_FILE


def identity(path: Path, init: str) -> str:
    """The SHA-256 of a file of weights; with `init` "sam" it must be the published one.

    Raises:
        MissingWeights: no file, or another.
    """
    if init == "bussam":
        _check_bussam(path)
    else:
        _check_sam(path, allow_other=init != "sam")
    return records.file_sha256(path)


def load_stock(model: nn.Module, path: Path) -> None:
    """SAM itself, every tensor from the file; see `identity` for whether it is the published one.

    Raises:
        MissingWeights: a damaged file, or one of another network.
    """
    state = checkpoints.read(path)
    _check_fit(model.state_dict(), state, path)
    model.load_state_dict(state)


def load_sam(model: Bussam, path: Path) -> LoadReport:
    """The tensors of SAM's ViT-B into the network; what BUSSAM adds to it stays as it is.

    Relative positions of the global blocks are of a grid of 64 x 64 patches in SAM, and are resized linearly. See
    `identity` for whether the file is the published one.

    Raises:
        MissingWeights: a damaged file, or one of another network.
    """
    state, own = checkpoints.read(path), model.state_dict()
    resized = {n: t for n, t in state.items() if n in own and _is_resizable(n, t, own[n], model.size)}
    state |= {name: resize_rel_pos(tensor, own[name].shape[0]) for name, tensor in resized.items()}
    added = tuple(n for n in own if group(n, model.size.global_blocks) in ADDED)
    _check_fit({n: t for n, t in own.items() if n not in added}, state, path)
    model.load_state_dict(state, strict=False)
    return LoadReport(tuple(n for n in state if n not in resized), tuple(resized), added)


def _check_sam(path: Path, allow_other: bool) -> None:
    source = f"{SAM_FILE} ({SAM_BYTES / 1e6:.0f} MB, licence {SAM_LICENCE}) from {SAM_URL}"
    if not path.is_file():
        raise MissingWeights(f"no weights of SAM at '{path}'; get {source}, there or elsewhere with --weights PATH")
    if allow_other:
        return
    size = path.stat().st_size
    if size < SAM_BYTES:
        raise MissingWeights(f"'{path}' is not whole: it has {size:,} bytes of {SAM_BYTES:,}; get {source}")
    digest = records.file_sha256(path)
    if digest != SAM_SHA256:
        told = f"'{path}' is not SAM's published file (sha256 {digest[:12]}); get {source}"
        raise MissingWeights(f"{told}, or say what it is: -p init=fine-tuned, or init=bussam")


def _is_resizable(name: str, given: Tensor, own: Tensor, size: SamSize) -> bool:
    is_other = given.ndim == 2 and given.shape != own.shape and given.shape[1:] == own.shape[1:]
    return is_other and group(name, size.global_blocks) == "rel_pos"


def resize_rel_pos(given: Tensor, length: int) -> Tensor:
    """(L, D) to (`length`, D), linearly along the offsets, pixel centres in the middle of their cells."""
    return F.interpolate(given.T[None].float(), length, mode="linear", align_corners=False)[0].T.contiguous()


def load_bussam(model: Bussam, path: Path) -> LoadReport:
    """A whole network, as the published code writes it, wrapped or not.

    Raises:
        MissingWeights: no file, a damaged one, or one of another network.
    """
    _check_bussam(path)
    state = checkpoints.read(path)
    _check_fit(model.state_dict(), state, path)
    model.load_state_dict(state)
    return LoadReport(tuple(state))


def _check_bussam(path: Path) -> None:
    if not path.is_file():
        raise MissingWeights(f"no checkpoint of BUSSAM at '{path}'; published ones are linked from its repository")


def _check_fit(own: State, state: State, path: Path) -> None:
    """Refuse a file that lacks a tensor of the network, has one too many, or has one of another shape."""
    shapes = [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    said = [
        _told("missing", own.keys() - state.keys()),
        _told("unexpected", state.keys() - own.keys()),
        _told("of another shape", shapes),
    ]
    if any(said):
        raise checkpoints.misfit(path, "; ".join(filter(None, said)))
    broken = [n for n in own if not torch.isfinite(state[n]).all()]
    if broken:
        raise MissingWeights(f"'{path}' has numbers that are not finite ({_told('damaged', broken)}); get it again")


def _told(what: str, names: Iterable[str]) -> str:
    """'5 missing: a, b, c, ...', or nothing for no names."""
    names = sorted(names)
    more = ", ..." if len(names) > N_NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:N_NAMED])}{more}" if names else ""
