"""What the processor says of itself, as Linux reports it."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def has_bfloat16_units() -> bool:
    """Return whether oneDNN computes bfloat16 in hardware: AMX or AVX512-BF16. Elsewhere it is slower, or refused."""
    return bool({"amx_bf16", "avx512_bf16"} & flags())


def flags() -> set[str]:
    """Return the feature flags; empty on other systems than Linux."""
    return set(next((line for line in _lines() if line.startswith("flags")), "").split())


def name() -> str:
    """Return how many of which processor there are."""
    names = [line.split(":", 1)[1].strip() for line in _lines() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _lines() -> list[str]:
    return _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.is_file() else []
