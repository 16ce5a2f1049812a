"""No file of this process gets longer than so many bytes: a write ends in its middle, as on a full
disk.

Python takes half of what it compiled for the whole, and reads it again ever after: nothing is
compiled meanwhile.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def limit_files(n_bytes: int) -> None:
    """From now on."""
    sys.dont_write_bytecode = True
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))


@contextmanager
def no_file_over(n_bytes: int) -> Iterator[None]:
    """Inside."""
    limit, compiles = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    limit_files(n_bytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        sys.dont_write_bytecode = compiles
