"""A device that is none: `pretend:0`, whose tensors lie on the CPU and behave as CUDA's do.

torch lets Python register a backend. A tensor of this one holds a CPU tensor and says that it is
elsewhere; its operators run on what it holds, so that all figures are the CPU's. What would fail
on a real accelerator fails here: an operator that meets a CPU tensor with dimensions, `.numpy()`,
a CPU generator for numbers drawn on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor
from torch.library import Library
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_any, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
CPU = torch.device("cpu")

aten = torch.ops.aten
BETWEEN_DEVICES = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor}
"""Operators that carry values from one device to another."""

INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
            aten._index_put_impl_.default, aten._unsafe_index.Tensor}  # fmt: skip
"""Operators whose indices may lie on the CPU, on CUDA too."""


class PretendedTensor(Tensor):
    """A CPU tensor that says it is elsewhere."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:
        """Wrap it."""
        made: Self = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"Pretended({self.inner!r})"

    def tolist(self) -> Any:
        """Plain numbers, as other devices give them; torch has none of a subclass."""
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator on what the tensors hold."""
        return run(func, args, kwargs or {})


class Factories(TorchDispatchMode):
    """Makes tensors on the pretended device, and carries tensors there."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run it there where it asks for that device, or meets one of its tensors."""
        kwargs = kwargs or {}
        if is_pretended(kwargs.get("device")) or tree_any(is_there, (args, kwargs)):
            return run(func, args, kwargs)
        return func(*args, **kwargs)


def is_pretended(device: Any) -> bool:
    """Whether that is the pretended device."""
    return device is not None and torch.device(device).type == NAME


def is_there(value: Any) -> bool:
    """Whether that is one of its tensors."""
    return isinstance(value, PretendedTensor)


def run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """One operator, on the CPU, its results where its arguments are or its `device` says."""
    device = kwargs.get("device")
    leaves = device is not None and not is_pretended(device)
    if func not in BETWEEN_DEVICES:
        _refuse_what_is_elsewhere(func, args, kwargs)
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != NAME:
        raise RuntimeError(
            f"{func}: Expected a '{NAME}' device type for generator but found "
            f"'{generator.device.type}'"
        )
    inside = tree_map_only(PretendedTensor, lambda tensor: tensor.inner, (args, dict(kwargs)))
    own_args, own_kwargs = inside
    if device is not None:
        own_kwargs["device"] = CPU
    if own_kwargs.get("pin_memory"):
        own_kwargs["pin_memory"] = False
    found = func(*own_args, **own_kwargs)
    if leaves:
        # `.to("cpu")` of what lies on the CPU already would be the same memory.
        return found.clone() if _shares(found, own_args) else found
    if func is aten.copy_.default and not is_there(args[0]):
        return args[0]
    if func is aten._local_scalar_dense.default:
        return found
    outputs = tree_map_only(Tensor, PretendedTensor, found)
    return return_and_correct_aliasing(func, args, dict(kwargs), outputs)


def _shares(found: Tensor, args: Sequence[Any]) -> bool:
    return any(isinstance(each, Tensor) and each is found for each in args)


def _refuse_what_is_elsewhere(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    checked = (args[:1], args[2:]) if func in INDEXING else (args, dict(kwargs))

    def is_elsewhere(value: Any) -> bool:
        return isinstance(value, Tensor) and not is_there(value) and value.dim() > 0

    if tree_any(is_elsewhere, checked):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{NAME}:0 and cpu! (when checking arguments in {func})"
        )


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """The device; the process has it while the block runs."""
    _registered()
    with Factories():
        yield torch.device(NAME, 0)


@cache
def _registered() -> Library:
    """The library in which it lives: without it the operators would go."""
    _setup_privateuseone_for_python_backend(NAME)
    library = Library("aten", "IMPL")
    # Made by torch itself, in threads that have no `Factories`: those of a backward pass.
    for name in ("empty.memory_format", "empty_strided"):
        factory = getattr(aten, name.partition(".")[0])
        overload = getattr(factory, name.partition(".")[2] or "default")
        library.impl(name, _made_by(overload), "PrivateUse1")
    # `torch.tensor(values, device=...)` copies below Python's dispatch.
    library.impl("_copy_from", _copied, "PrivateUse1")
    return library


def _copied(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    held, into = ((each.inner if is_there(each) else each) for each in (source, target))
    into.copy_(held)
    return target


def _made_by(overload: Any) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: PretendedTensor(overload(*args, **kwargs | {"device": CPU}))
