"""A network open to adapters gives the vectors and the gradients of the library's tower, and gives its weights back."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
open_clip = pytest.importorskip("open_clip")
peft = pytest.importorskip("peft")

import numpy as np  # noqa: E402
from open_clip.timm_model import TimmModel  # noqa: E402
from open_clip.transformer import QuickGELU  # noqa: E402
from open_clip.transformer import VisionTransformer as OpenClipViT  # noqa: E402

from busistore import models  # noqa: E402
from busistore.errors import BusistoreError, MissingWeights  # noqa: E402
from busistore.models.spec import InputTransform  # noqa: E402
from busistore.models.trainable import TARGETS, merge_into, of_tower, trainable  # noqa: E402
from busistore.models.vit import lean  # noqa: E402
from tests import tiny  # noqa: E402
from tests.fakes import speckle  # noqa: E402
from tests.test_vit import (  # noqa: E402  # noqa: E402
    KNOWN,
    ODD,
    UNKNOWN,
    adapted,
    clip_vit,
    images,
    off,
    pictures,
    spread,
    timm_vit,
    tower_px,
    turned,
)

ALPHA, RANK = 8, 4
FORMS = sorted(TARGETS)
PARTS = {"split": ("q_proj", "k_proj", "v_proj"), "fused": ("qkv",)}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=KNOWN)
def tower(request):
    """A random tower of each kind; a test may write to it."""
    return spread(KNOWN[request.param]()).requires_grad_(False)


def with_adapters(network, qkv: str, seed: int = 3, **settings):
    """The network in peft's hands, with adapters of which no number is zero."""
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS[qkv], **settings)
    return scattered(peft.get_peft_model(network, config).eval(), seed)


def scattered(network, seed: int):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in opened(network).values():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return network


def opened(network) -> dict[str, torch.nn.Parameter]:
    return {name: tensor for name, tensor in network.named_parameters() if tensor.requires_grad}


def attention(tower) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """Weights (3 W, W) of queries, keys and values, and (W, W) of the output, of each block of the library."""
    if isinstance(tower, OpenClipViT):
        return [(b.attn.in_proj_weight, b.attn.out_proj.weight) for b in tower.transformer.resblocks]
    return [(b.attn.qkv.weight, b.attn.proj.weight) for b in getattr(tower, "trunk", tower).blocks]


def pairs(network, block: int, name: str):
    """A (r, in) and B (out, r) of one layer's adapter."""
    layer = network.get_submodule(f"base_model.model.blocks.{block}.attn.{name}")
    return layer.lora_A.default.weight, layer.lora_B.default.weight


def with_products(tower, network, qkv: str, first: int = 0):
    """A copy of the library's tower with W + (alpha / r) B A for every weight, as the paper has it (Hu et al. 2021)."""
    changed = copy.deepcopy(tower)
    with torch.no_grad():
        for k, (rows, out) in list(enumerate(attention(changed)))[first:]:
            products = [b @ a for a, b in (pairs(network, k, name) for name in PARTS[qkv])]
            rows += ALPHA / RANK * torch.cat(products)
            a, b = pairs(network, k, "out_proj")
            out += ALPHA / RANK * b @ a
    return changed


@pytest.mark.parametrize("qkv", FORMS)
def test_states_and_forward_give_the_towers_vectors(tower, qkv):
    grey, twin = pictures(5, tower_px(tower)), lean(tower, ODD)
    with torch.no_grad():
        wanted, layers = tower(images(grey, ODD)), {0: twin._embed(grey), **lean_layers(twin, grey)}
    for blocks, first in ((None, 0), (3, 0), (2, 1), (1, 2)):
        network = of_tower(tower, ODD, blocks, qkv)
        states = network.states(grey)
        kept = states.clone()
        found = network(states)
        assert torch.equal(states, layers[first])
        assert torch.equal(states, kept), "the states are another's"
        assert off(found, wanted) < 1e-5
        assert (network.first, network.n_blocks, network.width, network.dim) == (first, 3, 64, wanted.shape[1])
        assert states.shape == (5, network.n_tokens, 64)
        assert list(network.blocks) == [str(k) for k in range(first, 3)]
        assert not opened(network)


