"""The lean twin gives the vectors of the tower that it was made from, for every kind it knows, and refuses the rest."""

from __future__ import annotations

import logging

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
open_clip = pytest.importorskip("open_clip")

from functools import partial  # noqa: E402

import torch.nn.functional as F  # noqa: E402, N812
from open_clip.timm_model import TimmModel  # noqa: E402
from open_clip.transformer import LayerNormFp32, QuickGELU  # noqa: E402
from open_clip.transformer import VisionTransformer as OpenClipViT  # noqa: E402
from timm.layers import GELUTanh  # noqa: E402
from timm.layers import QuickGELU as TimmQuickGELU  # noqa: E402
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer  # noqa: E402

from busistore.models.spec import InputTransform  # noqa: E402
from busistore.models.vit import LeanViT, lean  # noqa: E402

GIVEN = InputTransform(size_px=48)
ODD = InputTransform(size_px=48, mean=(0.2, 0.5, 0.7), std=(0.1, 0.3, 0.5))


def clip_vit(**changes):
    """open_clip's own tower, 3 blocks of width 64 on 3 x 3 patches."""
    settings = {
        "image_size": 48, "patch_size": 16, "width": 64, "layers": 3, "heads": 4, "mlp_ratio": 4.0, "output_dim": 32,
        "act_layer": QuickGELU,
    }  # fmt: skip
    return OpenClipViT(**settings | changes)


def timm_vit(**changes):
    """timm's tower of the same size, without a classifier."""
    settings = {
        "img_size": 48, "patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 4, "num_classes": 0,
    }  # fmt: skip
    return VisionTransformer(**settings | changes)


def adapted(trunk, **settings):
    """open_clip's adapter around a trunk of timm's."""
    tower = TimmModel("test_vit", 32, 160, **settings)
    tower.trunk = trunk
    return tower


def no_projection():
    tower = clip_vit()
    tower.proj = None
    return tower


KNOWN = {
    "clip": clip_vit,
    "clip with exact gelu": partial(clip_vit, act_layer=torch.nn.GELU),
    "clip with the tanh form of gelu": partial(clip_vit, act_layer=partial(torch.nn.GELU, approximate="tanh")),
    "clip without projection": no_projection,
    "clip with layer scale": partial(clip_vit, ls_init_value=0.1),
    "clip without ln_pre, norms that cast": partial(clip_vit, no_ln_pre=True, norm_layer=LayerNormFp32),
    "clip trained with patch dropout": partial(clip_vit, patch_dropout=0.5),
    "clip of fixed positions": partial(clip_vit, pos_embed_type="sin_cos_2d"),
    "clip whose patches leave a margin": partial(clip_vit, image_size=50),
    "biomedclip": lambda: adapted(timm_vit(), pool="", proj="linear"),
    "timm in open_clip, projected by an mlp": lambda: adapted(timm_vit(), pool="token", proj="mlp"),
    "timm in open_clip, projected by its head": lambda: adapted(timm_vit(num_classes=32), pool="token", proj=None),
    "siglip2": lambda: adapted(
        timm_vit(class_token=False, global_pool="map", act_layer="gelu_tanh"), pool="token", proj="none"
    ),
    "map pooling beside a class token": partial(timm_vit, global_pool="map", init_values=0.1),
    "dinov2": partial(timm_vit, init_values=1e-5),
    "dinov2 with registers": partial(timm_vit, init_values=1e-5, reg_tokens=4, no_embed_class=True),
    "timm with registers": partial(timm_vit, reg_tokens=2),
    "timm as clip": partial(timm_vit, pre_norm=True, act_layer="quick_gelu", norm_layer="layernorm"),
    "timm without biases": partial(timm_vit, qkv_bias=False, proj_bias=False),
    "timm, normed after pooling": partial(timm_vit, fc_norm=True),
    "timm without final norm or positions": partial(timm_vit, final_norm=False, pos_embed="none"),
    "timm of any size": partial(timm_vit, dynamic_img_size=True),
    "timm, trained with drops": partial(timm_vit, drop_path_rate=0.3, patch_drop_rate=0.5, proj_drop_rate=0.2),
}


