"""How much memory is free, and how much of it a result may take."""

import os
from pathlib import Path

import jax

from dkp import _check

__all__ = ["allowed_memory", "free_memory"]


def allowed_memory(max_memory: float | None) -> float:
    """Bytes that a result may take: what the user allows; by default half of what is free on the first device and on
    this machine.

    Raises:
        ValueError: when `max_memory` is not a finite number above 0.
    """
    if max_memory is not None:
        return _check.positive_number("max_memory", max_memory)
    return min(free_memory(device=device) for device in (False, True)) / 2


def free_memory(*, device: bool) -> float:
    """Bytes that are free for arrays on the first device, or on this machine; infinity where nobody knows."""
    statistics = jax.devices()[0].memory_stats() if device else None
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