def lean_layers(twin, grey):
    found = twin(grey, ("h0", "h1"))
    return {1: found["h0"], 2: found["h1"]}


@pytest.mark.parametrize("qkv", FORMS)
@pytest.mark.parametrize("blocks", [None, 1])
def test_adapters_act_as_the_paper_has_it_merged_or_not(tower, qkv, blocks):
    grey = pictures(3, tower_px(tower))
    network = with_adapters(of_tower(tower, ODD, blocks, qkv), qkv)
    bare = of_tower(tower, ODD, blocks, qkv)
    states = bare.states(grey)
    with torch.no_grad():
        found, without = network(states), bare(states)
        wanted = with_products(tower, network, qkv, bare.first)(images(grey, ODD))
        assert off(found, without) > 1e-3, "the adapters must do something"
        assert off(found, wanted) < 1e-5
        merged = network.merge_and_unload()
        assert off(merged(states), found) < 1e-5
        names, rest = list(tower.state_dict()), others(tower)
        merge_into(tower, merged)
        assert off(tower(images(grey, ODD)), found) < 1e-5
    assert list(tower.state_dict()) == names
    assert all(torch.equal(was, now) for was, now in zip(rest, others(tower), strict=True))
    for k in range(bare.first, 3):
        rows = torch.cat([merged.get_submodule(f"blocks.{k}.attn.{name}").weight for name in PARTS[qkv]])
        assert torch.equal(attention(tower)[k][0], rows), "weights go back bit for bit"


def others(tower) -> list[torch.Tensor]:
    """Copies of all tensors but the weights of attention."""
    taken = {id(t) for pair in attention(tower) for t in pair}
    return [t.clone() for t in tower.parameters() if id(t) not in taken]


@pytest.mark.parametrize("qkv", FORMS)
def test_writing_back_what_was_not_changed_changes_no_bit(tower, qkv):
    before = copy.deepcopy(tower.state_dict())
    merge_into(tower, with_adapters(of_tower(tower, ODD, 2, qkv), qkv).unload())
    assert all(torch.equal(before[name], tensor) for name, tensor in tower.state_dict().items())


@pytest.mark.parametrize("qkv", FORMS)
@pytest.mark.parametrize("kind", ["clip with layer scale", "biomedclip", "timm without biases"])
def test_biases_go_back_too(kind, qkv):
    tower = spread(KNOWN[kind]()).requires_grad_(False)
    network = of_tower(tower, ODD, 2, qkv)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if ".attn." in name:
                tensor.mul_(1.1).add_(0.05)
    wanted = network(network.states(pictures(3)))
    assert off(wanted, tower(images(pictures(3), ODD))) > 1e-3
    merge_into(tower, network)
    assert off(wanted, tower(images(pictures(3), ODD))) < 1e-5


@pytest.mark.parametrize("qkv", FORMS)
def test_gradients_are_those_of_the_librarys_own_tower(tower, qkv):
    """With L a function of W + s B A: dL/dB = s dL/dW A' and dL/dA = s B' dL/dW."""
    grey = pictures(3, tower_px(tower))
    network = with_adapters(of_tower(tower, ODD, None, qkv), qkv)
    oracle = with_products(tower, network, qkv).requires_grad_(True)
    weigh = torch.randn(3, network.dim, generator=torch.Generator().manual_seed(5))
    (network(network.states(grey)) * weigh).sum().backward()
    (oracle(images(grey, ODD)) * weigh).sum().backward()
    for k, (rows, out) in enumerate(attention(oracle)):
        slopes = dict(zip(PARTS[qkv], rows.grad.chunk(len(PARTS[qkv])), strict=True)) | {"out_proj": out.grad}
        for name, slope in slopes.items():
            a, b = pairs(network, k, name)
            assert apart(b.grad, ALPHA / RANK * slope @ a.T) < 1e-4
            assert apart(a.grad, ALPHA / RANK * b.T @ slope) < 1e-4
    assert len(opened(network)) == 3 * 2 * (len(PARTS[qkv]) + 1)
    assert all(t.grad is None for t in network.parameters() if not t.requires_grad)


