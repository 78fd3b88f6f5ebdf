"""Fixtures: a folder in the layout of BUSI, a fake encoder, and the real images where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from busistore.store import Store
from tests import fakes


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six images of each class in the layout of BUSI."""
    return fakes.busi_folder(tmp_path / "busi", n_per_class=6)


@pytest.fixture
def fake_model(monkeypatch, tmp_path) -> str:
    """The name of a model that encodes in a millisecond, from a weight file like any other."""
    return fakes.register_model(monkeypatch, tmp_path / "weights.pt")


@pytest.fixture(scope="session")
def busi_dir() -> Path:
    """Real BUSI images, whole or in part; the environment variable BUSI_DIR or ../shared/busi names them."""
    root = Path(os.environ.get("BUSI_DIR", Path(__file__).parents[2] / "shared" / "busi"))
    if not (root / "Dataset_BUSI_with_GT").is_dir():
        pytest.skip("no real BUSI images here; BUSI_DIR names their folder")
    return root / "Dataset_BUSI_with_GT"
