"""Fixtures: a folder in the layout of BUSI, a fake encoder, and the real images where they are at hand."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from busistore import sql
from busistore.methods import Labelled
from busistore.store import Store
from tests import fakes
from tests.filled import filled_store


def pytest_configure() -> None:
    """Weights are remembered in a folder of the suite's own, not in the user's.

    A suite started in the background inherits that Ctrl-C is ignored; tests of it need it as at a terminal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["HF_HUB_OFFLINE"] = "1"  # tests of downloads have a hub of their own
    os.environ.setdefault("BUSISTORE_CACHE", tempfile.mkdtemp(prefix="busistore-tests-"))


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


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Store:
    """A small store whose numbers can be worked by hand, made once for a module; nothing writes to it."""
    return filled_store(tmp_path_factory.mktemp("filled") / "store")


@pytest.fixture(scope="module")
def con(filled):
    """A locked SQL session over `filled`."""
    return sql.connect(filled)


@pytest.fixture(scope="session")
def busi_dir() -> Path:
    """Real BUSI images, whole or in part; the environment variable BUSI_DIR or ../shared/busi names them."""
    root = Path(os.environ.get("BUSI_DIR", Path(__file__).parents[2] / "shared" / "busi"))
    if not (root / "Dataset_BUSI_with_GT").is_dir():
        pytest.skip("no real BUSI images here; BUSI_DIR names their folder")
    return root / "Dataset_BUSI_with_GT"


@pytest.fixture(scope="session")
def real_vectors(busi_dir) -> Labelled:
    """Vectors of the pretrained offline encoder for 44 real images of each class."""
    from busistore import models, pixels
    from busistore.preprocess import recipes

    recipe, paths, labels = recipes.recipe("pad224"), [], []
    for number, label in enumerate(("benign", "malignant", "normal")):
        found = sorted(p for p in (busi_dir / label).glob("*.png") if "_mask" not in p.name)[:44]
        paths, labels = paths + found, labels + [number] * len(found)
    squares = np.stack([recipes.apply(recipe, pixels.grey(path.read_bytes())).pixels for path in paths])
    encoder = models.load(models.locate("efficientnet-lite0"))
    made = [encoder.encode(squares[k : k + 16]) for k in range(0, len(squares), 16)]
    return Labelled(np.concatenate(made), np.array(labels))


@pytest.fixture(scope="module")
def one_thread():
    """For networks so small that they are slower on two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
