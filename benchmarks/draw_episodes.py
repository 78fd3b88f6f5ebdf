"""What it costs to fetch the support vectors of a few-shot grid: `Store.vectors` against a NumPy memory map.

The grid is 60 episodes of up to 96 rows: 1 to 32 shots of three classes, ten seeds. Both sides run in this process on
the same vectors and must give the same ones. `cold` is the first call of a store or map that was opened anew, `warm`
a call with other seeds on one that has answered before; the disk is read before, so neither waits for it. The memory
map is given the row numbers of the ids, which the store has to find. The index, where a table is large enough for
one, is made before and its time given apart.

    python benchmarks/draw_episodes.py --rows 1000,100000,1000000   # 4.2 GB of disk
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from busistore.sampling import sample_episodes
from busistore.schema import embeddings_table
from busistore.store import Store

DIM, SHARD, REPEATS = 512, 20_000, 5
SHOTS, SEEDS = (1, 2, 4, 8, 16, 32), 10
CLASSES = ("benign", "malignant", "normal")
TABLE = embeddings_table("model-000000000000", "recipe-000000000000", DIM)

Grid = list[str]  # ids of all episodes of a grid, one after another, with repeats


def labels_of(n_rows: int) -> dict[str, str]:
    """Image id -> class; the order is that of the rows."""
    return {f"busi/{CLASSES[k % 3]}-{k:07}": CLASSES[k % 3] for k in range(n_rows)}


def filled(folder: Path, ids: list[str]) -> tuple[Store, Path]:
    """The same random vectors in a store and in a file for a memory map."""
    store, path, rng = Store.create(folder / "store"), folder / "vectors.npy", np.random.default_rng(0)
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (len(ids), DIM))
    for start in range(0, len(ids), SHARD):
        some = ids[start : start + SHARD]
        part = rng.standard_normal((len(some), DIM), np.float32)
        mapped[start : start + SHARD] = part
        vector = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), DIM)
        columns = {"image_id": some, "vector": vector}
        rest = {f.name: pa.array(["0" if f.type == pa.string() else 0] * len(some), f.type) for f in TABLE.schema
                if f.name not in columns}  # fmt: skip
        store.put(TABLE, pa.table(columns | rest, schema=TABLE.schema))
    return store, path


def grid(labels: dict[str, str], first_seed: int) -> Grid:
    episodes = sample_episodes(labels, SHOTS, range(first_seed, first_seed + SEEDS))
    return [image_id for drawn in episodes for ids in drawn.support.values() for image_id in ids]


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    found = work()
    return 1000 * (time.perf_counter() - started), found


def measured(store: Store, path: Path, grids: list[Grid], ids: list[str]) -> dict[str, float]:
    """Median milliseconds of one call for each side and state; the first grid is fetched cold, the second warm."""
    row_of = {image_id: k for k, image_id in enumerate(ids)}
    rows = [np.array([row_of[image_id] for image_id in some]) for some in grids]
    times: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        opened, mapped = Store.open(store.path), np.load(path, mmap_mode="r")
        for state, some, numbers in zip(("cold", "warm"), grids, rows):
            store_ms, found = timed(partial(opened.vectors, TABLE.name, some))
            map_ms, wanted = timed(partial(np.take, mapped, numbers, axis=0))
            np.testing.assert_array_equal(found, wanted)
            times.setdefault(f"store {state}", []).append(store_ms)
            times.setdefault(f"map {state}", []).append(map_ms)
    return {what: statistics.median(each) for what, each in times.items()}


def lines(n_rows: int, folder: Path) -> list[str]:
    labels = labels_of(n_rows)
    ids = list(labels)
    store, path = filled(folder, ids)
    first_ms, _ = timed(partial(store.vectors, TABLE.name, ids[:1]))
    grids = [grid(labels, 0), grid(labels, SEEDS)]
    last = [some[-len(CLASSES) * max(SHOTS) :] for some in grids]
    found = []
    for n_episodes, asked in ((len(SHOTS) * SEEDS, grids), (1, last)):
        ms = measured(store, path, asked, ids)
        cells = [f"{ms[f'{side} {state}'] / n_episodes:.2f}" for state in ("cold", "warm") for side in ("store", "map")]
        found.append(f"| {n_rows:,} | {first_ms:.0f} | {n_episodes} | {len(set(asked[0]))} | {' | '.join(cells)} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1000,100000", help="sizes of the tables")
    parser.add_argument("--folder", type=Path, help="where the tables are made, and removed again")
    given = parser.parse_args()
    print("milliseconds for each episode; the very first call makes the index where a table gets one\n")
    print("| rows | very first call, ms | episodes in a call | distinct rows | store, cold | map, cold | store, warm |"
          " map, warm |\n|---|---|---|---|---|---|---|---|", flush=True)  # fmt: skip
    for n_rows in map(int, given.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            print("\n".join(lines(n_rows, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