def spread(tower, seed: int = 0):
    """The tower in eval mode with every tensor random: norms, scales, biases and tokens too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tower.parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1 and min(tensor.shape) > 1:  # matrices keep the scale of what goes through
                tensor.copy_(noise * tensor[0].numel() ** -0.5)
            else:
                tensor.copy_(tensor.abs().clamp(0.1, 1.0) + 0.3 * noise)
    return tower.eval()


def pictures(n: int, size_px: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (n, size_px, size_px), dtype=torch.uint8, generator=generator)


def images(grey: torch.Tensor, given: InputTransform) -> torch.Tensor:
    """(N, 3, S, S): the three channels that the tower itself takes."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (given.mean, given.std))
    return (grey[:, None].float() / 255 - mean) / std


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest relative distance of one row from what it should be."""
    assert found.shape == wanted.shape
    assert found.dtype == torch.float32
    return ((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max().item()


def turned(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest 1 - cosine of one row."""
    return (1 - F.cosine_similarity(found.double(), wanted.double(), dim=-1)).max().item()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=KNOWN)
def pair(request):
    """A random tower of each kind, and its twin."""
    tower = spread(KNOWN[request.param]())
    return tower, lean(tower, ODD)


def tower_px(tower) -> int:
    return tower.image_size[0] if isinstance(tower, OpenClipViT) else 48


def unprojected(tower, x: torch.Tensor) -> torch.Tensor:
    """The library's pooled vector before its projection, from all tokens after the last block."""
    if isinstance(tower, OpenClipViT):
        return tower.ln_post(x)[:, 0]
    trunk = getattr(tower, "trunk", tower)
    return trunk.forward_head(trunk.norm(x), pre_logits=True)


def patch_vectors(tower, x: torch.Tensor) -> torch.Tensor:
    """The library's patches (N, L, D) after the final norm, projected where the pooled vector is."""
    if isinstance(tower, OpenClipViT):
        patches = tower.ln_post(x)[:, 1:]
        return patches if tower.proj is None else patches @ tower.proj
    trunk = getattr(tower, "trunk", tower)
    patches = trunk.head(trunk.fc_norm(trunk.norm(x)[:, trunk.num_prefix_tokens :]))
    return tower.head(patches) if isinstance(tower, TimmModel) else patches


def states(tower, pixels: torch.Tensor) -> list[torch.Tensor]:
    """All tokens (N, T, W) after each block, by the library's own forward_intermediates."""
    if isinstance(tower, OpenClipViT | TimmModel):
        found = tower.forward_intermediates(pixels, output_fmt="NLC", output_extra_tokens=True)
        patches, prefix = found["image_intermediates"], found.get("image_intermediates_prefix")
        return [torch.cat(pair, 1) for pair in zip(prefix, patches)] if prefix else patches
    found = tower.forward_intermediates(pixels, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True)
    return [torch.cat(both[::-1], 1) if isinstance(both, tuple) else both for both in found]


@torch.inference_mode()
def test_the_twin_gives_the_towers_vectors(pair):
    tower, twin = pair
    grey = pictures(5, tower_px(tower))
    found = twin(grey)
    assert set(found) == {"pooled"}
    assert off(found["pooled"], tower(images(grey, ODD))) < 1e-5


@torch.inference_mode()
def test_layers_are_the_librarys_own(pair):
    tower, twin = pair
    grey = pictures(3, tower_px(tower))
    found = twin(grey, ("unprojected", "grid", "h0", "h1", "h2"))
    wanted = states(tower, images(grey, ODD))
    assert set(found) == {"pooled", "unprojected", "grid", "h0", "h1", "h2"}
    assert (twin.n_blocks, twin.width, twin.grid) == (3, 64, (3, 3))
    assert wanted[0].shape[1] == twin.n_prefix + 9
    for k in range(3):
        assert off(found[f"h{k}"], wanted[k]) < 1e-5
    assert off(found["unprojected"], unprojected(tower, wanted[2])) < 1e-5
    assert off(found["grid"].flatten(1, 2), patch_vectors(tower, wanted[2])) < 1e-5
    assert found["grid"].shape[:3] == (3, 3, 3)


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_asked_for_leaves_every_bit_of_pooled(pair, precision):
    twin, grey = lean(pair[0], ODD, precision), pictures(4, tower_px(pair[0]))
    alone = twin(grey)["pooled"]
    for layers in (["h1"], ["unprojected", "grid"], ["h0", "h2"]):
        assert torch.equal(twin(grey, layers)["pooled"], alone)


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_after_any_block_gives_the_same_bits(pair, precision):
    twin, grey = lean(pair[0], ODD, precision), pictures(4, tower_px(pair[0]))
    found = twin(grey, ("h0", "h1", "h2"))
    for k in range(3):
        kept = found[f"h{k}"].clone()
        assert torch.equal(twin.resume(found[f"h{k}"], after=k), found["pooled"])
        assert torch.equal(found[f"h{k}"], kept), "resuming must leave its input as it is"


