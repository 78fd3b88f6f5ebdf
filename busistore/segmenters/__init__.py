"""Networks that predict lesion masks, and what trains them. To add one: a file here, a line in SEGMENTERS."""

from __future__ import annotations

from busistore.segmenters.base import Lesions, Segmenter, Start
from busistore.segmenters.baseline import Unet
from busistore.segmenters.bussam_segmenter import BussamSegmenter
from busistore.segmenters.prompts import PROTOCOLS
from busistore.segmenters.sam_segmenter import SamSegmenter

SEGMENTERS = {s.name: s for s in (Unet, BussamSegmenter, SamSegmenter)}

__all__ = ["PROTOCOLS", "SEGMENTERS", "Lesions", "Segmenter", "Start"]
