"""A head's name: `L5H1`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeGuard

from mi_toolkit.core.errors import UnknownNameError, short_repr

_NAME = re.compile(r"\s*[La]?(\d+)\s*[.,]?\s*[Hh]?(\d+)\s*", flags=re.IGNORECASE)
_SEPARATED = re.compile(r"\d\s*[.,Hh]")


class _Place(NamedTuple):
    layer: int
    head: int


class Head(_Place):
    """One attention head, counted from zero; a query head where keys and values are shared.

    >>> Head(5, 1), Head("L5H1")
    (L5H1, L5H1)
    >>> Head.of("a5.h1") == Head.of("5.1") == Head.of((5, 1)) == Head(5, 1)
    True
    """

    __slots__ = ()

    def __new__(cls, layer: int | str | tuple[int, int], head: int | None = None) -> Head:  # noqa: PYI034 (see `Saved`)
        """A head by its two numbers, apart or as a pair, or by its name.

        Raises:
            UnknownNameError: no such way of naming a head.
        """
        if head is None and isinstance(layer, str | tuple):
            return cls.of(layer)
        if head is None or not isinstance(layer, int) or not (_counts(layer) and _counts(head)):
            raise _no_head(layer if head is None else (layer, head))
        return super().__new__(cls, layer, head)

    def __repr__(self) -> str:
        return f"L{self.layer}H{self.head}"

    def __str__(self) -> str:
        return repr(self)

    @classmethod
    def of(cls, name: Head | tuple[int, int] | str) -> Head:
        """The head that `L5H1`, `5.1`, `a5.h1` or `(5, 1)` names.

        Raises:
            UnknownNameError: no such way of naming a head.
        """
        if isinstance(name, str):
            match = _NAME.fullmatch(name)
            if match is None or not _SEPARATED.search(name):
                raise _no_head(name)
            return cls(int(match[1]), int(match[2]))
        given: object = name
        pair = tuple(given) if _has_items(given) else ()
        if len(pair) != 2 or not all(map(_counts, pair)):
            raise _no_head(name)
        return cls(*pair)

    def check(self, owner: str, n_layers: int, n_heads: int) -> Head:
        """The head itself, where `owner` has it.

        Raises:
            UnknownNameError: it has fewer layers, or fewer heads in each.
        """
        if not (0 <= self.layer < n_layers and 0 <= self.head < n_heads):
            raise UnknownNameError(
                f"{owner} has no head {self}: its layers are 0 to {n_layers - 1} and its heads "
                f"0 to {n_heads - 1}."
            )
        return self


def one_or_several(heads: Any) -> list[Any]:
    """Names of heads one by one: `(5, 1)` is one head.

    >>> one_or_several("L5H1"), one_or_several((5, 1)), one_or_several([(5, 1), "L0H0"])
    (['L5H1'], [(5, 1)], [(5, 1), 'L0H0'])

    Raises:
        UnknownNameError: neither names nor a name.
    """
    if not _has_items(heads):
        raise _no_head(heads)
    is_pair = isinstance(heads, tuple) and [*map(type, heads)] == [int, int]
    return [heads] if is_pair or isinstance(heads, str | Head) else [*heads]


def _has_items(given: Any) -> TypeGuard[Iterable[Any]]:
    """Whether it can be gone through; a tensor of one number cannot."""
    return isinstance(given, Iterable) and getattr(given, "ndim", 1) > 0


def _counts(number: object) -> bool:
    """Whether it counts something from zero."""
    return isinstance(number, int) and number >= 0


def _no_head(name: object) -> UnknownNameError:
    return UnknownNameError(
        f"{short_repr(name)} names no head. Write 'L5H1', '5.1', 'a5.h1' or (5, 1): layer 5, "
        "head 1, both counted from zero."
    )


HeadName = Head | tuple[int, int] | str
"""What names a head."""
