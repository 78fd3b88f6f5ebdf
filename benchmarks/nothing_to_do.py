"""What a second `encode` costs when nothing is missing: a store of 100,000 keys, whole processes, no network loaded.

    python benchmarks/nothing_to_do.py --keys 100000
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from busistore import models
from busistore.jobs.models import model_row
from busistore.preprocess.recipes import recipe
from busistore.schema import IMAGES, MODELS, PREPROCESSED, Table, embeddings_table
from busistore.store import Store

MODEL, SHARD = "efficientnet-lite0", 4096
CODE = """
import sys, time
sys.argv = ["busistore", "encode", "--model", sys.argv[1], "--store", sys.argv[2]]
from busistore.cli import main
try: main()
finally: print("torch" in sys.modules)
"""


def filled(root: Path, n_keys: int) -> Store:
    """A store in which every key is there: its files are a few bytes, since nothing reads them."""
    store, made, located = Store.create(root / "store"), recipe("pad224"), models.locate(MODEL)
    store.put(MODELS, [model_row(located, located.spec.dim)])
    vectors = embeddings_table(located.model_id, made.recipe_id, located.spec.dim)
    png = b"not read"
    always = {
        "dataset": "busi", "label": "benign", "ingested_at": datetime.now(UTC), "png": png, "artefacts": "[]",
        "png_crc32": zlib.crc32(png), "recipe_id": made.recipe_id, "recipe": made.name, "model_id": located.model_id,
        "source_path": "", "vector": np.ones(located.spec.dim, np.float32), "crc32": 0,
    }  # fmt: skip
    for start in range(0, n_keys, SHARD):
        ids = [f"busi/benign-{k:06}" for k in range(start, min(start + SHARD, n_keys))]
        for table in (IMAGES, PREPROCESSED, vectors):
            store.put(table, rows(table, ids, always), replace=True)
    return store


def rows(table: Table, ids: list[str], always: dict) -> pa.Table:
    """Rows that differ in their names; hashes are the names, so that each stage matches the one before it."""
    columns = {f.name: pa.array([always.get(f.name)] * len(ids), f.type) for f in table.schema}
    named = {n: pa.array(ids) for n in columns if n == "image_id" or n.endswith("sha256")}
    return pa.table(columns | named, schema=table.schema)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        store = filled(Path(root), given.keys)
        spent = []
        for _ in range(given.rounds + 1):
            started = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", CODE, MODEL, str(store.path)], capture_output=True, text=True)
            spent.append(time.perf_counter() - started)
            assert done.returncode == 0, done.stderr
    print(done.stderr.strip())
    middle, loaded = statistics.median(spent[1:]), done.stdout.strip()
    print(f"whole process: {middle:.2f} s (median of {given.rounds}); torch imported: {loaded}")


if __name__ == "__main__":
    main()
