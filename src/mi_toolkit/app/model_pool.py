"""The loaded models, lent to one visitor at a time.

A lock per model, not a copy per visitor: hooks hang on the model itself, so whoever ablates must
be alone with it, and a copy would take the model's memory again. Work is done in slices, between
which the lock goes round: a long prompt holds nobody up for longer than one of its passes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mi_toolkit.app.held import return_memory
from mi_toolkit.core.errors import ModelLoadError
from mi_toolkit.core.memory import available_bytes, gigabytes
from mi_toolkit.core.model import HookedModel
from mi_toolkit.models.load import load_model

PATIENCE = 0.1
"""Seconds between two looks at whether somebody who waits has left."""


def model_bytes(model: HookedModel) -> int:
    """Bytes of a model's weights, those that are shared counted once."""
    storages = {
        parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes()
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    }
    return sum(storages.values())


@dataclass(eq=False)
class _Held:
    line: list[object] = field(default_factory=list)
    model: HookedModel | None = None
    n_bytes: int = 0
    last_used: float = 0.0


class ModelPool:
    """Models by name, loaded when first asked for, the least recently used given up for space."""

    def __init__(
        self,
        limit: int | None = None,
        *,
        load: Callable[[str], HookedModel] = load_model,
        size: Callable[[str], int] = lambda name: 0,
    ) -> None:
        """A pool of `limit` bytes, or half of the memory that is free now.

        Args:
            limit: bytes that the weights may fill together.
            load: loads a model by name.
            size: bytes that its weights will take, before they are read; 0 where that is unknown.
        """
        self.limit = available_bytes() // 2 if limit is None else limit
        self._load, self._size = load, size
        self._held: dict[str, _Held] = {}
        self._moved = threading.Condition()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models in memory, the one used last at the end."""
        with self._moved:
            held = [(each.last_used, name) for name, each in self._held.items() if each.model]
        return tuple(name for _, name in sorted(held))

    @contextmanager
    def acquire(
        self, name: str, *, waiting: Callable[[str, int], None] = lambda name, place: None
    ) -> Iterator[HookedModel]:
        """The model, and nobody else at it meanwhile; who came first has it first.

        Args:
            name: as `load_model` takes it.
            waiting: told the model and one's place in the line for it, where whoever has it is
                the first; raises to give up waiting.

        Raises:
            MIToolkitError: as `load_model` does.
        """
        ticket = object()
        with self._moved:
            held = self._held.setdefault(name, _Held())
            held.line.append(ticket)
        try:
            self._wait(name, held, ticket, waiting)
            if held.model is None:
                expected = self._size(name)
                self._make_room(expected)
                if expected:
                    self._check_fits(expected)
                held.model = self._load(name)
                held.n_bytes = model_bytes(held.model)
                self._make_room(0)
            yield held.model
        finally:
            with self._moved:
                held.last_used = time.monotonic()
                held.line.remove(ticket)
                if not held.line and held.model is None:
                    self._held.pop(name, None)
                self._moved.notify_all()

    def _wait(
        self, name: str, held: _Held, ticket: object, waiting: Callable[[str, int], None]
    ) -> None:
        while True:
            with self._moved:
                place = held.line.index(ticket)
                if place and not self._moved.wait_for(lambda: held.line[0] is ticket, PATIENCE):
                    place = held.line.index(ticket)
                else:
                    return
            waiting(name, place + 1)

    def pass_on(
        self, name: str, *, waiting: Callable[[str, int], None] = lambda name, place: None
    ) -> None:
        """Let those in line for a model have it first, each once; whoever has it calls this.

        Nothing of the caller's may hang on the model meanwhile.
        """
        with self._moved:
            held = self._held[name]
            if len(held.line) == 1:
                return
            ticket = held.line.pop(0)
            held.line.append(ticket)
            self._moved.notify_all()
        self._wait(name, held, ticket, waiting)

    def _make_room(self, needed: int) -> None:
        """Give up models that nobody has, the least recently used first, until `needed` fits."""
        with self._moved:
            idle = [name for name, each in self._held.items() if each.model and not each.line]
            idle.sort(key=lambda name: self._held[name].last_used)
            while idle and self._filled() + needed > self.limit:
                del self._held[idle.pop(0)]
                return_memory()

    def _check_fits(self, needed: int) -> None:
        filled = self._filled()
        if filled + needed > self.limit:
            raise ModelLoadError(
                f"The model takes {gigabytes(needed)}, and this server has "
                f"{gigabytes(self.limit)} for models, of which {gigabytes(filled)} are in use. "
                "Choose a smaller one, or come back later."
            )

    def _filled(self) -> int:
        return sum(each.n_bytes for each in self._held.values())
