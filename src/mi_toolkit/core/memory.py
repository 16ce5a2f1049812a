"""How much memory can still be had, and what is said where there is none left.

Free is the least of what the system has, what the groups of processes that this one is in may still
take (Slurm, containers), and what its own limits leave (`ulimit`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

UNKNOWN = 4 * 2**30
"""What is taken to be free where the system does not say."""

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes(device: str | torch.device | None = None) -> int:
    """Bytes that can still be taken on a device without swapping; a guess where nothing says."""
    known = known_bytes(device)
    return UNKNOWN if known is None else known


def known_bytes(device: str | torch.device | None = None) -> int | None:
    """Bytes that can still be taken on a device without swapping; None where nothing says."""
    where = torch.device(device or "cpu")
    if where.type == "cuda":
        return int(torch.cuda.mem_get_info(where)[0])
    found = [free for free in (_of_system(), *_of_groups(), *_of_limits()) if free is not None]
    return max(0, min(found)) if found else None


def _of_system() -> int | None:
    free = _kilobytes(_PROC / "meminfo", "MemAvailable")
    if free is not None:
        return free
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _of_limits() -> Iterator[int]:
    """What `ulimit -v` and `ulimit -d` leave."""
    try:
        import resource
    except ImportError:  # Windows
        return
    status = _PROC / "self" / "status"
    for limit, held in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, taken = resource.getrlimit(limit)[0], _kilobytes(status, held)
        if most != resource.RLIM_INFINITY and taken is not None:
            yield most - taken


def _of_groups() -> Iterator[int]:
    """What the control groups of Linux leave, first the process' own, then those around it."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        of_v1 = bool(controllers)
        root = _CGROUPS / "memory" if of_v1 else _CGROUPS
        names = ("limit_in_bytes", "usage_in_bytes") if of_v1 else ("max", "current")
        for path in (PurePosixPath(group), *PurePosixPath(group).parents):
            folder = root / str(path).lstrip("/")
            try:
                most, taken = (
                    int((folder / f"memory.{name}").read_text(encoding="ascii")) for name in names
                )
            except (OSError, ValueError):  # no such group to see from here, or "max"
                continue
            # Of files that were read, the system takes the memory back.
            yield most - taken + _inactive_files(folder, of_v1=of_v1)


def _inactive_files(folder: Path, *, of_v1: bool) -> int:
    wanted = "total_inactive_file" if of_v1 else "inactive_file"
    for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == wanted:
            return int(value)
    return 0


def _kilobytes(path: Path, name: str) -> int | None:
    """The bytes that a line `name:  123 kB` says; None where there is none."""
    if path.exists():
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


_WORDS = ("can't allocate memory", "not enough memory: you tried", "(os error 12)")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that memory could not be had."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        # Of the CPU's allocator, and of safetensors, there is the text alone.
        if any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def in_gib(n_bytes: float) -> str:
    """Bytes as people read them.

    >>> in_gib(1_610_612_736), in_gib(52_428_800)
    ('1.5 GiB', '50 MiB')
    """
    mebibytes = n_bytes / 2**20
    return f"{mebibytes / 2**10:.1f} GiB" if mebibytes >= 973 else f"{mebibytes:.0f} MiB"
