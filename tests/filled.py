"""A small store whose every number can be worked by hand: 12 images, two models, 12 runs.

Four images of each class; the first two of a class are train, the third val, the fourth test. `benign-0001` and
`malignant-0001` are one file under two labels, `benign-0002` is another frame of it, and `normal-0001` and
`normal-0002` have the same pixels in two files. `OUTCOMES` says how sure each run was of each test image. The vector
that `beta` had of `normal-0003`, a val image, is lost, so that its runs are stale. `crowded.py` adds what else a store
may hold.
"""

from __future__ import annotations

import io
import zlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from busistore import ids, schema
from busistore.store import Store

CLASSES = ["benign", "malignant", "normal"]
IMAGE_IDS = [f"toy/{label}-{k:04d}" for label in CLASSES for k in range(1, 5)]
TEST_IDS = [i for i in IMAGE_IDS if i.endswith("4")]
PART = {"1": "train", "2": "train", "3": "val", "4": "test"}
GROUPING, SPLIT, RECIPE, RECIPE_ID = "frames-000000000001", "toy-42-000000000001", "pad224", "pad224-000000000001"
MODEL_IDS = {"alpha": "alpha-00000000000a", "beta": "beta-00000000000b"}
MASK_CONFLICT = "the mask 'a_mask.png' is 10 x 10 px, its image 'a.png' 48 x 40; make them of one size"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

# For test images benign, malignant, normal: probability of the true class, the next class and the one after it.
SURENESS = {"S": (0.8, 0.1, 0.1), "U": (0.5, 0.3, 0.2), "W": (0.2, 0.7, 0.1)}
OUTCOMES = {
    ("alpha", 1): ("SSS", "SUW", "UWS"), ("alpha", 2): ("SSS", "SSU", "SUS"),
    ("beta", 1): ("UWW", "SWU", "WUS"), ("beta", 2): ("SWS", "UUS", "SWU"),
}  # fmt: skip


def filled_store(path: Path) -> Store:
    """A store at `path` in which all tables of schema.TABLES and two embeddings tables have rows."""
    store = Store.create(path)
    files = {image_id: _picture(image_id) for image_id in IMAGE_IDS}
    store.put(schema.IMAGES, [image_row(i, files[i]) for i in IMAGE_IDS])
    store.put(schema.MASKS, [_mask_row(i, files[i]) for i in IMAGE_IDS])
    store.put(schema.GROUPS, [_group_row(i) for i in IMAGE_IDS])
    store.put(schema.PAIRS, [_pair("benign-0001", "benign-0002", 0.93, "registered"),
                             _pair("benign-0001", "malignant-0001", 1.0, "identical file"),
                             _pair("normal-0001", "normal-0002", 1.0, "identical pixels")])  # fmt: skip
    store.put(schema.PREPROCESSED, [_preprocessed_row(i, files[i]) for i in IMAGE_IDS])
    store.put(schema.MODELS, [_model_row(name, dim) for name, dim in (("alpha", 4), ("beta", 6))])
    put_vectors(store, "alpha", 4, IMAGE_IDS)
    put_vectors(store, "beta", 6, [i for i in IMAGE_IDS if i != "toy/normal-0003"])
    store.put(schema.SPLITS, [_split_row(i) for i in IMAGE_IDS])
    store.put(schema.EPISODES, [row for shots in (1, 2) for seed in range(3) for row in _episode(shots, seed)])
    put_runs(store, [(m, n, seed, o) for (m, n), outcomes in OUTCOMES.items() for seed, o in enumerate(outcomes)])
    store.put(schema.FAILURES, [
        {"job": "ingest", "key": "toy/benign (9).png", "reason": "truncated file", "failed_at": NOW},
        {"job": "ingest", "key": "toy/benign (8).png", "failed_at": NOW, "reason": MASK_CONFLICT},
    ])  # fmt: skip
    return store