def apart(found, wanted) -> float:
    assert wanted.norm() > 0
    return ((found - wanted).norm() / wanted.norm()).item()


MICRO = {
    "clip": lambda: OpenClipViT(8, 4, 8, 2, 2, 2.0, output_dim=3, act_layer=QuickGELU),
    "siglip2": lambda: timm_vit(
        img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2, class_token=False, global_pool="map",
        act_layer="gelu_tanh", init_values=0.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("qkv", FORMS)
@pytest.mark.parametrize("kind", MICRO)
def test_gradients_agree_with_finite_differences(kind, qkv):
    network = with_adapters(of_tower(spread(MICRO[kind]()), InputTransform(8), None, qkv), qkv)
    states = network.states(pictures(2, 8)).double()
    network.double()
    names, tensors = zip(*opened(network).items(), strict=True)

    def vectors(*values):
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (states,))

    assert vectors(*tensors).dtype == torch.float64
    assert torch.autograd.gradcheck(vectors, tensors, atol=1e-7, fast_mode=True)


@pytest.mark.parametrize("qkv", FORMS)
def test_dropout_is_the_adapters_alone_and_only_in_training(qkv):
    tower = spread(adapted(timm_vit(proj_drop_rate=0.5, drop_path_rate=0.5), pool="token", proj="mlp", drop=0.5))
    bare = of_tower(tower, ODD, 2, qkv)
    states = bare.states(pictures(6))
    assert torch.equal(bare.train()(states), bare.eval()(states))
    network = with_adapters(bare, qkv, lora_dropout=0.5)
    steady = network.eval()(states)
    assert torch.equal(network(states), steady)
    first, second = network.train()(states), network(states)
    assert off(first.detach(), steady.detach()) > 1e-3
    assert off(first.detach(), second.detach()) > 1e-3
    for name in (*PARTS[qkv], "out_proj"):  # each layer's own dropout acts, in the last block too
        network.eval()
        network.get_submodule(f"base_model.model.blocks.2.attn.{name}").lora_dropout.train()
        assert not torch.equal(network(states), steady), name


@pytest.mark.parametrize("qkv", FORMS)
@pytest.mark.parametrize("kind", ["clip", "biomedclip", "dinov2"])
def test_adapters_are_kept_and_loaded_to_the_last_bit(kind, qkv, tmp_path):
    tower = spread(KNOWN[kind]())
    network = with_adapters(of_tower(tower, ODD, 2, qkv), qkv, lora_dropout=0.1)
    states = network.states(pictures(3))
    network.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(of_tower(tower, ODD, 2, qkv), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(states), network(states))
    config = peft.LoraConfig.from_pretrained(tmp_path)
    assert (config.r, config.lora_alpha, config.target_modules) == (RANK, ALPHA, TARGETS[qkv])


@pytest.mark.parametrize("kind", KNOWN)
def test_adapters_sit_on_attention_and_nothing_else(kind):
    """The patch embedding and the head have layers of the same names in timm; a text tower has the same blocks."""
    for qkv in FORMS:
        network = with_adapters(of_tower(spread(KNOWN[kind]()), ODD, 2, qkv), qkv)
        found = {n.split(".lora_")[0].removeprefix("base_model.model.") for n in opened(network)}
        assert found == {f"blocks.{k}.attn.{name}" for k in (1, 2) for name in (*PARTS[qkv], "out_proj")}


def test_the_text_tower_is_never_touched():
    text = {"context_length": 8, "vocab_size": 32, "width": 64, "heads": 2, "layers": 2}
    vision = {"image_size": 48, "patch_size": 16, "width": 64, "head_width": 16, "layers": 2}
    clip = open_clip.CLIP(32, vision, text).eval().requires_grad_(False)
    before = copy.deepcopy(clip.state_dict())
    merge_into(clip.visual, with_adapters(of_tower(clip.visual, ODD, 1), "split").merge_and_unload())
    changed = {name for name, tensor in clip.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == {f"visual.transformer.resblocks.1.attn.{name}" for name in ("in_proj_weight", "out_proj.weight")}


BASE = {
    "clip": partial(OpenClipViT, 224, 16, 768, 12, 12, 4.0, output_dim=512, act_layer=QuickGELU),
    "timm": partial(timm.create_model, "vit_base_patch16_224", num_classes=0),
}


@pytest.mark.parametrize(("kind", "qkv", "n_trainable"), [
    ("clip", "split", 1_179_648), ("timm", "split", 1_179_648),  # 12 blocks x 4 layers x 16 x (768 + 768)
    ("clip", "fused", 884_736), ("timm", "fused", 884_736),  # 12 x (16 x (768 + 2304) + 16 x (768 + 768))
])  # fmt: skip
def test_the_capacity_is_the_same_for_every_tower(kind, qkv, n_trainable):
    with torch.device("meta"):  # shapes without memory
        tower = BASE[kind]().eval()
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS[qkv])
    network = peft.get_peft_model(of_tower(tower, InputTransform(), None, qkv), config)
    assert sum(tensor.numel() for tensor in opened(network).values()) == n_trainable


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("qkv", FORMS)
def test_nothing_that_is_done_to_the_open_blocks_reaches_the_tower(tower, qkv, precision):
    before = copy.deepcopy(tower.state_dict())
    network = of_tower(tower, ODD, None, qkv, precision)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in tower.state_dict().items())


