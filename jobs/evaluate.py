"""Evaluate: a grid of shots, seeds, methods and models over what is stored. Each run is stored once and whole.

Episodes are drawn from (split, shots, seed) alone and written to the ledger, so every model and method of a grid
answers on the same support sets, and their differences are paired. What reads prompts alone has no support set, and
one run for each model and prompt set. What trains the image tower itself needs no stored vectors, and a run of it that
cannot be finished is a failure of that run alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from busistore import models
from busistore.errors import BusistoreError, RunFailed, lookup
from busistore.jobs import SHARD_ROWS, Report, Shards, Track, reading, silent, workers
from busistore.jobs.episodes import Episode, Split, draw_episodes, episode_table, load_split
from busistore.jobs.models import find
from busistore.jobs.run_rows import rows
from busistore.jobs.runs import Cell, Read, load_pictures, load_vectors, no_images, run_many, whole_training_part
from busistore.jobs.towers import Grid, Towers, finished
from busistore.methods import (
    METHODS,
    Outcome,
    TextReadout,
    check_protocol,
    needs_balance,
    needs_support,
    needs_text,
    needs_tower,
    with_parameters,
)
from busistore.preprocess import recipes
from busistore.prompts import PromptSet
from busistore.schema import EPISODES, METRICS, PREDICTIONS, RUNS
from busistore.store import Store

SHARD_CELLS = 100_000  # predictions in a shard: some 100 MB while its rows are made


def evaluate(
    store: Store,
    methods: Sequence[str],
    model_names: Sequence[str],
    shots: Sequence[int] = (),
    seeds: Sequence[int] = (),
    *,
    ratios: Sequence[float] = (),
    prompts: Sequence[str] = (),
    rank: str | None = None,
    split: str | None = None,
    dataset: str | None = None,
    recipe: str = "pad224",
    protocol: str = "val-tuned",
    parameters: dict[str, str] | None = None,
    weights: Path | None = None,
    precision: str = "auto",
    layer: str = "pooled",
    only: Collection[str] | None = None,
    executor: str = "serial",
    n_workers: int | None = None,
    dry_run: bool = False,
    track: Track = silent,
) -> Report:
    """Run every (method, model, shots, seed) that is not stored, and store its run, predictions and metrics.

    Args:
        shots, seeds: of the support sets; methods without one do not heed them.
        ratios: shares of the training part, above 0 and up to 1, to draw as support sets beside those of `shots`.
        prompts: names or files of prompt sets, for the methods that read them.
        rank: the parameter of that name, for the methods that read prompts alone.
        split: split id; the only one of the data set by default.
        parameters: fields of the methods to override, as text.
        weights, precision, layer: as given to `encode`, since they are part of which vectors are meant.
        only: ids of the support sets to stay within, all of which must be among those drawn; all by default.
        executor, n_workers: where runs that train a tower are computed, and how many at once; as many as there are
            cores by default. Other runs are made many at once here.
    """
    started = time.monotonic()
    workers.check(executor)
    _refuse_empty(methods=methods, models=model_names)
    fitted = [_method(name, parameters or {}, rank, protocol) for name in dict.fromkeys(methods)]
    _refuse_misfits(fitted, rank, layer, ratios)
    fits = {name: [reading.fitting(m, models.model(name)) for m in fitted] for name in model_names}
    located = [find(store, name, weights, precision, layer, recipe=recipe) for name in fits]
    recipes.recipe(recipe)
    chosen = load_split(store, split, dataset)
    sets = reading.prompt_sets(store, prompts, chosen) if any(needs_text(m) for m in fitted) else []
    episodes = _only(_episodes(chosen, fitted, shots, seeds, ratios), only)
    cells = _cells(store, located, fits, chosen, episodes, sets, recipe, protocol)
    grid = {cell.run_id: cell for cell in cells}
    done = {k for (k,) in store.keys(RUNS, "status = 'done'")}
    missing = {run_id: cell for run_id, cell in grid.items() if run_id not in done}
    report = Report("evaluate", len(grid), len(grid) - len(missing), notes=reading.notes(fitted, fits))
    if not dry_run and missing:
        read = reading.read(store, missing.values(), located, sets, recipe, chosen, track)
        common = Grid.of(located, chosen, [c for c in grid.values() if needs_tower(c.method)])
        towers = Towers(store, common, report.notes)
        towers.check(cell for cell in missing.values() if needs_tower(cell.method))
        train = partial(workers.trained, towers, common, executor=executor, n_workers=n_workers)
        _run_all(store, report, missing, chosen, read, train, track)
    report.seconds = time.monotonic() - started
    return report


def _cells(
    store: Store, located: Sequence[models.Located], fits: dict[str, list[Any]], split: Split,
    episodes: list[Episode], sets: Sequence[PromptSet], recipe: str, protocol: str,
) -> Iterator[Cell]:  # fmt: skip
    """Every run of the grid, model by model; what is not encoded stops here, before the first."""
    load = {needs_tower(m): load_pictures if needs_tower(m) else load_vectors for some in fits.values() for m in some}
    seen = {(one.model_id, kind): load[kind](store, one, recipe, split) for one in located for kind in load}
    for one in located:
        for method in fits[one.spec.name]:
            source = seen[one.model_id, needs_tower(method)]
            texts = [reading.texts_of(store, one, s, split) for s in sets] if needs_text(method) else [None]
            for episode in _episodes_of(method, split, episodes):
                yield from (Cell(method, source, episode, protocol, some) for some in texts)


def _method(name: str, parameters: dict[str, str], rank: str | None, protocol: str) -> Any:
    """A method with its parameters; raises UnknownName where it has no such protocol."""
    kind = lookup("method", name, METHODS)
    ranked = {"rank": rank} if rank is not None and _reads_alone(kind) else {}
    fitted = with_parameters(kind, parameters | ranked)
    check_protocol(fitted, protocol)
    return fitted


def _reads_alone(method: Any) -> bool:
    """Whether it answers by prompts, without a support set."""
    return needs_text(method) and not needs_support(method)


def _refuse_misfits(fitted: Sequence[Any], rank: str | None, layer: str, ratios: Sequence[float]) -> None:
    balanced = next((m for m in fitted if needs_balance(m)), None)
    if balanced and len(ratios):
        raise BusistoreError(f"'{balanced.name}' needs as many images of each class; give it --shots without shares")
    if rank is not None and not any(map(_reads_alone, fitted)):
        raise BusistoreError(f"--rank {rank} is for {_names(_reads_alone)}; leave it out for other methods")
    reader = next((m for m in fitted if needs_text(m)), None)
    if reader and layer != "pooled":
        raise BusistoreError(f"'{reader.name}' compares images with texts, which '{layer}' vectors cannot; use pooled")


def _names(of: Any) -> str:
    return " and ".join(f"'{name}'" for name, kind in METHODS.items() if of(kind))


def _refuse_empty(**lists: Sequence) -> None:
    for name, some in lists.items():
        if not len(some):
            raise BusistoreError(f"no {name} are named; a grid needs at least one of methods, models, shots and seeds")


def _episodes(
    split: Split, fitted: Sequence[Any], shots: Sequence[int], seeds: Sequence[int], ratios: Sequence[float]
) -> list[Episode]:
    """The episodes of the methods that learn from a support set, drawn once for all of them."""
    if not any(map(needs_support, fitted)):
        return []
    _refuse_empty(shots=[*shots, *ratios], seeds=seeds)
    return draw_episodes(split, sorted(set(shots)), seeds, sorted(set(ratios)))


def _only(drawn: list[Episode], only: Collection[str] | None) -> list[Episode]:
    if only is None or not drawn:
        return drawn
    kept = [episode for episode in drawn if episode.episode_id in only]
    if len(kept) < len(set(only)):
        gone = f"{len(set(only)) - len(kept)} of {len(set(only))} support sets are drawn otherwise by this version"
        raise BusistoreError(f"{gone}; use the busistore that drew them")
    return kept


def _episodes_of(method: Any, split: Split, drawn: list[Episode]) -> list[Episode]:
    if needs_support(method):
        return drawn
    return [whole_training_part(split) if isinstance(method, TextReadout) else no_images(split)]


class _Runs(Shards):
    """Finished runs of one split, whose rows are made together when a shard is due."""

    def __init__(self, store: Store, report: Report, split: Split):
        self.split = split
        n_runs = max(1, min(SHARD_ROWS, SHARD_CELLS // len(split.parts["test"])))
        super().__init__(store, report, (PREDICTIONS, METRICS, RUNS), n_runs)

    def _clear(self) -> None:
        super()._clear()
        self.runs: list[tuple[Cell, Outcome]] = []
        self.read: Read | None = None

    def take(self, cell: Cell, outcome: Outcome | RunFailed, read: Read | None) -> None:
        """One run; those of one shard read the same texts."""
        if isinstance(outcome, RunFailed):
            return self.refuse(cell.run_id, str(outcome))
        self.runs.append((cell, outcome))
        self.read = read
        self.done.append(cell.run_id)

    def batches(self) -> dict[str, Any]:
        return rows(self.runs, self.split, self.read) if self.runs else {}

    def flush(self) -> None:
        trained = [cell.run_id for cell, _ in self.runs if needs_tower(cell.method)]
        super().flush()
        finished(self.store, trained)


def _run_all(
    store: Store, report: Report, missing: dict[str, Cell], split: Split, read: reading.Reads,
    train: Callable[..., Iterator[tuple[Cell, Outcome | RunFailed]]], track: Track,
) -> None:  # fmt: skip
    drawn = {cell.episode.episode_id: cell.episode for cell in missing.values() if needs_support(cell.method)}
    # the ledger comes first: a run never names a drawn support set that is not there
    store.put(EPISODES, episode_table(split, drawn.values()))
    with _Runs(store, report, split) as shards, track("evaluate", len(missing)) as advance:
        for cells in _alike(missing.values()):
            texts = read.get((cells[0].vectors.model_id, cells[0].texts))
            if needs_tower(cells[0].method):
                for cell, outcome in train(cells, advance=advance):
                    shards.take(cell, outcome, texts)
                    shards.flush()  # what took minutes is not left to a later fault
                continue
            for cell, outcome in run_many(cells, split, texts):
                shards.take(cell, outcome, texts)
                shards.checkpoint()
                advance(1)
            shards.flush()


def _alike(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that differ in their episodes alone, by the size of these, so that a method may fit many at once."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.vectors.model_id, cell.method, cell.texts), []).append(cell)
    return [sorted(group, key=lambda cell: len(cell.episode.ids)) for group in groups.values()]
