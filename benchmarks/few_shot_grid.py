"""A few-shot grid of linear probes: drawn, fitted, scored and stored, against a plain loop over scikit-learn.

Both sides run in this process on the same vectors (class centres and noise, 437 training, 93 validation and 95 test
images, of 512 numbers) and the same threads, and count everything from the draw of support sets to stored metrics.
The loop is what notebooks do: for each support set one fit for each C, all metrics on validation to choose it, all
metrics on test, a line in a CSV file. It is timed at tol=1e-10, where its numbers are ours, and at scikit-learn's
default tolerance, where they are not; and, for the leanest of loops, with no metric but macro-F1 on validation.

    python benchmarks/few_shot_grid.py                 # 6 shots x 10 seeds x 5 C, five rounds: two minutes
    python benchmarks/few_shot_grid.py --seeds 1000    # ours alone, with its memory: half a minute
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shutil
import statistics
import tempfile
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from busistore import models, sampling
from busistore.jobs import columns
from busistore.jobs.evaluate import evaluate
from busistore.jobs.models import model_row
from busistore.preprocess.recipes import recipe
from busistore.schema import IMAGES, MODELS, PREPROCESSED, SPLITS, Table, embeddings_table
from busistore.store import Store

MODEL, DIM, SHOTS, C_GRID = "efficientnet-lite0", 512, (1, 2, 4, 8, 16, 32), (0.01, 0.1, 1.0, 10.0, 100.0)
CLASSES, PARTS = ("benign", "malignant", "normal"), {"train": 437, "val": 93, "test": 95}
EXACT, DEFAULT = 1e-10, 1e-4


def drawn() -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Image ids, parts, labels and vectors; about 56 % benign, 27 % malignant, 17 % normal, as in BUSI."""
    rng = np.random.default_rng(0)
    n = sum(PARTS.values())
    labels = np.array(CLASSES)[np.sort(rng.choice(3, n, p=(0.56, 0.27, 0.17)))]
    parts = rng.permutation(np.repeat(list(PARTS), list(PARTS.values())))
    centres = dict(zip(CLASSES, 0.2 * rng.normal(size=(3, DIM))))
    vectors = np.stack([centres[label] for label in labels]) + rng.normal(size=(n, DIM)) + rng.normal(size=DIM)
    return [f"busi/{label}-{k:04d}" for k, label in enumerate(labels)], parts, labels, vectors.astype(np.float32)


def filled(root: Path) -> Store:
    """A store in which those images are split and encoded; its files are a few bytes, since nothing reads them."""
    ids, parts, labels, vectors = drawn()
    store, made, located = Store.create(root), recipe("pad224"), models.locate(MODEL).at("fp32")
    always = {
        "dataset": "busi", "ingested_at": datetime.now(UTC), "png": b"not read", "artefacts": "[]",
        "png_crc32": zlib.crc32(b"not read"), "recipe_id": made.recipe_id, "recipe": made.name, "source_path": "",
        "model_id": located.model_id, "crc32": 0, "split_id": "busi-drawn", "weight": 1.0, "grouping": "alone",
        "seed": 0, "source": "drawn",
    }  # fmt: skip
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    each = {"label": pa.array(labels), "part": pa.array(parts), "group_id": pa.array(ids), "vector": flat}
    store.put(MODELS, [model_row(located, DIM)])
    for table in (IMAGES, PREPROCESSED, SPLITS, embeddings_table(located.model_id, made.recipe_id, DIM)):
        store.put(table, rows(table, ids, always, each))
    return store


def rows(table: Table, ids: list[str], always: dict, each: dict) -> pa.Table:
    """Rows of a table; hashes are the names, so that each stage matches the one before it."""
    made = {f.name: pa.array([always.get(f.name)] * len(ids), f.type) for f in table.schema if f.name not in each}
    made |= {f.name: each[f.name] for f in table.schema if f.name in each}
    made |= {n: pa.array(ids) for n in made if n == "image_id" or n.endswith("sha256")}
    return pa.table(made, schema=table.schema)


def ours(store: Store, seeds: int) -> tuple[dict[tuple, tuple[float, float]], float]:
    """(C, macro-F1, AUROC) by (shots, seed), everything stored; and the seconds."""
    started = time.perf_counter()
    evaluate(store, ["linear-probe"], [MODEL], SHOTS, range(seeds))
    seconds = time.perf_counter() - started
    runs = {i: (shots, seed, details) for i, shots, seed, details in columns(
        store.read("runs", ["run_id", "shots", "seed", "details"]))}  # fmt: skip
    found: dict[tuple, dict] = {key[:2]: {"C": json.loads(key[2])["C"]} for key in runs.values()}
    where = "class = '' AND subject = 'test' AND metric IN ('macro_f1', 'auroc')"
    for run_id, name, value in columns(store.read("metrics", ["run_id", "metric", "value"], where)):
        found[runs[run_id][:2]][name] = value
    return {key: (f["C"], f["macro_f1"], f["auroc"]) for key, f in found.items()}, seconds


