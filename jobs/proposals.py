"""Prompts without a true mask: a proposer that sees the image alone says where a lesion is likely.

It is a linear probe of the segmenter's own tokens, fitted on the true masks of the training part, or a trained
segmenter that needs no prompt. Nothing here reads a true mask of any other part.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from busistore.errors import BusistoreError
from busistore.ids import content_id
from busistore.jobs import Track, lesions
from busistore.jobs.episodes import Split
from busistore.jobs.kept_tokens import encoder_of, kept
from busistore.jobs.segmenters import FOLDER, begun, network_of, trained
from busistore.segmenters import SEGMENTERS, Lesions, Segmenter, Start
from busistore.segmenters.patch_probe import CODE, PatchProbe, fit
from busistore.segmenters.prompts import of_proposal
from busistore.store import Store

if TYPE_CHECKING:
    from busistore.segmenters.training import Network

PROBE, PROBES = "patch-probe", "probes"
AT_ONCE = 8
SIDE_PX = 256  # of the squeezed image that prompts are in


class Proposer(NamedTuple):
    """Its id, the threshold above which a place is lesion, and rows of lesions to maps (B, 256, 256) of how likely."""

    proposer_id: str
    threshold: float
    likely: Callable[[Lesions, Sequence[int]], np.ndarray]

    def prompts(self, protocol: str, given: Lesions, rows: Sequence[int]) -> list[Any]:
        """A click or box for each row; None where nothing is proposed."""
        return [of_proposal(protocol, one, self.threshold) for one in self.likely(given, rows)]


class Chosen(NamedTuple):
    """A proposer that is named, and not loaded or fitted yet: its id, and the network of the segmenter that it proposes
    for to the proposer. `row` is that of a segmenter that proposes."""

    proposer_id: str
    make: Callable[[Network, Track], Proposer]
    row: dict[str, Any] | None = None


def choose(store: Store, name: str | None, split: Split, segmenter: Segmenter, start: Start) -> Chosen:
    """The proposer of that name for a segmenter: PROBE, by default, or a trained segmenter without prompts.

    Raises:
        BusistoreError: the segmenter keeps no tokens to probe, the proposer needs prompts itself, or it was trained on
            another split, and so perhaps on images of this test part.
    """
    if name in (None, PROBE):
        return _probe(store, split, segmenter, start)
    kind = SEGMENTERS.get(name)
    row = None if kind is not None and kind.prompted else trained(store, name, split)
    if row is None or SEGMENTERS[row["segmenter"]].prompted:
        raise BusistoreError(f"'{name}' needs prompts itself; a proposer is '{PROBE}' or a segmenter without, as unet")
    proposer_id = f"{row['segmenter_id']}.{row['file_sha256'][:12]}"

    def make(network: Network, track: Track) -> Proposer:
        own, begins = begun(row)
        return Proposer(proposer_id, 0.5, partial(_by_network, own, network_of(store, row, own, begins)))

    return Chosen(proposer_id, make, row)


def _by_network(segmenter: Segmenter, network: Network, given: Lesions, rows: Sequence[int]) -> np.ndarray:
    from busistore.segmenters.answers import answers, enlarged

    images = [given.images[k] for k in rows]
    blind = Lesions(images, [np.zeros(image.shape, bool) for image in images])
    logits = [enlarged(one, (SIDE_PX, SIDE_PX)) for _, one in answers(segmenter, network, blind)]
    return 1 / (1 + np.exp(-np.clip(np.stack(logits), -60, 60)))


def _probe(store: Store, split: Split, segmenter: Segmenter, start: Start) -> Chosen:
    if not segmenter.kept:
        raise BusistoreError(
            f"'{segmenter.name}' keeps no tokens that a probe could read; one with -p cache=vit does, or name a "
            "trained segmenter that needs no prompt: --proposer unet"
        )
    ids = lesions.with_lesions(store, split.parts.get("train", []))
    key = {"encoder": encoder_of(segmenter, start), "inputs_sha256": lesions.inputs_sha256(store, ids), "code": CODE}
    probe_id = content_id(PROBE, key)

    def make(network: Network, track: Track) -> Proposer:
        probe = _read(store, probe_id)
        if probe is None:
            given = lesions.lesions(store, ids, kept(store, segmenter, start, network, ids, track))
            probe = fit(partial(_batches, segmenter, given))
            _write(store, probe_id, probe)
        return Proposer(probe_id, probe.threshold, partial(_by_probe, segmenter, probe))

    return Chosen(probe_id, make)


def _by_probe(segmenter: Segmenter, probe: PatchProbe, given: Lesions, rows: Sequence[int]) -> np.ndarray:
    return np.stack([_spread(one) for one in probe.likely(_patches(segmenter, given, rows))])


def _spread(grid: np.ndarray) -> np.ndarray:
    """(S, S) to (256, 256) float32, linearly between the centres of patches."""
    from PIL import Image

    return np.asarray(Image.fromarray(grid.astype(np.float32)).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))


def _patches(segmenter: Segmenter, given: Lesions, rows: Sequence[int]) -> np.ndarray:
    sizes = [given.images[k].shape for k in rows]
    return segmenter.patches(given.tokens(np.asarray(rows)), sizes)


def _batches(segmenter: Segmenter, given: Lesions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(given), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(given)))
        patches = _patches(segmenter, given, rows)
        yield patches, np.stack([_share(given.masks[k], patches.shape[1]) for k in rows])


def _share(mask: np.ndarray, side: int) -> np.ndarray:
    """(H, W) bool to (side, side): how much of each patch of the squeezed image is lesion."""
    from PIL import Image

    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((side, side), Image.Resampling.BOX), np.float64) / 255


def _read(store: Store, probe_id: str) -> PatchProbe | None:
    path = store.path / FOLDER / PROBES / f"{probe_id}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return PatchProbe(file["weights"], float(file["intercept"]), float(file["threshold"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged: it is fitted again
        return None


def _write(store: Store, probe_id: str, probe: PatchProbe) -> None:
    path = store.path / FOLDER / PROBES / f"{probe_id}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = io.BytesIO()
    np.savez(made, weights=probe.weights, intercept=probe.intercept, threshold=probe.threshold)
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        temporary.write_bytes(made.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
