"""Runs that train a tower, several at once: the same numbers, stopped at any moment, and nothing left behind."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from busistore.errors import BusistoreError, UnknownName
from busistore.jobs import executors, workers
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.preprocess import preprocess
from busistore.jobs.split import split
from busistore.store import Store
from tests import tiny
from tests.fakes import busi_folder

N_KILLS = 10
FIELDS = {"rank": 2, "epochs": 12, "patience": 12, "batch_size": 3, "accumulate": 1, "checkpoint_every": 2}
RUN = """
import json, os, random, signal, sys
from pathlib import Path
import torch
from busistore import models
from busistore.jobs.evaluate import evaluate
from busistore.methods import training
from busistore.store import Store
from tests import tiny

torch.set_num_threads(1)
store, weights, fields, executor, die_at = sys.argv[1:]
models.MODELS["clip"] = tiny.clip().spec
real, n_epochs = training._train, 0

def train(*given):
    global n_epochs
    n_epochs += 1
    early = n_epochs == int(die_at) and random.random() < 0.5
    if early:
        os.kill(os.getpid(), signal.SIGKILL)
    loss = real(*given)
    if n_epochs == int(die_at):
        os.kill(os.getpid(), signal.SIGKILL)
    return loss

training._train = train
if __name__ == "__main__":
    report = evaluate(
        Store.open(store), ["lora"], ["clip"], [2], range(3), weights=Path(weights), precision="fp32",
        parameters={k: str(v) for k, v in json.loads(fields).items()}, executor=executor, n_workers=2,
    )
    print(report.written)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a store of pictures and their split, and the weights of a small CLIP."""
    root = tmp_path_factory.mktemp("prepared")
    store = Store.create(root / "store")
    ingest(store, "busi", busi_folder(root / "busi", 14))
    preprocess(store)
    split(store, "busi")
    (root / "weights").mkdir()
    for name, data in tiny.clip().files().items():
        (root / "weights" / name).write_bytes(data)
    (root / "run.py").write_text(RUN)
    return root


@pytest.fixture
def world(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "world")


def start(root, executor: str = "serial", die_at: int = 0, epochs: int = 12) -> subprocess.Popen:
    """The grid in a process of its own, which kills itself around epoch `die_at`, counted over its runs."""
    given = [root / "store", root / "weights", json.dumps(FIELDS | {"epochs": epochs}), executor, die_at]
    command = [sys.executable, str(root / "run.py"), *map(str, given)]
    here = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.Popen(command, env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answers(root) -> dict:
    """What was predicted and followed, by run."""
    store = Store.open(root / "store")
    found = [
        (r["run_id"], r["image_id"], tuple(r["probabilities"])) for r in store.read("predictions").to_pylist()
    ]  # fmt: skip
    found += [
        (r["run_id"], r["subject"] + r["metric"] + r["class"], r["value"]) for r in store.read("metrics").to_pylist()
    ]  # fmt: skip
    return {(run, what): value for run, what, value in found}


def still_there(pids: set[int]) -> set[int]:
    return {pid for pid in pids if os.path.exists(f"/proc/{pid}")}


def children(pid: int) -> set[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return set(map(int, file.read().split()))


@pytest.mark.slow
def test_killed_around_ten_epochs_at_random_a_grid_ends_in_the_same_bits(prepared, world, tmp_path):
    whole = shutil.copytree(prepared, tmp_path / "whole")
    assert start(whole).communicate()[0].strip() == "3"
    chance, n_killed = random.Random(0), 0
    while n_killed < N_KILLS:
        process = start(world, die_at=chance.randint(1, 5))
        process.communicate()
        n_killed += process.returncode == -signal.SIGKILL
        if process.returncode == 0:  # it was over before its turn came: begin again
            assert answers(world) == answers(whole)
            shutil.rmtree(world)
            shutil.copytree(prepared, world)
    start(world).communicate()
    assert answers(world) == answers(whole)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads processes from /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_several_at_once_give_the_same_numbers_and_end_with_the_driver(prepared, world, tmp_path, stop):
    whole = shutil.copytree(prepared, tmp_path / "whole")
    start(whole).communicate()
    process = start(world, "processes", epochs=5000)
    at_work, until = set(), time.monotonic() + 90
    while not list((world / "store" / "adapters").glob("*/.partial/*")) and time.monotonic() < until:
        time.sleep(0.1)
    at_work = children(process.pid)
    assert len(at_work) >= 2
    process.send_signal(stop)
    process.communicate(timeout=30)
    assert process.returncode != 0
    while still_there(at_work) and time.monotonic() < until + 30:
        time.sleep(0.1)  # Python's own tracker of resources follows when its pipe closes
    assert not still_there(at_work)
    assert start(world, "processes").communicate()[0].strip() == "3"
    assert answers(world) == answers(whole)


def test_a_worker_that_is_killed_ends_the_job_with_one_line():
    with pytest.raises(BusistoreError, match=r"one of 2 worker processes was killed.*--workers, or --executor serial"):
        list(executors.compute(_die, [("a", signal.SIGKILL), ("b", 0)], "processes", 2))
    assert not multiprocessing.active_children()


def _die(number: int) -> None:
    if number:
        os.kill(os.getpid(), number)


def test_threads_are_no_place_to_train_in():
    workers.check("serial")
    workers.check("processes")
    with pytest.raises(BusistoreError, match="executors serial, processes, ray, not 'threads'"):
        workers.check("threads")
    with pytest.raises(UnknownName):
        workers.check("process")


@pytest.mark.parametrize("n_told", [0, 3, 4])
def test_epochs_are_shares_of_a_run_and_a_run_is_one(n_told):
    """Also one that ends early, or goes on from a checkpoint."""
    told = []

    class Towers:
        def run(self, cell, tell):
            for _ in range(n_told):
                tell()
            return "outcome"

    cells = [SimpleNamespace(method=SimpleNamespace(epochs=4)) for _ in range(2)]
    found = list(workers.trained(Towers(), None, cells, executor="serial", n_workers=None, advance=told.append))
    assert found == [(cell, "outcome") for cell in cells]
    assert told[:n_told] == [0.25] * n_told
    assert sum(told) == pytest.approx(2)


@pytest.mark.parametrize(("n_runs", "asked", "n_cores", "n_workers", "n_threads"), [
    (9, None, 4, 4, 1), (9, 2, 8, 2, 4), (1, None, 16, 1, 16), (3, 8, 4, 3, 1),
])  # fmt: skip
def test_workers_share_the_cores(monkeypatch, n_runs, asked, n_cores, n_workers, n_threads):
    seen = []
    monkeypatch.setattr(workers, "cores", lambda: n_cores)
    monkeypatch.setattr(executors, "compute", lambda work, items, name, n: seen.append((n, work.args[2])) or ())
    towers, cells = SimpleNamespace(store=SimpleNamespace(path="")), [SimpleNamespace(run_id=k) for k in range(n_runs)]
    list(workers.trained(towers, None, cells, executor="processes", n_workers=asked, advance=None))
    assert seen == [(n_workers, n_threads)]


def test_an_unknown_executor_stops_before_anything_is_looked_up(tmp_path):
    with pytest.raises(UnknownName, match="prozesse"):
        evaluate(Store.create(tmp_path / "s"), ["lora"], ["clip"], [1], range(1), executor="prozesse")
