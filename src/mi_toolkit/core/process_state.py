"""What every job finds, whatever its caller has switched on, and that it is alone with its model.

1. Torch's switches belong to the caller: inference mode, autocast, the default dtype and device.
   Under `known_state` they are off, or what a new process has, so that figures do not hang on them.
2. Hooks, swapped methods and changed weights hang on the model itself. A lock for each model lets
   one thread at a time at it: `alone_with`.
3. `one_job` is a function in both.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mi_toolkit.core.errors import ModelTypeError, PromptError
from mi_toolkit.core.interrupts import contexts_whole
from mi_toolkit.core.memory import memory_told
from mi_toolkit.core.progress import own_progress

logger = logging.getLogger("mi_toolkit")

PATIENCE = 30.0
"""Seconds to wait for another thread before the log says so."""

_DEVICE_KINDS = ("cpu", "cuda", "mps")

Given = ParamSpec("Given")
Found = TypeVar("Found")


@contextmanager
def known_state() -> Iterator[None]:
    """Inside, tensors are made and computed with as in a new process; after it as before.

    Inference mode and autocast are off, the default dtype is float32, the default device the CPU.
    Whether gradients are on stays as it was. The default dtype is one for all threads: while a job
    runs, it is float32 for the others too.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
            # To leave inference mode switches gradients on.
            stack.enter_context(torch.no_grad())
        for kind in _DEVICE_KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_float32_by_default())
        yield


class _DefaultDtype:
    """The caller's default dtype, for as long as any thread has a job running."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.jobs = 0
        self.callers: torch.dtype | None = None


_default_dtype = _DefaultDtype()


@contextmanager
def _float32_by_default() -> Iterator[None]:
    with _default_dtype.guard:
        _default_dtype.jobs += 1
        if torch.get_default_dtype() != torch.float32:
            _default_dtype.callers = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _default_dtype.guard:
            _default_dtype.jobs -= 1
            if not _default_dtype.jobs and _default_dtype.callers is not None:
                torch.set_default_dtype(_default_dtype.callers)
                _default_dtype.callers = None


class _Turn:
    """A lock that its thread may take again, and that any thread may give back.

    Not `threading.RLock`: a generator may be closed in another thread than it began in.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._owner: int | None = None
        self._depth = 0

    def take(self, name: str) -> None:
        me = threading.get_ident()
        with self._free:
            while self._owner not in (None, me):
                if not self._free.wait(PATIENCE):
                    logger.warning(
                        "Still waiting for %s: another thread runs it, or has it in a context such "
                        "as ablating(...). A thread that a context's own thread waits for never "
                        "gets its turn.",
                        name,
                    )
            self._owner = me
            self._depth += 1

    def give_back(self) -> None:
        with self._free:
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._free.notify()

    @property
    def is_held_once(self) -> bool:
        return self._owner == threading.get_ident() and self._depth == 1


_turns: WeakKeyDictionary[Any, _Turn] = WeakKeyDictionary()
_turns_guard = threading.Lock()


@contextmanager
def alone_with(model: Any) -> Iterator[None]:
    """Inside, no other thread's job or context runs on this model; it waits for its turn.

    It nests within a thread. Two models are best taken one after the other: two threads that hold
    one each and wait for the other's wait for ever.
    """
    turn, name = _turn_of(model)
    with contexts_whole():
        turn.take(name)
        try:
            yield
        finally:
            turn.give_back()


def check_arguments(
    asking: str,
    parameters: Mapping[str, Parameter],
    given: Sequence[object],
    named: Mapping[str, object],
) -> None:
    """Check arguments as Python does, and say what they are called.

    Raises:
        TypeError: a keyword that is none, with the nearest, or more arguments without one than
            there are, with the names of the others.
    """
    for name in named:
        if name not in parameters:
            near = get_close_matches(name, parameters, n=1, cutoff=0.5)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(
                f"{asking}() has no argument {name!r}.{guess} It takes: {', '.join(parameters)}."
            )
    by_name = [name for name, each in parameters.items() if each.kind is Parameter.KEYWORD_ONLY]
    in_order = [name for name in parameters if name not in by_name]
    if len(given) > len(in_order):
        rest = f"all else by name: {', '.join(f'{name}=' for name in by_name)}"
        raise TypeError(
            f"{asking}() takes {', '.join(in_order)} in this order, and "
            f"{rest if by_name else 'nothing else'}."
        )


