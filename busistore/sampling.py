"""The draw of support sets: a pure function of image ids, labels, how many and a seed.

Chance comes from SHA-256 of names, never from a random generator that another library version could change.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from busistore.errors import BusistoreError
from busistore.ids import content_id


class Draw(NamedTuple):
    """One support set: `shots` images of each class, or the share `ratio` of each; class -> ids in the order drawn."""

    shots: int | None
    ratio: float | None
    seed: int
    support: dict[str, tuple[str, ...]]


def sample_episode(
    labels: Mapping[str, str], shots: int | None, seed: int, ratio: float | None = None
) -> dict[str, tuple[str, ...]]:
    """The support set of one episode: images of each class, drawn without replacement.

    A class's draw depends on its image ids, the class name and the seed alone. Draws are nested: for one seed,
    the support of fewer images is the beginning of the support of more, so that a learning curve adds images and
    replaces none.

    Args:
        labels: image id -> class, of the training part; in any order.
        shots: images per class, at least 1; None with a ratio.
        ratio: share of each class's images, above 0 and up to 1, rounded to a whole number of at least 1.

    Returns:
        class -> image ids in the order drawn; classes sorted.

    Raises:
        BusistoreError: no images, fewer of a class than `shots`, `shots` below 1, or a ratio that is no share.
    """
    shots_of, ratios = ([], [ratio]) if ratio is not None else ([shots], [])
    return next(sample_episodes(labels, shots_of, [seed], ratios)).support


def sample_episodes(
    labels: Mapping[str, str], shots: Sequence[int], seeds: Iterable[int], ratios: Sequence[float] = ()
) -> Iterator[Draw]:
    """Every episode of a grid, seed by seed; `sample_episode`, with the ids sorted once.

    Where every image of every class is drawn, all seeds draw the same: there is one such episode, and its seed is 0.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for image_id in sorted(labels):
        members[labels[image_id]].append(image_id)
    if not members:
        raise BusistoreError("no training images to draw from; check the split's train part")
    held = {label: len(members[label]) for label in sorted(members)}
    asked = _sizes(held, shots, ratios)
    sizes = [size for size in asked if size[2] != held]
    most = {label: max(of[label] for _, _, of in sizes) for label in held} if sizes else {}
    for n, ratio, of in asked:
        if of == held:
            yield Draw(n, ratio, 0, {label: tuple(_draw(members[label], of[label], 0, label)) for label in held})
    for seed in seeds if sizes else ():
        drawn = {label: tuple(_draw(members[label], n, seed, label)) for label, n in most.items()}
        for n, ratio, of in sizes:
            yield Draw(n, ratio, seed, {label: ids[: of[label]] for label, ids in drawn.items()})


def _sizes(
    held: dict[str, int], shots: Sequence[int], ratios: Sequence[float]
) -> list[tuple[int | None, float | None, dict[str, int]]]:
    """(shots, ratio, images of each class) of each kind of episode."""
    _check_shots(held, shots)
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise BusistoreError(f"{100 * ratio:g} % of the training part: give a share above 0 and up to 100 %")
    by_shots = [(n, None, dict.fromkeys(held, n)) for n in shots]
    return by_shots + [(None, r, {label: max(1, round(r * n)) for label, n in held.items()}) for r in ratios]


def _check_shots(held: dict[str, int], shots: Sequence[int]) -> None:
    if min(shots, default=1) < 1:
        raise BusistoreError(f"{min(shots)} shots: at least 1 image per class is drawn")
    label = min(sorted(held), key=held.__getitem__)
    if held[label] < max(shots, default=0):
        has = f"{max(shots)} shots, but class '{label}' has {held[label]} training images"
        raise BusistoreError(f"{has}; ask for at most {held[label]} shots")


def _draw(ids: Sequence[str], n: int, seed: int, label: str) -> list[str]:
    """The first n of a Fisher-Yates shuffle; 256-bit draws keep the bias of the remainder below 1e-60."""
    moved: dict[int, int] = {}
    drawn = []
    for i in range(n):
        j = i + int(hashlib.sha256(f"episode/{seed}/{label}/{i}".encode()).hexdigest(), 16) % (len(ids) - i)
        drawn.append(ids[moved.get(j, j)])
        moved[j] = moved.get(i, i)
    return drawn


def episode_id(
    split: str, shots: int | None, seed: int, support: Mapping[str, Sequence[str]], ratio: float | None = None
) -> str:
    """Id of an episode: readable size and seed, and a hash of the split and the exact support set."""
    value = {"split_id": split, "shots": shots, "seed": seed, "support": {k: sorted(v) for k, v in support.items()}}
    if ratio is None:
        return content_id(f"{shots}shot-seed{seed}", value)
    return content_id(f"{100 * ratio:g}pct-seed{seed}", value | {"ratio": ratio})
