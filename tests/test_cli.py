"""Every verb runs; every bad input is one line on stderr, exit code 1, no traceback, and an unchanged store."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from busistore.cli import app
from busistore.jobs.encode import encode
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.split import split
from busistore.store import MANIFEST, Store
from tests.fakes import busi_folder, register_model, save_mask, speckle


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of images and a store that went the whole way, made once; tests work on copies."""
    root = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        register_model(patch, root / "weights.pt")
        store = Store.create(root / "store")
        ingest(store, "busi", busi_folder(root / "busi", 14))
        encode(store, "fake")
        split(store, "busi")
        evaluate(store, ["knn"], ["fake"], [1, 2], range(2))
        yield root


@pytest.fixture
def here(world, tmp_path, monkeypatch) -> Path:
    """A working directory with copies of the store and the folder, and the fake model."""
    register_model(monkeypatch, tmp_path / "weights.pt")
    shutil.copytree(world / "store", tmp_path / "store")
    shutil.copytree(world / "busi", tmp_path / "busi")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUSISTORE", "store")
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


VERBS = {
    "ingest": ["busi", "busi", "--audit"],
    "phantom": ["drawn", "--images", "3"],
    "group": ["busi"],
    "split": ["busi", "--seed", "7"],
    "preprocess": ["--recipe", "stretch224"],
    "encode": ["--model", "fake", "--where", "label = 'benign'"],
    "describe": ["biomedclip"],
    "models": ["fetch", "fake"],
    "prompts": ["list"],
    "search": ["busi/benign-0001", "--model", "fake"],
    "evaluate": ["--model", "fake", "--method", "knn,prototype", "--shots", "1,2", "--seeds", "2"],
    "train-segmenter": None,  # these four have tests of their own
    "segment": None,
    "diagnose": None,
    "compare": None,
    "report": ["-o", "out"],
    "sql": ["SELECT label, count(*) AS n FROM images GROUP BY label ORDER BY label"],
    "query": ["leaderboard", "-p", "dataset=busi"],
    "status": [],
    "failures": [],
    "why": ["busi/benign-0001", "--model", "fake"],
    "list": ["models"],
    "verify": [],
    "gc": [],
    "demo": None,  # has a test of its own
}


@pytest.mark.parametrize("verb", sorted(app.commands))
def test_every_verb_runs(here, verb):
    if VERBS[verb] is None:
        return
    done = run(verb, *VERBS[verb])
    assert done.exit_code == 0, done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize("verb", sorted(app.commands))
def test_every_verb_explains_itself(verb):
    done = run(verb, "--help")
    assert done.exit_code == 0
    assert app.commands[verb].help


@pytest.mark.parametrize("fmt", ["csv", "json", "md", "table"])
def test_only_data_on_stdout(here, fmt):
    done = run("sql", VERBS["sql"][0], "--format", fmt)
    assert done.stderr == ""
    if fmt == "csv":
        assert done.stdout == "label,n\nbenign,14\nmalignant,14\nnormal,14\n"
    if fmt == "json":
        assert json.loads(done.stdout) == [{"label": c, "n": 14} for c in ("benign", "malignant", "normal")]


def test_an_audit_is_pure_json(here):
    done = run("ingest", "busi", "busi", "--audit", "--format", "json")
    assert {"dataset", "finding", "n"} <= json.loads(done.stdout)[0].keys()
    assert done.stderr == "ingest: 42 planned, 42 skipped, 0 written, 0 failed, " + done.stderr.split(", ")[-1]


def test_parquet_needs_a_file_and_writes_one(here):
    import polars as pl

    assert run("sql", "SELECT 1 AS x", "--format", "parquet").exit_code == 1
    assert run("sql", "SELECT 1 AS x", "--format", "parquet", "-o", "x.parquet").exit_code == 0
    assert pl.read_parquet("x.parquet").to_dicts() == [{"x": 1}]


def test_quiet_says_nothing(here):
    done = run("encode", "--model", "fake", "-q")
    assert (done.exit_code, done.output) == (0, "")


def test_the_closing_line(here):
    done = run("encode", "--model", "fake")
    assert ": 42 planned, 42 skipped, 0 written, 0 failed, " in done.stderr
    assert done.stdout == ""