@pytest.mark.parametrize("qkv", FORMS)
def test_half_precision_keeps_directions_and_whole_adapters(tower, qkv):
    grey = pictures(4, tower_px(tower))
    exact, half = (with_adapters(of_tower(tower, ODD, 2, qkv, p), qkv) for p in ("fp32", "bf16"))
    assert torch.equal(half.states(grey), lean(tower, ODD, "bf16")(grey, ("h0",))["h0"])
    states = exact.states(grey)
    found, wanted = half(states), exact(states)
    assert found.dtype == torch.float32
    assert 0 < turned(found.detach(), wanted.detach()) < 2e-4
    for made in (found, wanted):
        made[:, 0].sum().backward()
    slopes = [torch.cat([t.grad.flatten() for t in opened(n).values()]) for n in (half, exact)]
    assert all(t.dtype == t.grad.dtype == torch.float32 for t in opened(half).values())
    assert turned(*slopes) < 2e-4
    merged = [n.merge_and_unload().state_dict() for n in (half, exact)]
    assert all(torch.equal(merged[0][name], t) for name, t in merged[1].items() if ".attn." in name)


def test_states_of_another_precision_are_taken():
    network = of_tower(spread(clip_vit()), ODD, 1)
    states = network.states(pictures(2))
    for dtype in (torch.float16, torch.float64):
        found = network(states.to(dtype))
        assert found.dtype == torch.float32
        assert torch.equal(found, network(states.to(dtype).float()))


def test_a_batch_is_taken_as_it_lies_in_memory():
    network = with_adapters(of_tower(spread(clip_vit()), ODD, 2), "split")
    states = network.states(pictures(4))
    turned_round = states.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(network(turned_round), network(states))


def test_a_copy_is_a_network_of_its_own():
    network = of_tower(spread(clip_vit()), ODD, 1)
    twin, states = copy.deepcopy(network), network.states(pictures(2))
    wanted = network(states)
    with torch.no_grad():
        twin.blocks["2"].attn.q_proj.weight.zero_()
    assert torch.equal(network(states), wanted)
    assert not torch.equal(twin(states), wanted)


LOADED = ("open_clip safetensors", "open_clip bin", "trainer's pt", "timm ViT")


