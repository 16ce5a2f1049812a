"""What can become of a file: bytes that flip, ends that are lost, fields that change places."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st

from mi_toolkit.core.errors import MIToolkitError

Damage = Callable[[bytes], bytes]

LONGEST = 700
"""Letters of a refusal, paths included."""

RUNS_CODE = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
"""Events of Python's audit that a file must not cause."""

_seen: list[str] = []
_watching = [False]


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching[0] and event in RUNS_CODE:
        _seen.append(event)


sys.addaudithook(_note)


@contextmanager
def no_code_runs() -> Iterator[None]:
    _seen.clear()
    _watching[0] = True
    try:
        yield
    finally:
        _watching[0] = False
    assert not _seen


def refusal_or(read: Callable[[], Any]) -> Any:
    """What is read; None where it is refused, in one line and by an error of the library."""
    try:
        with no_code_runs():
            return read()
    except MIToolkitError as error:
        told = str(error)
    assert "\n" not in told, told
    assert 0 < len(told) < LONGEST, told
    return None


def _place(content: bytes, where: float) -> int:
    return min(int(where * len(content)), len(content) - 1)


def flipped(content: bytes, places: list[tuple[float, int]]) -> bytes:
    found = bytearray(content)
    for where, mask in places:
        if found:
            found[_place(content, where)] ^= mask
    return bytes(found)


def swapped(content: bytes, one: float, other: float, n: int) -> bytes:
    """Two runs of `n` bytes in each other's place."""
    first, second = sorted((_place(content, one), _place(content, other))) if content else (0, 0)
    if second - first < n or second + n > len(content):
        return content[n:]
    parts = content[:first], content[first : first + n], content[first + n : second]
    return (
        b"".join([parts[0], content[second : second + n], parts[2], parts[1]])
        + (content[second + n :])
    )


share = st.floats(0, 1, exclude_max=True)
masks = st.integers(1, 255)
# A third of the flips are in the first bytes, where headers are.
places = st.tuples(st.one_of(share, share.map(lambda at: at**6)), masks)


@st.composite
def byte_damage(draw: st.DrawFn) -> tuple[str, Damage]:
    """Damage to bytes that nobody meant, and what it is called."""
    kind = draw(st.sampled_from(["flip", "flips", "cut", "zeros", "swap", "more", "nothing left"]))
    if kind in ("flip", "flips"):
        at = draw(st.lists(places, min_size=1, max_size=1 if kind == "flip" else 20))
        return f"{kind} {at}", lambda content: flipped(content, at)
    if kind == "cut":
        kept = draw(share)
        return f"cut {kept}", lambda content: content[: int(kept * len(content))]
    if kind == "zeros":
        start, n = draw(share), draw(st.integers(1, 4096))

        def zeroed(content: bytes) -> bytes:
            at = int(start * len(content))
            return content[:at] + bytes(min(n, len(content) - at)) + content[at + n :]

        return f"zeros {start} {n}", zeroed
    if kind == "swap":
        one, other, n = draw(share), draw(share), draw(st.integers(1, 64))
        return f"swap {one} {other} {n}", lambda content: swapped(content, one, other, n)
    if kind == "more":
        further = draw(st.binary(min_size=1, max_size=64))
        return f"more {further!r}", lambda content: content + further
    return kind, lambda content: b""


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.just("../../../../etc/passwd"),
)


@st.composite
def field_damage(draw: st.DrawFn) -> tuple[str, Callable[[Any], Any]]:
    """A change of plain values that is still JSON: two change places, one goes, one is odd."""
    kind = draw(st.sampled_from(["swap", "drop", "odd", "rename"]))
    one, other, odd = draw(share), draw(share), draw(ODD)

    def changed(record: Any) -> Any:
        record = json.loads(json.dumps(record))
        holders = [*_holders(record)]
        if not holders:
            return odd
        holder, key = holders[int(one * len(holders))]
        if kind == "swap":
            there, at = holders[int(other * len(holders))]
            holder[key], there[at] = there[at], holder[key]
        elif kind == "drop":
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        else:
            holder[key] = odd
        return record

    return f"{kind} {one} {other} {odd!r}", changed


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each place of a plain value: what holds it, and its key or index there."""
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    for key in list(keys):
        yield value, key
        yield from _holders(value[key])


def json_changed(change: Callable[[Any], Any]) -> Damage:
    def damage(content: bytes) -> bytes:
        return json.dumps(change(json.loads(content))).encode()

    return damage