def put_runs(store: Store, runs: list[tuple], status: str = "done", prefix: str = "run", **changes) -> list[str]:
    """Store runs given as (model, shots, seed, outcome) with predictions and metrics; returns their run_ids.

    Args:
        changes: columns of `runs` that differ from those of the filled store.
    """
    run_ids = [f"{prefix}-{model}-{shots}-{seed}" for model, shots, seed, _ in runs]
    predictions = {i: [_prediction(i, k, sure) for k, sure in enumerate(run[3])] for i, run in zip(run_ids, runs)}
    store.put(schema.PREDICTIONS, [row for rows in predictions.values() for row in rows])
    store.put(schema.METRICS, [row for run_id, rows in predictions.items() for row in _metric_rows(run_id, rows)])
    store.put(schema.RUNS, [_run_row(i, *run[:3], status) | changes for i, run in zip(run_ids, runs)])
    return run_ids


NAIVE_SPLIT = "toy-naive-42-000000000009"


def add_naive_split(store: Store, split_id: str = NAIVE_SPLIT, seed: int = 42, said: str = "SSS") -> None:
    """A split that tests `benign-0001`, a twin of two training images, and runs of `alpha` on it that say `said`."""
    swapped = {"toy/benign-0001": "test", "toy/benign-0004": "train"}
    columns = {"split_id": split_id, "seed": seed, "source": "naive"}
    store.put(schema.SPLITS, [(r := _split_row(i)) | columns | {"part": swapped.get(i, r["part"])} for i in IMAGE_IDS])
    for (model, shots), outcomes in OUTCOMES.items():
        for of_seed in range(len(outcomes)) if model == "alpha" else ():
            changes = {"split_id": split_id, "episode_id": f"{split_id}-{shots}-{of_seed}", "exposure_support": 1 / 3}
            put_runs(store, [(model, shots, of_seed, said)], prefix=split_id, **changes)


def _metric_rows(run_id: str, predictions: list[dict]) -> list[dict]:
    values = metric_values([p["label"] for p in predictions], [p["probabilities"] for p in predictions])
    return [{"run_id": run_id, "subject": "test", "metric": metric, "class": name, "value": value,
             "n_used": len(predictions)} for (metric, name), value in values.items()]  # fmt: skip


def image_row(image_id: str, png: bytes) -> dict:
    """The row of `images` for a PNG file; `normal-0002` is kept as another file with the pixels of `normal-0001`."""
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    dataset, name = image_id.split("/")
    return {
        "image_id": image_id, "dataset": dataset, "label": name.split("-")[0], "patient_id": None, "view": None,
        "width_px": pixels.shape[1], "height_px": pixels.shape[0], "mode": "RGB" if pixels.ndim == 3 else "L",
        "pixels_sha256": ids.sha256(pixels.tobytes()), "file_sha256": ids.sha256(png), "files_sha256": ids.sha256(png),
        "png_crc32": zlib.crc32(png),
        "source_path": f"/data/{image_id}.png", "ingested_at": NOW, "png": png,
    }  # fmt: skip


def put_vectors(store: Store, model: str, dim: int, image_ids: list[str]) -> None:
    """Unit-spread vectors of one model; vector k of `alpha` points along its class's axis."""
    table = schema.embeddings_table(MODEL_IDS[model], RECIPE_ID, dim)
    store.put(table, [_vector_row(model, dim, image_id) for image_id in image_ids])


def metric_values(labels: list[str], probabilities: list[list[float]]) -> dict[tuple[str, str], float]:
    """(metric, class) -> value, from the definitions, for a handful of test images."""
    predicted = [CLASSES[int(np.argmax(p))] for p in probabilities]
    out = {("accuracy", ""): _mean([a == b for a, b in zip(labels, predicted)])}
    for k, name in enumerate(CLASSES):
        hit = sum(a == b == name for a, b in zip(labels, predicted))
        said, true = predicted.count(name), labels.count(name)
        out["precision", name], out["recall", name] = hit / said if said else 0.0, hit / true
        out["f1", name], out["support", name] = 2 * hit / (said + true), float(true)
        out["auroc", name] = _auroc([a == name for a in labels], [p[k] for p in probabilities])
    for macro, per_class in (("macro_precision", "precision"), ("macro_recall", "recall"), ("macro_f1", "f1"),
                             ("balanced_accuracy", "recall"), ("auroc", "auroc")):  # fmt: skip
        out[macro, ""] = _mean([out[per_class, name] for name in CLASSES])
    ill = [(a == "malignant", p[1]) for a, p in zip(labels, probabilities) if a != "normal"]
    out["auroc_malignant_vs_benign", ""] = _auroc(*zip(*ill))
    out["log_loss", ""] = -_mean([np.log(p[CLASSES.index(a)]) for a, p in zip(labels, probabilities)])
    return {key: float(value) for key, value in out.items()}


