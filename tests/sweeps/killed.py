"""Sweeps that are stopped on the way: `python killed.py FOLDER WHEN COUNT ...`.

WHEN COUNT is `file 3`, killed as the third file is on the disk and has not yet its name; `bytes
100000`, with files no longer than that; `seconds 2`, killed then; or `none 0`. Each run is a child
that this process, which has everything imported, forks; its exit code is printed, and what it says
goes to FOLDER.err.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import mi_toolkit as mi
from mi_toolkit.core import io
from mi_toolkit.core.errors import SweepError
from mi_toolkit.sweeps.jobs import Job

JOBS = [
    Job(model="toy-gpt2", task="classify", arguments={"prompt": ["one two one two"] * n})
    for n in (1, 2, 5)
]
mi.load_model("toy-gpt2")  # once, with all that it imports


def main(folder: str, what: str, count: int) -> None:
    if what == "file":
        fsync, left = os.fsync, iter(range(count - 1, -1, -1))

        def fsync_or_die(handle: int) -> None:
            fsync(handle)
            if not next(left):
                os.kill(os.getpid(), signal.SIGKILL)

        io.os.fsync = fsync_or_die
    if what == "seconds":
        signal.setitimer(signal.ITIMER_REAL, count)  # whose default is to end the process
    if what == "bytes":
        sys.dont_write_bytecode = True  # Python would take half of a file for the whole
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
    mi.sweep(JOBS, folder, texts_per_part=2)


def exit_code(folder: str, what: str, count: float) -> int:
    """Of a child that sweeps; negative for a signal, as subprocess has it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with Path(f"{folder}.err").open("a") as said:
        os.dup2(said.fileno(), sys.stderr.fileno())
        try:
            main(folder, what, count)
        except SweepError as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    asked = sys.argv[1:]
    for folder, what, count in zip(asked[::3], asked[1::3], asked[2::3], strict=True):
        number = float(count) if what == "seconds" else int(count)
        sys.stdout.write(f"{exit_code(folder, what, number)}\n")
        sys.stdout.flush()
