"""Pairs of images that may be near-duplicates, found without an N x N matrix: memory grows with N alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

THUMB_PX = 64
LOW = 16
"""The low frequencies of a thumbnail, LOW x LOW of its cosine transform, carry nearly all of its correlation."""
ODD = np.uint64(0x9E3779B97F4A7C15)
"""Multiplier of Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4): the high bits are well mixed."""
OWNER_BITS = 24
"""Bits of a 64-bit key that hold the image's number; the other 40 are a hash of a part of a descriptor."""


@dataclass(frozen=True)
class Search:
    """When two images are worth registering. Any one route is enough."""

    hash_bits: int = 8
    """Largest Hamming distance between two perceptual hashes of 64 bits (pHash, dHash)."""
    min_ncc: float = 0.9
    """Smallest normalised cross-correlation of two thumbnails of 64 x 64 px."""
    min_cosine: float = 0.92
    """Smallest cosine of two embeddings."""
    side_px: int = 384
    """Longest side at which local descriptors are taken: coarser than registration, since fine speckle does not
    survive resampling."""
    n_local: int = 256
    """Descriptors kept per image, the strongest first, to find frames that were cropped again."""
    n_tables: int = 16
    """Tables of descriptors, each keyed by other bytes of them."""
    n_key_bytes: int = 6
    """Bytes of a descriptor, of its 32, that make a key."""
    min_votes: int = 3
    """Keys that two images must share over all tables."""
    n_neighbours: int = 16
    """Neighbours an image may propose per route, the most similar first, and per key: bounds memory."""
    seed: int = 0


@dataclass(frozen=True)
class Signatures:
    """What is kept of N images: about 12.4 kB each.

    digests: N bytes objects, equal only for equal pixels. hashes: (2, N, 8) uint8, packed pHash and dHash.
    thumbs: (N, 4096) uint8. descriptors: (N, n_local, 32) uint8, of which n_descriptors (N,) are filled.
    """

    digests: list[bytes]
    hashes: np.ndarray
    thumbs: np.ndarray
    descriptors: np.ndarray
    n_descriptors: np.ndarray


def unit_rows(rows: np.ndarray, centred: bool = False) -> np.ndarray:
    """(N, D) float32 rows of length one, less their mean if `centred`; a row without content becomes zeros."""
    rows = rows.astype(np.float32)
    if centred:
        rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)


def similar_rows(rows: np.ndarray, least: float, block: int = 512) -> Iterator[tuple[np.ndarray, ...]]:
    """For each block of (N, D) float32 rows: (i, j, product) of the pairs i < j whose product is at least `least`."""
    for start in range(0, len(rows), block):
        products = rows[start : start + block] @ rows[start:].T
        i, j = np.nonzero(products >= least)
        i, j = i[j > i], j[j > i]
        yield i + start, j + start, products[i, j]