def _mean(values) -> float:
    return float(sum(values)) / len(values)


def _auroc(positive, scores) -> float:
    won = [(a > b) + (a == b) / 2 for a, p in zip(scores, positive) if p for b, q in zip(scores, positive) if not q]
    return _mean(won)


def _picture(image_id: str) -> bytes:
    """PNG of speckle with one dark disc; the three duplicates are drawn from their first frame's seed."""
    twin = {"toy/malignant-0001": "toy/benign-0001", "toy/normal-0002": "toy/normal-0001"}.get(image_id, image_id)
    k = IMAGE_IDS.index(twin)
    height, width = 40 + 2 * (k % 3), 48 + 4 * (k % 4)
    pixels = np.random.default_rng(k).integers(60, 200, (height, width)).astype(np.uint8)
    if "normal" not in twin:
        pixels[_disc(height, width)] //= 4
    if image_id == "toy/benign-0003":
        pixels = np.stack([pixels] * 3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1 if image_id == "toy/normal-0002" else 6)
    return buffer.getvalue()


def _disc(height: int, width: int, radius: int = 8) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (x - width // 2) ** 2 + (y - height // 2) ** 2 <= radius**2


def _mask_row(image_id: str, png: bytes) -> dict:
    """Ground truth: a disc for lesions, none for normals and (a fault to be found) for `benign-0003`."""
    width, height = Image.open(io.BytesIO(png)).size
    empty = "normal" in image_id or image_id == "toy/benign-0003"
    mask = np.zeros((height, width), bool) if empty else _disc(height, width)
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    box = None if empty else [width // 2 - 8, height // 2 - 8, width // 2 + 9, height // 2 + 9]
    two = image_id == "toy/benign-0002"
    return {
        "image_id": image_id, "source_id": "truth", "area_px": int(mask.sum()), "bbox_px": box,
        "n_masks": 1 + two, "n_lesions": 0 if empty else 1 + two, "is_empty": empty,
        "touches_edge": image_id == "toy/malignant-0003", "png_crc32": zlib.crc32(buffer.getvalue()),
        "png": buffer.getvalue(),
    }  # fmt: skip


def _group_row(image_id: str) -> dict:
    frames = {"toy/benign-0001": 1.0, "toy/benign-0002": 0.93, "toy/malignant-0001": 1.0}
    still = {"toy/normal-0001": 1.0, "toy/normal-0002": 1.0}
    group_id = "G0" if image_id in frames else "G1" if image_id in still else "G-" + image_id
    return {
        "image_id": image_id, "grouping": GROUPING, "dataset": "toy", "group_id": group_id,
        "size": {"G0": 3, "G1": 2}.get(group_id, 1), "max_similarity": (frames | still).get(image_id),
        "spans_classes": group_id == "G0", "basis_sha256": ids.sha256(b"as they are"), "grouped_at": NOW,
    }  # fmt: skip


def _pair(a: str, b: str, similarity: float, reason: str) -> dict:
    return {"grouping": GROUPING, "image_id": f"toy/{a}", "other_id": f"toy/{b}", "dataset": "toy",
            "similarity": similarity, "reason": reason}  # fmt: skip


def _preprocessed_row(image_id: str, png: bytes) -> dict:
    """The image enlarged to 224 px on its longer side and padded with zeros at the bottom or right."""
    image = Image.open(io.BytesIO(png)).convert("L")
    source = image_row(image_id, png)["pixels_sha256"]
    scale = 224 / max(image.size)
    square = Image.new("L", (224, 224))
    square.paste(image.resize((round(image.width * scale), round(image.height * scale))))
    buffer = io.BytesIO()
    square.save(buffer, "PNG")
    shift = 0.5 / scale - 0.5
    return {
        "image_id": image_id, "recipe_id": RECIPE_ID, "recipe": RECIPE, "source_sha256": source, "width_px": 224,
        "height_px": 224, "pixels_sha256": ids.sha256(square.tobytes()), "artefacts": "[]",
        "to_original": [1 / scale, 0, shift, 0, 1 / scale, shift], "png_crc32": zlib.crc32(buffer.getvalue()),
        "png": buffer.getvalue(),
    }  # fmt: skip


def _model_row(model: str, dim: int) -> dict:
    return {
        "model_id": MODEL_IDS[model], "model": model, "architecture": f"toy-{dim}", "weights_source": "drawn",
        "weights_sha256": ids.sha256(model.encode()), "input_transform": "{}", "precision": "float32", "dim": dim,
        "versions": "{}", "licence": "Apache-2.0", "recorded_at": NOW,
    }  # fmt: skip


def _vector_row(model: str, dim: int, image_id: str) -> dict:
    k = IMAGE_IDS.index(image_id)
    vector = np.eye(dim, dtype=np.float32)[k // 4]
    vector[dim - 1] = k / 16
    return {"image_id": image_id, "model_id": MODEL_IDS[model], "recipe_id": RECIPE_ID, "vector": vector,
            "input_sha256": _preprocessed_row(image_id, _picture(image_id))["pixels_sha256"],
            "crc32": zlib.crc32(vector.tobytes())}  # fmt: skip


def _split_row(image_id: str) -> dict:
    return {
        "split_id": SPLIT, "image_id": image_id, "dataset": "toy", "label": _label(image_id),
        "part": PART[image_id[-1]], "group_id": _group_row(image_id)["group_id"], "weight": 1.0, "grouping": GROUPING,
        "seed": 42, "source": "grouped",
    }  # fmt: skip


def _episode(shots: int, seed: int) -> list[dict]:
    """Support of an episode: the first or second train image of each class for one shot, both for two."""
    chosen = [1 + seed % 2] if shots == 1 else [1, 2]
    return [
        {"episode_id": f"episode-{shots}-{seed}", "image_id": f"toy/{label}-{k:04d}", "split_id": SPLIT,
         "dataset": "toy", "shots": shots, "seed": seed, "role": "support", "label": label}
        for label in CLASSES for k in chosen
    ]  # fmt: skip


def _prediction(run_id: str, k: int, sure: str) -> dict:
    probabilities = [SURENESS[sure][(c - k) % 3] for c in range(3)]
    return {"run_id": run_id, "image_id": TEST_IDS[k], "part": "test", "label": CLASSES[k],
            "predicted": CLASSES[int(np.argmax(probabilities))], "probabilities": probabilities}  # fmt: skip


def _run_row(run_id: str, model: str, shots: int, seed: int, status: str) -> dict:
    return {
        "run_id": run_id, "method": "linear-probe", "model": model, "model_id": MODEL_IDS[model], "recipe": RECIPE,
        "recipe_id": RECIPE_ID, "dataset": "toy", "split_id": SPLIT, "episode_id": f"episode-{shots}-{seed}",
        "shots": shots, "seed": seed, "protocol": "val-tuned", "parameters": "{}", "classes": CLASSES,
        "details": '{"chosen_C":1.0}', "n_labelled": 3 * shots + 3, "n_test": 3, "exposure_support": 0.0,
        "inputs_sha256": inputs_sha256(),
        "exposure_val": 0.0, "versions": "{}", "commit": "0" * 40, "device": "cpu",
        "seconds": shots * {"alpha": 0.5, "beta": 2.0}[model], "status": status, "finished_at": NOW,
    }  # fmt: skip


@cache
def inputs_sha256() -> str:
    """What names the vectors of the split: its images in order, each with the hash of the picture encoded."""
    pictures = {i: _preprocessed_row(i, _picture(i))["pixels_sha256"] for i in IMAGE_IDS}
    return ids.sha256("\n".join(f"{i} {pictures[i]}" for i in sorted(IMAGE_IDS)).encode())


def _label(image_id: str) -> str:
    return image_id.split("/")[1].split("-")[0]