@torch.inference_mode()
def test_half_precision_keeps_the_direction(pair):
    tower, _ = pair
    grey = pictures(5, tower_px(tower))
    found, wanted = lean(tower, ODD, "bf16")(grey, ("grid",)), tower(images(grey, ODD))
    assert found["pooled"].dtype == found["grid"].dtype == torch.float32
    assert turned(found["pooled"], wanted) < 1e-3
    assert not torch.equal(found["pooled"], lean(tower, ODD)(grey)["pooled"])


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_vector_does_not_depend_on_its_neighbours(pair, precision):
    twin, grey = lean(pair[0], ODD, precision), pictures(5, tower_px(pair[0]))
    whole = twin(grey)["pooled"]
    alone = torch.cat([twin(grey[k : k + 1])["pooled"] for k in range(5)])
    assert off(alone, whole) < (1e-5 if precision == "fp32" else 1e-2)


def test_a_layer_it_has_not_and_a_precision_it_has_not(pair):
    with pytest.raises(KeyError, match="h3"):
        pair[1](pictures(1, tower_px(pair[0])), ("h3",))
    with pytest.raises(KeyError, match="fp16"):
        lean(pair[0], ODD, "fp16")


@torch.inference_mode()
def test_the_tower_is_left_as_it_is(pair):
    tower, twin = pair
    before = [tensor.clone() for tensor in tower.parameters()]
    trained = [tensor.requires_grad for tensor in tower.parameters()]
    lean(tower, ODD, "bf16")(pictures(2, tower_px(tower)), ("grid", "h2"))
    twin(pictures(2, tower_px(tower)), ("grid", "h2"))
    lean(tower, ODD).double()
    assert all(torch.equal(was, now) and was.dtype == now.dtype for was, now in zip(before, tower.parameters()))
    assert [tensor.requires_grad for tensor in tower.parameters()] == trained


def unread(name: str):
    """A tower of a known kind with one thing changed that moves its vectors."""
    tower = clip_vit() if name in ("hook", "float16", "attended", "bias_k", "dropout") else timm_vit()
    if name == "hook":
        tower.ln_post.register_forward_hook(lambda module, args, result: 2 * result)
    elif name == "float16":
        tower.half()
    elif name == "attended":
        tower.transformer.resblocks[1].attn.add_zero_attn = True
    elif name == "bias_k":
        tower.transformer.resblocks[1].attn = torch.nn.MultiheadAttention(64, 4, batch_first=True, add_bias_kv=True)
    elif name == "dropout":
        tower.transformer.resblocks[2].attn.dropout = 0.1
        tower.train()
    elif name == "stride":
        tower.patch_embed.proj.stride = (8, 8)
    elif name == "heat":
        tower.blocks[2].attn.scale *= 2
    elif name == "forward":
        tower.blocks[0].forward = lambda x: x
    elif name == "mlp norm":
        tower.blocks[0].mlp.norm = torch.nn.LayerNorm(256, elementwise_affine=False)
    elif name == "gated attention":
        tower.blocks[1].attn = timm.layers.Attention(64, 4, qkv_bias=True, gated=True)
    elif name == "gate":
        tower.blocks[0].mlp.act = torch.nn.ReLU()
    elif name == "no gate":
        tower.blocks[0].mlp.act = torch.nn.Identity()
    elif name == "extra":
        tower.register_parameter("mask_token", torch.nn.Parameter(torch.zeros(64)))
    return tower


CHANGES = (
    "hook", "float16", "attended", "bias_k", "stride", "heat", "forward", "mlp norm", "gated attention", "gate",
    "no gate", "dropout", "extra",
)  # fmt: skip

