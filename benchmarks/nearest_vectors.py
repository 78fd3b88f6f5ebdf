"""What an index is worth to `store.nearest`: recall of the ten nearest and time, for each kind, against the scan.

    python benchmarks/nearest_vectors.py --rows 100000 --kinds IVF_SQ,IVF_PQ,IVF_HNSW_SQ
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from busistore import nearest
from busistore.schema import embeddings_table
from busistore.store import Store

DIM, N_QUERIES, K, SHARD = 512, 50, 10, 20_000
TABLE = embeddings_table("model-000000000000", "recipe-000000000000", DIM)


def clustered(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two hundred clusters, equally noisy in every direction; questions are images with a little more noise."""
    centres = rng.normal(size=(200, DIM))
    x = 0.6 * centres[rng.integers(200, size=n)] + rng.normal(size=(n, DIM))
    return x, x[:N_QUERIES] + 0.05 * rng.normal(size=(N_QUERIES, DIM))


def spectrum(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One cone whose variances fall off as an image tower's do; questions come from another, as a text tower's do."""
    basis, scale = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0], np.arange(1, DIM + 1) ** -0.7
    x = (rng.normal(size=(n, DIM)) * scale) @ basis + 2 * basis[:1]
    return x, (rng.normal(size=(N_QUERIES, DIM)) * scale) @ basis + 2 * basis[1:2]


def filled(path: Path, x: np.ndarray) -> Store:
    store = Store.create(path)
    for start in range(0, len(x), SHARD):
        part = x[start : start + SHARD]
        columns = {
            "image_id": [f"busi/benign-{k:07}" for k in range(start, start + len(part))],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), DIM),
        }
        rest = {f.name: pa.array(["0" if f.type == pa.string() else 0] * len(part), f.type) for f in TABLE.schema
                if f.name not in columns}  # fmt: skip
        store.put(TABLE, pa.table(columns | rest, schema=TABLE.schema))
    return store


def asked(answer: Callable[[np.ndarray], list], queries: np.ndarray, truth: list[set[str]]) -> str:
    times, found = [], 0
    for query, wanted in zip(queries, truth, strict=True):
        started = time.perf_counter()
        hits = answer(query)
        times.append(time.perf_counter() - started)
        found += len(wanted & {image_id for image_id, _ in hits})
    return f"recall {found / K / len(queries):.3f}, {1000 * statistics.median(times):6.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kinds", default="IVF_SQ")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # lancedb's, about the way an index's kind is named here
    for draw in (clustered, spectrum):
        with tempfile.TemporaryDirectory() as folder:
            compare(draw, Path(folder) / "store", given.rows, given.kinds.split(","))


def compare(draw: Callable, path: Path, n_rows: int, kinds: list[str]) -> None:
    x, queries = (a.astype(np.float32) for a in draw(n_rows, np.random.default_rng(0)))
    store = filled(path, x)
    scan = partial(nearest._by_scan, store, TABLE.name, k=K, only=None)
    by_index = partial(nearest._by_index, store, TABLE.name, k=K, outside=set())
    truth = [{image_id for image_id, _ in scan(query)} for query in queries]
    print(draw.__name__, "scan:", asked(scan, queries[:10], truth[:10]), flush=True)
    for kind in kinds:
        started = time.perf_counter()
        table = store.lancedb.open_table(TABLE.name)
        table.create_index(metric="cosine", vector_column_name="vector", index_type=kind, replace=True)
        made = time.perf_counter() - started
        print(draw.__name__, f"{kind} made in {made:.1f} s:", asked(by_index, queries, truth), flush=True)


if __name__ == "__main__":
    main()
