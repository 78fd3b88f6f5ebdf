"""Every entry of MODELS is true of its network: full-size random weights in the published layout load and fit."""

from pathlib import Path

import numpy as np
import pytest

from busistore import models
from busistore.models import describe, records
from busistore.models.precision import fastest, has_bf16
from tests.fakes import speckle

torch = pytest.importorskip("torch")
SHAPES = sorted(n for n, m in models.MODELS.items() if m.kind in ("open_clip", "timm") and m.layout == "stock")


def published(spec: models.ModelSpec, folder: Path):
    """The network as its library makes it, at its own picture size and with its classifier."""
    if spec.kind == "timm":
        import timm

        return timm.create_model(spec.architecture, pretrained=False)
    import open_clip

    if spec.config is None:
        return open_clip.create_model(spec.architecture, load_weights=False)
    return stock_clip(spec, folder)


def stock_clip(spec: models.ModelSpec, folder: Path):
    """open_clip's own CustomTextCLIP with a BERT-base that transformers describes, as the publishers build it."""
    import open_clip
    import transformers

    transformers.BertConfig().save_pretrained(folder)  # its defaults are BERT-base, as the publishers use it
    text = {k: v for k, v in spec.config["text_cfg"].items() if k != "hf_config"}
    text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    return open_clip.CustomTextCLIP(**{**spec.config, "text_cfg": text})


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_an_entry_says_what_a_group_must_know(name):
    spec = models.MODELS[name]
    lines = dict(describe.described(spec))
    assert lines["licence"]
    assert lines["about"]
    assert lines["vector"].startswith(f"{spec.dim} numbers")
    assert (lines["text tower"] == "none") == (not spec.has_text)
    assert spec.weights.size_mb > 0
    assert (spec.weights.package is None) != (spec.weights.repo is None)
    assert spec.input.size_px == 224  # the size of every recipe
    assert set(spec.precisions) <= set(models.PRECISIONS) - {"auto"}
    for weights in describe.sources(spec):
        assert weights.revision is None or len(weights.revision) == 40
        assert weights.sha256 is None or len(weights.sha256) == 64
        assert weights.package is None or weights.sha256


def test_precision_follows_the_processor(tmp_path):
    flags = tmp_path / "cpuinfo"
    for text, able in (("flags : sse avx512_bf16 amx_tile", True), ("flags : sse avx2", False),
                       ("Features : fp bf16", True), ("", False)):  # fmt: skip
        flags.write_text(text)
        has_bf16.cache_clear()
        assert has_bf16(flags) is able
    assert has_bf16(tmp_path / "nothing") is False
    has_bf16.cache_clear()
    vit, cnn = models.MODELS["clip"], models.MODELS["resnet50"]
    assert fastest(vit, "cuda:0") == "bf16"
    assert fastest(cnn, "cuda:0") == fastest(cnn) == "fp32"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_full_size_weights_fit_and_give_the_vector_that_is_promised(name, tmp_path):
    from safetensors.torch import save_file

    spec = models.MODELS[name]
    torch.manual_seed(0)
    network = published(spec, tmp_path).eval()
    n_parameters = sum(t.numel() for t in network.state_dict().values())
    assert n_parameters * 4 / 1e6 == pytest.approx(spec.weights.size_mb, rel=0.03) or spec.layout == "unimed"
    state = {k: v.contiguous().clone() for k, v in network.state_dict().items()}
    file = tmp_path / spec.weights.file
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    located = models.locate(name, file)
    squares = np.stack([speckle(k, 224, 224) for k in range(2)])
    encoder = models.load(located)
    vectors = encoder.encode(squares)
    assert vectors.shape == (2, spec.dim)
    assert encoder.is_lean == ("bf16" in spec.precisions)
    if spec.config is None:
        assert np.allclose(vectors, reference(spec, network, squares), rtol=1e-3, atol=1e-4)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "benign", "breast", "lesion", "mass", "spiculated"]


@pytest.mark.slow
def test_a_unimed_checkpoint_gives_the_features_of_the_stock_network(tmp_path):
    """The trainer's file in its own key layout, NumPy numbers and optimiser beside the weights, at full size."""
    spec = models.MODELS["unimed-clip"]
    torch.manual_seed(1)
    stock = stock_clip(spec, tmp_path).eval()
    state = {
        "module." + (f"text_encoder.{k.removeprefix('text.')}" if k.startswith("text.") else k): v
        for k, v in stock.state_dict().items()
    }
    state["module.text_encoder.transformer.embeddings.position_ids"] = torch.arange(512)[None]
    trainer = {"epoch": 3, "name": "unimed", "state_dict": state, "optimizer": {"lr": np.float64(1e-4)}}
    torch.save(trainer, tmp_path / spec.weights.file)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    located = models.locate("unimed-clip", tmp_path)
    squares = np.stack([speckle(k, 224, 224) for k in range(2)])
    assert np.allclose(models.load(located).encode(squares), reference(spec, stock, squares), rtol=1e-4, atol=1e-4)
    ids = torch.zeros(1, 256, dtype=torch.int64)
    ids[0, :5] = torch.tensor([2, 5, 10, 9, 3])  # [CLS] a spiculated mass [SEP]
    with torch.inference_mode():
        wanted = stock.encode_text(ids).numpy()
    assert np.allclose(models.load_text(located).encode(["A spiculated mass"]), wanted, atol=1e-5)
    converted = next((records.folder() / "converted").glob("*/open_clip_model.safetensors"))
    again = models.locate("unimed-clip", converted)
    assert np.allclose(models.load(again).encode(squares), models.load(located).encode(squares), atol=0)


def reference(spec, network, squares) -> np.ndarray:
    """The library's own vector of the pictures, normalised as it asks."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.input.mean, spec.input.std))
    images = (torch.tensor(squares)[:, None].float() / 255 - mean) / std
    with torch.inference_mode():
        if spec.kind == "open_clip":
            return network.encode_image(images).numpy()
        network.reset_classifier(0)
        return network(images).numpy()


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_the_published_transform_is_the_one_that_is_used(name):
    """Mean and deviation as open_clip and timm record them for the same weights."""
    spec = models.MODELS[name]
    if spec.kind == "timm" and spec.layout == "stock":
        import timm

        told = timm.get_pretrained_cfg(spec.architecture)
        assert (told.mean, told.std) == (spec.input.mean, spec.input.std)
        assert told.hf_hub_id is None or spec.weights.repo == f"timm/{spec.architecture}"
    elif spec.kind == "open_clip" and spec.config is None:
        import open_clip

        tags = [open_clip.get_pretrained_cfg(spec.architecture, tag)
                for tag in open_clip.list_pretrained_tags_by_model(spec.architecture)]  # fmt: skip
        mine = [t for t in tags if t.get("hf_hub", "").strip("/") == spec.weights.repo]
        assert len(mine) == 1
        assert tuple(mine[0].get("mean") or models.InputTransform().mean) == spec.input.mean
