"""Hyper-parameters from text: the fields of a frozen dataclass, read by their types."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from busistore.errors import BusistoreError, UnknownName


def with_parameters(kind: type, texts: Mapping[str, str]) -> Any:
    """An instance of the frozen dataclass `kind` with fields read from text: {"max_iter": "100", "c_grid": "0.1,1"}.

    Raises:
        UnknownName: no such field.
        BusistoreError: a text that is no value of the field's type, or that the class refuses.
    """
    title = getattr(kind, "name", kind.__name__)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    hints = typing.get_type_hints(kind)
    values = {}
    for name, text in texts.items():
        if name not in fields:
            raise UnknownName(f"parameter of {title}", name, fields)
        try:
            values[name] = _parse(text.strip(), hints[name])
        except ValueError:
            wanted = _describe(hints[name])
            default = _as_text(fields[name].default)
            raise BusistoreError(f"parameter {name}='{text}' of {title}: {wanted} wanted, such as {default}") from None
    return kind(**values)


def from_json(made: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a frozen dataclass as they came back from JSON: its tuples have become lists, and are tuples again.

    >>> from_json({"shots": [1, 2], "rate": 0.1})
    {'shots': (1, 2), 'rate': 0.1}
    """
    return {name: tuple(value) if isinstance(value, list) else value for name, value in made.items()}


def _parse(text: str, hint: Any) -> Any:
    """`text` as bool, int, float, str, a tuple of one of them, or None where the hint allows it."""
    if isinstance(hint, types.UnionType):
        if text.lower() == "none" and type(None) in hint.__args__:
            return None
        return _parse(text, next(h for h in hint.__args__ if h is not type(None)))
    if typing.get_origin(hint) is tuple:
        return tuple(_parse(part.strip(), hint.__args__[0]) for part in text.split(",") if part.strip())
    if hint is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    value = hint(text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(text)
    return value


def _describe(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(h) for h in hint.__args__)
    if typing.get_origin(hint) is tuple:
        return f"{_describe(hint.__args__[0])}, or several between commas,"
    words = {bool: "true or false", int: "a whole number", float: "a finite number", types.NoneType: "none"}
    return words.get(hint, hint.__name__)


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
