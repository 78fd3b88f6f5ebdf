"""Which runs of two models, or of two methods, may be subtracted: those of one support set, on the same pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from busistore.errors import BusistoreError, UnknownName

if TYPE_CHECKING:
    import polars as pl

NAMES = "SELECT DISTINCT dataset, split_id, protocol, method, model, model_id FROM current_runs"
OPTIONS = {"dataset": ("data sets", "--dataset"), "split_id": ("splits", "--split"),
           "protocol": ("protocols", "--protocol")}  # fmt: skip
INPUTS = """
SELECT r.run_id, r.inputs_sha256, r.inputs_sha256 IS DISTINCT FROM n.inputs_sha256 AS stale
FROM current_runs r LEFT JOIN split_inputs n USING (split_id, model_id, recipe_id)
"""


def pairs(
    con, a: str, b: str, supports: Sequence[tuple[int | None, float | None]], given: Mapping[str, str | None]
) -> pl.DataFrame:
    """Rows of `compared_runs`, with `stale` (either run, by the query of that name) and `other_pixels`.

    `other_pixels` is true where the two runs are known to have been made from different pixels of the same images.

    Args:
        con: a connection of `sql.connect`.
        supports: (shots, ratio) of the support sets, one of them None; all if there are none.
        given: dataset, split_id, protocol, method and model, None for all.

    Raises:
        UnknownName: a name is not known.
        BusistoreError: there are no pairs, or they lie on several data sets, splits or protocols.
    """
    from busistore import sql

    _check_names(sql.ask(con, NAMES), a, b, given)
    found = _of_supports(sql.ask(con, "compared_runs", {"a": a, "b": b, **given}), supports)
    _check_pairs(found, a, b)
    return _with_inputs(found, sql.ask(con, INPUTS))


def _with_inputs(found: pl.DataFrame, inputs: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    for side in "ab":
        names = {"run_id": f"run_{side}", "inputs_sha256": f"inputs_{side}", "stale": f"stale_{side}"}
        found = found.join(inputs.rename(names), on=f"run_{side}", how="left", maintain_order="left")
    return found.with_columns(
        stale=pl.col("stale_a") | pl.col("stale_b"),
        other_pixels=(pl.col("inputs_a") != pl.col("inputs_b")).fill_null(False),
    )


def support_words(shots: int | None, ratio: float | None) -> str:
    """The size of a support set in words.

    >>> support_words(4, None), support_words(None, 0.05), support_words(0, None), support_words(None, None)
    ('4 shots', '5%', 'none', 'all')
    """
    if shots is None:
        return "all" if ratio is None else f"{100 * ratio:g}%"
    return "none" if shots == 0 else f"{shots} shot{'' if shots == 1 else 's'}"


def _check_names(known: pl.DataFrame, a: str, b: str, given: Mapping[str, str | None]) -> None:
    """That both names are of runs in the store and of one kind, and that what narrows the choice exists."""
    if not known.height:
        raise BusistoreError("there are no finished runs to compare; `busistore evaluate` makes them")
    models, methods = {*known["model"], *known["model_id"]}, set(known["method"])
    for name in (a, b):
        if name not in models | methods:
            raise UnknownName("model or method with runs", name, set(known["model"]) | methods)
    if a == b:
        raise BusistoreError(f"'{a}' is named twice; name two models, or two methods")
    if not ({a, b} <= models or {a, b} <= methods):
        one, other = (a, b) if a in models else (b, a)
        raise BusistoreError(f"'{one}' is a model and '{other}' a method; compare two models, or two methods")
    for column, name in given.items():
        found = set(known[column]) | (models if column == "model" else set())
        if name is not None and name not in found:
            raise UnknownName(column.removesuffix("_id") + " with runs", name, found)
    kind, other = ("model", "method") if {a, b} <= models else ("method", "model")
    if given[kind] is not None:
        raise BusistoreError(f"'{a}' and '{b}' are {kind}s, so --{kind} '{given[kind]}' cannot narrow them; leave it "
                             f"out, or name a {other} with --{other}")  # fmt: skip


def _of_supports(pairs: pl.DataFrame, supports: Sequence[tuple[int | None, float | None]]) -> pl.DataFrame:
    import polars as pl

    if not supports:
        return pairs
    fits = [
        pl.col("shots").eq_missing(pl.lit(shots, pl.Int32)) & pl.col("ratio").eq_missing(pl.lit(ratio, pl.Float64))
        for shots, ratio in supports
    ]  # fmt: skip
    kept = pairs.filter(pl.any_horizontal(fits))
    if pairs.height and not kept.height:
        asked = ", ".join(support_words(*s) for s in supports)
        have = pairs.select("shots", "ratio").unique(maintain_order=True).rows()
        raise BusistoreError(f"no common runs with {asked}; there are {', '.join(support_words(*s) for s in have)}")
    return kept


def _check_pairs(pairs: pl.DataFrame, a: str, b: str) -> None:
    if not pairs.height:
        raise BusistoreError(
            f"no run of '{a}' and '{b}' on the same support set, recipe, protocol and parameters; evaluate both with "
            "the same --split, --shots, --seeds and --protocol"
        )
    for column, (kinds, option) in OPTIONS.items():
        found = sorted(set(pairs[column]))
        if len(found) > 1:
            several = f"'{a}' and '{b}' meet on {len(found)} {kinds}"
            raise BusistoreError(f"{several}; name one with {option}: {', '.join(found)}")
