"""Shapes are checked where annotations state them; mypy checks all other types, before any run.

jaxtyping's hook wraps every function of the package, and beartype looks at every argument: two
fifths of what the suite took, most of it for functions in which no shape is stated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import jaxtyping
from beartype import beartype

Annotated = TypeVar("Annotated", bound=Callable[..., Any])
SHAPES = (jaxtyping.AbstractArray, jaxtyping.AbstractDtype)


def states_shape(hint: Any) -> bool:
    """Whether there is a shape in what is annotated, or in a part of it."""
    if isinstance(hint, type) and issubclass(hint, SHAPES):
        return True
    return any(states_shape(part) for part in get_args(hint))


def _may_state_shape(annotated: Any, names: dict[str, Any]) -> bool:
    """The same of annotations that may still be text: a name in it is of a shape or of an alias."""
    hints = getattr(annotated, "__annotations__", {}).values()
    words = {word for hint in hints for word in re.findall(r"\w+", str(hint))}
    return any(states_shape(names.get(word)) for word in words)


def only_shapes(check: Callable[..., Any]) -> Callable[..., Any]:
    """jaxtyping's decorator `check`, for what states a shape."""

    def decorated(context: str | None = None, *, typechecker: Any = None) -> Any:
        if context is not None:
            return check(context)

        def decorate(annotated: Annotated) -> Annotated:
            init = annotated.__init__ if isinstance(annotated, type) else annotated
            names = getattr(init, "__globals__", {})
            if not _may_state_shape(init, names):
                return annotated
            return check(annotated, typechecker=typechecker)

        return decorate

    return decorated


def checked(function: Annotated) -> Annotated:
    """`function` with its shapes checked by beartype."""
    hints = function.__annotations__
    function.__annotations__ = {name: each for name, each in hints.items() if states_shape(each)}
    return beartype(function)
