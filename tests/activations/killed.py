"""Records TEXTS into folders and is stopped on the way: `python killed.py FOLDER WHEN COUNT ...`.

WHEN COUNT is `document 7`, killed when that document is asked for; `shard 2`, killed between that
shard's being put into its place and its entry in the manifest; or `bytes 100000`, with files no
longer than that. Each run is a child that this process, which has everything imported, forks; its
exit code is printed, and what it says goes to FOLDER.err.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import mi_toolkit as mi
from mi_toolkit.core.errors import StoreError
from mi_toolkit.core.resumable import Manifest

SAYS = "the cat sat on the mat, "
TEXTS = [f"Document {number} says {SAYS * (number % 5)}" for number in range(20)]
TEXTS[4] = ""
OPTIONS = {"names": ["resid_post", ("z", 0)], "batch_size": 2, "shard_size": 60, "max_length": 24}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def texts_until(last: int):
    for number, text in enumerate(TEXTS):
        if number == last:
            die()
        yield text


def main(folder: str, what: str, count: int) -> None:
    model = mi.load_model("toy-gpt2")
    texts = iter(TEXTS)
    if what == "document":
        texts = texts_until(count)
    if what == "shard":
        write = Manifest.write

        def write_or_die(manifest: Manifest, folder) -> None:
            if len(manifest.parts) == count:
                die()
            write(manifest, folder)

        Manifest.write = write_or_die
    if what == "bytes":
        sys.dont_write_bytecode = True  # Python would take half of a file for the whole
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
    try:
        mi.record_to_disk(model, texts, path=folder, **OPTIONS)
    except StoreError as error:
        sys.exit(str(error))


def exit_code(folder: str, what: str, count: int) -> int:
    """Of a child that records; negative for a signal, as subprocess has it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with Path(f"{folder}.err").open("w") as said:
        os.dup2(said.fileno(), sys.stderr.fileno())
        try:
            main(folder, what, count)
        except SystemExit as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    asked = sys.argv[1:]
    for folder, what, count in zip(asked[::3], asked[1::3], asked[2::3], strict=True):
        sys.stdout.write(f"{exit_code(folder, what, int(count))}\n")
        sys.stdout.flush()
