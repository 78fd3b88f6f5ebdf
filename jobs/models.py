"""Which model a name means in a store: its weights, as found here or as the store remembers them, and its precision.

A store that was encoded in one precision is read and gone on with in the same, on every machine.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from busistore import models
from busistore.errors import MissingWeights, lookup
from busistore.ids import canonical_json
from busistore.models import Located, ModelSpec
from busistore.models.precision import fastest
from busistore.models.weights import WrongWeights
from busistore.preprocess import recipes
from busistore.schema import MODELS, embeddings_name
from busistore.store import Store, quote


def find(
    store: Store, name: str, weights: Path | None = None, precision: str = "auto", output: str = "pooled", *,
    recipe: str = "pad224", fetch: bool = False, device: str = "cpu", quiet: bool = True,
) -> Located:  # fmt: skip
    """The model that `name` means here. Without weight files, what the store remembers is enough to read it.

    Args:
        weights: a file or snapshot folder; else where the model's weights are kept.
        precision: "auto" is what most of the recipe's images are encoded in, or those of other recipes where it has
            none; else the fastest that keeps directions on `device`.
        output: "pooled", or "unprojected".
        fetch: whether missing weights may be downloaded.

    Raises:
        MissingWeights: no weights are here and the store knows none, or they are not the ones that it knows.
    """
    spec = models.model(name)
    lookup("precision", precision, models.PRECISIONS)
    lookup("layer", output, dict.fromkeys(models.OUTPUTS))
    rows = _rows(store, spec)
    explicit = "fp32" if precision == "auto" else precision
    try:
        located = models.locate(name, weights, explicit, fetch=fetch, quiet=quiet)
    except WrongWeights:
        raise
    except MissingWeights:
        known = {row["weights_sha256"]: row["weights_source"] for row in rows}
        if weights is not None or len(known) != 1:
            raise
        ((sha256, origin),) = known.items()
        located = Located(spec, sha256, explicit, origin=origin)
    _check_origin(located, rows)
    if precision == "auto":
        located = located.at(settled(store, located, recipe) or fastest(spec, device))
    return located.at(output=output)


def settled(store: Store, located: Located, recipe: str) -> str | None:
    """The precision of most vectors by these weights: under the recipe, else under any; of two equals the exact one."""
    counts: dict[str, list[int]] = {}
    recipe_id, names = recipes.recipe(recipe).recipe_id, store.names()
    for precision in ("fp32", "bf16"):  # counted by table, since a killed run may leave no more than a name
        prefix = embeddings_name(located.at(precision).model_id, "")
        tables = [name for name in names if name.startswith(prefix)]
        here = [name for name in tables if name == prefix + recipe_id]
        counts[precision] = [sum(map(store.count, here)), sum(map(store.count, tables))]
    best = max(counts, key=counts.__getitem__)  # the first of equals
    return best if any(counts[best]) else None


def model_row(located: Located, dim: int) -> dict[str, Any]:
    """What the store remembers of a model."""
    spec = located.spec
    return {
        "model_id": located.model_id, "model": spec.name, "architecture": spec.architecture_id,
        "weights_source": located.origin, "weights_sha256": located.sha256,
        "input_transform": canonical_json(spec.input), "precision": located.precision, "dim": dim,
        "versions": canonical_json(models.versions()), "licence": spec.weights.licence,
        "recorded_at": datetime.now(UTC),
    }  # fmt: skip


def _rows(store: Store, spec: ModelSpec) -> list[dict[str, Any]]:
    """What the store remembers under this name, of the network and input that it has now."""
    rows = store.read(MODELS.name, where=f"model = {quote(spec.name)}").to_pylist()
    now = (spec.architecture_id, canonical_json(spec.input))
    return [row for row in rows if (row["architecture"], row["input_transform"]) == now]


def _check_origin(located: Located, rows: list[dict[str, Any]]) -> None:
    """Weights of one published origin never change; if they seem to, one of the two is not what it says."""
    known = {row["weights_sha256"] for row in rows if row["weights_source"] == located.origin}
    if located.origin.startswith("hf.co/") and known - {located.sha256}:
        raise MissingWeights(
            f"the weights of '{located.spec.name}' from {located.origin} have sha256 {located.sha256[:12]}, but this "
            f"store was encoded from {min(known)[:12]}; fetch them again, or use another store"
        )
