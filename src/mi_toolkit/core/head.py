"""A head's name: `L5H1`."""

from __future__ import annotations

import re
from typing import NamedTuple

from mi_toolkit.core.errors import UnknownNameError

_NAME = re.compile(r"\s*[La]?(\d+)\s*[.,]?\s*[Hh]?(\d+)\s*", flags=re.IGNORECASE)
_SEPARATED = re.compile(r"\d\s*[.,Hh]")


class Head(NamedTuple):
    """One attention head, counted from zero; a query head where keys and values are shared.

    >>> Head(5, 1)
    L5H1
    >>> Head.of("a5.h1") == Head.of("5.1") == Head.of((5, 1)) == Head(5, 1)
    True
    """

    layer: int
    head: int

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
        if isinstance(name, tuple):
            return cls(*name)
        match = _NAME.fullmatch(name)
        if match is None or not _SEPARATED.search(name):
            raise UnknownNameError(
                f"{name!r} names no head. Write 'L5H1', '5.1', 'a5.h1' or (5, 1): layer 5, head 1, "
                "both counted from zero."
            )
        return cls(int(match[1]), int(match[2]))
