"""How much memory a result holds, and giving it back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, torch.nn.Module)
"""What belongs to the program or to a model, not to a result."""


def held_bytes(found: Any) -> int:
    """Bytes of an object and of all that it leads to, each counted once.

    >>> held_bytes({"a": torch.zeros(1000), "b": "text"}) >= 4000
    True
    """
    waiting, seen, total = [found], set(), 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, SHARED):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        if isinstance(each, torch.Tensor):
            storage = each.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
        else:
            waiting += gc.get_referents(each)
    return total


def return_memory() -> None:
    """Give memory that is free within the process back to the system, where it can be."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
