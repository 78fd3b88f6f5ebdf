"""How often a 95 % interval of a mean over seeds, or of a paired difference, holds the truth: ours and plainer ones.

    python benchmarks/coverage.py --n 500 --spreads typical,seeds,images,noise,easy

Simulated: 95 test images of three classes (52, 26, 17), a third of them in groups of two to four that share most of
what is hard about them, and ten seeds of two methods, of which two, five and ten are taken. The logits of an image are
its class, its group's and its own difficulty, what the seed's support set does to its class, and noise of seed and
image together. The truth is the mean over new seeds and new images, of 3,000 seeds or more. Printed as a percentage:

    ours        stats.two_way and stats.paired
    t           Student's t over the seeds
    images      percentiles of the bootstrap over images, groups ignored, of the mean over seeds
    groups      percentiles of the bootstrap over groups of the mean over seeds
    counted 2x  as ours, but with the noise of seed and image both in the spread over seeds and over groups
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from busistore.stats import crossed, mean_interval, resampled

CLASSES, COUNTS = ("benign", "malignant", "normal"), (52, 26, 17)
METRICS = ("macro_f1", "auroc")
SEEDS = (2, 5, 10)


@dataclass(frozen=True)
class Spread:
    """Standard deviations in logits; `signal` is what the true class is above the others."""

    seeds: float
    groups: float
    noise: float
    signal: float = 1.5


SPREADS = {
    "typical": Spread(0.5, 0.8, 0.7), "seeds": Spread(1.2, 0.5, 0.5), "images": Spread(0.15, 1.2, 0.3),
    "noise": Spread(0.1, 0.3, 1.5), "easy": Spread(0.6, 1.0, 0.7, signal=3.2),
}  # fmt: skip


def drawn_groups(rng: np.random.Generator, counts: tuple[int, ...]) -> np.ndarray:
    """(N,) group of each image: five in six are alone, the others in groups of two to four of one class."""
    sizes = []
    for left in counts:
        while left:
            sizes.append(min(left, 1 if rng.random() < 5 / 6 else int(rng.integers(2, 5))))
            left -= sizes[-1]
    return np.repeat(np.arange(len(sizes)), sizes)


def two_methods(rng: np.random.Generator, spread: Spread, n_seeds: int, true: np.ndarray, group: np.ndarray):
    """Two (S, N, C) arrays of probabilities; the second method is a little worse and shares much with the first."""

    def effects() -> tuple[np.ndarray, np.ndarray]:
        of_class = 0.7 * spread.seeds * (rng.normal(size=(n_seeds, 3, 3)) + rng.normal(size=(n_seeds, 1, 3)))
        of_image = 0.9 * rng.normal(size=(group.max() + 1, 3))[group] + 0.43 * rng.normal(size=(len(group), 3))
        return of_class, spread.groups * of_image

    def probabilities(of_class: np.ndarray, of_image: np.ndarray, signal: float) -> np.ndarray:
        noise = spread.noise * rng.normal(size=(n_seeds, len(true), 3))
        logits = signal * np.eye(3)[true] + of_class[:, true] + of_image + noise
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return odds / odds.sum(axis=-1, keepdims=True)

    a, b = effects(), effects()
    other = 0.7 * a[0] + 0.7 * b[0], 0.8 * a[1] + 0.6 * b[1]
    return probabilities(*a, spread.signal), probabilities(*other, spread.signal - 0.3)


def truth(spread: Spread, metric: str, n_draws: int) -> tuple[float, float]:
    """Mean over new seeds and images of the metric of the first method, and of the difference of the two.

    An area is unbiased in a test set of any size; macro-F1 is taken of sets ten times as large.
    """
    larger = 1 if metric == "auroc" else 10
    n_draws, n_seeds = (4 * n_draws, 10) if metric == "auroc" else (n_draws, 30)
    true = np.repeat(np.arange(3), np.array(COUNTS) * larger)
    found = []
    for k in range(n_draws):
        rng = np.random.default_rng([1, k])
        both = two_methods(rng, spread, n_seeds, true, np.arange(len(true)))
        found.append([resampled(metric, true, p, np.ones((1, len(true))), CLASSES).mean() for p in both])
    a, b = np.mean(found, axis=0)
    return float(a), float(a - b)


def intervals(values: crossed.Values, of_images: np.ndarray, metric: str, is_difference: bool) -> dict[str, tuple]:
    """Bounds by name, of the first S seeds of (R, S) values on resamples of groups and of images."""
    ours = crossed.summary(values, metric, 0.95, is_difference)
    over_seeds = mean_interval(values.points)
    n, s = len(values.stratum) - 3, len(values.points)
    groups = values.resamples.mean(axis=1)
    twice = np.hypot(stdtrit(n, 0.975) * groups.std(), stdtrit(s - 1, 0.975) * values.points.std(ddof=1) / s**0.5)
    return {
        "ours": (ours.low, ours.high), "t": (over_seeds.low, over_seeds.high),
        "images": np.quantile(of_images.mean(axis=1), [0.025, 0.975]), "groups": np.quantile(groups, [0.025, 0.975]),
        "counted 2x": (ours.estimate - twice, ours.estimate + twice),
    }  # fmt: skip


def held(rng_key: int, spread: Spread, metric: str, truths: tuple[float, float], n_resamples: int):
    """Whether each interval of one simulated test set holds its truth, by (what, seeds, name), and ours' width."""
    rng, true = np.random.default_rng([0, rng_key]), np.repeat(np.arange(3), COUNTS)
    group = drawn_groups(rng, COUNTS)
    probs = two_methods(rng, spread, max(SEEDS), true, group)
    args = [(metric, true, p, of, CLASSES, n_resamples, rng_key, "malignant", "benign")
            for of in (group, np.arange(len(true))) for p in probs]  # fmt: skip
    a, b, a_images, b_images = (crossed.values_of(*arg) for arg in args)
    less = a._replace(points=a.points - b.points, resamples=a.resamples - b.resamples)
    sets = (a, a_images.resamples, truths[0]), (less, a_images.resamples - b_images.resamples, truths[1])
    for what, (values, of_images, wanted) in zip(("mean", "difference"), sets):
        for s in SEEDS:
            some = values._replace(points=values.points[:s], resamples=values.resamples[:, :s])
            for name, (low, high) in intervals(some, of_images[:, :s], metric, what == "difference").items():
                yield (what, s, name), (low is not None and low <= wanted <= high, (high or 0) - (low or 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=500, help="simulated test sets")
    parser.add_argument("--spreads", default=",".join(SPREADS))
    parser.add_argument("--metrics", default=",".join(METRICS))
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=200, help="draws of the truth")
    options = parser.parse_args()
    names = ("ours", "t", "images", "groups", "counted 2x")
    print(f"| spread | metric | of | seeds | {' | '.join(names)} | width of ours |")
    print("|---|---|---|--:|" + "--:|" * (len(names) + 1))
    for spread, metric in ((s, m) for s in options.spreads.split(",") for m in options.metrics.split(",")):
        truths, found = truth(SPREADS[spread], metric, options.draws), {}
        for k in range(options.n):
            for key, value in held(k, SPREADS[spread], metric, truths, options.resamples):
                found.setdefault(key, []).append(value)
        for what, s in ((w, s) for w in ("mean", "difference") for s in SEEDS):
            cells = [f"{100 * np.mean([h for h, _ in found[what, s, name]]):.1f}" for name in names]
            width = np.median([w for _, w in found[what, s, "ours"]])
            print(f"| {spread} | {metric} | {what} | {s} | {' | '.join(cells)} | {width:.3f} |", flush=True)


if __name__ == "__main__":
    main()
