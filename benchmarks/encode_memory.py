"""Whether memory stays flat: peak memory of `encode` over N pictures and over ten times as many copies of them.

Each run is a process of its own; the pictures are those of a BUSI folder, stored again and again under new names.

    python benchmarks/encode_memory.py ../shared/busi
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from busistore.jobs.ingest import ingest
from busistore.jobs.preprocess import preprocess
from busistore.preprocess.recipes import recipe
from busistore.schema import IMAGES, PREPROCESSED
from busistore.store import Store

MODEL = "efficientnet-lite0"


def original(folder: Path, root: Path) -> Store:
    store = Store.create(root / "original")
    ingest(store, "busi", folder)
    preprocess(store)
    return store


def copied(source: Store, path: Path, times: int) -> Store:
    """A store with every picture `times` times; its originals are a few bytes, since nothing reads them again."""
    store, made = Store.create(path), recipe("pad224")
    ids = sorted(source.read("images", ["image_id"])["image_id"].to_pylist())
    images = {r["image_id"]: r for r in source.read("images").to_pylist()}
    pictures = {r["image_id"]: r for r in source.read("preprocessed").to_pylist()}
    files = dict(source.files(PREPROCESSED, f"recipe_id = '{made.recipe_id}'").stream(ids))
    for k in range(times):
        names = {i: f"{i}-{k:03}" for i in ids}
        store.put(IMAGES, pa.Table.from_pylist([{**images[i], "image_id": names[i], "png": b"x"} for i in ids],
                                               IMAGES.schema))  # fmt: skip
        store.put(PREPROCESSED, pa.Table.from_pylist(
            [{**pictures[i], "image_id": names[i], "png": files[i]} for i in ids], PREPROCESSED.schema))  # fmt: skip
    return store


def encoded(path: str, model: str) -> None:
    """Encode the store in this process and print its peak memory, in MiB."""
    from busistore.jobs.encode import encode

    report = encode(Store.open(path), model)
    print(report.line(), file=sys.stderr)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("busi", type=Path)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        return encoded(given.run, given.model)
    with tempfile.TemporaryDirectory() as root:
        source = original(given.busi, Path(root))
        peaks = {}
        for times in (1, 10):
            store = copied(source, Path(root) / f"copies-{times}", times)
            command = [sys.executable, __file__, str(given.busi), "--model", given.model, "--run", str(store.path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[times] = float(done.stdout)
            print(f"{store.count('images')} pictures: peak {peaks[times]:.0f} MiB  ({done.stderr.strip()})")
    print(f"ten times as many: {peaks[10] / peaks[1] - 1:+.1%}")


if __name__ == "__main__":
    main()
