"""Memory: what can still be taken, and work that takes more than there is.

1. What can be taken is what the machine has free, and no more than the limits of the process leave:
   those of its address space and data (`ulimit -v`, `ulimit -d`), and those of its control groups
   (a container's, a batch system's).
2. Where an allocation fails in whichever library, the job that was asked for says in one line how
   much it takes, how much there is, and which of its arguments takes less.
3. A hooked model may hold itself, so it goes only where garbage is collected: `own_garbage`.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from mi_toolkit.core.errors import MIToolkitError, OutOfMemoryError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

UNKNOWN = 4 * 2**30
"""What is taken to be free where the system does not say."""

GROUPS = Path("/sys/fs/cgroup")
"""Where Linux says what control groups may take."""


@contextmanager
def own_garbage() -> Iterator[None]:
    """After it, what was made inside and is not held is gone; older things are not searched for it.

    That is most of what a process holds: to go through it takes longer than a small job.
    """
    was_frozen = gc.get_freeze_count()
    if not was_frozen:
        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if not was_frozen:
            gc.unfreeze()


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # glibc alone has it
        return None
    return trim


def give_back_freed() -> None:
    """Give the system what was freed; after a pass whose tensors went one by one, say.

    glibc keeps it, in holes that the next pass' tensors do not fit into: pass by pass more, until
    a process holds half again of what it uses.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


def gigabytes(n_bytes: float) -> str:
    """A size as people write it.

    >>> gigabytes(3 * 2**29), gigabytes(2**25)
    ('1.5 GiB', '32 MiB')
    """
    mebibytes = n_bytes / 2**20
    return f"{mebibytes / 2**10:.1f} GiB" if mebibytes >= 973 else f"{mebibytes:.0f} MiB"


def available_bytes(device: str | torch.device | None = None) -> int:
    """Bytes that can still be taken on a device without swapping; a guess where nothing says."""
    known = known_bytes(device)
    return UNKNOWN if known is None else known


def known_bytes(device: str | torch.device | None = None) -> int | None:
    """Bytes that can still be taken on a device without swapping; None where nothing says."""
    where = torch.device(device or "cpu")
    if where.type == "cuda":
        return int(torch.cuda.mem_get_info(where)[0])
    found = (_free(), *_left_of_limits(), left_of_group(GROUPS))
    left = [each for each in found if each is not None]
    return max(0, min(left)) if left else None


def _free() -> int | None:
    free = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    if free is not None:
        return free
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


LIMITS = MappingProxyType({"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"})
"""What `ulimit -v` and `ulimit -d` set, and what the system calls the use that each limits."""


def _left_of_limits() -> Iterator[int]:
    for name, used in LIMITS.items():
        limit, taken = _limit(name), _kilobytes(STATUS, used)
        if limit is not None and taken is not None:
            yield limit - taken


def _limit(name: str) -> int | None:
    if resource is None:
        return None
    limit = int(resource.getrlimit(getattr(resource, name))[0])
    return None if limit == resource.RLIM_INFINITY else limit


STATUS = Path("/proc/self/status")


def _kilobytes(path: Path, name: str) -> int | None:
    """The bytes that a line `name:   123 kB` says; None where there is none."""
    if path.exists():
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