def nearest(i: np.ndarray, j: np.ndarray, score: np.ndarray, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (i, j) among the `n_neighbours` best scored of their i; ties go to the lower j."""
    order = np.lexsort((j, -score, i))
    i, j = i[order], j[order]
    rank = np.arange(len(i)) - np.searchsorted(i, i)
    return i[rank < n_neighbours], j[rank < n_neighbours]


def by_cosine(rows: np.ndarray, least: float, n_neighbours: int) -> np.ndarray:
    """(M, 2) pairs of unit rows whose cosine is at least `least`."""
    return _gather(nearest(*found, n_neighbours) for found in similar_rows(rows, least))


def by_hash(hashes: np.ndarray, usable: np.ndarray, settings: Search) -> np.ndarray:
    """(M, 2) pairs of (N, 8) uint8 hashes within `hash_bits`; rows that are not `usable` (N,) bool take no part."""
    bits = np.unpackbits(hashes, axis=1)
    signs = (2 * bits.astype(np.float32) - 1) / 8 * usable[:, None]
    # signs multiply to 1 - distance / 32; half a bit of slack keeps the rounding out
    return by_cosine(signs, 1 - (settings.hash_bits + 0.5) / 32, settings.n_neighbours)


def by_ncc(thumbs: np.ndarray, settings: Search) -> np.ndarray:
    """(M, 2) pairs of (N, 4096) uint8 thumbnails whose normalised cross-correlation is at least `min_ncc`.

    Exact: the low frequencies' product plus the product of what they leave out bounds the correlation from above.
    """
    bounds = np.concatenate([_bound_rows(thumbs[k : k + 1024]) for k in range(0, len(thumbs), 1024)])
    kept = []
    for i, j, _ in similar_rows(bounds, settings.min_ncc - 1e-5):
        score = np.empty(len(i), np.float32)
        for k in range(0, len(i), 1024):
            part = slice(k, k + 1024)
            a, b = unit_rows(thumbs[i[part]], centred=True), unit_rows(thumbs[j[part]], centred=True)
            score[part] = np.einsum("nd,nd->n", a, b)
        near = score >= settings.min_ncc
        kept.append(nearest(i[near], j[near], score[near], settings.n_neighbours))
    return _gather(kept)


def _bound_rows(thumbs: np.ndarray) -> np.ndarray:
    """(N, LOW * LOW + 1) float32: low frequencies of the centred unit thumbnails, and the length of the rest."""
    from scipy.fft import dctn

    rows = unit_rows(thumbs, centred=True).reshape(-1, THUMB_PX, THUMB_PX)
    low = dctn(rows, axes=(1, 2), norm="ortho")[:, :LOW, :LOW].reshape(len(rows), -1)
    rest = np.sqrt(np.maximum(0, (rows**2).sum((1, 2)) - (low**2).sum(1)))
    return np.column_stack([low, rest])


def by_local_features(descriptors: np.ndarray, n_descriptors: np.ndarray, settings: Search) -> np.ndarray:
    """(M, 2) pairs of images that share `min_votes` keys: parts of descriptors that are equal bit for bit.

    Within one key every image meets its next `n_neighbours` only, so that a logo in all images stays cheap.
    """
    n = len(descriptors)
    if n >= 1 << OWNER_BITS:
        raise ValueError(f"{n} images are more than a key has room for ({1 << OWNER_BITS})")
    filled = np.arange(descriptors.shape[1]) < n_descriptors[:, None]
    owner = np.nonzero(filled)[0].astype(np.uint64)
    draw = np.random.default_rng(settings.seed)
    shared = [np.zeros(0, np.int64)]
    for _ in range(settings.n_tables):
        part = np.zeros(len(owner), np.uint64)
        for byte in draw.choice(32, size=settings.n_key_bytes, replace=False):
            part <<= np.uint64(8)
            part |= descriptors[:, :, byte][filled]
        keys = ((part * ODD) >> np.uint64(OWNER_BITS)) << np.uint64(OWNER_BITS) | owner
        shared.extend(_meetings(_counted(keys)[0], n, settings.n_neighbours))
    codes, votes = _counted(np.concatenate(shared))
    codes = codes[votes >= settings.min_votes]
    return np.column_stack([codes // n, codes % n])


def _counted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct values and how often each occurs; sorts in place, 100 times as fast as `np.unique` here."""
    values.sort()
    edge = np.ones(len(values), dtype=bool)
    edge[1:] = values[1:] != values[:-1]
    return values[edge], np.diff(np.append(np.flatnonzero(edge), len(values)))


def _meetings(keys: np.ndarray, n: int, n_neighbours: int) -> Iterator[np.ndarray]:
    """Codes a * n + b (int64, a < b) of images whose sorted keys are equal, within `n_neighbours` places."""
    owner = (keys & np.uint64((1 << OWNER_BITS) - 1)).astype(np.int64)
    keys = keys >> np.uint64(OWNER_BITS)
    for step in range(1, n_neighbours + 1):
        at = np.flatnonzero(keys[step:] == keys[:-step])
        if not len(at):
            return
        yield owner[at] * n + owner[at + step]


def _gather(parts) -> np.ndarray:
    """(M, 2) int64 from an iterable of (i, j)."""
    return np.concatenate([np.zeros((0, 2), np.int64)] + [np.column_stack(p) for p in parts])


def candidates(signs: Signatures, embeddings: np.ndarray | None, settings: Search) -> dict[tuple[int, int], str]:
    """Pairs (a, b), a < b, of N signatures to their routes joined by `+`: phash, dhash, ncc, cosine, local.

    Args:
        embeddings: (N, D) float, any length, or None.
    """
    if len(signs.digests) < 2:
        return {}
    usable = np.array([t.min() < t.max() for t in signs.thumbs], dtype=bool)
    routes: dict[str, Callable[[], np.ndarray]] = {
        "phash": lambda: by_hash(signs.hashes[0], usable, settings),
        "dhash": lambda: by_hash(signs.hashes[1], usable, settings),
        "ncc": lambda: by_ncc(signs.thumbs, settings),
        "cosine": lambda: by_cosine(unit_rows(embeddings), settings.min_cosine, settings.n_neighbours),
        "local": lambda: by_local_features(signs.descriptors, signs.n_descriptors, settings),
    }
    found: dict[tuple[int, int], str] = {}
    for route, search in routes.items():
        if route == "cosine" and embeddings is None:
            continue
        for a, b in search().tolist():
            found[a, b] = f"{found[a, b]}+{route}" if (a, b) in found else route
    return found
