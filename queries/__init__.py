"""Questions to the store, one .sql file each.

The first line of a file is its description. The comment lines after it declare the parameters:

    -- Mean of one metric by model.
    -- $metric: name of the metric (default: macro_f1)
    -- $dataset: one data set (required)

A parameter that is not given is NULL, which a query takes for its default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from busistore.errors import BusistoreError, UnknownName

FOLDER = Path(__file__).parent


class Parameter(NamedTuple):
    """A value that a query takes."""

    description: str
    required: bool


@dataclass(frozen=True)
class Query:
    """One question: its SQL and what it may be asked with."""

    name: str
    description: str
    text: str
    parameters: dict[str, Parameter]

    def bind(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """The value of every parameter, None for those not given.

        Raises:
            UnknownName: the query has no parameter of that name.
            BusistoreError: a required one is missing.
        """
        given = dict(given or {})
        for name in given:
            if name not in self.parameters:
                raise UnknownName(f"parameter of '{self.name}' called", name, self.parameters)
        for name, parameter in self.parameters.items():
            if parameter.required and given.get(name) is None:
                raise BusistoreError(f"the query '{self.name}' needs -p {name}=VALUE: {parameter.description}")
        return {name: given.get(name) for name in self.parameters}


def names() -> list[str]:
    """Names of all queries, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.sql"))


def load(name: str) -> Query:
    """The query called `name`, with hyphens taken for underscores.

    Raises:
        UnknownName: there is none; the nearest is named.
    """
    known = names()
    stem = name.replace("-", "_")
    if stem not in known:
        raise UnknownName("query", name, known)
    text = (FOLDER / f"{stem}.sql").read_text(encoding="utf-8")
    return Query(stem, text.partition("\n")[0].removeprefix("--").strip(), text, _parameters(text))


def _parameters(text: str) -> dict[str, Parameter]:
    declared = re.findall(r"^-- \$(\w+): *(.+?) *$", text, re.MULTILINE)
    return {name: Parameter(words, words.endswith("(required)")) for name, words in declared}