def located(layout: str, folder, **changes) -> models.Located:
    small = tiny.LAYOUTS[layout]()
    for name, data in small.files().items():
        (folder / name).write_bytes(data)
    files = {name: folder / name for name in small.files()}
    return models.Located(small.spec, "0" * 64, files=files, **changes)


@pytest.mark.parametrize("output", models.OUTPUTS)
@pytest.mark.parametrize("layout", LOADED)
def test_a_loaded_model_gives_what_its_encoder_gives(layout, output, tmp_path):
    where = located(layout, tmp_path, output=output)
    size = where.spec.input.size_px
    squares = np.stack([speckle(k, size, size) for k in range(3)])
    wanted = torch.from_numpy(models.load(where).encode(squares))
    for qkv in FORMS:
        network = trainable(where, 2, qkv)
        assert off(network(network.states(torch.from_numpy(squares))), wanted) < 1e-5
        assert network.first == network.n_blocks - 2


@pytest.mark.parametrize("layout", ["timm ResNet", "transformers CLIP", "transformers BEiT"])
def test_a_model_without_plain_attention_is_refused(layout, tmp_path):
    where = located(layout, tmp_path)
    with pytest.raises(BusistoreError, match="no plain attention to adapt; these models have: clip, bio") as told:
        trainable(where)
    assert f"'{where.spec.name}'" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_model_without_weights_at_hand_is_refused():
    with pytest.raises(MissingWeights, match="not on this machine"):
        trainable(models.Located(models.MODELS["clip"], "0" * 64))


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_tower_that_is_not_known_is_refused(kind):
    with pytest.raises(BusistoreError, match="the network has no plain attention"):
        of_tower(UNKNOWN[kind](), ODD)


@pytest.mark.parametrize(("settings", "words"), [
    ({"blocks": 0}, "has 3 blocks, 0 cannot be adapted; take 1 to 3"),
    ({"blocks": -1}, "has 3 blocks, -1 cannot"),
    ({"blocks": 4}, "has 3 blocks, 4 cannot"),
    ({"qkv": "spilt"}, "no form of qkv 'spilt'; did you mean 'split'"),
    ({"precision": "fp16"}, "no precision 'fp16'"),
    ({"output": "grid"}, "no output 'grid'"),
])  # fmt: skip
def test_settings_that_make_no_network_are_refused_in_one_line(settings, words):
    with pytest.raises(BusistoreError, match=words) as told:
        of_tower(clip_vit(), ODD, **settings)
    assert "\n" not in str(told.value)


def test_words_are_checked_before_weights_are_read():
    nowhere = models.Located(models.MODELS["clip"], "0" * 64)
    with pytest.raises(BusistoreError, match="no form of qkv"):
        trainable(nowhere, qkv="joint")


def test_only_a_merged_network_goes_back_and_only_into_its_own_tower():
    tower = spread(clip_vit()).requires_grad_(False)
    before = copy.deepcopy(tower.state_dict())
    network = with_adapters(of_tower(tower, ODD, 2), "split")
    with pytest.raises(ValueError, match=r"still has adapters; merge_and_unload\(\)"):
        merge_into(tower, network)
    merged = network.merge_and_unload()
    with pytest.raises(ValueError, match="the tower has 2 blocks, the network 3"):
        merge_into(clip_vit(layers=2), merged)
    with pytest.raises(ValueError, match="weights"):
        merge_into(clip_vit(width=32), merged)
    with pytest.raises(BusistoreError, match="no plain attention"):
        merge_into(TimmModel("test_efficientnet", 32, 160), merged)
    assert all(torch.equal(before[name], tensor) for name, tensor in tower.state_dict().items())


def test_a_spec_of_other_pictures_has_other_states(tmp_path):
    """The transform is folded into the embedding: another mean must be seen."""
    tower = spread(clip_vit())
    given = dataclasses.replace(ODD, mean=(0.9, 0.9, 0.9))
    assert not torch.equal(of_tower(tower, ODD).states(pictures(1)), of_tower(tower, given).states(pictures(1)))
