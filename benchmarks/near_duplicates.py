"""Near-duplicate search: time, peak memory and recall of planted copies at given sizes, and against known truth.

    python benchmarks/near_duplicates.py --sizes 1000,10000,50000 [--busi FOLDER --truth truth.csv]

Images are drawn speckle; every tenth repeats an earlier one: cropped, resized, brightened and compressed as JPEG.
Each size runs in a process of its own, so that the peak of memory is its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from busistore.candidates import candidates
from busistore.groups import Grouping, find_pairs, signatures
from busistore.registration import features, register

EVERY = 10
"""Image k shows the frame of image k - EVERY + 1 where k + 1 is a multiple of EVERY."""
HEIGHT, WIDTH = 240, 320


def frame(seed: int) -> np.ndarray:
    """(240, 320) uint8 log-compressed speckle over layers and one dark oval, all from the seed."""
    draw = np.random.default_rng(seed)
    fields = draw.standard_normal((2, HEIGHT, WIDTH), dtype=np.float32)
    envelope = np.hypot(*(cv2.GaussianBlur(f, (0, 0), 2.0) for f in fields)) * 7
    layers = cv2.resize(draw.uniform(-14, 14, (7, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    oval = np.zeros((HEIGHT, WIDTH), np.float32)
    centre = (int(draw.integers(80, 240)), int(draw.integers(60, 180)))
    cv2.ellipse(oval, centre, (int(draw.integers(20, 60)), int(draw.integers(12, 35))), 0, 0, 360, 18.0, -1)
    level = 20 * np.log10(envelope + 1e-3) + layers - cv2.GaussianBlur(oval, (0, 0), 3)
    return np.clip(120 + 3.5 * level, 0, 255).astype(np.uint8)


def copy(gray: np.ndarray, seed: int) -> np.ndarray:
    """The frame saved again: 60 to 95 % of its area, 0.8 to 1.25 of its scale, other brightness, JPEG 80."""
    draw = np.random.default_rng(seed)
    height, width = (round(s * draw.uniform(0.6, 0.95) ** 0.5) for s in gray.shape)
    top, left = draw.integers(0, gray.shape[0] - height + 1), draw.integers(0, gray.shape[1] - width + 1)
    scale = draw.uniform(0.8, 1.25)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    part = cv2.resize(gray[top : top + height, left : left + width], None, fx=scale, fy=scale, interpolation=how)
    part = np.clip(part * draw.uniform(0.8, 1.15) + draw.uniform(-10, 10), 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_GRAYSCALE)


def image(k: int) -> np.ndarray:
    """Image `k` of the drawn set."""
    return copy(frame(k - EVERY + 1), k) if (k + 1) % EVERY == 0 else frame(k)


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(n: int) -> dict:
    """One size: signatures, search and the confirmation of what the search proposes."""
    settings, before, clock = Grouping(), peak_mib(), time.perf_counter
    start = clock()
    signs = signatures((image(k) for k in range(n)), n, settings)
    signed = clock()
    proposed = candidates(signs, None, settings.search)
    searched, peak = clock(), peak_mib()
    planted = {(k - EVERY + 1, k) for k in range(EVERY - 1, n, EVERY)}
    return {
        "images": n,
        "signatures_s": signed - start,
        "search_s": searched - signed,
        "peak_mib": peak,
        "before_mib": before,
        "planted": len(planted),
        "planted_found": len(planted & set(proposed)),
        "unrelated_candidates": len(set(proposed) - planted),
        **confirmation(proposed, planted, settings),
    }


def confirmation(proposed: dict, planted: set, settings: Grouping, n_most: int = 1000) -> dict:
    """Registers at most `n_most` of the planted and of the other candidates, evenly spread."""
    start, n_done, joined = time.perf_counter(), 0, []
    for pairs in (sorted(planted & set(proposed)), sorted(set(proposed) - planted)):
        pairs = pairs[:: max(1, len(pairs) // n_most)]
        signs = ((features(image(k), settings.registration) for k in pair) for pair in pairs)
        scores = [register(*both, settings.registration) for both in signs]
        n_done += len(pairs)
        joined.append(sum(s >= settings.registration.min_similarity for s in scores) / max(1, len(pairs)))
    milliseconds = 1000 * (time.perf_counter() - start) / max(1, n_done)
    return {"planted_confirmed": joined[0], "unrelated_confirmed": joined[1], "ms_per_candidate": milliseconds}


def against_truth(folder: Path, truth: Path) -> dict:
    """Recall of same-frame pairs and hits on adjacent and unrelated pairs of real images with known groups."""
    rows = list(csv.DictReader(truth.open()))
    paths = [folder / row["label"] / f"{row['image']}.png" for row in rows]
    start = time.perf_counter()
    pairs = find_pairs(lambda k: np.asarray(Image.open(paths[k]).convert("L")), n_images=len(paths))
    seconds = time.perf_counter() - start
    frames, leaks = ([row[c] or row["image"] for row in rows] for c in ("same_frame_group", "leak_group"))
    kinds = [(frames[p.a] == frames[p.b], leaks[p.a] == leaks[p.b]) for p in pairs]
    return {
        "images": len(rows),
        "seconds": seconds,
        "same_frame_pairs": n_pairs_within(frames),
        "same_frame_found": sum(same for same, _ in kinds),
        "adjacent_pairs": n_pairs_within(leaks) - n_pairs_within(frames),
        "adjacent_found": sum(leak and not same for same, leak in kinds),
        "unrelated_found": sum(not leak for _, leak in kinds),
        "least_similarity": min(p.similarity for p in pairs),
    }


def n_pairs_within(groups: list[str]) -> int:
    """Number of pairs whose members have one group."""
    _, sizes = np.unique(groups, return_counts=True)
    return int((sizes * (sizes - 1) // 2).sum())


def print_table(rows: list[dict]) -> None:
    """A markdown table with the rows' keys as its head."""
    head = list(rows[0])
    print("|", " | ".join(head), "|")
    print("|", " | ".join("---:" for _ in head), "|")
    for row in rows:
        print("|", " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()), "|")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000", help="numbers of drawn images, by comma; empty for none")
    parser.add_argument("--busi", type=Path, help="folder with benign/, malignant/ and normal/")
    parser.add_argument("--truth", type=Path, help="CSV with image, label, same_frame_group, leak_group")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one)))
        return
    print(f"{platform.machine()}, numpy {np.__version__}, OpenCV {cv2.__version__}\n")
    sizes = [int(size) for size in chosen.sizes.split(",") if size]
    if sizes:
        command = [sys.executable, __file__, "--one"]
        runs = [subprocess.run([*command, str(n)], check=True, capture_output=True, text=True) for n in sizes]
        print_table([json.loads(run.stdout) for run in runs])
    if chosen.busi:
        print_table([against_truth(chosen.busi, chosen.truth or chosen.busi.parent / "truth.csv")])


if __name__ == "__main__":
    main()
