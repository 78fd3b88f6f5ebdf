"""Which arithmetic is the fastest that keeps a vector's direction. Without circuits for bf16, fp32 is faster."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from busistore.models.spec import ModelSpec

CIRCUITS = {"amx_bf16", "avx512_bf16", "bf16"}  # the last is Arm's name for it
LEAST_COSINE = 0.999  # promised between a bf16 vector and its fp32 twin
SAMPLE_COSINE = 0.9999  # asked of a first sample, so that a vector outside it keeps the promise with a margin of ten


def fastest(spec: ModelSpec, device: str = "cpu") -> str:
    """The precision that "auto" begins with: bf16 for a plain transformer where the device multiplies in it."""
    able = device.startswith("cuda") or has_bf16()
    return "bf16" if able and "bf16" in spec.precisions else "fp32"


@cache
def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor multiplies matrices in bfloat16; unknown processors count as no."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    line = next((w for w in text.splitlines() if w.lower().startswith(("flags", "features"))), "")
    return bool(CIRCUITS & set(line.split()))
