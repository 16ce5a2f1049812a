"""Records TEXTS into a folder and is killed on the way: `python killed.py FOLDER WHEN`.

WHEN is `document 7`, when that document is asked for, or `shard 2`, between that shard's being put
into its place and its entry in the manifest.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

import mi_toolkit as mi
from mi_toolkit.activations.errors import StoreError
from mi_toolkit.activations.store.manifest import Manifest

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
            if len(manifest.shards) == count:
                die()
            write(manifest, folder)

        Manifest.write = write_or_die
    if what == "bytes":
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
    try:
        mi.record_to_disk(model, texts, path=folder, **OPTIONS)
    except StoreError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
