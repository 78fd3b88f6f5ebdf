"""Like: the support sets of a stored run's setting, for another method or model to answer on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from busistore.errors import BusistoreError, UnknownName
from busistore.schema import MODELS, RUNS
from busistore.store import Store, quote

SETTING = ("method", "model_id", "recipe_id", "parameters", "split_id", "protocol")  # alike in runs of one setting
AS_IT_WAS = ("dataset", "recipe", "protocol")


def like(store: Store, run_id: str, **asked: Any) -> dict[str, Any]:
    """What `evaluate` is to be given to repeat the support sets of all stored runs that share the setting of one run.

    Args:
        asked: arguments of `evaluate` that the user gave. Sizes and seeds narrow what is repeated, methods and models
            are free, and what is told of the run must be as it was.

    Returns:
        shots, ratios, seeds, split, dataset, recipe, protocol, `only`, and the model and its precision where no other
        is asked for.

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
    wanted = {name: run[name] for name in AS_IT_WAS} | {"split": run["split_id"]}
    for name, value in wanted.items():
        if asked.get(name, value) != value:
            raise BusistoreError(f"'{run_id}' has {name} '{value}', not '{asked[name]}'; leave --{name} out")
    runs = _narrowed(run_id, _of_setting(store, run), asked)
    precision = {"precision": asked["precision"]} if "precision" in asked else _precision(store, run, asked)
    return wanted | precision | {
        "model_names": asked.get("model_names") or [run["model"]],
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


def _precision(store: Store, run: dict[str, Any], asked: dict[str, Any]) -> dict[str, str]:
    """That of the run's vectors, for the same model: its runs are paired by what made the vectors."""
    if asked.get("model_names", [run["model"]]) != [run["model"]]:
        return {}
    known = store.read(MODELS.name, ["precision"], f"model_id = {quote(run['model_id'])}")["precision"].to_pylist()
    return {"precision": known[0]} if known else {}
