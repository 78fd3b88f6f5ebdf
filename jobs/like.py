"""Like: the support sets of a stored run's setting, for another method or model to answer on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from busistore import models
from busistore.errors import BusistoreError, MissingWeights, UnknownName
from busistore.models import Located
from busistore.schema import MODELS, RUNS
from busistore.store import Store, quote

SETTING = ("method", "model_id", "recipe_id", "parameters", "split_id", "protocol")  # alike in runs of one setting
AS_IT_WAS = ("dataset", "recipe", "protocol")


def like(store: Store, run_id: str, weights: Path | None = None, **asked: Any) -> dict[str, Any]:
    """What `evaluate` is to be given to repeat the support sets of all stored runs that share the setting of one run.

    Args:
        weights: as given to `evaluate`.
        asked: arguments of `evaluate` that the user gave. Sizes and seeds narrow what is repeated, methods and models
            are free, and what is told of the run must be as it was. Where its model is not among those asked for, the
            layer and the precision are free as well.

    Returns:
        shots, ratios, seeds, split, dataset, recipe, protocol, `only`, the models, and as far as they are known the
        run's layer and, where its model is among these, its precision.

    Raises:
        UnknownName: no such run is stored.
        BusistoreError: the run had no support set, or what is asked for contradicts it.
    """
    found = store.read(RUNS.name, where=f"run_id = {quote(run_id)}").to_pylist()
    if not found:
        raise UnknownName("run", run_id, store.read(RUNS.name, ["run_id"])["run_id"].to_pylist())
    run = found[0]
    if not run["shots"] and run["ratio"] is None:
        raise BusistoreError(f"'{run_id}' has no support set to repeat; name a run of a method that learns from one")
    if asked.get("precision") == "auto":
        del asked["precision"]  # the run's own will do
    named, made = asked.get("model_names") or [run["model"]], _made(store, run, weights)
    wanted = {name: run[name] for name in AS_IT_WAS} | {"split": run["split_id"]}
    if run["model"] in named:
        wanted |= made
    for name, value in wanted.items():
        if asked.get(name, value) != value:
            raise BusistoreError(f"'{run_id}' has {name} '{value}', not '{asked[name]}'; leave --{name} out")
    runs = _narrowed(run_id, _of_setting(store, run), asked)
    free = {name: value for name, value in made.items() if name == "layer"}
    free |= {name: asked[name] for name in ("layer", "precision") if name in asked}
    return free | wanted | {
        "model_names": named,
        "shots": sorted({r["shots"] for r in runs if r["shots"] is not None}),
        "ratios": sorted({r["ratio"] for r in runs if r["ratio"] is not None}),
        "seeds": sorted({r["seed"] for r in runs}), "only": {r["episode_id"] for r in runs},
    }  # fmt: skip


def _of_setting(store: Store, run: dict[str, Any]) -> list[dict[str, Any]]:
    where = " AND ".join(f"{name} = {quote(run[name])}" for name in SETTING)
    rows = store.read(RUNS.name, ["episode_id", "shots", "ratio", "seed"], f"{where} AND status = 'done'")
    return rows.to_pylist()


def _narrowed(run_id: str, runs: list[dict[str, Any]], asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of those sizes and seeds that are asked for; all where none are."""
    if "shots" in asked or "ratios" in asked:
        sizes = {(n, None) for n in asked.get("shots", ())} | {(None, r) for r in asked.get("ratios", ())}
        _refuse_more(run_id, "--shots", sizes, {(r["shots"], r["ratio"]) for r in runs})
        runs = [r for r in runs if (r["shots"], r["ratio"]) in sizes]
    if "seeds" in asked:
        _refuse_more(run_id, "--seeds", set(asked["seeds"]), {r["seed"] for r in runs})
        runs = [r for r in runs if r["seed"] in set(asked["seeds"])]
    return runs


def _refuse_more(run_id: str, option: str, asked: Collection, known: Collection) -> None:
    more = [value for value in asked if value not in known]
    if more:
        raise BusistoreError(
            f"{option} asks for {', '.join(sorted(map(_words, more)))}, which the runs like '{run_id}' do not have "
            f"(they have {', '.join(sorted(map(_words, known)))}); leave {option} out"
        )


def _words(value: int | tuple[int | None, float | None]) -> str:
    """A seed, or a size as the command line has it.

    >>> _words((4, None)), _words((None, 0.05)), _words(3)
    ('4', '5%', '3')
    """
    if isinstance(value, int):
        return str(value)
    shots, ratio = value
    return str(shots) if ratio is None else f"{100 * ratio:g}%"


def _made(store: Store, run: dict[str, Any], weights: Path | None) -> dict[str, str]:
    """Layer and precision of the run's vectors, as far as known: its runs are paired by what made the vectors."""
    known = store.read(MODELS.name, where=f"model = {quote(run['model'])}").to_pylist()
    for located in _located(run["model"], weights, {row["weights_sha256"] for row in known}):
        for precision, output in product(models.PRECISIONS.keys() - {"auto"}, models.OUTPUTS):
            if located.at(precision, output).model_id == run["model_id"]:
                return {"layer": output, "precision": precision}
    return next(({"precision": row["precision"]} for row in known if row["model_id"] == run["model_id"]), {})


def _located(name: str, weights: Path | None, known: set[str]) -> Iterator[Located]:
    """The model with all weights that a run of it may have had: those at hand, and those that the store remembers."""
    if name not in models.MODELS:
        return
    yield from (Located(models.model(name), sha256) for sha256 in sorted(known))
    for place in dict.fromkeys((weights, None)):
        try:
            yield models.locate(name, place)
        except MissingWeights:
            continue
