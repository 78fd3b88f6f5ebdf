"""An unknown name is answered with the nearest known one, on one line."""

import pytest

from busistore.errors import UnknownName, lookup


def test_nearest_name():
    with pytest.raises(UnknownName) as caught:
        lookup("model", "biomed-clip", {"biomedclip": 1, "clip": 2})
    assert str(caught.value) == "no model 'biomed-clip'; did you mean 'biomedclip'? (known: biomedclip, clip)"


def test_nothing_near_and_nothing_known():
    assert str(UnknownName("table", "zzz", [])) == "no table 'zzz' (known: none yet)"


def test_a_long_list_is_only_counted():
    assert str(UnknownName("image", "zzz", [f"a{k}" for k in range(390)])) == "no image 'zzz' (390 known)"


def test_lookup_finds():
    assert lookup("model", "clip", {"clip": 2}) == 2
