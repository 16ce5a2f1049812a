"""How much memory is free for what comes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

UNKNOWN = 4 * 2**30
"""What is taken to be free where the system does not tell."""


def available_bytes(device: str | torch.device | None = None) -> int:
    """Bytes that can still be taken on a device without swapping."""
    where = torch.device(device or "cpu")
    if where.type == "cuda":
        return int(torch.cuda.mem_get_info(where)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN
