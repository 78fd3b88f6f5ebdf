"""BUSSAM gives the numbers of its release, and its checkpoints are loaded whole or not at all."""

import os
import pickle
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.modeling.image_encoder import Block
from torch import nn

from busistore.errors import BusistoreError, MissingWeights, UnknownName
from busistore.segmenters import bussam_encoder, checkpoints
from busistore.segmenters.bussam import Bussam, SamSize, drawn, upscaled
from busistore.segmenters.bussam_groups import ADDED, Count, count, group, trainable
from busistore.segmenters.bussam_layers import CrossAdapter, Ghpa

TINY = SamSize(width=32, depth=3, heads=2, global_blocks=(2,))
SHARED = Path(os.environ.get("BUSISTORE_SHARED", Path(__file__).parents[2] / "shared"))


def rule(name, shape):
    """Weights that depend on their name alone."""
    a = torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)).float()
    *_, parent, last = ("", *name.split("."))
    if "params_" in last:
        return 1 + 0.1 * a
    if last == "pos_embed" or "rel_pos" in last:
        return 0.1 * a
    if "gaussian_matrix" in name or ("_embed" in parent and len(shape) == 2 and shape[0] == 1):
        return a
    if len(shape) == 1:
        return 1 + 0.1 * a if last == "weight" else 0.02 * a
    return a / np.sqrt(np.prod(shape[1:]))


def ruled(wiring="released"):
    model = Bussam(TINY, wiring)
    model.load_state_dict({name: rule(name, tuple(t.shape)) for name, t in model.state_dict().items()})
    return model.eval()


@pytest.fixture(scope="module")
def model():
    """The tiny network of the parity data; tests leave it as it is."""
    return ruled()


@pytest.fixture
def images():
    return torch.from_numpy(np.random.RandomState(0).rand(2, 1, 256, 256).astype(np.float32))


POINTS, LABELS = torch.tensor([[[100.0, 80.0]], [[30.0, 200.0]]]), torch.tensor([[1], [0]], dtype=torch.int32)


def seen(model, images):
    """Every activation that parity data has, by its name there."""
    encoder, found = model.image_encoder, {}

    def keep(name):
        return lambda module, given, made: found.__setitem__(name, made)

    named = {"cnn_embed": encoder.cnn_embed, "patch_embed": encoder.patch_embed, "bottleneck": encoder.input_Adapter}
    named |= {f"block{k:02}": block for k, block in enumerate(encoder.blocks)}
    hooks = [module.register_forward_hook(keep(name)) for name, module in named.items()]
    with torch.inference_mode():
        embeddings = model.image_encoder(images)
        logits, quality = model.candidates(embeddings, POINTS, LABELS)
        low, masks = model(images, POINTS, LABELS)
        sparse, _ = model.prompt_encoder((POINTS, LABELS), None, None)
        found["pos_embed_down"] = encoder.positions()
    for hook in hooks:
        hook.remove()
    found["input_adapter"] = found["patch_embed"] + found.pop("bottleneck")
    found["cnn_last"] = found["cnn_embed"]
    inner = {name: tensor[:, ::4, ::4] for name, tensor in found.items()}
    return inner | {
        "image_embeddings": embeddings, "low_res_logits": low, "masks_256": masks, "iou_pred": quality[:, :1],
        "multimask_low_res": logits[:, 1:], "iou_multi": quality[:, 1:], "sparse": sparse,
        "dense_pe": model.prompt_encoder.get_dense_pe(),
    }  # fmt: skip


def test_every_activation_is_that_of_the_release(model):
    path = SHARED / "specs" / "bussam_tiny_released.pt"
    if not path.is_file():
        pytest.skip("no parity data here; BUSISTORE_SHARED names the folder that has specs/")
    stored = torch.load(path, weights_only=True)
    wanted = stored["intermediates_stride4"] | {n: t for n, t in stored.items() if isinstance(t, torch.Tensor)}
    got = seen(model, wanted.pop("image"))
    assert torch.equal(wanted.pop("point_coords"), POINTS)
    assert torch.equal(wanted.pop("point_labels"), LABELS)
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].shape == tensor.shape
        assert (got[name] - tensor).abs().max() < 1e-4, name


# Mean absolute value of what the release computes, so that it is held to where the parity data is not at hand.
SIZES = {
    "cnn_embed": 0.4397433,
    "patch_embed": 0.503307,
    "input_adapter": 0.5253523,
    "pos_embed_down": 0.3863983,
    "block00": 1.076203,
    "block01": 1.556699,
    "block02": 2.103298,
    "image_embeddings": 0.7987233,
    "low_res_logits": 0.6513163,
    "iou_pred": 0.132943,
    "masks_256": 0.4726154,
    "multimask_low_res": 0.4543862,
    "iou_multi": 0.3760897,
    "sparse": 0.7272741,
    "dense_pe": 0.6355752,
}


def test_activations_are_as_large_as_those_of_the_release(model, images):
    got = seen(model, images)
    assert {name: got[name].abs().mean().item() for name in SIZES} == pytest.approx(SIZES, rel=1e-5)


def test_parts_make_the_whole(model, images):
    with torch.inference_mode():
        low, masks = model(images, POINTS, LABELS)
        tokens = model.vit_tokens(images)
        assert tokens.shape == (2, 32, 32, 32)
        assert torch.equal(model.decode(model.embed(tokens, images), POINTS, LABELS), low)
        near = model.decode(model.embed(tokens.half(), images), POINTS, LABELS)
    assert torch.equal(upscaled(low), masks)
    assert 0 < (near - low).abs().max() < 0.01


def test_a_batch_is_decoded_as_image_by_image_in_sam(model):
    rng = torch.Generator().manual_seed(1)
    embeddings = torch.randn(3, 256, 32, 32, generator=rng)
    points, labels = torch.rand(3, 2, 2, generator=rng) * 256, torch.tensor([[1, 0], [1, -1], [0, 1]])
    boxes = torch.tensor([[10.0, 20, 90, 100], [0, 0, 255, 255], [60, 70, 80, 200]])
    with torch.inference_mode():
        for prompt in ((points, labels, None), (points[:, :1], labels[:, :1], boxes), (None, None, boxes)):
            got = model.decode(embeddings, *prompt)
            for k in range(3):
                p, lab, b = (None if part is None else part[k : k + 1] for part in prompt)
                sparse, dense = model.prompt_encoder(None if p is None else (p, lab), b, None)
                positions = model.prompt_encoder.get_dense_pe()
                one, _ = model.mask_decoder(embeddings[k : k + 1], positions, sparse, dense, multimask_output=False)
                torch.testing.assert_close(got[k : k + 1], one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [14, 0])
def test_a_block_is_that_of_sam(window):
    torch.manual_seed(0)
    given = {"use_rel_pos": True, "window_size": window, "input_size": (32, 32)}
    stock, lean = Block(32, 2, **given), bussam_encoder.LeanBlock(32, 2, **given)
    for parameter in stock.parameters():
        nn.init.normal_(parameter, std=0.3)
    lean.load_state_dict(stock.state_dict())
    x = torch.randn(2, 32, 32, 32)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(lean(mine), stock(theirs), atol=2e-5, rtol=1e-5)
    lean(mine).square().sum().backward()
    stock(theirs).square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=2e-3, rtol=1e-4)
    for got, wanted in zip(lean.parameters(), stock.parameters(), strict=True):
        assert (got.grad - wanted.grad).norm() < 1e-5 * wanted.grad.norm()


def test_ghpa_multiplies_each_group_by_its_plane():
    torch.manual_seed(0)
    layer, x = Ghpa(8, 8), torch.randn(2, 8, 12, 10)
    layer.conv_xy, layer.conv_zx, layer.conv_zy = nn.Identity(), nn.Identity(), nn.Identity()
    layer.norm1, layer.norm2, layer.dw, layer.ldw = (nn.Identity() for _ in range(4))
    c, h, w = torch.arange(2.0), torch.linspace(0, 7, 12), torch.linspace(0, 7, 10)
    with torch.no_grad():  # maps that are linear, so that stretching them is
        layer.params_xy.copy_((torch.arange(8.0)[:, None] + 10 * torch.arange(8.0)).expand(1, 2, 8, 8))
        layer.params_zx.copy_(100 * c[:, None] + torch.arange(8.0))
        layer.params_zy.copy_(100 * c[:, None] - torch.arange(8.0))
        got = layer(x)
    wanted = x.clone()
    wanted[:, 0:2] *= h[:, None] + 10 * w
    wanted[:, 2:4] *= (100 * c[:, None] + h)[:, :, None]
    wanted[:, 4:6] *= (100 * c[:, None] - w)[:, None]
    torch.testing.assert_close(got, wanted)