_GROUP_FILES = MappingProxyType(
    {
        "": ("", "memory.max", "memory.current", "inactive_file"),
        "memory": (
            "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    }
)
"""By what `/proc/self/cgroup` calls it (version 2 has no name): folder, limit, use, idle files."""


def left_of_group(groups: Path, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """What the process' control group, and those that it is in, leave it; None without a limit.

    Pages of files that nobody uses count as free: the kernel gives them up.
    """
    left: list[int] = []
    for line in own.read_text(encoding="utf-8").splitlines() if own.exists() else ():
        _, name, path = line.split(":", maxsplit=2)
        if name not in _GROUP_FILES:
            continue
        folder, limit, use, idle = _GROUP_FILES[name]
        # Inside a container its own group may be the root of what it sees.
        for group in (Path(path), *Path(path).parents):
            place = groups / folder / str(group).lstrip("/")
            try:
                most, taken = (int((place / name).read_text()) for name in (limit, use))
                stat = dict(row.split() for row in (place / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such group to see from here, or its limit is "max"
                continue
            left.append(most - taken + int(stat.get(idle, 0)))
    return min(left, default=None)


_WORDS = re.compile(
    r"can't allocate memory|cannot allocate memory|unable to allocate|not enough memory"
    r"|out of memory|bad_alloc|os error 12\b",
    re.IGNORECASE,
)
"""How torch, numpy, safetensors, Arrow and the system say it."""

_ASKED = re.compile(
    r"(?:tried|unable) to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB|TiB)", re.IGNORECASE
)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is of memory that did not suffice, in whichever library's words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, MIToolkitError):
        return False
    is_systems = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return is_systems or bool(_WORDS.search(str(error)))


BLOCKS = "layers_at_a_time=1 (--layers-at-a-time 1)"

LESS: Mapping[str, Callable[[Any], str | None]] = MappingProxyType(
    {
        "batch_size": lambda n: None if n == 1 else "batch_size=1",
        "blocks_at_once": lambda n: None if n == 1 else "blocks_at_once=1",
        "max_length": lambda n: "a smaller max_length" if n is None else f"max_length below {n}",
        "num_beams": lambda n: f"num_beams below {n}" if n > 1 else None,
        "max_new_tokens": lambda n: f"max_new_tokens below {n}" if n else None,
        "n_sequences": lambda n: f"n_sequences below {n}" if n else "fewer n_sequences",
        "eval_limit": lambda n: "an eval_limit" if n is None else f"eval_limit below {n}",
        "layers_at_a_time": lambda n: BLOCKS if n is None else None,
        "layers": lambda chosen: "layers=[0]" if chosen is None else None,
        "positions": lambda chosen: "positions='last'" if chosen is None else None,
    }
)
"""What takes less memory, by the name of a job's argument and what it is; None: nothing less."""

SMALLER = (
    f"Of a model with {BLOCKS} one block is in memory at a time; "
    "dtype='bfloat16' halves the weights. mi.plan(name, task) (mi-toolkit plan) says what fits."
)
"""What takes less memory where a model does not fit."""

TEXTS = frozenset({"prompt", "prompts", "texts", "text", "clean"})


_in_job: ContextVar[bool] = ContextVar("_in_job", default=False)


@contextmanager
def memory_told(
    job: Callable[..., Any], given: Sequence[Any], named: Mapping[str, Any]
) -> Iterator[None]:
    """Inside runs a job with these arguments; where it runs out of memory, that is said.

    Of jobs that call others the outermost says it: its arguments are the caller's to change. What
    the job held is let go, so that another try finds the memory that this one did.

    Raises:
        OutOfMemoryError: an allocation failed.
    """
    if _in_job.get():
        yield
        return
    token = _in_job.set(True)
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemoryError(_message(job, given, named, error)) from error
    finally:
        _in_job.reset(token)


def _message(
    job: Callable[..., Any], given: Sequence[Any], named: Mapping[str, Any], error: Exception
) -> str:
    bound = signature(job).bind(*given, **named)
    bound.apply_defaults()
    first = next(iter(bound.arguments.values()))
    cfg = getattr(first, "cfg", None)
    device = getattr(cfg, "device", None)
    of = f" on {cfg.model_name}" if cfg is not None else ""
    used = _in_use(device)
    asked = _ASKED.search(str(error))
    words = "its memory"
    if used is not None:
        there = f"{gigabytes(used + available_bytes(device))} are there"
        words = f"more memory than the {there}"
        if asked is not None:
            more = int(float(asked[1]) * _UNITS[asked[2].lower()])
            words = (
                f"{gigabytes(used + more)} of memory or more ({gigabytes(used)} in use, "
                f"{gigabytes(more)} asked for at once), and {there}"
            )
    asked_for = bound.arguments
    ways = [way for name in LESS if name in asked_for and (way := LESS[name](asked_for[name]))]
    ways += ["fewer or shorter texts"] if TEXTS & asked_for.keys() else []
    if getattr(cfg, "dtype", asked_for.get("dtype")) in (torch.float32, "float32"):
        ways.append("load_model(…, dtype='bfloat16')")
    ways += [] if cfg is None else [f"load_model(…, {BLOCKS})"]
    return f"{job.__name__}{of} takes {words}. Take {' or '.join(ways) or 'a larger machine'}."


def _in_use(device: str | torch.device | None) -> int | None:
    """Bytes that this process has taken on a device, of what its limit counts."""
    if torch.device(device or "cpu").type == "cuda":
        return torch.cuda.memory_allocated(device)
    limited = (used for name, used in LIMITS.items() if _limit(name) is not None)
    return _kilobytes(STATUS, next(limited, "VmRSS"))
