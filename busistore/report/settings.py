"""Names for what is compared: a setting is a method, a model, a recipe and the method's parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

COLUMNS = ("method", "model_id", "recipe_id", "parameters")


class Setting(NamedTuple):
    """One line of the leaderboard; `where` names its encoder and recipe, `how` its method."""

    where: str
    how: str

    def at(self, shots: int) -> Setting:
        """The setting's name with its number of shots, for where these differ."""
        return self._replace(how=f"{self.how}, {shots} shot{'' if shots == 1 else 's'}")

    def __str__(self) -> str:
        return f"{self.how}, {self.where}"


def key(row: dict[str, Any]) -> tuple:
    """What makes a row's setting: its ids and parameters."""
    return tuple(row[c] for c in COLUMNS)


def name_settings(rows: Iterable[dict[str, Any]]) -> dict[tuple, Setting]:
    """The shortest names that keep the settings of `rows` apart, in the order in which they first come."""
    first: dict[tuple, dict] = {}
    for row in rows:
        first.setdefault(key(row), row)
    distinct = list(first.values())
    return {k: Setting(where(row, distinct), _how(row, distinct)) for k, row in first.items()}


def where(row: dict, rows: list[dict]) -> str:
    """The model of a row among others, with its id where two share a name, and the recipe where there are several."""
    same_name = {r["model_id"] for r in rows if r["model"] == row["model"]}
    return (row["model"] if len(same_name) == 1 else row["model_id"]) + _on_recipe(row, rows)


def _on_recipe(row: dict, rows: list[dict]) -> str:
    if len({r["recipe_id"] for r in rows}) == 1:
        return ""
    same_recipe = {r["recipe_id"] for r in rows if r["recipe"] == row["recipe"]}
    return " on " + (row["recipe"] if len(same_recipe) == 1 else row["recipe_id"])


def name_pairs(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What each row of `compared_runs` was held on: its model or method, and all else in which the rows differ.

    That is the recipe, and of either side the weights, parameters and texts; not the size of the support sets.
    """
    sides = {side: [{c: row.get(f"{c}_{side}", row.get(c)) for c in ("model", "recipe", *COLUMNS)} for row in rows]
             for side in "ab"}  # fmt: skip
    names = {side: name_settings(of) for side, of in sides.items()}
    told = [_told(k, row, sides, names) for k, row in enumerate(rows)]
    varied = [k for k in range(len(told[0][1])) if len({more[k] for _, more in told}) > 1] if told else []
    return [held + (f" ({', '.join(more[k] or 'none' for k in varied)})" if varied else "") for held, more in told]


def _told(k: int, row: dict, sides: dict[str, list[dict]], names: dict[str, dict]) -> tuple[str, list[str]]:
    """(what is held, what either side has beside it) of one row."""
    mine = {side: names[side][key(of[k])] for side, of in sides.items()}
    texts = [row.get(f"text_id_{side}") for side in "ab"]
    if row["compared"] == "model":
        return mine["a"].how + _on_recipe(row, list(sides["a"])), [row["model_id_a"], row["model_id_b"], *texts]
    return mine["a"].where, [mine["a"].how, mine["b"].how, *texts]


def _how(row: dict, rows: list[dict]) -> str:
    """The method, with the parameters in which its settings differ."""
    others = [_parameters(r) for r in rows if r["method"] == row["method"]]
    mine = _parameters(row)
    varied = sorted({k for o in others for k in {*o, *mine} if o.get(k) != mine.get(k)})
    return row["method"] + (" " + " ".join(f"{k}={mine.get(k)}" for k in varied) if varied else "")


def _parameters(row: dict) -> dict:
    return json.loads(row["parameters"] or "{}")
