"""Memory that is let go: by Python's collector, and by the C library's heap."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from mi_toolkit.core.memory import own_garbage

HOLES = """
import torch
from mi_toolkit.core.memory import give_back_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1]) >> 8  # pages of 4 KiB, in MiB

kept = [torch.ones(2**18) for _ in range(300)]
last = kept.pop()  # the heap ends with it, and cannot shrink from its end
full = resident()
del kept
freed = resident()
give_back_freed()
print(full - freed, full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, so Linux only")
def test_freed_tensors_go_back_to_the_system() -> None:
    # No tensor of 1 MiB is a mapping of its own, as after the first passes of a large model.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**25)}
    ran = subprocess.run(
        [sys.executable, "-c", HOLES], env=environment, capture_output=True, text=True, check=True
    )
    by_itself, after = map(int, ran.stdout.split())
    if not os.confstr("CS_GNU_LIBC_VERSION"):
        pytest.skip("not glibc: nothing to give back")
    assert by_itself < 100
    assert after > 250


class Node:
    def __init__(self) -> None:
        self.own = self


@pytest.fixture
def _collected_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gc.unfreeze()  # what commands that ran here have frozen
    with monkeypatch.context() as patched:  # what others left behind may complain as it goes
        patched.setattr(sys, "unraisablehook", lambda _: None)
        gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_collected_only_when_asked")
def test_what_was_made_inside_goes_and_what_was_there_before_is_not_searched() -> None:
    older = weakref.ref(Node())
    with own_garbage():
        newer = weakref.ref(Node())
        assert gc.get_freeze_count() > 0
    assert newer() is None
    assert older() is not None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert older() is None
