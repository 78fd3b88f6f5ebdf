"""Methods: what is fitted on cached embeddings. To add one: a file here, a line in METHODS."""

from __future__ import annotations

from busistore.methods.base import (
    PROTOCOLS,
    Labelled,
    Method,
    Outcome,
    TextPrompts,
    check_protocol,
    fit_predict_many,
    n_groups,
    needs_balance,
    needs_support,
    needs_text,
    needs_tower,
    timed,
)
from busistore.methods.clip_adapter import ClipAdapter
from busistore.methods.full_tuning import BitFit, FullTuning
from busistore.methods.knn import KNearest
from busistore.methods.linear_probe import LinearProbe
from busistore.methods.lora import Lora
from busistore.methods.lp_plus import LpPlus
from busistore.methods.parameters import with_parameters
from busistore.methods.prototype import Prototype
from busistore.methods.ss_text import SsText
from busistore.methods.tip_adapter import TipAdapter, TipAdapterF
from busistore.methods.transclip import TransClip
from busistore.methods.zero_shot import TextReadout, ZeroShot

METHODS = {
    m.name: m
    for m in (
        ZeroShot, LinearProbe, KNearest, Prototype, TipAdapter, TipAdapterF, LpPlus, ClipAdapter, SsText, TransClip,
        Lora, FullTuning, BitFit, TextReadout,
    )
}  # fmt: skip

__all__ = [
    "METHODS", "PROTOCOLS", "Labelled", "Method", "Outcome", "TextPrompts", "TextReadout", "ZeroShot",
    "check_protocol", "fit_predict_many", "n_groups", "needs_balance", "needs_support", "needs_text", "needs_tower",
    "timed",
    "with_parameters",
]  # fmt: skip