def test_full_size_has_the_published_counts():
    with torch.device("meta"):
        model = trainable(Bussam())
    counts = count(model)
    assert counts["total"] == Count(462, 118_722_880, 25_052_432, 1_444_864)
    assert len(model.state_dict()) == 463
    assert {name: counts[name][:2] for name in counts if name != "total"} == {
        "cnn_embed": (64, 344_896), "post_pos_embed": (29, 771_840), "input_adapter": (4, 295_872),
        "rel_pos": (8, 32_256), "cross_adapters": (52, 23_607_568), "pos_embed": (1, 3_145_728),
        "patch_embed": (2, 590_592), "blocks": (160, 85_082_112), "neck": (6, 787_456),
        "prompt_encoder": (16, 6_220), "mask_decoder": (96, 3_506_304), "decoder_unused": (24, 552_036),
    }  # fmt: skip
    assert counts["mask_decoder"].parameters + counts["decoder_unused"].parameters == 4_058_340
    added = [n for n in model.state_dict() if group(n, model.size.global_blocks) in ADDED]
    assert len(added) == 149


def test_what_is_trained_apart_from_the_transformer():
    with torch.device("meta"):
        total = count(trainable(Bussam(), "cnn+decoder"))["total"]
    assert total.trainable == total.effective == 344_896 + 787_456 + 3_506_304
    with pytest.raises(UnknownName, match="cnn\\+decoder"):
        trainable(Bussam(TINY), "cnn-decoder")


def gradients(model, images):
    """(names with a gradient that is not all zero, names open to training without one)."""
    model(images[:1], POINTS[:1], LABELS[:1])[0].square().mean().backward()
    opened = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not frozen
    return {n for n, g in opened.items() if g is not None and g.any()}, {n for n, g in opened.items() if g is None}


# The tiny network has one global block, of 13 tensors; ViT-B has four.
@pytest.mark.parametrize(
    ("wiring", "train", "n_idle"),
    [("released", "published", 13), ("paper", "published", 0), ("released", "cnn+decoder", 0)],
)
def test_who_gets_a_gradient(images, wiring, train, n_idle):
    model = trainable(ruled(wiring), train)
    moved, idle = gradients(model, images)
    assert len(idle) == n_idle
    assert {group(name, (2,)) for name in idle} <= {"cross_adapters"}
    parameters = dict(model.named_parameters())
    assert sum(parameters[name].numel() for name in moved) == count(model)["total"].effective


def test_kept_tokens_need_no_gradient_of_the_transformer(model, images):
    assert not trainable(ruled(), "cnn+decoder").vit_tokens(images).requires_grad


def test_a_cross_adapter_gates_real_places():
    torch.manual_seed(0)
    adapter, tokens, cnn = CrossAdapter(8), torch.randn(1, 5, 6, 8), torch.randn(1, 5, 6, 8)
    both = tokens + cnn
    with torch.no_grad():
        adapter.spatial_attention.conv.weight.zero_()
        adapter.spatial_attention.conv.weight[0, :, 3, 3] = torch.tensor([1.0, 2.0])
        gate = torch.sigmoid(both.max(dim=-1).values + 2 * both.mean(dim=-1))[..., None]
        wanted = adapter.D_fc2(nn.functional.gelu(adapter.D_fc1(both * (1 + gate))))
        torch.testing.assert_close(adapter(tokens, cnn), wanted)


def test_paper_wiring_as_drawn_block_by_block(images):
    model = ruled("paper")
    encoder = model.image_encoder
    with torch.inference_mode():
        x, c = encoder._entering(images), encoder.cnn(images)
        x = encoder.blocks[1](encoder.blocks[0](x))
        block = encoder.blocks[2]
        y = block.norm1(x)
        x = x + block.attn(y + block.MLP_Adapter1(y, c))
        c = block.refine_Adapter(c)
        y = block.norm2(x)
        x = x + block.mlp(y) + 0.5 * block.MLP_Adapter(y, c)
        wanted = encoder.neck((x + 0.5 * c).permute(0, 3, 1, 2))
        got = encoder(images)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)
    assert (got - ruled().image_encoder(images)).abs().max() > 0.1
    with pytest.raises(BusistoreError, match="take wiring 'released'"):
        model.vit_tokens(images)