UNKNOWN = {
    "a convnet": lambda: timm.create_model("test_efficientnet", num_classes=0),
    "a convnet in open_clip": lambda: TimmModel("test_efficientnet", 32, 160),
    "open_clip's resnet": lambda: open_clip.model.ModifiedResNet((1, 1, 1, 1), 32, 4, 48, 16),
    "eva": lambda: timm.models.eva.Eva(img_size=48, embed_dim=64, depth=2, num_heads=4, num_classes=0),
    "a distilled vit": lambda: timm.models.deit.VisionTransformerDistilled(
        img_size=48, embed_dim=64, depth=2, num_heads=4, num_classes=0
    ),
    "queries normed": partial(timm_vit, qk_norm=True),
    "attention normed": partial(timm_vit, scale_attn_norm=True),
    "mlp normed": partial(timm_vit, scale_mlp_norm=True),
    "gated mlp": partial(timm_vit, mlp_layer=timm.layers.SwiGLU),
    "differential attention": partial(timm_vit, attn_layer="diff"),
    "norm of another kind": partial(timm_vit, norm_layer="rmsnorm"),
    "norm without weights": partial(timm_vit, norm_layer=partial(torch.nn.LayerNorm, elementwise_affine=False)),
    "norm of patches": partial(timm_vit, embed_norm_layer="layernorm"),
    "normed after its branches": partial(timm_vit, block_fn=ResPostBlock),
    "parallel branches": partial(timm_vit, block_fn=ParallelScalingBlock),
    "average of the patches": partial(timm_vit, global_pool="avg"),
    "no pooling": partial(timm_vit, global_pool=""),
    "attention over the class token too": partial(timm_vit, global_pool="map", pool_include_prefix=True),
    "pictures padded to whole patches": partial(timm_vit, dynamic_img_size=True, dynamic_img_pad=True),
    "clip, average of the patches": partial(clip_vit, pool_type="avg"),
    "clip, normed after pooling": partial(clip_vit, final_ln_after_pool=True),
    "clip, pooled by attention": partial(clip_vit, attentional_pool=True, attn_pooler_heads=4),
    "clip, with tokens": partial(clip_vit, output_tokens=True),
    "clip, queries normed": partial(clip_vit, qk_norm=True),
    "clip, scaled attention": partial(clip_vit, scale_attn=True),
    "clip, another activation": partial(clip_vit, act_layer=torch.nn.SiLU),
    "a vit inside another module": lambda: torch.nn.Sequential(timm_vit()),
    "one channel": partial(timm_vit, in_chans=1),
    "patch dropout at work": lambda: timm_vit(patch_drop_rate=0.5).train(),
    **{f"one change: {name}": partial(unread, name) for name in CHANGES},
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_tower_it_does_not_know_is_refused(kind):
    assert lean(UNKNOWN[kind](), GIVEN) is None


def test_the_towers_that_the_changes_start_from_are_known():
    for tower in (unread("nothing"), clip_vit()):
        assert isinstance(lean(tower, GIVEN), LeanViT)
        assert isinstance(lean(tower.eval(), GIVEN), LeanViT)


def test_timms_activations_by_name_are_the_ones_meant():
    assert isinstance(timm_vit(act_layer="quick_gelu").blocks[0].mlp.act, TimmQuickGELU)
    assert isinstance(timm_vit(act_layer="gelu_tanh").blocks[0].mlp.act, GELUTanh)


FULL = {
    "clip": lambda: open_clip.create_model("ViT-B-16-quickgelu").visual,
    "biomedclip": lambda: TimmModel("vit_base_patch16_224", 512, 224, pool="", proj="linear"),
    "siglip2": lambda: TimmModel("vit_base_patch16_siglip_224", 768, 224, pool="map", proj="none"),
    "dinov2": lambda: timm.create_model("vit_small_patch14_reg4_dinov2", img_size=224, num_classes=0),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FULL)
@torch.inference_mode()
def test_towers_of_full_size(kind, caplog):
    """As they are initialised: that random weights are meant here needs no warning."""
    caplog.set_level(logging.ERROR)
    torch.manual_seed(0)
    tower, grey = FULL[kind]().eval(), pictures(4, 224)
    wanted = tower(images(grey, InputTransform()))
    assert off(lean(tower, InputTransform())(grey)["pooled"], wanted) < 1e-4
    assert turned(lean(tower, InputTransform(), "bf16")(grey)["pooled"], wanted) < 1e-4
