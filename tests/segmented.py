"""A small store with predicted masks, every row made by hand: six test images, two segmenters, two pairs of twins.

Images are 100 x 80 px, so that 80 px of a lesion are one percent. `SCORES` has Dice and HD95 of each image by the
source of the masks: `unet` misses m1 and marks n2; `click`, a BUSSAM of random weights with a click from the truth,
marks no normal image.
"""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from busistore import pixels, schema
from busistore.jobs import lesions
from busistore.jobs.ingest import mask_row
from busistore.store import Store
from tests.filled import image_row

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LABELS = {"toy/b1": "benign", "toy/b2": "benign", "toy/m1": "malignant", "toy/m2": "malignant", "toy/n1": "normal",
          "toy/n2": "normal"}  # fmt: skip
AREAS = {"toy/b1": 80, "toy/b2": 400, "toy/m1": 1600, "toy/m2": 1600, "toy/n1": 0, "toy/n2": 0}
SCORES = {
    "unet": {"toy/b1": (0.9, 4.0), "toy/b2": (0.5, 20.0), "toy/m1": (0.0, 128.0), "toy/m2": (0.7, 12.0),
             "toy/n1": (None, None), "toy/n2": (0.0, None)},
    "click": {"toy/b1": (0.8, 6.0), "toy/b2": (0.9, 5.0), "toy/m1": (0.6, 30.0), "toy/m2": (0.9, 7.0),
              "toy/n1": (None, None), "toy/n2": (None, None)},
}  # fmt: skip
MISSED, MARKED = {("unet", "toy/m1")}, {("unet", "toy/n2")}
AGREED = {"toy/b1|toy/b2": 0.8, "toy/m1|toy/m2": 0.9}
MADE = {
    "unet": ("unet-000000000001", "unet", "nothing", "auto", {"width": 8}),
    "click": ("bussam-000000000002", "bussam", "random", "oracle-click", {"cache": "vit"}),
}


def segmented_store(path: Path) -> Store:
    """A store at `path` with everything that the section on masks reads."""
    store = Store.create(path)
    store.put(schema.IMAGES, [_image(i) for i in LABELS])
    store.put(schema.SPLITS, [{"split_id": "toy-1", "image_id": i, "dataset": "toy", "label": label, "part": "test",
                               "group_id": i} for i, label in LABELS.items()])  # fmt: skip
    store.put(schema.GROUPS, [{"image_id": i, "grouping": "g", "dataset": "toy", "group_id": i[:5], "size": 2,
                               "spans_classes": False, "grouped_at": NOW} for i in LABELS])  # fmt: skip
    store.put(schema.MASKS, [_mask(i, "truth", AREAS[i]) for i in LABELS])
    for name in MADE:
        put_segmentation(store, name)
    agreed = [metric("annotation-toy-0123456789ab", pair, "dice", v) for pair, v in AGREED.items()]
    agreed += [metric("annotation-toy-0123456789ab", pair, "hd95", 10.0) for pair in AGREED]
    store.put(schema.METRICS, agreed)
    return store


def put_segmentation(store: Store, name: str, **changes) -> None:
    """The training, masks and metrics of one of MADE; `changes` are of its row in `segmentations`."""
    segmenter_id, kind, init, prompt, parameters = MADE[name]
    made = {"source_id": name, "segmenter_id": segmenter_id, "segmenter": kind, "init": init, "prompt": prompt,
            "dataset": "toy", "split_id": "toy-1", "part": "test", "n_images": 6, "finished_at": NOW,
            "n_missed": int(name == "unet"), "n_false_positive": int(name == "unet"),
            "inputs_sha256": lesions.inputs_sha256(store, LABELS)} | changes  # fmt: skip
    store.put(schema.SEGMENTATIONS, [made])
    store.put(schema.SEGMENTERS, [{
        "segmenter_id": segmenter_id, "segmenter": kind, "init": init, "parameters": json.dumps(parameters),
        "dataset": "toy", "split_id": "toy-1", "n_train": 20, "n_val": 5, "n_trained": 1_444_864, "best_epoch": 2,
        "n_epochs": 3, "val_dice": 0.6, "seconds": 75.0, "cpu_seconds": 90.0, "device": "cpu", "finished_at": NOW,
    }])  # fmt: skip
    source_id = made["source_id"]
    rows = [row for i, scores in SCORES[name].items() for row in _metrics(name, source_id, i, *scores)]
    dice = [d for d, _ in SCORES[name].values() if d is not None]
    rows.append(metric(source_id, made["part"], "dice", sum(dice) / len(dice), len(dice)))
    for epoch, (loss, score) in enumerate([(0.9, 0.3), (0.5, 0.6), (0.4, 0.5)], 1):
        rows += [metric(segmenter_id, f"epoch:{epoch:03d}", "train_loss", loss),
                 metric(segmenter_id, f"epoch:{epoch:03d}", "val_dice", score)]  # fmt: skip
    store.put(schema.METRICS, rows, replace=True)
    said = {i: 0 if (name, i) in MISSED else 50 if (name, i) in MARKED else AREAS[i] for i in LABELS}
    store.put(schema.MASKS, [_mask(i, source_id, area, 10) for i, area in said.items()])


def metric(run_id: str, subject: str, name: str, value: float, n_used: int = 1) -> dict:
    """A row of `metrics`."""
    return {"run_id": run_id, "subject": subject, "metric": name, "class": "", "value": value, "n_used": n_used}


def _metrics(name: str, source_id: str, image_id: str, dice: float | None, hd95: float | None) -> list[dict]:
    lesion = AREAS[image_id] > 0
    missed, marked = float((name, image_id) in MISSED), float((name, image_id) in MARKED)
    values = {"dice": dice, "hd95": hd95, "nsd_3px": dice, "missed": missed if lesion else None,
              "false_positive": None if lesion else marked, "hd_bussam_compat": 9.0 if lesion else None,
              "n_lesions": float(lesion), "n_lesions_found": float(lesion and dice > 0.5),
              "n_false_lesions": marked}  # fmt: skip
    return [metric(source_id, image_id, key, value) for key, value in values.items() if value is not None]


def _image(image_id: str) -> dict:
    grey = np.random.default_rng(len(image_id)).integers(60, 200, (80, 100)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    told = {"label": LABELS[image_id], "pixels_sha256": pixels.pixels_sha256(grey) + image_id}
    return image_row(image_id, buffer.getvalue()) | told


def _mask(image_id: str, source_id: str, area_px: int, moved_px: int = 0) -> dict:
    """A bar of 10 rows, or 40 where it is large."""
    mask = np.zeros((80, 100), bool)
    rows = 40 if area_px > 1000 else 10
    mask[20 : 20 + rows, 20 + moved_px : 20 + moved_px + area_px // rows] = True
    assert mask.sum() == area_px
    return {"image_id": image_id, **mask_row(mask, source_id, 1)}


def earlier(days: int) -> datetime:
    """So many days before everything."""
    return NOW - timedelta(days=days)
