"""Why: what is stored of one image on its way to a model's vector, and which field differs where it is not current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from busistore import models
from busistore.errors import UnknownName
from busistore.jobs import columns, encode, preprocess
from busistore.jobs.models import find
from busistore.preprocess import recipes
from busistore.store import Store, quote


def why(
    store: Store, image_id: str, model: str, recipe: str = "pad224", *, weights: Path | None = None,
    precision: str = "auto",
) -> list[tuple[str, str, str]]:  # fmt: skip
    """(step, state, explanation) for ingest, preprocess and encode; state is stored, stale, missing or failed.

    Raises:
        UnknownName: no such image is stored or failed.
    """
    spec_recipe, located = recipes.recipe(recipe), find(store, model, weights, precision, recipe=recipe)
    failed = dict(columns(store.read("failures", ["job", "reason"], f"key = {quote(image_id)}")))
    images = dict(columns(store.read("images", ["image_id", "pixels_sha256"], f"image_id = {quote(image_id)}")))
    if image_id not in images and not failed:
        raise UnknownName("image", image_id, store.read("images", ["image_id"])["image_id"].to_pylist())
    steps = [
        ("ingest", *_ingested(images.get(image_id), failed.get("ingest"))),
        ("preprocess", *_preprocessed(store, image_id, spec_recipe, images.get(image_id))),
        ("encode", *_encoded(store, image_id, located, spec_recipe.recipe_id)),
    ]
    jobs = {
        "ingest": "ingest", "preprocess": preprocess.job_name(spec_recipe.recipe_id),
        "encode": encode.job_name(located.model_id, spec_recipe.recipe_id),
    }  # fmt: skip
    return [
        (step, "failed", failed[jobs[step]]) if state != "stored" and jobs[step] in failed else (step, state, text)
        for step, state, text in steps
    ]


def _ingested(pixels: str | None, reason: str | None) -> tuple[str, str]:
    return ("stored", f"pixels {pixels[:12]}") if pixels else ("failed", reason or "not ingested")


def _preprocessed(store: Store, image_id: str, recipe: recipes.Recipe, pixels: str | None) -> tuple[str, str]:
    where = f"image_id = {quote(image_id)}"
    rows = {r["recipe_id"]: r for r in store.read("preprocessed", where=where).to_pylist()}
    mine = rows.get(recipe.recipe_id)
    if mine is None:
        older = [r for r in rows if rows[r]["recipe"] == recipe.name]
        told = f"stored under {older[0]}, the recipe is now {recipe.recipe_id}" if older else "never made"
        return ("stale" if older else "missing"), told
    if mine["source_sha256"] != pixels:
        made_from = mine["source_sha256"][:12]
        return "stale", f"source_sha256 differs: made from {made_from}, the image is now {str(pixels)[:12]}"
    return "stored", f"{recipe.recipe_id}, pixels {mine['pixels_sha256'][:12]}"


def _encoded(store: Store, image_id: str, located: models.Located, recipe_id: str) -> tuple[str, str]:
    where = f"image_id = {quote(image_id)} AND recipe_id = {quote(recipe_id)}"
    now = dict(columns(store.read("preprocessed", ["image_id", "pixels_sha256"], where))).get(image_id)
    seen = encode.encoded_from(store, located.model_id, recipe_id).get(image_id)
    if seen is None:
        return "missing", _other_models(store, located) or "never encoded by this model"
    if seen != now:
        return "stale", f"input_sha256 differs: encoded from {seen[:12]}, the picture is now {str(now)[:12]}"
    return "stored", f"{located.model_id}, from pixels {seen[:12]}"


def _other_models(store: Store, located: models.Located) -> str:
    """How the model asked for differs from one of the same name that has encoded before; '' if there is none."""
    rows = store.read("models", where=f"model = {quote(located.spec.name)}").to_pylist()
    others = [r for r in rows if r["model_id"] != located.model_id]
    return "; ".join(f"{r['model_id']} differs in {', '.join(_differences(r, located))}" for r in others)


def _differences(row: dict[str, Any], located: models.Located) -> list[str]:
    wanted = located.identity()
    stored = {k: row[k] for k in ("architecture", "weights_sha256", "precision")} | {
        "input": json.loads(row["input_transform"])
    }
    return [k for k, v in stored.items() if v != wanted[k]] or ["output"]
