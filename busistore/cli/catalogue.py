"""What can be listed without a store: each registry as columns and rows."""

from __future__ import annotations

from collections.abc import Callable

Listing = tuple[tuple[str, ...], list[tuple]]


def _models() -> Listing:
    from busistore.models import MODELS

    rows = [
        (m.name, f"{m.kind}/{m.architecture}", m.dim, _text(m), f"{m.weights.size_mb:g} MB", m.weights.licence,
         f"{m.input.size_px} px", "yes" if m.weights.gate else "no", m.note, m.weights.source)
        for m in MODELS.values()
    ]  # fmt: skip
    columns = ("name", "network", "dim", "text tower", "weights", "licence", "input", "gate", "about", "source")
    return columns, rows


def _text(spec) -> str:
    if spec.text is None:
        return "no"
    return "yes" if spec.text.aligned else "learned map"


def _methods() -> Listing:
    from busistore.methods import METHODS

    return ("name", "protocols", "what it is"), [
        (m.name, ", ".join(m.protocols), _first_line(m.__doc__)) for m in METHODS.values()
    ]


def _datasets() -> Listing:
    from busistore.datasets import DATASETS

    return ("name", "what it is"), [(d.name, d.summary) for d in DATASETS.values()]


def _recipes() -> Listing:
    from busistore.preprocess.recipes import RECIPES

    return ("name", "what it does", "id"), [(r.name, r.summary, r.recipe_id) for r in RECIPES.values()]


def _metrics() -> Listing:
    from busistore.metrics import METRICS

    return ("name", "what it is"), [(name, kind.description) for name, kind in METRICS.items()]


def _queries() -> Listing:
    from busistore import queries

    found = [queries.load(name) for name in queries.names()]
    return ("name", "parameters", "what it answers"), [(q.name, ", ".join(q.parameters), q.description) for q in found]


def _protocols() -> Listing:
    from busistore.methods import PROTOCOLS

    return ("name", "what it allows"), list(PROTOCOLS.items())


def _segmenters() -> Listing:
    from busistore.segmenters import SEGMENTERS

    return ("name", "what it is", "prompt"), [
        (s.name, s.summary, "click or box" if s.prompted else "none") for s in SEGMENTERS.values()
    ]


def _prompts() -> Listing:
    from busistore.segmenters import PROTOCOLS

    return ("name", "where a segmenter is told to look"), list(PROTOCOLS.items())


def _executors() -> Listing:
    from busistore.jobs.executors import EXECUTORS

    return ("name", "where"), [(name, _first_line(run.__doc__)) for name, run in EXECUTORS.items()]


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


CATALOGUE: dict[str, Callable[[], Listing]] = {
    "models": _models, "methods": _methods, "datasets": _datasets, "recipes": _recipes, "metrics": _metrics,
    "queries": _queries, "protocols": _protocols, "segmenters": _segmenters, "prompts": _prompts,
    "executors": _executors,
}  # fmt: skip
