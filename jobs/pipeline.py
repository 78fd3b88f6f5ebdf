"""Whole ways through the store, as chains of jobs that each do only what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from busistore.jobs import Report, Track, silent
from busistore.jobs.encode import encode
from busistore.jobs.evaluate import evaluate
from busistore.jobs.group import group
from busistore.jobs.ingest import ingest
from busistore.jobs.preprocess import preprocess
from busistore.jobs.segment import segment
from busistore.jobs.split import sizes, split
from busistore.jobs.train_segmenter import train_segmenter
from busistore.store import Store

METHODS = ("linear-probe", "knn", "prototype")
SHOTS = (1, 2, 4, 8, 16, 32)
N_PHANTOMS = 120
SMALL_UNET = {"width": "8", "epochs": "12", "rate": "5e-3", "warm_up": "10"}  # a minute on two cores


def demo(store: Store, dataset: str, folder: Path, model: str, *, track: Track = silent) -> Iterator[str | Report]:
    """From a folder to a finished grid and masks, yielding a line or report after each step; phantoms are drawn if
    need be."""
    if dataset == "phantom":
        yield _draw(folder, track)
    yield ingest(store, dataset, folder, track=track)
    found = group(store, dataset, track=track)
    yield f"group: {len(found.group_of)} images, {len(set(found.group_of.values()))} groups ({found.grouping})"
    yield preprocess(store, track=track)
    yield encode(store, model, track=track)
    split_id = split(store, dataset)
    parts = sizes(store, split_id)
    yield f"split: {split_id}, " + ", ".join(f"{sum(n.values())} {part}" for part, n in sorted(parts.items()))
    shots = [k for k in SHOTS if k <= min(parts["train"].values())]
    yield evaluate(store, METHODS, [model], shots, range(10), split=split_id, track=track)
    yield train_segmenter(store, "unet", split=split_id, parameters=SMALL_UNET, track=track)
    yield segment(store, "unet", split=split_id, track=track)


def _draw(folder: Path, track: Track) -> str:
    from busistore.datasets.phantom import draw

    if (folder / "truth.csv").exists():  # written last: the drawing is whole
        return f"phantoms: in {folder} already"
    with track("draw phantoms", N_PHANTOMS) as advance:
        draw(folder, N_PHANTOMS, seed=0, progress=lambda done, total: advance(1))
    return f"phantoms: {N_PHANTOMS} drawn in {folder}"
