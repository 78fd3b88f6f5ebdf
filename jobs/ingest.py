"""Ingest: a folder as published becomes images and their true masks; what cannot be taken is listed, not lost."""

from __future__ import annotations

import time
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from busistore import datasets, pixels
from busistore.datasets import Fault, ImageRecord
from busistore.errors import BadInput, BusistoreError
from busistore.ids import sha256
from busistore.jobs import Advance, Report, Shards, Track, columns, consume, executors, settle, silent
from busistore.metrics.lesions import regions
from busistore.preprocess.recipes import RECIPES
from busistore.schema import IMAGES, MASKS, PREPROCESSED
from busistore.store import Store, quote

TRUTH = "truth"  # source_id of the masks that came with a data set


def ingest(
    store: Store, dataset: str, root: Path, *, replace: bool = False, executor: str = "threads", track: Track = silent
) -> Report:
    """Read every image and mask of a data set under `root` into the store.

    An image that is stored is skipped when its file is unchanged. A changed one is a failure, unless `replace` asks
    for the new one; what was computed from the old one is then stale, and computed again by the next job.
    """
    started = time.monotonic()
    found = list(datasets.reader(dataset).records(Path(root)))
    records = [r for r in found if isinstance(r, ImageRecord)]
    report = Report("ingest", planned=len(found), source=datasets.as_text(Path(root).resolve()))
    stored, masked = _stored_hashes(store, dataset), {i for i, _ in store.keys(MASKS, f"source_id = {quote(TRUTH)}")}
    with Shards(store, report, (MASKS, IMAGES)) as shards, track("ingest", len(found)) as advance:
        for fault in (f for f in found if isinstance(f, Fault)):
            shards.refuse(fault.key, fault.reason)
            advance(1)
        items = ((r.image_id, (r, stored.get(r.image_id) if r.image_id in masked else None, replace)) for r in records)
        results = executors.compute(read, items, executor)
        consume(_counted(store, results, stored, report, advance), shards, advance)
    _forget_mended(store, dataset, report)
    report.seconds = time.monotonic() - started
    return report


def _counted(store: Store, results, stored: dict[str, str], report: Report, advance: Advance):
    """The results that are new; those of unchanged files are counted as skipped.

    Pictures that were made with a true mask do not tell which; they go before it is replaced.
    """
    of_lesion = ", ".join(quote(name) for name, recipe in RECIPES.items() if recipe.needs_lesion)
    for key, result in results:
        if result is None:
            report.skipped += 1
            advance(1)
            continue
        if key in stored and not isinstance(result, BusistoreError):
            store.delete(PREPROCESSED.name, f"image_id = {quote(key)} AND recipe IN ({of_lesion})")
        yield key, result


def _stored_hashes(store: Store, dataset: str) -> dict[str, str]:
    """For each stored image, the hash of its file and its masks' files."""
    return dict(columns(store.read("images", ["image_id", "files_sha256"], f"dataset = {quote(dataset)}")))


def _forget_mended(store: Store, dataset: str, report: Report) -> None:
    """Failures of this folder that did not come again are over: the file was mended, or taken out."""
    of_dataset = f"starts_with(key, {quote(dataset + '/')})"
    where = f"job = 'ingest' AND {of_dataset} AND source = {quote(report.source)}"
    over = [k for (k,) in columns(store.read("failures", ["key"], where)) if k not in report.failures]
    settle(store, "ingest", over, {})


def read(item: tuple[ImageRecord, str | None, bool]) -> dict[str, list[dict[str, Any]]] | None:
    """The rows of one image and its mask; None when the stored ones are of the same files.

    Raises:
        BadInput: a file that cannot be taken, or one that differs from what is stored.
    """
    record, stored, replace = item
    data = pixels.read_bytes(record.path)
    masks = [pixels.read_bytes(p) for p in record.mask_paths]
    digest = sha256("\n".join(sha256(part) for part in (data, *masks)).encode())
    if digest == stored:
        return None
    if stored is not None and not replace:
        raise BadInput(f"'{record.path.name}' or its mask differs from what is stored; --replace takes the new one")
    image = pixels.open_image(data, record.path.name)
    merged = merge_masks(masks, [p.name for p in record.mask_paths], (image.height, image.width), record.path.name)
    row = {
        "image_id": record.image_id, "dataset": record.dataset, "label": record.label, "patient_id": record.patient_id,
        "view": record.view, "width_px": image.width, "height_px": image.height, "mode": pixels.mode(data),
        "pixels_sha256": pixels.pixels_sha256(image), "file_sha256": sha256(data), "files_sha256": digest,
        "png_crc32": zlib.crc32(data), "source_path": datasets.as_text(record.path.resolve()),
        "ingested_at": datetime.now(UTC), "png": data,
    }  # fmt: skip
    return {IMAGES.name: [row], MASKS.name: [{"image_id": record.image_id, **mask_row(merged, TRUTH, len(masks))}]}


def merge_masks(files: list[bytes], names: list[str], shape: tuple[int, int], image_name: str) -> np.ndarray:
    """The union of an image's masks, (H, W) bool; raises BadInput when one is of another size than the image."""
    merged = np.zeros(shape, bool)
    for data, name in zip(files, names, strict=True):
        mask = pixels.mask(data, name)
        if mask.shape != shape:
            sizes = f"{mask.shape[1]} x {mask.shape[0]} px, its image '{image_name}' {shape[1]} x {shape[0]}"
            raise BadInput(f"the mask '{name}' is {sizes}; make them of one size")
        merged |= mask
    return merged


def mask_row(mask: np.ndarray, source_id: str, n_masks: int) -> dict[str, Any]:
    """The columns of `masks` for an (H, W) bool mask: its area, box (x0, y0, x1, y1; ends excluded) and lesions.

    Lesions are counted as `regions` counts them; area and box count every pixel.
    """
    y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    data = pixels.png(mask)
    edge = mask[[0, -1]].any() or mask[:, [0, -1]].any()
    box = [x[0], y[0], x[-1] + 1, y[-1] + 1] if x.size else None
    return {
        "source_id": source_id, "area_px": int(mask.sum()), "bbox_px": box and [int(v) for v in box],
        "n_masks": n_masks, "n_lesions": len(regions(mask).areas_px),
        "touches_edge": bool(edge),
        "is_empty": not mask.any(), "png_crc32": zlib.crc32(data), "png": data,
    }  # fmt: skip
