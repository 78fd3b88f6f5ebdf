"""What a frozen part of a segmenter's network makes of each image: computed once, and read from then on.

The tokens lie in a table of their own, as 16-bit numbers: 1.5 MB an image for BUSSAM, 2 MB for SAM. They are written
a shard at a time and read a batch at a time, so that memory does not grow with the number of images. Images pass one
by one: a stop and another command change no bit of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from busistore import pixels
from busistore.errors import BusistoreError
from busistore.ids import content_id
from busistore.jobs import Report, Shards, Track, columns, lesions, silent
from busistore.jobs.layers import shape_of, vector_row
from busistore.schema import IMAGES, tokens_name, tokens_table
from busistore.segmenters import Segmenter, Start
from busistore.store import Store

if TYPE_CHECKING:
    from busistore.segmenters.training import Network

RECIPE = "original"  # networks are given original images, and squeeze them themselves
SHARD_ROWS = 32
Kept = Callable[[Sequence[str]], np.ndarray]


def kept(
    store: Store, segmenter: Segmenter, start: Start, network: Network, ids: Sequence[str], track: Track = silent
) -> Kept | None:
    """Image ids to (B, *shape) float32 tokens, computed before where some of `ids` have none; None where a segmenter
    keeps nothing."""
    if not segmenter.kept or not ids:
        return None
    encoder_id, now = encoder_of(segmenter, start), lesions.hashes(store, ids)
    name = tokens_name(encoder_id, RECIPE, segmenter.kept)
    stored = dict(columns(store.read(name, ["image_id", "input_sha256"])))
    missing = [i for i in ids if stored.get(i) != now[i]]
    if missing:
        with track(f"encode {encoder_id}", len(missing)) as advance:
            _compute(store, segmenter, network, encoder_id, {i: now[i] for i in missing}, advance)
    shape = shape_of(store.dataset(name).schema)
    return lambda wanted: store.vectors(name, wanted).reshape(-1, *shape)


def rounded(tokens: np.ndarray, segmenter: Segmenter, name: str) -> np.ndarray:
    """Tokens as numbers of 16 bits, which is how they are kept; a BusistoreError where those of `name` do not fit."""
    with np.errstate(over="ignore"):
        made = tokens.astype(np.float16)
    if not np.isfinite(made).all():
        raise BusistoreError(f"'{segmenter.name}' gave tokens of '{name}' that do not fit 16 bits; cache=none")
    return made


def asked_once(tokens: Callable[[np.ndarray], np.ndarray] | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """The same tokens; those of the last rows are remembered, since a proposer and then the network ask for them."""
    last: list[tuple[list[int], np.ndarray]] = []

    def ask(rows: np.ndarray) -> np.ndarray:
        wanted = [int(k) for k in rows]
        if not last or last[0][0] != wanted:
            last[:] = [(wanted, tokens(rows))]
        return last[0][1]

    return None if tokens is None else ask


def encoder_of(segmenter: Segmenter, start: Start) -> str:
    """The id of what makes a segmenter's tokens."""
    encoder = segmenter.encoder(start)
    return content_id(encoder["name"], encoder)


def _compute(
    store: Store, segmenter: Segmenter, network: Network, encoder_id: str, now: dict[str, str],
    advance: Callable[[int], None],
) -> None:  # fmt: skip
    made = _made(store, segmenter, network, list(now))
    first_id, first = next(made)
    table = tokens_table(encoder_id, RECIPE, segmenter.kept, first.shape)
    report = Report(f"tokens {encoder_id}", len(now))
    with Shards(store, report, (table,), SHARD_ROWS) as shards:
        for image_id, tokens in itertools.chain([(first_id, first)], made):
            row = vector_row(encoder_id, RECIPE, image_id, now[image_id], tokens.reshape(-1))
            shards.add(image_id, {table.name: [row]})
            shards.checkpoint()
            advance(1)


def _made(store: Store, segmenter: Segmenter, network: Network, ids: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    for image_id, data in store.files(IMAGES).stream(ids):
        tokens = segmenter.tokens(network, [pixels.grey(data, image_id)])[0].numpy()
        yield image_id, rounded(tokens, segmenter, image_id)
