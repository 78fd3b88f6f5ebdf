"""Networks that predict lesion masks, and what trains them. To add one: a file here, a line in SEGMENTERS."""

from __future__ import annotations

from busistore.segmenters.base import Lesions, Segmenter
from busistore.segmenters.baseline import Unet
from busistore.segmenters.prompts import PROTOCOLS

SEGMENTERS = {s.name: s for s in (Unet,)}

__all__ = ["PROTOCOLS", "SEGMENTERS", "Lesions", "Segmenter"]
