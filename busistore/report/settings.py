"""Names for what is compared: a setting is a method, a model, a recipe and the method's parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
    text = row["model"] if len(same_name) == 1 else row["model_id"]
    if len({r["recipe_id"] for r in rows}) > 1:
        same_recipe = {r["recipe_id"] for r in rows if r["recipe"] == row["recipe"]}
        text += " on " + (row["recipe"] if len(same_recipe) == 1 else row["recipe_id"])
    return text


def _how(row: dict, rows: list[dict]) -> str:
    """The method, with the parameters in which its settings differ."""
    others = [_parameters(r) for r in rows if r["method"] == row["method"]]
    mine = _parameters(row)
    varied = sorted({k for o in others for k in {*o, *mine} if o.get(k) != mine.get(k)})
    return row["method"] + (" " + " ".join(f"{k}={mine.get(k)}" for k in varied) if varied else "")


def _parameters(row: dict) -> dict:
    return json.loads(row["parameters"] or "{}")
