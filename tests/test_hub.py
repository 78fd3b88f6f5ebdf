"""The matrix of layouts and hubs: a model loads exactly as it was saved, or one line says why not and what to do.

`pytest -v tests/test_hub.py` prints the table. No case may end with a vector of a network that is random in part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import constants

from busistore import models
from busistore.cli import app
from busistore.errors import MissingWeights
from busistore.jobs.encode import encode, vectors
from busistore.jobs.ingest import ingest
from busistore.jobs.pictures import sample
from busistore.jobs.preprocess import preprocess
from busistore.preprocess import recipes
from busistore.store import Store
from tests import fakes, tiny
from tests.hub import EXPIRED, TOKEN, Hub, point_at, without_patience

TEXTS = ["an image of a benign tumour", "Malignant lesion, breast ultrasound", "x", "longer than any context " * 80]
READS_BERT = ("open_clip bin", "trainer")
ANOTHER = "0123456789abcdef0123456789abcdef01234567"  # a commit
PATIENCE_S = 15  # until a hub that does not answer is given up


@pytest.fixture(scope="module")
def two_images(tmp_path_factory) -> Store:
    """A store of two pictures, which cases work on copies of."""
    root = tmp_path_factory.mktemp("refusing")
    store = Store.create(root / "store")
    ingest(store, "busi", fakes.busi_folder(root / "busi", n_per_class=1, classes=("benign", "normal")))
    preprocess(store, "pad224")
    return store


@dataclass
class Scene:
    """A model in small under its real name, a hub to publish it on, and what to expect of the pair."""

    hub: Hub
    tiny: tiny.Tiny
    store: Store
    monkeypatch: pytest.MonkeyPatch
    home: Path

    def __post_init__(self) -> None:
        self.use(self.tiny.spec)

    @property
    def spec(self) -> models.ModelSpec:
        return models.MODELS[self.tiny.spec.name]

    def use(self, spec: models.ModelSpec) -> None:
        self.monkeypatch.setitem(models.MODELS, spec.name, spec)

    def publish(self, files: dict[str, bytes] | None = None, commit: str | None = None, **how: bool) -> str:
        """The model's repository at its pinned commit, if it has one, and those that it needs beside."""
        for repo, others in self.tiny.elsewhere.items():
            self.hub.add(repo, others, self.spec.text.tokenizer.revision)
        files = self.tiny.files() if files is None else files
        return self.hub.add(self.spec.weights.repo, files, commit or self.spec.weights.revision, **how)

    def loads(self, fetch: bool = True, text: bool = False) -> models.Located:
        """The image tower, and with `text` both, give what the network gave that was saved."""
        located = models.locate(self.spec.name, fetch=fetch)
        side = self.spec.input.size_px
        squares = np.random.default_rng(1).integers(0, 256, (2, side, side)).astype(np.uint8)
        same(models.load(located).encode(squares), self.tiny.images(squares))
        if text and self.tiny.texts:
            reader = models.load_text(located, fetch=fetch)
            same(reader.encode(TEXTS), self.tiny.texts(TEXTS))
            assert reader.logit_scale == pytest.approx(self.tiny.logit_scale)
        return located

    def refuses(self, *words: str, fetch: bool = True) -> str:
        """Nothing is encoded, and one line names the model or its file, and has these words."""
        started, store = time.monotonic() - sum(self.hub.waits), self.own_store()
        with pytest.raises(MissingWeights) as caught:
            encode(store, self.spec.name, fetch=fetch)
        assert time.monotonic() - started - sum(self.hub.waits) < 2 * PATIENCE_S
        said = str(caught.value)
        assert "\n" not in said
        assert f"'{self.spec.name}'" in said or f"{self.spec.weights.file}'" in said
        for word in words:
            assert word in said
        assert set(store.names()) == set(self.store.names())
        return said

    def offline(self) -> None:
        self.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        self.monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def lose_cache(self) -> None:
        shutil.rmtree(constants.HF_HUB_CACHE)

    def own_store(self) -> Store:
        return Store.open(shutil.copytree(self.store.path, tempfile.mkdtemp(dir=self.home.parent), dirs_exist_ok=True))

    def changed(self, rename: Callable[[str], str | None] = lambda name: name) -> dict[str, bytes]:
        """The repository with other tensors; a tensor whose new name is None is left out."""
        state = {rename(name): tensor for name, tensor in self.tiny.state.items()}
        return self.tiny.files({name: tensor for name, tensor in state.items() if name})

    def other_weights(self) -> dict[str, bytes]:
        return self.tiny.files({n: t + 1 if is_real(t) else t for n, t in self.tiny.state.items()})


