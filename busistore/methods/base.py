"""What every method takes and gives, the protocols, and parameters from text."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from busistore.errors import BusistoreError, UnknownName
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
    """

    probabilities: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)
    n_labelled: int = 0
    saw_val: bool = False


class Method(Protocol):
    """A frozen dataclass whose fields are the hyper-parameters.

    `code` counts changes of the method's file that move a prediction: it is part of a run's key. Two more class
    variables may be declared: `needs_text` True where `fit_predict` takes `text: TextPrompts` as a keyword too, and
    `needs_support` False where it is given None for a support set.
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
    if protocol not in method.protocols:
        raise UnknownName(f"protocol of {method.name}", protocol, method.protocols)
    labels = np.asarray(support.labels, np.int64)
    missing = sorted(set(range(n_classes)) - set(labels.tolist()))
    if n_classes < 2 or missing:
        raise BusistoreError(
            f"the support set has no image of class {missing[0]} of {n_classes}; draw at least one per class"
            if missing
            else f"{n_classes} class in the split; a method needs at least two"
        )
    if protocol == "strict" or not chooses:
        val = None
    elif val is None or not len(val.labels):
        raise BusistoreError(f"{method.name} has no validation images to choose on; use --protocol strict")
    if support.groups is not None and np.shape(support.groups) != labels.shape:
        raise ValueError(f"{len(labels)} support images, groups of shape {np.shape(support.groups)}")
    ready = Labelled(normalise(support.features, "support"), labels, support.groups)
    ready_val = val and Labelled(normalise(val.features, "validation"), np.asarray(val.labels, np.int64))
    return Inputs(ready, ready_val, normalise(queries, "test"))


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


def macro_f1(true: np.ndarray, predicted: np.ndarray, n_classes: int) -> float:
    """Mean F1 over the classes in the truth or among the predictions, from (N,) class numbers."""
    return float(CONFUSION_METRICS["macro_f1"](confusion(true, predicted, n_classes)))


def with_parameters(kind: type, texts: Mapping[str, str]) -> Any:
    """An instance of the frozen dataclass `kind` with fields read from text: {"max_iter": "100", "c_grid": "0.1,1"}.

    Raises:
        UnknownName: no such field.
        BusistoreError: a text that is no value of the field's type, or that the class refuses.
    """
    title = getattr(kind, "name", kind.__name__)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    hints = typing.get_type_hints(kind)
    values = {}
    for name, text in texts.items():
        if name not in fields:
            raise UnknownName(f"parameter of {title}", name, fields)
        try:
            values[name] = _parse(text.strip(), hints[name])
        except ValueError:
            wanted = _describe(hints[name])
            default = _as_text(fields[name].default)
            raise BusistoreError(f"parameter {name}='{text}' of {title}: {wanted} wanted, such as {default}") from None
    return kind(**values)


def _parse(text: str, hint: Any) -> Any:
    """`text` as bool, int, float, str, a tuple of one of them, or None where the hint allows it."""
    if isinstance(hint, types.UnionType):
        if text.lower() == "none" and type(None) in hint.__args__:
            return None
        return _parse(text, next(h for h in hint.__args__ if h is not type(None)))
    if typing.get_origin(hint) is tuple:
        return tuple(_parse(part.strip(), hint.__args__[0]) for part in text.split(",") if part.strip())
    if hint is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    value = hint(text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(text)
    return value


def _describe(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(h) for h in hint.__args__)
    if typing.get_origin(hint) is tuple:
        return f"{_describe(hint.__args__[0])}, or several between commas,"
    words = {bool: "true or false", int: "a whole number", float: "a finite number", types.NoneType: "none"}
    return words.get(hint, hint.__name__)


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def require(condition: bool, method: object, what: str) -> None:
    """Refuse a hyper-parameter: for use in `__post_init__`."""
    if not condition:
        raise BusistoreError(f"{getattr(method, 'name', type(method).__name__)}: {what}")