def check_numbers(
    asking: str, parameters: Mapping[str, Parameter], values: Mapping[str, object]
) -> None:
    """Check that numbers are numbers, by the annotations of a function.

    Args:
        asking: the function, as an error names it.
        parameters: its own.
        values: its arguments by name.

    Raises:
        PromptError: a text in the place of a number, or one that is not whole.
    """
    for name, value in values.items():
        kind = str(parameters[name].annotation).removesuffix(" | None")
        is_text = kind in ("int", "float") and isinstance(value, str)
        is_broken = kind == "int" and isinstance(value, float) and not value.is_integer()
        if is_text or is_broken:
            wanted = "a whole number" if kind == "int" else "a number"
            raise PromptError(f"{asking}(): {name} is {wanted}, and not {value!r}.")


def require_hooks(model: object, asking: str) -> None:
    """Check that what was given as a model is one, and say what to do with what is not.

    Args:
        model: what was given.
        asking: the function that takes a model, as an error names it.

    Raises:
        ModelTypeError: a model's name, a text, a model without hooks, or anything else.
    """
    if hasattr(model, "hooks"):
        return
    kind = type(model).__name__
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        if len(str(name).split()) == 1:
            way = f"not its name: model = mi.load_model({name!r}), then {asking}(model, …)"
        else:
            way = f"and then the text: {asking}(mi.load_model('toy-gpt2'), text)"
    elif isinstance(model, nn.Module):
        way = f"and a {kind} has no hooks: {asking}(mi.load_model(hf_model), …) wraps it"
    else:
        way = f"not {'a ' * (model is not None)}{kind}: {asking}(mi.load_model('toy-gpt2'), …)"
    raise ModelTypeError(f"{asking} takes a model first, {way}.")


def _turn_of(model: Any) -> tuple[_Turn, str]:
    with _turns_guard:
        turn = _turns.setdefault(model, _Turn())
    return turn, str(getattr(getattr(model, "cfg", None), "model_name", "the model"))


@contextmanager
def others_first(model: Any) -> Iterator[bool]:
    """Inside, other threads' jobs may run on the model that this thread has a job on.

    Gives whether they may: not where this thread also has it in a context, such as `ablating(...)`
    or `evaluating(...)`, which would hold for their passes too.
    """
    turn, name = _turn_of(model)
    if not turn.is_held_once:
        yield False
        return
    turn.give_back()
    try:
        yield True
    finally:
        turn.take(name)


_allows_nan: ContextVar[bool] = ContextVar("_allows_nan", default=False)


@contextmanager
def allowing_nan(allow: bool = True) -> Iterator[None]:
    """Inside, activations may be NaN or infinite; `allow=False` leaves it as it was."""
    token = _allows_nan.set(allow or _allows_nan.get())
    try:
        yield
    finally:
        _allows_nan.reset(token)


def allows_nan() -> bool:
    """Whether activations may be NaN or infinite now."""
    return _allows_nan.get()


_jobs: ContextVar[int] = ContextVar("_jobs", default=0)


def jobs_running() -> int:
    """How many functions of the library this is inside of, one in the other."""
    return _jobs.get()


@contextmanager
def _one_job_more() -> Iterator[None]:
    token = _jobs.set(_jobs.get() + 1)
    try:
        yield
    finally:
        _jobs.reset(token)


def one_job(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """The function in `known_state`, and alone with the model that is its first argument.

    Its argument `allow_nan`, where it has one, holds for every pass that it runs. Ctrl-C leaves no
    context half-entered, and where memory does not suffice, an `OutOfMemoryError` says what does.
    """
    parameters = signature(function).parameters
    takes_model = next(iter(function.__annotations__.items()), None) == ("model", "HookedModel")

    @wraps(function)
    def run(*given: Given.args, **named: Given.kwargs) -> Found:
        model = named.get("model", given[0] if given else None)
        check_arguments(function.__name__, parameters, given, named)
        by_name = {**dict(zip(parameters, given, strict=False)), **named}
        check_numbers(function.__name__, parameters, by_name)
        if takes_model and (given or "model" in named):
            require_hooks(model, function.__name__)
        with ExitStack() as stack:
            stack.enter_context(contexts_whole())
            stack.enter_context(memory_told(function, given, named))
            if isinstance(model, nn.Module):
                stack.enter_context(alone_with(model))
            stack.enter_context(known_state())
            stack.enter_context(_one_job_more())
            stack.enter_context(own_progress())
            stack.enter_context(allowing_nan(bool(named.get("allow_nan", False))))
            return function(*given, **named)

    return run


def without_inference_tensors(model: nn.Module) -> None:
    """Give a model that was made in inference mode weights and buffers of the usual kind.

    Others can be neither differentiated nor changed outside it. One is copied at a time; what is
    shared stays shared.
    """
    usual: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_inference():
                    if id(tensor) not in usual:
                        copied = tensor.detach().clone()
                        if isinstance(tensor, nn.Parameter):
                            copied = nn.Parameter(copied, tensor.requires_grad)
                        usual[id(tensor)] = copied
                    held[name] = usual[id(tensor)]  # type: ignore[assignment]
