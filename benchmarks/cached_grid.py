"""What the cache is worth: a few-shot grid from stored vectors against encoding the images anew for each episode.

Both sides run in this process, on the same images, episodes, network and threads, and must give the same macro-F1.
The side without a cache is given the loaded network and the files in memory of the operating system; it decodes,
preprocesses and encodes the support, validation and test images of each episode, as notebooks do.

    python benchmarks/cached_grid.py ../shared/busi            # the 60 episodes: some minutes
    python benchmarks/cached_grid.py ../shared/busi --seeds 1  # 6 of them
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from busistore import metrics, models, pixels
from busistore.jobs import columns
from busistore.jobs.encode import encode
from busistore.jobs.episodes import Split, draw_episodes, load_split
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.split import split
from busistore.methods import Labelled, LinearProbe
from busistore.preprocess.recipes import apply, recipe
from busistore.store import Store

MODEL, SHOTS = "efficientnet-lite0", (1, 2, 4, 8, 16, 32)


def prepared(folder: Path, root: Path) -> tuple[Store, float]:
    """A store with the images split and encoded, and the seconds that encoding took."""
    store = Store.create(root / "store")
    ingest(store, "busi", folder)
    split(store, "busi")
    started = time.perf_counter()
    encode(store, MODEL)
    return store, time.perf_counter() - started


def cached(store: Store, seeds: int) -> tuple[dict[tuple[int, int], float], float]:
    """Macro-F1 by (shots, seed) from stored vectors, everything written; and the seconds."""
    started = time.perf_counter()
    evaluate(store, ["linear-probe"], [MODEL], SHOTS, range(seeds))
    seconds = time.perf_counter() - started
    of_run = dict(columns(store.read("metrics", ["run_id", "value"], "metric = 'macro_f1' AND class = ''")))
    runs = columns(store.read("runs", ["run_id", "shots", "seed"]))
    return {(shots, seed): of_run[run_id] for run_id, shots, seed in runs}, seconds


def uncached(store: Store, seeds: int) -> tuple[dict[tuple[int, int], float], float]:
    """The same numbers with every image of every episode decoded and encoded again; and the seconds."""
    chosen = load_split(store, None, "busi")
    paths = dict(columns(store.read("images", ["image_id", "source_path"])))
    encoder = models.load(models.locate(MODEL))
    started = time.perf_counter()
    found = {}
    for episode in draw_episodes(chosen, SHOTS, range(seeds)):
        support = sorted(i for ids in episode.support.values() for i in ids)
        ids = [support, chosen.parts["val"], chosen.parts["test"]]
        features = [encode_again(encoder, [paths[i] for i in part]) for part in ids]
        found[episode.shots, episode.seed] = macro_f1(chosen, ids, features)
        print(f"\r{len(found)} episodes without a cache", end="", flush=True)
    print()
    return found, time.perf_counter() - started


def encode_again(encoder: models.Encoder, paths: list[str], batch: int = 16) -> np.ndarray:
    """(N, D) vectors straight from the files."""
    made = recipe("pad224")
    squares = np.stack([apply(made, pixels.grey(Path(p).read_bytes())).pixels for p in paths])
    return np.concatenate([encoder.encode(squares[k : k + batch]) for k in range(0, len(squares), batch)])


def macro_f1(chosen: Split, ids: list[list[str]], features: list[np.ndarray]) -> float:
    place = {label: k for k, label in enumerate(chosen.classes)}
    support, val = (
        Labelled(x, np.array([place[chosen.label_of[i]] for i in part])) for part, x in list(zip(ids, features))[:2]
    )
    outcome = LinearProbe().fit_predict(support, val, features[2], len(place), "val-tuned")
    truth = [chosen.label_of[i] for i in ids[2]]
    found = metrics.classification_metrics(truth, outcome.probabilities, chosen.classes)
    return next(m.value for m in found if m.metric == "macro_f1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a BUSI folder")
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        store, once_s = prepared(given.folder, Path(root))
        fast, cached_s = cached(store, given.seeds)
        slow, uncached_s = uncached(store, given.seeds)
        worst = max(abs(fast[key] - slow[key]) for key in slow)
    print("| episodes | encoding once, s | grid from the store, s | encoding for each episode, s | ratio |"
          " ratio with the one encoding | largest difference of macro-F1 |\n|---|---|---|---|---|---|---|")
    print(f"| {len(slow)} | {once_s:.1f} | {cached_s:.2f} | {uncached_s:.1f} | {uncached_s / cached_s:.0f} |"
          f" {uncached_s / (cached_s + once_s):.1f} | {worst:.1e} |")


if __name__ == "__main__":
    main()
