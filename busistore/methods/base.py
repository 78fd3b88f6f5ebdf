"""What every method takes and gives, and the protocols."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from busistore import prompts
from busistore.errors import BusistoreError, UnknownName
from busistore.methods.blocks import in_threads
from busistore.metrics import CONFUSION_METRICS, confusion

PROTOCOLS = {
    "val-tuned": "hyper-parameters are chosen on the whole validation part (as published)",
    "strict": "nothing beyond the support set is looked at: defaults, or cross-validation within the support",
}


class Labelled(NamedTuple):
    """Images with their classes: features (N, D) as stored, labels (N,) int class numbers from 0.

    groups: (N,) int, equal for near-duplicates of one another; None where every image is a group of its own.
    """

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None = None


class TextPrompts(NamedTuple):
    """Prompts as a text tower gave them: vectors (P, D) float32, labels (P,) int numbers of the classes they describe.

    ids: the name of each prompt. logit_scale: what the model multiplies a cosine by, above 0.
    """

    vectors: np.ndarray
    labels: np.ndarray
    ids: list[str]
    logit_scale: float

    def directions(self, n_classes: int) -> np.ndarray:
        """(C, D) float64 of length 1: the mean prompt of each class; see `prompts.ensemble`."""
        return prompts.ensemble(self.vectors, np.asarray(self.labels, np.int64), n_classes)


def n_groups(images: Labelled) -> int:
    """How many near-duplicate groups the images are of: what they are worth as independent examples, at most.

    >>> n_groups(Labelled(np.eye(3), np.array([0, 0, 1]), np.array([7, 7, 9])))
    2
    """
    return len(images.labels) if images.groups is None else len(np.unique(images.groups))


@dataclass(frozen=True)
class Outcome:
    """Predictions of one run.

    probabilities: (M, C) float64, rows sum to 1.
    chosen: what was chosen, as JSON types, such as {"C": 1.0}.
    n_labelled: labelled images consulted: support, and validation where it was looked at.
    saw_val: whether the validation part was looked at.
    seconds: what the run took; of runs that were made together, an equal share.
    curves: (epoch from 1, name, value) of what was followed in training.
    """

    probabilities: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)
    n_labelled: int = 0
    saw_val: bool = False
    seconds: float = 0.0
    curves: list[tuple[int, str, float]] = field(default_factory=list)


class Method(Protocol):
    """A frozen dataclass whose fields are the hyper-parameters.

    `code` counts changes of the method's file that move a prediction: it is part of a run's key. Three more class
    variables may be declared: `needs_text` True where `fit_predict` takes `text: TextPrompts` as a keyword too,
    `needs_support` False where it is given None for a support set, and `needs_balance` True where a support set must
    have as many images of each class.
    """

    name: ClassVar[str]
    protocols: ClassVar[tuple[str, ...]]
    code: ClassVar[int]

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str
    ) -> Outcome:
        """Fit on the support set and give the class probabilities of the (M, D) queries.

        Deterministic for the rows in their order: give them sorted by image id.

        Raises:
            BusistoreError: a class without support, no validation images under "val-tuned", a vector that is zero or
                not finite.
            UnknownName: a protocol that the method does not know.
        """
        ...


def needs_text(method: Method | type) -> bool:
    """Whether the method reads prompts; one that says nothing of it does not."""
    return getattr(method, "needs_text", False)


def needs_support(method: Method | type) -> bool:
    """Whether the method learns from a support set; one that says nothing of it does."""
    return getattr(method, "needs_support", True)


def needs_tower(method: Method | type) -> bool:
    """Whether the method trains the image tower itself: it is given states of the tower in place of vectors."""
    return getattr(method, "needs_tower", False)


def needs_balance(method: Method | type) -> bool:
    """Whether all classes must have equally many support images; one that says nothing of it does not need that."""
    return getattr(method, "needs_balance", False)


def check_protocol(method: Method, protocol: str) -> None:
    """Refuse a protocol that the method does not have, or that forbids what its parameters ask for.

    Raises:
        UnknownName: the method has no such protocol.
        BusistoreError: the parameters choose on validation images, which "strict" does not let it see.
    """
    if protocol not in method.protocols:
        raise UnknownName(f"protocol of '{method.name}'", protocol, method.protocols)
    if protocol == "strict" and getattr(method, "looks_at_val", False):
        asked = f"{method.name} with these parameters chooses on validation images, which protocol 'strict' forbids"
        raise BusistoreError(f"{asked}; leave them out, or use --protocol val-tuned")


class Inputs(NamedTuple):
    """Checked inputs: (N, D) float64 rows of length 1 and (N,) int labels; val is None where it must not be seen."""

    support: Labelled
    val: Labelled | None
    queries: np.ndarray

    @property
    def n_labelled(self) -> int:
        return len(self.support.labels) + (len(self.val.labels) if self.val else 0)

    def outcome(self, probabilities: np.ndarray, chosen: dict[str, Any]) -> Outcome:
        """The predictions, with the labelled images that these inputs gave sight of."""
        return Outcome(probabilities, chosen, self.n_labelled, self.val is not None)


class Draws(NamedTuple):
    """Checked inputs of several support sets at once: rows of `pool`, which holds the images that any of them has."""

    pool: Labelled
    rows: list[np.ndarray]
    val: Labelled | None
    queries: np.ndarray

    def inputs(self, k: int) -> Inputs:
        """Those of the k-th support set alone."""
        return Inputs(some(self.pool, self.rows[k]), self.val, self.queries)


def some(images: Labelled, rows: np.ndarray) -> Labelled:
    """The images of those rows."""
    groups = None if images.groups is None else images.groups[rows]
    return Labelled(images.features[rows], images.labels[rows], groups)


def prepare(
    method: Method,
    support: Labelled,
    val: Labelled | None,
    queries: np.ndarray,
    n_classes: int,
    protocol: str,
    chooses: bool = True,
) -> Inputs:
    """Check the inputs of `Method.fit_predict`, drop what the protocol forbids, and L2-normalise in float64.

    A method that chooses nothing (`chooses` False) gets no validation part under any protocol.
    """
    everything = [np.arange(len(support.labels))]
    return prepare_draws(method, support, everything, val, queries, n_classes, protocol, chooses).inputs(0)


def prepare_draws(
    method: Method,
    train: Labelled,
    draws: Sequence[np.ndarray],
    val: Labelled | None,
    queries: np.ndarray,
    n_classes: int,
    protocol: str,
    chooses: bool = True,
) -> Draws:
    """`prepare` for support sets that are rows of `train`; images that none of them has are not looked at."""
    if protocol not in method.protocols:
        raise UnknownName(f"protocol of {method.name}", protocol, method.protocols)
    labels = np.asarray(train.labels, np.int64)
    if train.groups is not None and np.shape(train.groups) != labels.shape:
        raise ValueError(f"{len(labels)} support images, groups of shape {np.shape(train.groups)}")
    for rows in draws:
        _check_classes(labels[rows], n_classes)
    if protocol == "strict" or not chooses:
        val = None
    elif val is None or not len(val.labels):
        raise BusistoreError(f"{method.name} has no validation images to choose on; use --protocol strict")
    used = np.unique(np.concatenate(draws))
    pool = some(Labelled(np.asarray(train.features), labels, train.groups), used)
    pool = pool._replace(features=normalise(pool.features, "support"))
    ready_val = val and Labelled(normalise(val.features, "validation"), np.asarray(val.labels, np.int64))
    return Draws(pool, [np.searchsorted(used, rows) for rows in draws], ready_val, normalise(queries, "test"))


def _check_classes(labels: np.ndarray, n_classes: int) -> None:
    missing = sorted(set(range(n_classes)) - set(labels.tolist()))
    if n_classes < 2 or missing:
        raise BusistoreError(
            f"the support set has no image of class {missing[0]} of {n_classes}; draw at least one per class"
            if missing
            else f"{n_classes} class in the split; a method needs at least two"
        )


def fit_predict_many(
    method: Method,
    train: Labelled,
    draws: Sequence[np.ndarray],
    val: Labelled | None,
    queries: np.ndarray,
    n_classes: int,
    protocol: str,
    **text: TextPrompts,
) -> Iterator[Outcome]:
    """`Method.fit_predict` of each support set, given as rows of `train`, in order; together where the method can.

    A method may have a function of this name, of the same arguments but the first. Others take one after another, as
    many at once as there are threads.
    """
    if hasattr(method, "fit_predict_many"):
        return method.fit_predict_many(train, draws, val, queries, n_classes, protocol, **text)

    def alone(rows: np.ndarray) -> Outcome:
        return timed(method.fit_predict, some(train, rows), val, queries, n_classes, protocol, **text)

    return in_threads(alone, draws)


def timed(fit_predict: Callable[..., Outcome], *given: Any, **named: Any) -> Outcome:
    """The outcome, with the seconds that it took, unless it tells of them itself."""
    started = time.perf_counter()
    outcome = fit_predict(*given, **named)
    return replace(outcome, seconds=outcome.seconds or time.perf_counter() - started)


def normalise(features: np.ndarray, what: str = "given") -> np.ndarray:
    """Rows scaled to length 1, float64.

    Raises:
        BusistoreError: a row is zero or not finite, which no encoder gives for an image.
    """
    x = np.asarray(features, np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    bad = int((~(np.isfinite(length) & (length > 0))).sum())
    if bad:
        raise BusistoreError(f"{bad} of {len(x)} {what} vectors are zero or not finite; encode those images again")
    return x / length


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, of logits of any size."""
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def macro_f1(true: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(...) mean F1 over the classes in the truth or among the predictions, from (N,) and (..., N) class numbers."""
    return CONFUSION_METRICS["macro_f1"](confusion(true, predicted, n_classes))


def require(condition: bool, method: object, what: str) -> None:
    """Refuse a hyper-parameter: for use in `__post_init__`."""
    if not condition:
        raise BusistoreError(f"{getattr(method, 'name', type(method).__name__)}: {what}")
