"""The house stands on its arrows: imports follow them, and each heavy package has one owner."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import busistore

ROOT = Path(busistore.__file__).parents[1]
FOLDERS = {
    "busistore": ROOT / "busistore", "busistore.jobs": ROOT / "jobs", "busistore.queries": ROOT / "queries",
    "busistore.prompt_sets": ROOT / "data" / "prompts",
}  # fmt: skip

OWNERS = {
    "lancedb": {"store", "nearest", "lookup"}, "lance": {"store"}, "duckdb": {"sql"}, "click": {"cli"},
    "open_clip": {"models"}, "timm": {"models"}, "torch": {"models", "methods", "segmenters", "checkpoint"},
    "sklearn": {"methods"}, "peft": {"methods"}, "segment_anything": {"segmenters"}, "transformers": {"models"},
    "safetensors": {"models", "methods", "segmenters", "checkpoint"}, "huggingface_hub": {"models"},
    "matplotlib": {"report"}, "jinja2": {"report"}, "rich": {"cli", "formats"}, "ray": {"jobs"},
    "cv2": {"registration", "candidates", "groups", "datasets", "preprocess"}, "imagehash": {"groups", "candidates"},
    "rapidocr": {"preprocess"},
    "urllib": {"chat"},  # of the standard library, and here because it reaches the network
}  # fmt: skip

FOUNDATION = {"schema", "ids", "errors"}
COMPUTE = {
    "datasets", "preprocess", "pixels", "groups", "candidates", "registration", "splits", "sampling", "models",
    "methods", "metrics", "stats", "prompts", "generation", "chat", "captions",
    "alignment", "sheet", "segmenters", "checkpoint", "lesion_shape", "overlay",
}  # fmt: skip
MAY_IMPORT = {
    **dict.fromkeys(COMPUTE, COMPUTE | FOUNDATION),
    "errors": set(), "ids": set(), "schema": {"ids", "errors"}, "rows": FOUNDATION,
    "faults": {"errors"},
    "files": FOUNDATION | {"faults", "store"},  # it names the Store in an annotation only
    "lookup": FOUNDATION | {"faults", "store"},
    "nearest": FOUNDATION | {"faults", "store", "lookup"},
    "store": FOUNDATION | {"rows", "faults", "files", "nearest", "lookup"},
    "queries": {"errors"}, "readonly": FOUNDATION,
    "views": FOUNDATION | {"store"},
    "sql": FOUNDATION | {"queries", "store", "views", "readonly"}, "formats": FOUNDATION,
    "pairing": FOUNDATION | {"sql"},
    # it names the Store in annotations only
    "comparison": FOUNDATION | {"sql", "queries", "store", "stats", "metrics", "pairing"},
    "report": FOUNDATION | {"sql", "queries", "store", "stats", "metrics", "pixels", "comparison",
                            "preprocess"},
    "jobs": COMPUTE | FOUNDATION | {"store", "nearest"}, "prompt_sets": set(),
    "__main__": {"cli"},
    "cli": COMPUTE | FOUNDATION | {"jobs", "sql", "queries", "store", "report", "formats", "comparison"},
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module that is installed."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            inside = path.relative_to(folder).with_suffix("")
            found[".".join([package, *(p for p in inside.parts if p != "__init__")])] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function; `from busistore import x` counts as x."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            within = node.module == "busistore"
            found |= {f"busistore.{alias.name}" if within else node.module for alias in node.names}
    return found


def part(module: str) -> str:
    """The part of the house: `busistore.methods.knn` is in `methods`."""
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_follow_the_arrows(module):
    mine = part(module)
    if mine == "":
        return
    theirs = {part(name) for name in imports(MODULES[module]) if name.split(".")[0] == "busistore"}
    assert theirs - {mine, "", "__version__"} <= MAY_IMPORT[mine]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_heavy_packages_have_owners(module):
    for name in {name.split(".")[0] for name in imports(MODULES[module])} & OWNERS.keys():
        assert part(module) in OWNERS[name], f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_are_small(module):
    assert len(MODULES[module].read_text().splitlines()) < 300


LISTS = ("models", "methods", "datasets", "recipes", "metrics", "queries", "protocols", "executors")
LOOK_UPS = [
    ["--help"], ["encode", "--help"], ["list"], *(["list", what] for what in LISTS), ["prompts", "list"],
    ["prompts", "show", "plain"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", LOOK_UPS, ids=" ".join)
def test_looking_something_up_loads_nothing_heavy(arguments):
    code = (
        "import sys; from busistore.cli import app\n"
        f"try: app({arguments!r})\nexcept SystemExit as end: assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'lancedb', 'lance', 'sklearn', 'timm', 'cv2'}\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