def file_named_in(said: str) -> Path:
    return next(path for path in map(Path, re.findall(r"'([^']+)'", said)) if path.is_file())


def is_real(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point()


def other_activation(given: tiny.Tiny) -> bytes:
    return given.beside["config.json"].replace(b'"gelu"', b'"relu"').replace(b'"quick_gelu"', b'"relu"')


def stored(store: Store, located: models.Located) -> tuple[np.ndarray, np.ndarray]:
    """The pictures under the default recipe, (N, S, S) uint8, and their vectors."""
    recipe_id = recipes.recipe("pad224").recipe_id
    _, ids, vectors_ = vectors(store, located.model_id, recipe_id)
    return sample(store, recipe_id, ids, len(ids)), vectors_


def same(given: np.ndarray, wanted: np.ndarray) -> None:
    assert given.shape == wanted.shape
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)


CASES: dict[str, tuple[Callable[[Scene], None], tuple[str, ...]]] = {}


def case(*layouts: str) -> Callable:
    """A case of the matrix: of the layouts whose names begin so, or of all."""

    def entered(function: Callable[[Scene], None]) -> Callable[[Scene], None]:
        CASES[function.__name__.replace("_", " ")] = (function, layouts)
        return function

    return entered


@case()
def cold(scene: Scene) -> None:
    scene.publish()
    scene.loads(text=True)


@case()
def warm(scene: Scene) -> None:
    scene.publish()
    first = scene.loads(text=True)
    n_requests = len(scene.hub.requests)
    assert scene.loads(fetch=False, text=True) == first == models.locate(scene.spec.name, fetch=True)
    assert len(scene.hub.requests) == n_requests


@case()
def not_asked_to_fetch(scene: Scene) -> None:
    scene.publish()
    scene.refuses(f"`busistore models fetch {scene.spec.name}`", "MB", scene.spec.weights.licence, fetch=False)
    assert not scene.hub.requests


@case()
def offline_warm(scene: Scene) -> None:
    scene.publish()
    scene.loads(text=True)
    n_requests = len(scene.hub.requests)
    scene.offline()
    scene.loads(text=True)
    assert len(scene.hub.requests) == n_requests


@case()
def offline_cold(scene: Scene) -> None:
    scene.publish()
    scene.offline()
    scene.refuses("HF_HUB_OFFLINE", "--weights")
    assert not scene.hub.requests


@case()
def unreachable_warm(scene: Scene) -> None:
    scene.publish()
    scene.loads()
    scene.hub.close()
    scene.loads()
    assert not scene.hub.waits


@case()
def unreachable_cold(scene: Scene) -> None:
    scene.publish()
    scene.hub.close()
    scene.refuses("cannot be reached", "--weights")
    assert sum(scene.hub.waits) < PATIENCE_S


@case()
def down(scene: Scene) -> None:
    scene.publish()
    scene.hub.fault(scene.spec.weights.file, "down")
    scene.refuses("try again", "--weights")
    assert sum(scene.hub.waits) < PATIENCE_S


@case()
def silent(scene: Scene) -> None:
    scene.publish()
    scene.hub.fault(scene.spec.weights.file, "stalls")
    without_patience(scene.monkeypatch)
    scene.refuses("try again", "--weights")
    assert sum(scene.hub.waits) < PATIENCE_S


@case()
def gated_without_token(scene: Scene) -> None:
    scene.publish(gated=True)
    scene.refuses("gated", f"hf.co/{scene.spec.weights.repo}", "HF_TOKEN")


