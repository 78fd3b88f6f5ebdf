"""Equal settings have equal ids, on every run and platform; anything that cannot be exact is refused."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busistore.ids import canonical_json, content_id, plain, sha256

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_known_values():
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert content_id("pad224", {"b": 1, "a": [0.5, None]}) == "pad224-" + sha256(b'{"a":[0.5,null],"b":1}')[:12]


@given(st.dictionaries(st.text(), json_values, min_size=2))
def test_order_of_fields_changes_nothing(value):
    assert content_id("x", value) == content_id("x", dict(reversed(list(value.items()))))


@given(json_values, json_values)
def test_different_values_differ(a, b):
    if canonical_json(a) == canonical_json(b):
        assert plain(a) == plain(b)


@dataclass(frozen=True)
class Settings:
    size: int = 3
    grid: tuple[float, ...] = (0.1, 1.0)


def test_dataclass_is_its_fields():
    assert canonical_json(Settings()) == '{"grid":[0.1,1.0],"size":3}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {"a": float("-inf")}])
def test_inexact_is_refused(value):
    with pytest.raises(TypeError, match="cannot be part of a key"):
        content_id("x", value)
