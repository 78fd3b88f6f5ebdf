"""What each prompt is worth: alone, in an ensemble with the others, and a greedy choice among them.

An ensemble is the normalised mean of each class's normalised prompts. Its cosine to an image follows from the cosines
of the image to its prompts and of the prompts to one another, so that hundreds of ensembles are scored at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from busistore.errors import BusistoreError
from busistore.methods.base import Labelled, TextPrompts, normalise
from busistore.metrics import CONFUSION_METRICS, Metric, auroc, confusion
from busistore.prompts import SHORTEST_MEAN

MOST_STEPS = 64  # prompts that a choice adds to the first of each class, at most
_DIGITS = 12  # scores that agree so far are equal: sums in another order differ beyond


@dataclass(frozen=True)
class Bank:
    """Labelled images and prompts, as all ensembles see them.

    cosines: (N, P) of image to prompt. gram: (P, P) of prompt to prompt. labels: (P,) class of each prompt.
    truth: (N,) class of each image. scale: what a cosine is multiplied by.
    """

    cosines: np.ndarray
    gram: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    n_classes: int
    scale: float

    def probabilities(self, members: np.ndarray) -> np.ndarray:
        """(K, C, N) from (K, P) bool: which prompts are in each of K ensembles; NaN where a class has none."""
        of_class = self.labels == np.arange(self.n_classes)[:, None]
        chosen = (members[:, None] & of_class).astype(np.float64)
        squared = ((chosen @ self.gram) * chosen).sum(axis=-1, keepdims=True)
        least = (SHORTEST_MEAN * chosen.sum(axis=-1, keepdims=True)) ** 2  # prompts that cancel out are no ensemble
        length = np.sqrt(np.where(squared > least, squared, np.nan))
        logits = self.scale * (chosen @ self.cosines.T) / length
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def scores(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(K,) macro AUROC and (K,) macro-F1 of K ensembles, as in `metrics`; NaN where a class has no prompt."""
        probs = self.probabilities(members)
        whole = np.isfinite(probs).all(axis=(1, 2))
        areas = auroc(self.truth == np.arange(self.n_classes)[:, None], np.where(np.isfinite(probs), probs, 0))
        ranked = np.isfinite(areas).sum(axis=1)
        macro = np.nansum(areas, axis=1) / np.where(whole & (ranked > 0), ranked, np.nan)
        f1 = CONFUSION_METRICS["macro_f1"](confusion(self.truth, probs.argmax(axis=1), self.n_classes))
        return macro, np.where(whole, f1, np.nan)

    def alone(self) -> np.ndarray:
        """(P,) AUROC of each prompt's class against the rest, by its cosine alone; NaN without either kind."""
        return auroc(self.truth == self.labels[:, None], self.cosines.T)


def bank(images: Labelled, text: TextPrompts, n_classes: int, what: str = "given") -> Bank:
    """The cosines of all images and prompts; `what` names the images where one cannot be used."""
    x, prompts = normalise(images.features, what), normalise(text.vectors, "prompt")
    truth, labels = np.asarray(images.labels, np.int64), np.asarray(text.labels, np.int64)
    return Bank(x @ prompts.T, prompts @ prompts.T, labels, truth, n_classes, text.logit_scale)


def ranking(seen: Bank) -> list[int]:
    """Prompts from the best alone to the worst; of equals the one that the set names first comes first."""
    alone = np.nan_to_num(seen.alone(), nan=-1.0).round(_DIGITS)
    return np.argsort(-alone, kind="stable").tolist()


def choose(seen: Bank) -> tuple[list[int], dict[str, Any]]:
    """The prompts of the best ensemble that a greedy search finds, in the order taken, and what it cost and reached.

    The best prompt of each class comes first. Then the one prompt that raises the score most is added, until none
    does. The score is the macro AUROC, which weighs classes equally; of equal ones the macro-F1 decides, then the
    place in the ranking.

    Raises:
        BusistoreError: the images are of one class alone, so that nothing ranks.
    """
    order = ranking(seen)
    taken = [next(p for p in order if seen.labels[p] == c) for c in range(seen.n_classes)]
    best, n_scored = _pairs(seen, [taken])[0], 1
    if best[0] < 0:
        raise BusistoreError("prompts cannot be ranked on validation images of one class; split with a larger part")
    for _ in range(MOST_STEPS):
        tried = [[*taken, p] for p in order if p not in taken]
        if not tried:
            break
        found = _pairs(seen, tried)
        n_scored += len(tried)
        k = max(range(len(tried)), key=lambda k: found[k])  # the first of equals
        if found[k] <= best:
            break
        taken, best = tried[k], found[k]
    return taken, {"val_auroc": best[0], "val_macro_f1": best[1], "n_candidates": n_scored}


def _pairs(seen: Bank, ensembles: list[list[int]]) -> list[tuple[float, float]]:
    """(macro AUROC, macro-F1) of each ensemble, rounded so that equal ones are equal; -1 where it has none."""
    members = np.zeros((len(ensembles), len(seen.labels)), bool)
    for row, prompts in zip(members, ensembles):
        row[prompts] = True
    scored = np.nan_to_num(np.column_stack(seen.scores(members)), nan=-1.0).round(_DIGITS)
    return [(float(area), float(f1)) for area, f1 in scored]


def prompt_metrics(seen: Bank, ids: Sequence[str], classes: Sequence[str]) -> Iterator[tuple[str, Metric]]:
    """What is stored of each prompt under its id, and of each `set-NN`, the n-th prompts of all classes together.

    A prompt alone: the AUROC of its class. In the ensemble of all prompts: the scores without it, and what it adds.
    Sets only where classes have equally many prompts. Values that are not defined are left out.
    """
    n, n_images = len(ids), len(seen.truth)
    without = np.column_stack(seen.scores(~np.eye(n, dtype=bool)))
    added = np.column_stack(seen.scores(np.ones((1, n), bool))) - without
    for p, (prompt_id, area) in enumerate(zip(ids, seen.alone())):
        yield from _defined(prompt_id, n_images, [("auroc", classes[seen.labels[p]], area)])
        names = ("auroc_without", "macro_f1_without", "auroc_added", "macro_f1_added")
        yield from _defined(prompt_id, n_images, [(m, "", v) for m, v in zip(names, [*without[p], *added[p]])])
    sets = _sets(seen)
    for k, scored in enumerate(np.column_stack(seen.scores(sets)) if len(sets) else ()):
        yield from _defined(f"set-{k:02d}", n_images, [(m, "", v) for m, v in zip(("auroc", "macro_f1"), scored)])


def _defined(subject: str, n_used: int, found: list[tuple[str, str, float]]) -> Iterator[tuple[str, Metric]]:
    for metric, class_, value in found:
        if not np.isnan(value):
            yield subject, Metric(metric, class_, float(value), n_used)


def _sets(seen: Bank) -> np.ndarray:
    """(K, P) bool: ensemble k holds the k-th prompt of every class; none where classes have unequally many."""
    members = [np.flatnonzero(seen.labels == c) for c in range(seen.n_classes)]
    if len({len(m) for m in members}) > 1:
        return np.zeros((0, len(seen.labels)), bool)
    sets = np.zeros((len(members[0]), len(seen.labels)), bool)
    np.put_along_axis(sets, np.column_stack(members), True, axis=1)
    return sets
