"""Towers: what a method that trains the image tower is given in place of vectors, and where its adapters lie.

Such a method trains the last blocks of a tower. What enters the first of them (the "states") does not change while it
trains, so it is read from the store or computed once for the whole grid. States are in the precision of the model, as
its vectors are; that of the method is of the blocks that are trained. Read or computed, they agree but for rounding.

The adapters of a run lie in ADAPTERS/RUN_ID under the store, and in .partial there what an unfinished run goes on from.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from busistore.errors import BadInput, BusistoreError, RunFailed
from busistore.jobs import columns
from busistore.jobs.episodes import Split
from busistore.jobs.layers import TOKEN_DTYPES, Layer
from busistore.jobs.pictures import batches
from busistore.jobs.preprocess import current_pictures
from busistore.jobs.runs import Cell, Vectors, labelled
from busistore.methods import Outcome, timed
from busistore.models import Located
from busistore.schema import RUNS
from busistore.store import Store

if TYPE_CHECKING:
    from busistore.models.trainable import TrainableViT

ADAPTERS, PARTIAL = "adapters", ".partial"
HELD_BYTES = 1 << 30  # states of more are computed or read again for each batch that is asked for
KEPT_S = 7 * 86400  # what an unfinished run goes on from is swept when nothing has touched it for so long
READ = 256  # pictures read at a time


@dataclass(frozen=True)
class Settings:
    """What of a method's parameters says which network it trains and what enters it.

    `precision` is that of the blocks that are trained. `tokens` is the type that states are rounded to: "float16" to
    train from a table of half the size.
    """

    blocks: int | None
    qkv: str
    precision: str
    tokens: str

    @classmethod
    def of(cls, method: Any) -> Settings:
        """Those of a method; one that has no such field is given the defaults."""
        defaults = {"blocks": None, "qkv": "split", "precision": "fp32", "tokens": "float32"}
        found = cls(**{name: getattr(method, name, value) for name, value in defaults.items()})
        if found.tokens not in TOKEN_DTYPES:
            raise BusistoreError(f"{method.name}: tokens are {' or '.join(TOKEN_DTYPES)}, not '{found.tokens}'")
        return found


class States:
    """(N, T, W) float32 states that are made when they are asked for: rows are picked as of an array.

    `np.asarray(states[rows])` makes those of some rows; without it nothing is computed.
    """

    dtype, ndim = np.dtype(np.float32), 3

    def __init__(self, make: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, shape: tuple[int, int]):
        self._make, self._rows, self.shape = make, rows, (len(rows), *shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> States | np.ndarray:
        """The states of those rows, not yet made; of a single one, made: (T, W)."""
        picked = self._rows[rows]
        if np.ndim(picked) == 0:
            return self._make(picked[None])[0]
        return States(self._make, picked, self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._make(self._rows).astype(dtype or self.dtype, copy=False)


@dataclass(frozen=True)
class Grid:
    """What the runs of a grid that train a tower have in common: small, so that a worker process is told it.

    `ids` are the pictures that any of its runs sees, those of runs that are stored too: with the same grid the same
    pictures are computed together, so that a grid that was stopped goes on with the same states to the last bit.
    """

    located: tuple[Located, ...]
    split: Split
    parts: tuple[str, ...]
    ids: tuple[str, ...]

    @classmethod
    def of(cls, located: Iterable[Located], split: Split, cells: Sequence[Cell]) -> Grid:
        """That of all runs that train a tower."""
        parts = ("test",) if all(cell.protocol == "strict" for cell in cells) else ("test", "val")
        seen = {i for cell in cells for i in cell.episode.ids}
        return cls(tuple(located), split, parts, tuple(sorted(seen.union(*(split.parts.get(p, []) for p in parts)))))


class Towers:
    """The towers that a grid trains and what enters them; the last one that was used stays in memory."""

    def __init__(self, store: Store, grid: Grid, notes: list[str]):
        self.store, self.split, self.ids, self.notes = store, grid.split, grid.ids, notes
        self.located = {one.model_id: one for one in grid.located}
        self.parts = grid.parts
        self._network: tuple[Any, TrainableViT] | None = None
        self._states: tuple[Any, Vectors] | None = None

    def check(self, cells: Iterable[Cell]) -> None:
        """Build each network once, so that one that cannot be trained stops a grid before its first run, not later."""
        for model_id, settings in reversed(dict.fromkeys(map(_what, cells))):  # the first one stays in memory
            self.network(model_id, settings)

    def run(self, cell: Cell, on_epoch: Callable[[], None] | None = None) -> Outcome | RunFailed:
        """Its predictions of the test part, or why there are none; `on_epoch` is called after each epoch."""
        model_id, settings = _what(cell)
        cached, network = self.states(cell.vectors, settings), self.network(model_id, settings)
        val = labelled(cached, self.split, self.split.parts.get("val", [])) if "val" in self.parts else None
        try:
            return timed(
                cell.method.fit_predict, labelled(cached, self.split, cell.episode.ids), val,
                cached.of(self.split.parts["test"]), len(self.split.classes), cell.protocol,
                tower=lambda: copy.deepcopy(network), folder=folder_of(self.store, cell.run_id), on_epoch=on_epoch,
            )  # fmt: skip
        except RunFailed as error:
            return RunFailed(f"{_told(cell)}: {error}")

    def network(self, model_id: str, settings: Settings) -> TrainableViT:
        """The frozen network itself; a method is given copies."""
        key = (model_id, settings)
        if self._network is None or self._network[0] != key:
            self._network = None  # before another one is made
            self._network = key, _built(self.located[model_id], settings, settings.precision)
        return self._network[1]

    def states(self, source: Any, settings: Settings) -> Vectors:
        """What enters the network for each picture of the grid, as `Vectors` whose values are (N, T, W)."""
        network = self.network(source.model_id, settings)
        key = (source.model_id, source.recipe_id, source.inputs_sha256, network.first, settings.tokens)
        if self._states is None or self._states[0] != key:
            self._states = None
            values = self._values(source, settings, network)
            row_of = {image_id: k for k, image_id in enumerate(self.ids)}
            self._states = key, Vectors(**vars(source), row_of=row_of, values=values)
        return self._states[1]

    def _values(self, source: Any, settings: Settings, network: TrainableViT) -> np.ndarray | States:
        from busistore.models import states

        shape = states.shape(network)
        make = self._stored(source, settings, network, shape) or self._computed(source, settings, network)
        lazy = States(make, np.arange(len(self.ids)), shape)
        n_bytes = int(np.prod(lazy.shape)) * lazy.dtype.itemsize
        if network.first == 0 or n_bytes > HELD_BYTES:
            return lazy
        try:
            return np.asarray(lazy)
        except MemoryError:  # then batch by batch
            return lazy

    def _stored(
        self, source: Any, settings: Settings, network: TrainableViT, shape: tuple[int, int]
    ) -> Callable[[np.ndarray], np.ndarray] | None:
        """Reads states from the table of the layer, where it has those of all pictures as they are now."""
        if network.first == 0:
            return None
        pooled = self.located[source.model_id].at(output="pooled")
        layer = Layer(f"h{network.first - 1}", pooled.model_id, source.recipe_id, settings.tokens)
        kept = dict(columns(self.store.read(layer.name, ["image_id", "input_sha256"])))
        now = current_pictures(self.store, source.recipe_id)
        if any(kept.get(i) != now[i] for i in self.ids):
            self._recommend(source, settings, network.first - 1)
            return None
        return lambda rows: self.store.vectors(layer.name, [self.ids[k] for k in rows]).reshape(-1, *shape)

    def _computed(self, source: Any, settings: Settings, network: TrainableViT) -> Callable[[np.ndarray], np.ndarray]:
        """Computes states from pictures, which are read and decoded once."""
        from busistore.models import states

        squares, located = self._squares(source), self.located[source.model_id]
        if network.first and settings.precision != located.precision:
            network = _built(located, settings, located.precision)

        def make(rows: np.ndarray) -> np.ndarray:
            made = states.states(network, squares[rows])
            return made if settings.tokens == "float32" else made.astype(np.float16).astype(np.float32)

        return make

    def _squares(self, source: Any) -> np.ndarray:
        """(N, S, S) uint8 pictures of the grid."""
        spec = self.located[source.model_id].spec
        found = []
        for batch in batches(self.store, source.recipe_id, self.ids, READ):
            for why in batch.damaged.values():
                raise BadInput(why)
            found.append(batch.squares)
        squares, size = np.concatenate(found), spec.input.size_px
        if squares.shape[1:] != (size, size):
            wrong = f"'{spec.name}' takes {size} x {size} px, not {squares.shape[1:]}"
            raise BusistoreError(f"{wrong}; choose another recipe")
        return squares

    def _recommend(self, source: Any, settings: Settings, layer: int) -> None:
        precision = self.located[source.model_id].precision
        command = (
            f"busistore encode --model {source.model} --recipe {source.recipe} --precision {precision} "
            f"--layers {layer} --token-dtype {settings.tokens}"
        )
        self.notes.append(f"what enters block {layer + 1} was computed for this grid alone; `{command}` keeps it")


def _built(located: Located, settings: Settings, precision: str) -> TrainableViT:
    from busistore.models.trainable import trainable

    return trainable(located, settings.blocks, settings.qkv, precision)


def _what(cell: Cell) -> tuple[str, Settings]:
    return cell.vectors.model_id, Settings.of(cell.method)


def _told(cell: Cell) -> str:
    """A run in words: its id alone says little."""
    episode = cell.episode
    size = f"shots {episode.shots}" if episode.ratio is None else f"{100 * episode.ratio:g}%"
    return f"{cell.vectors.model}, {size}, seed {episode.seed}"


def folder_of(store: Store, run_id: str) -> Path:
    """Where the adapters of a run lie."""
    return store.path / ADAPTERS / run_id


def finished(store: Store, run_ids: Iterable[str]) -> None:
    """Remove what these runs would go on from: they are stored."""
    for run_id in run_ids:
        shutil.rmtree(folder_of(store, run_id) / PARTIAL, ignore_errors=True)


def sweep(store: Store) -> int:
    """Remove what no run will go on from: of stored runs, and of others that nothing has touched for a week.

    Of those others nothing is left, kept files neither. Returns how many runs it was of.
    """
    done, n_swept = {run_id for (run_id,) in store.keys(RUNS, "status = 'done'")}, 0
    for folder in (store.path / ADAPTERS).glob("*/"):
        stored = folder.name in done
        gone = folder / PARTIAL if stored else folder
        if gone.exists() and (stored or time.time() - _touched(folder) > KEPT_S):
            shutil.rmtree(gone, ignore_errors=True)  # a run that ends now may remove it too
            n_swept += 1
    return n_swept


def _touched(folder: Path) -> float:
    """When something in it was last written, or it was made where it is empty; now, where it is at work."""
    try:
        return max(p.stat().st_mtime for p in [*folder.rglob("*")] or [folder])
    except FileNotFoundError:
        return time.time()
