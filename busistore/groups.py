"""Near-duplicate groups: images of one frame, or of one patient, that a split must never part.

Nothing is deleted here: a pair says that two images show one frame, how alike they are and what found them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np

from busistore.candidates import THUMB_PX, Search, Signatures, candidates
from busistore.registration import Features, Registration, features, register

N_CACHED = 512
"""Working images kept while pairs are registered: about 0.3 MB each."""
Images = Sequence[np.ndarray] | Callable[[int], np.ndarray]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Grouping:
    """Every number that can change which images form a group."""

    code: int = 1
    """Version of the procedure, raised whenever equal settings may give other pairs."""
    search: Search = field(default_factory=Search)
    registration: Registration = field(default_factory=Registration)


@dataclass(frozen=True, order=True)
class Pair:
    """Two images of one frame, a < b.

    similarity: correlation of their aligned textures, 1 for identical pixels.
    reason: `identical`, or the routes that proposed the pair joined by `+`.
    """

    a: int
    b: int
    similarity: float
    reason: str


def find_pairs(
    images: Images,
    embeddings: np.ndarray | None = None,
    progress: Progress | None = None,
    settings: Grouping = Grouping(),
    n_images: int | None = None,
) -> list[Pair]:
    """Near-duplicate pairs among N images, sorted. The pairs do not depend on the order of the images.

    Args:
        images: (H, W) uint8 grey images, a sequence or a function of the image's number; each is asked for once, and
            again where it is registered, so that they need not be in memory together.
        embeddings: (N, D) float or None.
        progress: called as progress(stage, done, total) with stage `signatures` or `registration`.
        n_images: N, needed where `images` is a function.
    """
    load, n = _loader(images, n_images)
    if embeddings is not None and len(embeddings) != n:
        raise ValueError(f"{len(embeddings)} embeddings for {n} images")
    signs = signatures((load(k) for k in range(n)), n, settings, progress)
    copies = list(_copies(signs.digests))
    first = np.array([same[0] for same in copies], dtype=np.int64)
    vectors = None if embeddings is None else np.asarray(embeddings)[first]
    proposed = candidates(_take(signs, first), vectors, settings.search)
    del signs
    confirmed = _confirm(proposed, lambda k: load(first[k]), settings.registration, progress)
    limit = settings.search.n_neighbours
    pairs = [Pair(*ab, 1.0, "identical") for same in copies for ab in _neighbours(same, limit)]
    for (a, b), similarity in confirmed.items():
        for x in copies[a][:limit]:
            pairs.extend(Pair(min(x, y), max(x, y), similarity, proposed[a, b]) for y in copies[b][:limit])
    return sorted(pairs)


def _loader(images: Images, n_images: int | None) -> tuple[Callable[[int], np.ndarray], int]:
    """A function of the image's number that checks what it loads, and the number of images."""
    if callable(images) and n_images is None:
        raise TypeError("n_images is needed where images is a function")
    get = images if callable(images) else images.__getitem__

    def load(k: int) -> np.ndarray:
        gray = get(int(k))
        if gray.dtype != np.uint8 or gray.ndim != 2 or not gray.size:
            raise ValueError(f"image {k} is {gray.dtype} {gray.shape}, not (H, W) uint8")
        return gray

    return load, len(images) if n_images is None else n_images


def signatures(
    images: Iterable[np.ndarray], n: int, settings: Grouping, progress: Progress | None = None
) -> Signatures:
    """Signatures of `n` (H, W) uint8 images, read one at a time."""
    import imagehash
    from PIL import Image

    n_local = settings.search.n_local
    coarse = replace(settings.registration, side_px=settings.search.side_px)
    signs = Signatures(
        digests=[],
        hashes=np.zeros((2, n, 8), np.uint8),
        thumbs=np.zeros((n, THUMB_PX**2), np.uint8),
        descriptors=np.zeros((n, n_local, 32), np.uint8),
        n_descriptors=np.zeros(n, np.int64),
    )
    for k, gray in enumerate(images):
        signs.digests.append(hashlib.sha256(f"{gray.shape}".encode() + gray.tobytes()).digest())
        picture = Image.fromarray(gray)
        for route, compute in enumerate((imagehash.phash, imagehash.dhash)):
            signs.hashes[route, k] = np.packbits(compute(picture).hash)
        signs.thumbs[k] = cv2.resize(gray, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).ravel()
        local = features(gray, coarse).descriptors[:n_local]
        signs.descriptors[k, : len(local)] = local
        signs.n_descriptors[k] = len(local)
        if progress:
            progress("signatures", k + 1, n)
    return signs


def _copies(digests: list[bytes]) -> Iterator[list[int]]:
    """Numbers of the images with equal pixels, in the order of their digests, which no order of images changes."""
    same = defaultdict(list)
    for k, digest in enumerate(digests):
        same[digest].append(k)
    return (same[digest] for digest in sorted(same))


def _take(signs: Signatures, order: np.ndarray) -> Signatures:
    """The signatures of the given images in their order, moved within the arrays: no second copy in memory."""

    def moved(rows: np.ndarray) -> np.ndarray:
        for column in np.array_split(np.arange(rows.shape[1]), 64):
            rows[: len(order), column] = rows[order[:, None], column]
        return rows[: len(order)]

    return replace(
        signs,
        digests=[signs.digests[k] for k in order],
        hashes=signs.hashes[:, order],
        thumbs=moved(signs.thumbs),
        descriptors=moved(signs.descriptors),
        n_descriptors=signs.n_descriptors[order],
    )


def _neighbours(same: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """Each number with the next `limit`: all pairs of a few copies, a connected chain of very many."""
    for k, a in enumerate(same):
        yield from ((a, b) for b in same[k + 1 : k + 1 + limit])


def _confirm(
    proposed: Iterable[tuple[int, int]], load, settings: Registration, progress: Progress | None
) -> dict[tuple[int, int], float]:
    """The proposed pairs whose registered similarity reaches `min_similarity`."""

    @lru_cache(maxsize=N_CACHED)
    def of(k: int) -> Features:
        return features(load(k), settings)

    confirmed, ordered = {}, sorted(proposed)
    for done, (a, b) in enumerate(ordered, start=1):
        similarity = register(of(a), of(b), settings)
        if similarity >= settings.min_similarity:
            confirmed[a, b] = similarity
        if progress:
            progress("registration", done, len(ordered))
    return confirmed


def components(n: int, pairs: Iterable[Pair], patients: Sequence[str | None] | None = None) -> np.ndarray:
    """(N,) int64 group numbers: images joined by pairs, or by a patient's name, however far apart.

    Groups are numbered from 0 by their first image. A patient that is None or empty joins nothing.
    """
    parent = list(range(n))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = k = parent[parent[k]]
        return k

    seen: dict[str, int] = {}
    named = [(k, seen.setdefault(name, k)) for k, name in enumerate(patients or ()) if name]
    for a, b in [(p.a, p.b) for p in pairs] + named:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(k), len(numbers)) for k in range(n)], dtype=np.int64)