def plain(seeds: int, path: Path, tol: float, lean: bool) -> tuple[dict[tuple, tuple], float]:
    """The same by a loop, a line of a CSV file for each support set; and the seconds."""
    ids, parts, labels, vectors = drawn()
    numbers = np.searchsorted(CLASSES, labels)
    unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    row_of = {i: k for k, i in enumerate(ids)}
    of_train = {i: label for i, part, label in zip(ids, parts, labels) if part == "train"}
    (x_val, y_val), (x_test, y_test) = ((unit[parts == p], numbers[parts == p]) for p in ("val", "test"))
    started, found = time.perf_counter(), {}
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        for seed in range(seeds):
            for shots in SHOTS:
                support = sampling.sample_episode(of_train, shots, seed)
                picked = sorted(row_of[i] for some in support.values() for i in some)
                best = (-1.0, 0.0, None)
                for c in C_GRID:
                    probe = LogisticRegression(C=c, max_iter=20_000, tol=tol, class_weight="balanced")
                    probe.fit(unit[picked], numbers[picked])
                    if lean:
                        score = sk.f1_score(y_val, probe.predict(x_val), average="macro")
                    else:
                        score = scores(y_val, probe.predict_proba(x_val))["macro_f1"]
                    if score > best[0]:
                        best = (score, c, probe)
                told = scores(y_test, best[2].predict_proba(x_test))
                found[shots, seed] = (best[1], told["macro_f1"], told["auroc"])
                lines.writerow([shots, seed, best[1], *told.values()])
    return found, time.perf_counter() - started


def scores(true: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    """What a run is scored by, from scikit-learn."""
    said, one_hot = probs.argmax(axis=1), np.eye(3)[true]
    found = {
        "accuracy": sk.accuracy_score(true, said), "balanced": sk.balanced_accuracy_score(true, said),
        "macro_f1": sk.f1_score(true, said, average="macro"),
        "weighted_f1": sk.f1_score(true, said, average="weighted"),
        "precision": sk.precision_score(true, said, average="macro", zero_division=0),
        "recall": sk.recall_score(true, said, average="macro"), "mcc": sk.matthews_corrcoef(true, said),
        "auroc": sk.roc_auc_score(true, probs, multi_class="ovr"), "log_loss": sk.log_loss(true, probs),
        "brier": float(np.square(probs - one_hot).sum(axis=1).mean()),
        "average_precision": sk.average_precision_score(one_hot, probs),
    }  # fmt: skip
    each = sk.precision_recall_fscore_support(true, said, zero_division=0)
    for k, name in enumerate(CLASSES):
        found |= {f"{name}_{m}": values[k] for m, values in zip(("precision", "recall", "f1", "support"), each)}
        found[f"{name}_auroc"] = sk.roc_auc_score(one_hot[:, k], probs[:, k])
    return found


def compared(root: Path, given: argparse.Namespace) -> None:
    """Rounds of all sides, one after the other; ratios are of the same round."""
    filled(root / "store")
    sides = {
        "published, tol 1e-10": (EXACT, False), "published, default tol": (DEFAULT, False),
        "lean, tol 1e-10": (EXACT, True),
    }  # fmt: skip
    spent: dict[str, list[float]] = {name: [] for name in ("ours", *sides)}
    other: dict[str, dict] = {}
    for k in range(given.rounds + 1):
        shutil.copytree(root / "store", root / f"round-{k}")
        mine, seconds = ours(Store.open(root / f"round-{k}"), given.seeds)
        spent["ours"].append(seconds)
        for name, (tol, lean) in sides.items() if k else ():  # the first round warms ours alone: it loads libraries
            other[name], seconds = plain(given.seeds, root / "plain.csv", tol, lean)
            spent[name].append(seconds)
    spent["ours"] = spent["ours"][1:]
    print("| side | seconds, median | times ours, median (range) | same C | largest gap of macro-F1 | of AUROC |")
    print("|---|---|---|---|---|---|")
    for name, seconds in spent.items():
        theirs = other.get(name, mine)
        ratios = [a / b for a, b in zip(seconds, spent["ours"])]
        same = sum(mine[k][0] == theirs[k][0] for k in mine)
        apart = [max(abs(mine[k][m] - theirs[k][m]) for k in mine) for m in (1, 2)]
        print(f"| {name} | {statistics.median(seconds):.2f} | {statistics.median(ratios):.1f} "
              f"({min(ratios):.1f} to {max(ratios):.1f}) | {same} of {len(mine)} | {apart[0]:.1e} | {apart[1]:.1e} |")


def alone(root: Path, seeds: int) -> None:
    store = filled(root / "store")
    found, seconds = ours(store, seeds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(p.stat().st_size for p in store.path.rglob("*") if p.is_file()) / 1e6
    print(f"{len(found)} runs: {seconds:.1f} s, peak {peak:.0f} MiB of memory, {size:.0f} MB on disk")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        if given.seeds > 20:
            alone(Path(root), given.seeds)
        else:
            compared(Path(root), given)


if __name__ == "__main__":
    main()
