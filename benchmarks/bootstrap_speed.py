"""Macro AUROC of many runs on many resamples of one test set: ours against scipy.stats.bootstrap.

    python benchmarks/bootstrap_speed.py --resamples 10000 --runs 180

scipy resamples the images of one run within their classes, through a statistic that takes all its resamples at once;
its time is of that one run, times the number of runs. Ours resamples groups, here of one image each, since scipy's
resamples have one size. Both in this process, the median of `--repeats`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy import stats as scipy_stats

from busistore.metrics import auroc
from busistore.stats import image_weights, resampled

CLASSES, COUNTS = ("benign", "malignant", "normal"), (52, 26, 17)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def simulated(n_runs: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) class numbers and (S, N, C) probabilities."""
    true, rng = np.repeat(np.arange(3), COUNTS), np.random.default_rng(0)
    odds = np.exp(1.2 * np.eye(3)[true] + rng.normal(size=(n_runs, len(true), 3)))
    return true, odds / odds.sum(axis=-1, keepdims=True)


def by_scipy(true: np.ndarray, probs: np.ndarray, n_resamples: int):
    """The bootstrap of one run; its samples are the image numbers of each class, drawn apart."""

    def macro(*images: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = np.concatenate(images, axis=-1)
        return np.mean([auroc(true[drawn] == c, probs[drawn, c]) for c in range(3)], axis=0)

    samples = [np.flatnonzero(true == c) for c in range(3)]
    return scipy_stats.bootstrap(samples, macro, n_resamples=n_resamples, method="percentile", vectorized=True,
                                 batch=1000, rng=0).bootstrap_distribution  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=180)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    true, probs = simulated(options.runs)

    def ours() -> np.ndarray:
        return resampled("auroc", true, probs, image_weights(true, range(len(true)), options.resamples), CLASSES)

    of_one = by_scipy(true, probs[0], options.resamples)
    n = len(true)
    print(f"{n} images, {options.runs} runs, {options.resamples} resamples, median of {options.repeats}")
    print(f"standard deviation of run 1: ours {ours()[:, 0].std():.4f}, scipy {of_one.std():.4f}")
    seconds = median_seconds(ours, options.repeats)
    one = median_seconds(lambda: by_scipy(true, probs[0], options.resamples), options.repeats)
    print(f"ours {seconds:.2f} s for all runs; scipy {one:.2f} s for one, {one * options.runs:.0f} s for all: "
          f"{one * options.runs / seconds:.0f} times ours")  # fmt: skip


if __name__ == "__main__":
    main()