@case()
def gated_with_the_token_of_one_who_has_not_agreed(scene: Scene) -> None:
    scene.publish(gated=True)
    scene.monkeypatch.setenv("HF_TOKEN", "hf_somebody")
    scene.refuses("gated", "accept its terms")


@case()
def expired_token(scene: Scene) -> None:
    """It shuts even what is open to all."""
    scene.publish()
    scene.monkeypatch.setenv("HF_TOKEN", EXPIRED)
    scene.refuses("HF_TOKEN")


@case()
def gated_with_token(scene: Scene) -> None:
    scene.publish(gated=True)
    scene.monkeypatch.setenv("HF_TOKEN", TOKEN)
    scene.loads()


@case()
def redirected_to_another_host(scene: Scene) -> None:
    scene.publish(gated=True, large=True)
    scene.monkeypatch.setenv("HF_TOKEN", TOKEN)
    scene.loads()
    (elsewhere,) = [r for r in scene.hub.requests if r.path.startswith("/blobs/")]
    assert elsewhere.token is None


@case()
def cut_off_once(scene: Scene) -> None:
    scene.publish(large=True)
    scene.hub.fault(scene.spec.weights.file, "truncates", times=1)
    scene.loads()


@case()
def cut_off_always(scene: Scene) -> None:
    scene.publish(large=True)
    scene.hub.fault(scene.spec.weights.file, "truncates")
    scene.refuses("could not be fetched", "try again")
    assert sum(scene.hub.waits) < PATIENCE_S


@case()
def wrong_bytes(scene: Scene) -> None:
    """What came is not what the hub announced. Doing what the message says mends it."""
    scene.publish(large=True)
    scene.hub.fault(scene.spec.weights.file, "corrupts", times=1)
    file_named_in(scene.refuses("is not what the hub sent", "delete it")).unlink()
    scene.loads()


@case()
def wrong_bytes_of_a_pinned_file(scene: Scene) -> None:
    digest = "0" * 64
    scene.use(dataclasses.replace(scene.spec, weights=dataclasses.replace(scene.spec.weights, sha256=digest)))
    scene.publish()
    scene.refuses("is not the published file", digest[:12])
    scene.offline()
    scene.refuses("is not the published file", digest[:12], fetch=False)


@case()
def replaced_on_the_hub(scene: Scene) -> None:
    """What was found at first use is held to: main may go on, and the cache may be emptied."""
    scene.publish()
    first = scene.loads()
    scene.publish(scene.other_weights(), commit=ANOTHER)
    assert scene.loads() == first
    scene.lose_cache()
    assert scene.loads() == first


@case()
def replaced_under_the_same_commit(scene: Scene) -> None:
    commit = scene.publish()
    scene.loads()
    scene.publish(scene.other_weights(), commit=commit)
    scene.lose_cache()
    scene.refuses("is not what it was at first use")


@case()
def commit_gone(scene: Scene) -> None:
    commit = scene.publish()
    scene.loads()
    scene.publish(scene.other_weights(), commit=ANOTHER)
    scene.hub.forget(scene.spec.weights.repo, commit)
    scene.loads()
    scene.lose_cache()
    scene.refuses(f"no commit {commit}")


@case()
def weight_file_missing(scene: Scene) -> None:
    files = scene.tiny.files()
    del files[scene.spec.weights.file]
    scene.publish(files)
    scene.refuses(f"has no file '{scene.spec.weights.file}'", "--weights")


@case("transformers")
def description_missing(scene: Scene) -> None:
    scene.publish({k: v for k, v in scene.tiny.files().items() if k != "config.json"})
    scene.refuses("has no file 'config.json'")
    scene.refuses("'config.json'", fetch=False)


@case("transformers")
def description_damaged(scene: Scene) -> None:
    scene.publish()
    scene.hub.fault("config.json", "corrupts", times=1)
    file_named_in(scene.refuses("is not what the hub sent", "delete it")).unlink()
    scene.loads()


@case("transformers")
def description_replaced_under_the_same_commit(scene: Scene) -> None:
    """Another activation moves every vector and no tensor."""
    commit = scene.publish()
    scene.loads()
    scene.publish(scene.tiny.files() | {"config.json": other_activation(scene.tiny)}, commit=commit)
    scene.lose_cache()
    scene.refuses("is not what it was at first use")


