"""Images and true masks as a segmenter sees them: decoded when they are asked for, in original pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from busistore import pixels
from busistore.errors import BusistoreError
from busistore.ids import sha256
from busistore.jobs import columns
from busistore.jobs.ingest import TRUTH
from busistore.schema import IMAGES, MASKS
from busistore.segmenters import Lesions
from busistore.store import Store, quote

HELD_BYTES = 2**28  # of the files of some images or masks: 1,300 images of 0.2 MB; those beyond are read anew
AT_ONCE = 32
Stream = Callable[[Sequence[str]], Iterator[tuple[str, bytes]]]  # image ids to their files, in that order


class Files(Sequence):
    """PNG files decoded when they are asked for, in 3 ms; up to HELD_BYTES of them stay as they are in memory."""

    def __init__(self, stream: Stream, ids: Sequence[str], decode: Callable[[bytes, str], np.ndarray]):
        self._stream, self._ids, self._decode = stream, ids, decode
        self._held: dict[str, bytes] = {}
        self._left = HELD_BYTES

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, k: int) -> np.ndarray:
        image_id = self._ids[k]
        if image_id not in self._held and self._left > 0:  # some at once: one by one they take thirty times as long
            for name, data in self._stream(self._ids[k : k + AT_ONCE]):
                self._left -= 0 if name in self._held else len(data)
                self._held[name] = data
        data = self._held.get(image_id)
        return self._decode(next(self._stream([image_id]))[1] if data is None else data, image_id)


def truth(store: Store, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The rows of the true masks of some images, without their files, by image id.

    Raises:
        BusistoreError: an image has no mask, not even an empty one.
    """
    ids, wanted = list(ids), ["image_id", "is_empty", "area_px", "png_crc32"]
    found = store.read(MASKS.name, wanted, f"source_id = {quote(TRUTH)}").to_pylist()
    of = {row["image_id"]: row for row in found}
    gone = [i for i in ids if i not in of]
    if gone:
        some = f"{len(gone)} images, such as '{gone[0]}', have no true mask"
        raise BusistoreError(f"{some}; `busistore ingest` brings the masks of a data set that has them")
    return {i: of[i] for i in ids}


def with_lesions(store: Store, ids: Iterable[str]) -> list[str]:
    """Those with a lesion in the true mask, sorted."""
    return sorted(i for i, row in truth(store, ids).items() if not row["is_empty"])


def lesions(store: Store, ids: Sequence[str], kept: Callable[[Sequence[str]], np.ndarray] | None = None) -> Lesions:
    """Images and true masks in the order of `ids`; raises StoreError for a damaged file.

    Args:
        kept: image ids to the tokens of those images.
    """
    images, masks = store.files(IMAGES).stream, store.files(MASKS, f"source_id = {quote(TRUTH)}").stream
    tokens = None if kept is None else lambda rows: kept([ids[k] for k in rows])
    return Lesions(Files(images, ids, pixels.grey), Files(masks, ids, pixels.mask), tokens)


def hashes(store: Store, ids: Sequence[str]) -> dict[str, str]:
    """The hash of the pixels of each image; raises BusistoreError where one is gone."""
    image = dict(columns(store.read(IMAGES.name, ["image_id", "pixels_sha256"])))
    gone = sorted(set(ids) - set(image))
    if gone:
        raise BusistoreError(f"{len(gone)} images, such as '{gone[0]}', are gone; `busistore ingest` brings them again")
    return {i: image[i] for i in ids}


def inputs_sha256(store: Store, ids: Sequence[str]) -> str:
    """The hash of the pixels and the true masks of those images."""
    image, of = hashes(store, ids), truth(store, ids)
    return sha256("\n".join(f"{i} {image[i]} {of[i]['png_crc32']}" for i in sorted(ids)).encode())
