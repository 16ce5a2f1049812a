"""The table of behaviours, open to others: by a decorator, or by a package's entry point.

A name is looked up among the built-in behaviours, those registered in this process, those that an
installed distribution declares under the entry-point group `mi_toolkit.behaviours` (its entry
points are read when a name is looked up, and only the one asked for is imported), and the families
that make a behaviour from a number, such as `offset_3`. Two claims to one name are an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from mi_toolkit.core.errors import BehaviourError, UnknownNameError, unknown_name
from mi_toolkit.heads.kinds import Behaviour

ENTRY_POINT_GROUP = "mi_toolkit.behaviours"

RESERVED = ("local", "global", "undetermined", "unclassified", "not finite", "scope")
"""What a report calls scopes and heads without a label."""

Registered = TypeVar("Registered", bound=Behaviour)


class BehaviourTable(Mapping[str, Behaviour]):
    """Every behaviour by its name: built in, registered here, or declared by a distribution."""

    def __init__(
        self,
        built_in: Sequence[Behaviour],
        families: Mapping[str, Callable[[int], Behaviour]],
    ) -> None:
        self._built_in = {behaviour.name: behaviour for behaviour in built_in}
        self._families = dict(families)
        self._registered: dict[str, Behaviour] = {}

    def register(self, behaviour: Registered) -> Registered:
        """Put a behaviour into the table, for this process; it is returned.

        The same definition again (a notebook's cell run twice) takes the place of the first.

        Raises:
            BehaviourError: the name is taken, reserved, or no identifier.
        """
        name = behaviour.name
        suppressing = [b.facts.suppressing for b in self._built_in.values() if b.facts.suppressing]
        reserved = [*RESERVED, *suppressing]
        if not name.isidentifier() or name in reserved or self._of_family(name) is not None:
            raise BehaviourError(
                f"A behaviour cannot be called {name!r}: a name is made of letters, digits and "
                f"underscores, and not one of {', '.join(reserved)} or {self._family_names()}."
            )
        taken = self._built_in.get(name) or self._registered.get(name)
        if taken is not None and not _same_definition(taken, behaviour):
            raise BehaviourError(
                f"There is a behaviour called {name!r} already: {taken.meaning}. Choose another "
                f"name, or take that one out with BEHAVIOURS.unregister({name!r})."
                if name in self._registered
                else f"{name!r} is a built-in behaviour: {taken.meaning}. Choose another name."
            )
        self._registered[name] = behaviour
        return behaviour

    def unregister(self, name: str) -> None:
        """Take a registered behaviour out of the table. Reports made with it stay readable.

        Raises:
            UnknownNameError: none of that name has been registered in this process.
        """
        if name not in self._registered:
            raise unknown_name("registered behaviour", name, self._registered)
        del self._registered[name]

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is registered inside is gone after it."""
        before = dict(self._registered)
        try:
            yield
        finally:
            self._registered = before

    def resolve(self, name: str) -> Behaviour:
        """The behaviour called `name`.

        Raises:
            UnknownNameError: there is none.
            BehaviourError: several claim the name, or the one that does cannot be imported.
        """
        try:
            return self[name]
        except KeyError:
            raise self.unknown(name) from None

    def owner(self, label: str) -> str:
        """The behaviour that a label rests on: its own name, unless it is one of suppressing.

        Packages that declare behaviours are not imported for it.
        """
        here = (*self._built_in.values(), *self._registered.values())
        owners = [behaviour.name for behaviour in here if behaviour.facts.suppressing == label]
        return owners[0] if owners else label

    def unknown(self, name: str) -> UnknownNameError:
        """The error for a name that is not in the table."""
        return unknown_name("behaviour", name, [*self, self._family_names()])

    def __getitem__(self, name: str) -> Behaviour:
        own = self._built_in.get(name) or self._registered.get(name) or self._of_family(name)
        declared = [(entry, _loaded(entry)) for entry in _declared() if entry.name == name]
        claims = {id(behaviour): behaviour for _, behaviour in declared}
        if own is not None:
            claims[id(own)] = own
        if len(claims) > 1:
            claimants = [_distribution(entry) for entry, _ in declared]
            if own is not None:
                claimants.insert(
                    0, "mi_toolkit" if name not in self._registered else "this process"
                )
            raise BehaviourError(
                f"Several define a behaviour called {name!r}: {', '.join(claimants)}. Uninstall or "
                "rename all but one."
            )
        if not claims:
            raise KeyError(name)
        return next(iter(claims.values()))

    def __iter__(self) -> Iterator[str]:
        declared = [entry.name for entry in _declared()]
        yield from dict.fromkeys([*self._built_in, *self._registered, *declared])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"BehaviourTable({', '.join([*self, self._family_names()])})"

    def _of_family(self, name: str) -> Behaviour | None:
        family, _, number = name.rpartition("_")
        if family not in self._families or not number.isdecimal() or str(int(number)) != number:
            return None
        return self._families[family](int(number))

    def _family_names(self) -> str:
        return ", ".join(f"{family}_1, {family}_2, …" for family in self._families)


def _declared() -> Sequence[Any]:
    return _declared_on(tuple((folder, _changed(folder)) for folder in sys.path))


@lru_cache(maxsize=1)
def _declared_on(_folders: tuple[tuple[str, int], ...]) -> Sequence[Any]:
    """Read anew where a folder of packages changed: to read all of them takes longer than a pass.

    Entry points are of the class of importlib_metadata, the backport, where that is loaded.
    """
    return sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)


def _changed(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


def _distribution(entry: Any) -> str:
    return "an installed package" if entry.dist is None else str(entry.dist.name)


def _loaded(entry: Any) -> Behaviour:
    where = f"the entry point {entry.name} = {entry.value} of {_distribution(entry)}"
    try:
        behaviour = entry.load()
    except Exception as error:  # code of others: whatever it raises, its distribution is named
        raise BehaviourError(
            f"{where[0].upper()}{where[1:]} could not be imported: "
            f"{type(error).__name__}: {error}. Repair or uninstall that package."
        ) from error
    if not isinstance(behaviour, Behaviour):
        raise BehaviourError(
            f"{where[0].upper()}{where[1:]} gives no behaviour, but {type(behaviour).__name__}. It "
            "must name what mask_behaviour or distribution_behaviour returned."
        )
    if behaviour.name != entry.name:
        raise BehaviourError(
            f"{where[0].upper()}{where[1:]} gives a behaviour called {behaviour.name!r}: both "
            "names must be the same."
        )
    return behaviour


def _same_definition(one: Behaviour, other: Behaviour) -> bool:
    return one is other or (_source(one) is not None and _source(one) == _source(other))


def _source(behaviour: Behaviour) -> tuple[str, str] | None:
    """Where a behaviour's function was written; None for one that has no name."""
    function = next((v for v in vars(behaviour).values() if callable(v)), None)
    name = getattr(function, "__qualname__", "<lambda>")
    if "<" in name:
        return None
    return getattr(function, "__module__", ""), name