@case(*READS_BERT)
def tokenizer_missing(scene: Scene) -> None:
    scene.publish()
    scene.hub.forget(scene.spec.text.tokenizer.repo)
    located = models.locate(scene.spec.name, fetch=True)
    for fetch in (True, False):
        with pytest.raises(MissingWeights, match=f"'{scene.spec.name}'.*'vocab.txt'"):
            models.load_text(located, fetch=fetch)


@case(*READS_BERT)
def tokenizer_damaged(scene: Scene) -> None:
    scene.publish()
    scene.hub.fault("vocab.txt", "corrupts", times=1)
    located = models.locate(scene.spec.name, fetch=True)
    with pytest.raises(MissingWeights, match="is not what the hub sent") as caught:
        models.load_text(located, fetch=True)
    file_named_in(str(caught.value)).unlink()
    scene.loads(text=True)


@case()
def repository_missing(scene: Scene) -> None:
    scene.refuses(f"no public '{scene.spec.weights.repo}'", "HF_TOKEN")


@case()
def tensor_missing(scene: Scene) -> None:
    """Each in turn: the first, the last and one between."""
    names = [n for n in scene.tiny.state if not n.endswith("position_ids") and "pooler" not in n]
    for lost in (names[0], names[len(names) // 2], names[-1]):
        scene.publish(scene.changed(lambda name, lost=lost: None if name == lost else name), commit=None)
        scene.refuses("does not fit the network")
        shutil.rmtree(scene.home)


@case()
def tensor_misnamed(scene: Scene) -> None:
    lost = next(n for n in scene.tiny.state if n.endswith("weight"))
    scene.publish(scene.changed(lambda name: f"{name}s" if name == lost else name))
    scene.refuses("does not fit the network")


@case()
def tensor_of_another_shape(scene: Scene) -> None:
    lost = next(n for n, t in scene.tiny.state.items() if n.endswith("weight") and t.ndim == 1)
    state = scene.tiny.state | {lost: torch.ones(len(scene.tiny.state[lost]) + 1)}
    scene.publish(scene.tiny.files(state))
    scene.refuses("does not fit the network")


@case()
def tensor_too_many(scene: Scene) -> None:
    scene.publish(scene.tiny.files(scene.tiny.state | {"visual.adapter.weight": torch.ones(3)}))
    scene.refuses("does not fit the network")


@case()
def another_network(scene: Scene) -> None:
    other = tiny.LAYOUTS["timm ResNet" if scene.spec.name != "resnet50" else "timm ViT"]()
    scene.publish(scene.tiny.files(other.state))
    scene.refuses("does not fit the network")


@case("transformers")
def another_network_with_its_description(scene: Scene) -> None:
    """Whole and strict in itself, but not the network that the name promises."""
    other = tiny.transformers_beit(width=96)
    scene.publish({"config.json": other.beside["config.json"], scene.spec.weights.file: scene.tiny.pack(other.state)})
    scene.refuses("does not fit")


@case("open_clip", "trainer", "transformers")  # those that take the squares of a recipe
def encoded(scene: Scene) -> None:
    """What a job stores is what the source network gives for the same pictures."""
    scene.publish()
    store = scene.own_store()
    assert encode(store, scene.spec.name, precision="fp32").written == 2
    squares, vectors = stored(store, models.locate(scene.spec.name))
    same(vectors, scene.tiny.images(squares))
    n_requests = len(scene.hub.requests)
    assert encode(store, scene.spec.name, precision="fp32").written == 0
    assert len(scene.hub.requests) == n_requests


@case("open_clip", "trainer", "transformers")
def not_finite(scene: Scene) -> None:
    """A network of NaN loads; each of its vectors is kept out."""
    scene.publish(scene.tiny.files({n: t * float("nan") if is_real(t) else t for n, t in scene.tiny.state.items()}))
    store = scene.own_store()
    report = encode(store, scene.spec.name)
    assert (report.written, report.failed) == (0, 2)
    assert all("not finite" in reason for reason in report.failures.values())


class Exploit:
    """Leaves a file behind when it is unpickled by a loader that trusts what it reads."""

    def __reduce__(self):
        return Path.touch, (Path("was-unpickled"),)


@case()
def malicious_pickle(scene: Scene) -> None:
    scene.monkeypatch.chdir(scene.home.parent)
    carried = {"state_dict": dict(scene.tiny.state), "optimizer": Exploit()}
    scene.publish({**scene.tiny.files(), scene.spec.weights.file: tiny.as_pickle(carried)})
    scene.refuses()
    assert not Path("was-unpickled").exists()


@case()
def not_a_weight_file(scene: Scene) -> None:
    for body in (b"<html>log in</html>", b"\x00", b"PK\x03\x04 an archive cut short"):
        scene.publish({**scene.tiny.files(), scene.spec.weights.file: body})
        scene.refuses("get")
        shutil.rmtree(scene.home)


@case()
def named_by_the_user(scene: Scene) -> None:
    """A copy of the repository in a folder: the same model, without a request."""
    folder = scene.home.parent / "copy"
    folder.mkdir()
    for name, body in {**scene.tiny.files(), **tiny.tokenizer_files()}.items():
        (folder / name).write_bytes(body)
    located = models.locate(scene.spec.name, folder)
    side = scene.spec.input.size_px
    black = np.zeros((1, side, side), np.uint8)
    same(models.load(located).encode(black), scene.tiny.images(black))
    if scene.tiny.texts:
        same(models.load_text(located).encode(TEXTS), scene.tiny.texts(TEXTS))
    assert not scene.hub.requests


@case("transformers")
def named_by_the_user_with_another_description(scene: Scene) -> None:
    """What moves a vector moves the model's id."""
    ids = set()
    for description in (scene.tiny.beside["config.json"], other_activation(scene.tiny)):
        folder = scene.home.parent / str(len(ids))
        folder.mkdir()
        for name, body in (scene.tiny.files() | {"config.json": description}).items():
            (folder / name).write_bytes(body)
        ids.add(models.locate(scene.spec.name, folder).model_id)
    assert len(ids) == 2


@case("trainer")
def converted_copy_damaged(scene: Scene) -> None:
    """The checkpoint is converted once; what is left of a copy cut short is not believed."""
    scene.publish()
    scene.loads()
    (copy,) = (scene.home / "busistore" / "converted").rglob("*.safetensors")
    copy.write_bytes(copy.read_bytes()[:1000])
    scene.loads()


MATRIX = [
    pytest.param(layout, name, id=f"{layout} - {name}")
    for layout in tiny.LAYOUTS for name, (_, some) in CASES.items() if not some or layout.startswith(some)
]  # fmt: skip


def test_fetched_ahead_of_time(tmp_path, monkeypatch, two_images):
    """`busistore models fetch` brings the tokenizer too: both towers load offline. Without a hub it says so, once."""
    with Hub() as hub:
        hub.waits = point_at(hub.url, tmp_path / "home", monkeypatch)
        scene = Scene(hub, tiny.LAYOUTS["open_clip bin"](), two_images, monkeypatch, tmp_path / "home")
        scene.publish()
        done = CliRunner().invoke(app, ["models", "fetch", "biomedclip"])
        assert done.exit_code == 0, done.output
        assert hashlib.sha256(scene.tiny.files()[scene.spec.weights.file]).hexdigest() in done.output
        scene.offline()
        scene.loads(fetch=False, text=True)
        scene.lose_cache()
        failed = CliRunner().invoke(app, ["models", "fetch", "biomedclip"])
        assert failed.exit_code == 1
        assert len(failed.output.splitlines()) == 1


@pytest.mark.parametrize(("layout", "name"), MATRIX)
def test_outcome(layout, name, tmp_path, monkeypatch, two_images):
    with Hub() as hub:
        hub.waits = point_at(hub.url, tmp_path / "home", monkeypatch)
        CASES[name][0](Scene(hub, tiny.LAYOUTS[layout](), two_images, monkeypatch, tmp_path / "home"))