def test_positions_are_computed_once_until_they_change(monkeypatch):
    model = trainable(ruled())
    encoder, calls = model.image_encoder, []
    encoder.post_pos_embed.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        first = encoder.positions()
        assert encoder.positions() is first
    assert len(calls) == 1
    learned = encoder.positions()  # under gradients
    assert learned.requires_grad
    learned.square().sum().backward()
    torch.optim.AdamW(encoder.post_pos_embed.parameters(), lr=0.1).step()
    with torch.no_grad():
        assert torch.equal(encoder.positions(), encoder.post_pos_embed(encoder.pos_embed))
        assert (encoder.positions() - first).abs().max() > 0.01
    model.load_state_dict(ruled().state_dict())
    trainable(model, "cnn+decoder")
    again = encoder.positions()
    assert torch.equal(again, first)
    assert encoder.positions() is again
    assert not again.is_inference()


def test_bfloat16_stays_near(model, images):
    with torch.inference_mode():
        full = model(images, POINTS, LABELS)[0]
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images, POINTS, LABELS)[0].float()
    assert 0 < (half - full).abs().mean() < 0.02 * full.abs().mean() + 0.02


def test_draws_depend_on_the_seed_alone():
    before = torch.random.get_rng_state()
    one, same, other = drawn(TINY, seed=1), drawn(TINY, seed=1), drawn(TINY, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    assert not torch.equal(one.image_encoder.neck[0].weight, other.image_encoder.neck[0].weight)


@pytest.mark.parametrize("shape", [(1, 3, 256, 256), (1, 1, 224, 224)])
def test_other_pictures_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"\(B, 1, 256, 256\)"):
        model.vit_tokens(torch.zeros(shape))


def test_an_unknown_wiring_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'released'"):
        Bussam(TINY, "release")


# --- checkpoints ---


