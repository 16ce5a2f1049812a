"""Progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(
    items: Iterable[Item], *, total: int | None, label: str, unit: str, show: bool | None
) -> Iterator[Item]:
    """The items, with a bar and a time to go.

    Args:
        items: what to pass through.
        total: how many there are; None where that is not known.
        label: what is being done.
        unit: what one item is.
        show: None for a bar where somebody looks (a terminal or a notebook), and only once the
            work has taken two seconds.
    """
    if show is False or (show is None and not _watched()):
        yield from items
        return
    # Not tqdm.auto: in a notebook without ipywidgets it warns.
    from tqdm import tqdm

    delay = 2.0 if show is None else 0.0
    yield from tqdm(items, total=total, desc=label, unit=unit, delay=delay, leave=False)


def _watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