def state(folder: Path) -> dict[str, str]:
    """Every file of the store and its content."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


REFUSED = {
    "missing folder": (["ingest", "busi", "nowhere"], "there is no folder 'nowhere'"),
    "wrong folder": (["ingest", "busi", "store"], "is not a BUSI folder"),
    "file for a folder": (["ingest", "busi", "weights.pt"], "is a file"),
    "unknown data set": (["ingest", "busii", "busi"], "did you mean 'busi'"),
    "unknown executor": (["preprocess", "--executor", "clod", "--recipe", "stretch224"], "executor 'clod'"),
    "unknown model": (["encode", "--model", "fakee"], "did you mean 'fake'"),
    "missing weights": (["encode", "--model", "biomedclip"], "no weights for 'biomedclip'"),
    "no weight file": (["encode", "--model", "fake", "--weights", "none.pt"], "no weight file 'none.pt'"),
    "unknown recipe": (["encode", "--model", "fake", "--recipe", "pad"], "did you mean 'pad224'"),
    "unknown precision": (["encode", "--model", "fake", "--precision", "fp8"], "no precision 'fp8'"),
    "unknown method": (["evaluate", "--model", "fake", "--method", "probe"], "no method 'probe'"),
    "unknown protocol": (["evaluate", "--model", "fake", "--protocol", "lax"], "'lax'"),
    "unknown parameter": (["evaluate", "--model", "fake", "-p", "cc=1"], "'cc'"),
    "too many shots": (["evaluate", "--model", "fake", "--shots", "99"], "99 shots, but class"),
    "no shots": (["evaluate", "--model", "fake", "--shots", "0"], "at least 1 image per class"),
    "empty shots": (["evaluate", "--model", "fake", "--shots", ","], "no shots are named"),
    "empty model": (["evaluate", "--model", ""], "no models are named"),
    "second model unknown": (["evaluate", "--model", "fake,nosuch"], "no model 'nosuch'"),
    "ingest on an unknown executor": (["ingest", "busi", "busi", "--store", "new", "--executor", "x"], "executor 'x'"),
    "several folders": (["ingest", "busi", "."], "holds several BUSI folders (busi, busi2)"),
    "unknown split": (["evaluate", "--model", "fake", "--split", "s"], "no split 's'"),
    "leaky split": (["split", "busi", "--from-csv", "leaky.csv"], "--allow-leakage"),
    "missing csv": (["split", "busi", "--from-csv", "none.csv"], "cannot read the split 'none.csv'"),
    "bad fractions": (["split", "busi", "--fractions", "0.9,0.9,0.1"], "three shares that sum to 1"),
    "unknown query": (["query", "leaderbord"], "did you mean 'leaderboard'"),
    "unknown query parameter": (["query", "leaderboard", "-p", "metrc=x"], "did you mean 'metric'"),
    "unknown format": (["sql", "SELECT 1", "--format", "xls"], "no format 'xls'"),
    "sql that deletes": (["sql", "DELETE FROM images"], "only SELECT"),
    "sql that writes": (["sql", "COPY images TO 'x.csv'"], "only SELECT"),
    "sql that reads a file": (["sql", "SELECT * FROM 'leaky.csv'"], "leaky.csv"),
    "sql that reads text": (["sql", "SELECT * FROM read_text('leaky.csv')"], "'read_text' is not allowed"),
    "sql that attaches": (["sql", "ATTACH 'x.db'"], "only SELECT"),
    "two statements": (["sql", "SELECT 1; SELECT 2"], "one SQL statement"),
    "no statement": (["sql", ""], "one SQL statement"),
    "sql with a typo": (["sql", "SELECT labl FROM images"], "label"),
    "where with a typo": (["encode", "--model", "fake", "--where", "labl = 'x'"], "labl"),
    "where that ends": (["encode", "--model", "fake", "--where", "true); DROP VIEW images; --"], ""),
    "unknown image": (["why", "busi/benign-001", "--model", "fake"], "did you mean 'busi/benign-00"),
    "unknown list": (["list", "modles"], "did you mean 'models'"),
    "no such store": (["status", "--store", "nowhere"], "no store at 'nowhere'"),
    "a store that is a file": (["status", "--store", "weights.pt"], "weights.pt"),
    "other people's folder": (["ingest", "busi", "busi", "--store", "busi"], "holds other files"),
    "report into a file": (["report", "-o", "weights.pt"], "weights.pt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_clear_line(here, case):
    Path("leaky.csv").write_text("image,split\nbenign (1).png,train\nbenign (2).png,test\n")
    if case == "several folders":
        shutil.copytree("busi", "busi2")
    if case == "leaky split":
        for name in ("benign (1)", "benign (2)"):
            Image.fromarray(speckle(5)).save(f"busi/benign/{name}.png")
        assert run("ingest", "busi", "busi", "--replace").exit_code == 0
        assert run("group", "busi").exit_code == 0
    arguments, words = REFUSED[case]
    before = state(here / "store")
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    assert words in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert state(here / "store") == before


@pytest.mark.parametrize("arguments", [["encode"], ["evaluate", "--model", "x", "--shots", "two"], ["sql"], ["no"]])
def test_wrong_usage_exits_with_2(here, arguments):
    assert run(*arguments).exit_code == 2


def spoil(folder: Path) -> None:
    benign = folder / "benign"
    data = (benign / "benign (2).png").read_bytes()
    (benign / "benign (2).png").write_bytes(data[: len(data) // 2])
    Image.new("L", (1, 1)).save(benign / "benign (3).png")
    Image.fromarray(speckle(3).astype(np.uint16) * 256).save(benign / "benign (4).png")
    save_mask(benign / "benign (5)_mask.png", np.ones((40, 40), bool))


def test_bad_files_end_with_1_and_the_rest_is_stored(here):
    spoil(here / "busi")
    done = run("ingest", "busi", "busi", "--store", "fresh")
    assert done.exit_code == 1
    assert "failed: busi/benign-0002: 'benign (2).png' is damaged or truncated; copy it again" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: 4 inputs failed")
    assert Store.open("fresh").count("images") == 38
    assert run("ingest", "busi", "busi", "--store", "fresh", "--skip-errors").exit_code == 0
    listed = json.loads(run("failures", "--store", "fresh", "--format", "json").stdout)
    assert len(listed) == 4


def test_repeated_names_count_once(here):
    done = run("evaluate", "--model", "fake,fake", "--method", "knn,knn", "--shots", "1,1,2", "--seeds", "2")
    assert done.exit_code == 0
    assert ": 4 planned, 4 skipped, 0 written, 0 failed, " in done.stderr


def test_names_that_are_no_text(here):
    """File systems allow any bytes; tables hold text."""
    odd = os.fsencode(here / "busi" / "benign") + b"/benign \xff.png"
    shutil.copy("busi/benign/benign (1).png", odd)
    done = run("ingest", "busi", "busi", "--store", "fresh")
    assert done.exit_code == 1
    assert r"'benign \xff.png' is not named as BUSI names a benign image or mask" in done.stderr
    assert Store.open("fresh").count("images") == 42
    assert Store.open("fresh").count("failures") == 1
    done = run("ingest", "busi", "busi", "--store", os.fsdecode(b"st\xffre"))
    assert done.exit_code == 1
    assert "is not UTF-8" in done.stderr


def test_two_files_of_one_number(here):
    shutil.copy("busi/benign/benign (1).png", "busi/benign/benign (01).png")
    shutil.copy("busi/benign/benign (1).png", "busi/benign/photo.jpg")
    done = run("ingest", "busi", "busi", "--store", "fresh")
    assert done.exit_code == 1
    assert "'benign (1).png' has the number of 'benign (01).png'; rename one" in done.stderr
    assert "'photo.jpg' is not named as BUSI names" in done.stderr
    assert Store.open("fresh").count("images") == 42


def test_a_first_write_on_a_full_disk_leaves_no_trace(here, small_disk):
    store = small_disk / "store"
    (small_disk / "ballast").write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 12288))
    done = run("ingest", "busi", "busi", "--store", str(store))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].endswith("is on a full disk: make room and run the same command again; "
                                                 "what was stored before is whole")  # fmt: skip
    (small_disk / "ballast").unlink()
    assert run("ingest", "busi", "busi", "--store", str(store)).exit_code == 0
    assert run("verify", "--store", str(store)).exit_code == 0


def test_a_newer_store_is_left_alone(here):
    (here / "store" / MANIFEST).write_text('{"schema_version": 99}')
    for verb in ("status", "verify"):
        done = run(verb)
        assert done.exit_code == 1
        assert "upgrade busistore" in done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB, where the machine lets a test mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not shutil.which("mount") or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("no permission to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_full_disk(here, small_disk):
    store = small_disk / "store"
    assert run("ingest", "busi", "busi", "--store", str(store)).exit_code == 0
    n_images = Store.open(store).count("images")
    (small_disk / "ballast").write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 8192))
    done = run("encode", "--model", "fake", "--store", str(store))
    assert done.exit_code == 1
    assert "full disk: make room" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.output
    (small_disk / "ballast").unlink()
    assert Store.open(store).count("images") == n_images
    assert run("encode", "--model", "fake", "--store", str(store)).exit_code == 0
    assert run("verify", "--store", str(store)).exit_code == 0


def test_a_read_only_store(here, small_disk):
    store = small_disk / "store"
    run("ingest", "busi", "busi", "--store", str(store))
    if subprocess.run(["mount", "-o", "remount,ro", small_disk], capture_output=True, check=False).returncode:
        pytest.skip("no permission to remount a disk")
    done = run("encode", "--model", "fake", "--store", str(store))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].endswith("is on a read-only disk; what was stored before is whole")
    assert run("status", "--store", str(store)).exit_code == 0  # reading needs no permission to write


def test_ctrl_c_is_one_line(here):
    """A real SIGINT to a real process: one line, exit code 130, no traceback."""
    import signal
    import time

    command = [sys.executable, "-m", "busistore", "phantom", "many", "--images", "500"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    while not list(here.glob("many/**/*.png")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert stderr.splitlines() == ["Stopped. What was finished is stored; the same command goes on from there."]


def test_a_closed_pipe_is_no_error(here):
    command = f"{sys.executable} -m busistore sql 'SELECT * FROM range(200000)' --format csv | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "range\n"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_demo_goes_the_whole_way_and_then_does_nothing(tmp_path):
    command = [sys.executable, "-m", "busistore", "demo", "--folder", str(tmp_path / "demo")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Leaderboard" in first.stdout
    assert "linear-probe" in first.stdout
    assert re.search(r"unet +auto +test", first.stdout)
    page = (tmp_path / "demo" / "report" / "index.html").read_text()
    assert "<svg" in page
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    written = [line for line in second.stderr.splitlines() if " written" in line]
    assert len(written) == 6
    assert all(" 0 written" in line for line in written)