def sam_state():
    """A stock SAM as tiny as the network, with every weight by the rule."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        1024, 16, 3, 32, 3, 2, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=14,
        global_attn_indexes=(2,),
    )  # fmt: skip
    parts = Bussam(TINY)
    stock = Sam(encoder, parts.prompt_encoder, parts.mask_decoder)
    return {name: rule(name, tuple(tensor.shape)) for name, tensor in stock.state_dict().items()}


@pytest.fixture
def sam_file(tmp_path):
    torch.save(sam_state(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


def test_sam_is_loaded_with_every_tensor_accounted_for(sam_file):
    model = drawn(TINY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = checkpoints.load_sam(model, sam_file)
    own, stock = model.state_dict(), sam_state()
    assert set(report.resized) == {f"image_encoder.blocks.2.attn.rel_pos_{axis}" for axis in "hw"}
    assert {*report.copied, *report.resized} == stock.keys()
    assert {*report.copied, *report.resized, *report.left_at_init} == own.keys()
    assert len(report.left_at_init) == 64 + 29 + 4 + 13
    assert all(torch.equal(own[name], stock[name]) for name in report.copied)
    assert all(torch.equal(own[name], before[name]) for name in report.left_at_init)
    for name in report.resized:
        assert torch.equal(own[name], checkpoints.resize_rel_pos(stock[name], 63))


def test_relative_positions_are_resized_linearly_along_offsets():
    given = torch.randn(127, 4, generator=torch.Generator().manual_seed(0))
    at = ((np.arange(63) + 0.5) * 127 / 63 - 0.5).clip(0, 126)
    wanted = np.stack([np.interp(at, np.arange(127), given[:, k]) for k in range(4)], axis=1)
    got = checkpoints.resize_rel_pos(given, 63)
    np.testing.assert_allclose(got, wanted, atol=1e-4)  # places are float32 there, and neighbours differ by ones
    flat = nn.functional.interpolate(given[None, None], (63, 4), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(got, flat, atol=1e-6)


def test_published_checkpoints_are_loaded_from_their_old_wrapped_form(model, tmp_path):
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(wrapped, tmp_path / "bussam.pth", _use_new_zipfile_serialization=False)
    fresh = drawn(TINY)
    report = checkpoints.load_bussam(fresh, tmp_path / "bussam.pth")
    assert report == (tuple(model.state_dict()), (), ())
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in fresh.state_dict().items())


class Hostile:
    def __reduce__(self):
        return os.system, ("touch " + str(Hostile.mark),)


def files(tmp_path, sam_file):
    """Kind -> (file, what the error says of it)."""
    whole = sam_file.read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    Hostile.mark = tmp_path / "owned"
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"a": Hostile()}))
    state = sam_state()
    torch.save({n: t for n, t in state.items() if "neck" not in n}, tmp_path / "less.pth")
    torch.save(state | {"head.bias": torch.zeros(3)}, tmp_path / "more.pth")
    torch.save(state | {"image_encoder.neck.0.weight": torch.zeros(256, 64, 1, 1)}, tmp_path / "wide.pth")
    torch.save(state | {"image_encoder.neck.1.bias": torch.full((256,), torch.nan)}, tmp_path / "nan.pth")
    neck = "6 missing: image_encoder.neck.0.weight, image_encoder.neck.1.bias, image_encoder.neck.1.weight, ..."
    return {
        "absent": f"get {checkpoints.SAM_FILE} (375 MB, licence Apache-2.0) from {checkpoints.SAM_URL}",
        "half": "not a file of weights that can be read safely",
        "code": "not a file of weights that can be read safely",
        "less": neck, "more": "1 unexpected: head.bias", "nan": "1 damaged: image_encoder.neck.1.bias",
        "wide": "1 of another shape: image_encoder.neck.0.weight",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["absent", "half", "code", "less", "more", "wide", "nan"])
def test_a_wrong_file_is_refused_in_one_line_and_changes_nothing(tmp_path, sam_file, kind):
    said, model = files(tmp_path, sam_file)[kind], drawn(TINY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / f"{kind}.pth"
    with pytest.raises(MissingWeights) as told:
        checkpoints.load_sam(model, path) if path.exists() else checkpoints.identity(path, "fine-tuned")
    assert said in str(told.value)
    assert str(tmp_path / f"{kind}.pth") in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "owned").exists()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_only_the_published_file_is_taken_unless_another_is_allowed(sam_file, monkeypatch):
    size, sha256 = sam_file.stat().st_size, checkpoints.records.file_sha256(sam_file)
    with pytest.raises(MissingWeights, match=f"is not whole: it has {size:,} bytes of 375,042,383"):
        checkpoints.identity(sam_file, "sam")
    monkeypatch.setattr(checkpoints, "SAM_BYTES", size)
    with pytest.raises(MissingWeights, match=r"is not SAM's published file .* init=fine-tuned"):
        checkpoints.identity(sam_file, "sam")
    assert checkpoints.identity(sam_file, "fine-tuned") == sha256
    monkeypatch.setattr(checkpoints, "SAM_SHA256", sha256)
    assert checkpoints.identity(sam_file, "sam") == sha256


@pytest.mark.parametrize("name", ["none.pth", "short.safetensors", "sam.pth"])
def test_a_wrong_checkpoint_of_bussam_is_refused(tmp_path, sam_file, name):
    (tmp_path / "short.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(MissingWeights, match=name):
        checkpoints.load_bussam(drawn(TINY), tmp_path / name)


def test_fused_attention_has_the_values_and_gradients_of_the_one_that_is_spelt_out():
    """A GPU trains through the fused kernel, a processor through products and a softmax."""
    draw, side = torch.Generator().manual_seed(3), 4
    shapes = [(2, 3, side * side, 8)] * 3 + [(2, 3, side, side, side)] * 2
    given = [torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes]
    found = []
    for attend in (bussam_encoder._fused, bussam_encoder._spelt_out):
        made = attend(*given)
        found.append([made, *torch.autograd.grad((made * torch.arange(8)).sum(), given)])
    for fused, spelt_out in zip(*found, strict=True):
        assert torch.allclose(fused, spelt_out, atol=1e-10)
