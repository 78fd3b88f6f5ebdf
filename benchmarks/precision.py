"""What bf16 does to few-shot results: the same episodes on bf16 and fp32 vectors of real images, run by run.

The encoder is a ViT-B/16 with random weights, the hard case: its vectors lie close together, so that rounding weighs.

    python benchmarks/precision.py ../shared/busi
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from encode_speed import NAME, away, checkpoint

from busistore import sql
from busistore.jobs.encode import encode, vectors
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.models import find
from busistore.jobs.split import split
from busistore.preprocess.recipes import recipe
from busistore.store import Store

SHOTS, METRICS = (1, 2, 4, 8, 16, 32), ("auroc", "macro_f1")
QUESTION = """
SELECT shots, seed, max(value) FILTER (model_id = $exact) AS exact, max(value) FILTER (model_id = $rounded) AS rounded
FROM results WHERE metric = $metric AND class = '' AND subject = 'test' GROUP BY ALL ORDER BY ALL
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("busi", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        store = Store.create(Path(root) / "store")
        ingest(store, "busi", given.busi)
        split(store, "busi")
        _, path = checkpoint(Path(root))
        ids = {}
        for precision in ("fp32", "bf16"):
            encode(store, NAME, weights=path, precision=precision)
            evaluate(store, ["linear-probe"], [NAME], SHOTS, range(given.seeds), weights=path, precision=precision)
            ids[precision] = find(store, NAME, path, precision).model_id
        show(store, ids)


def show(store: Store, ids: dict[str, str]) -> None:
    found = [vectors(store, ids[p], recipe("pad224").recipe_id)[2] for p in ("fp32", "bf16")]
    print(f"greatest 1 - cosine of {len(found[0])} images: {away(*found):.1e}\n")
    print("| metric | shots | fp32 | bf16 | mean difference | greatest of a run |\n|---|---|---|---|---|---|")
    for metric in METRICS:
        rows = sql.run(store, QUESTION, {"exact": ids["fp32"], "rounded": ids["bf16"], "metric": metric})
        for shots in (*SHOTS, None):
            some = rows if shots is None else rows.filter(shots=shots)
            exact, rounded = some["exact"].to_numpy(), some["rounded"].to_numpy()
            gap = rounded - exact
            print(f"| {metric} | {shots or 'all'} | {exact.mean():.4f} | {rounded.mean():.4f} | {gap.mean():+.4f} | "
                  f"{np.abs(gap).max():.4f} |")  # fmt: skip


if __name__ == "__main__":
    main()
