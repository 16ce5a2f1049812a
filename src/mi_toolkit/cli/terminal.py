"""The terminal: its width, emphasis, notes on what is going on, errors, and others kept quiet."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from cyclopts import CycloptsError

UNLIMITED = 10_000
"""Columns of a pipe or file for a table: one record is one line, as `grep` wants it."""

FOR_READING = 120
"""Columns of a pipe or file for a text that is read."""


def width(*, elsewhere: int = UNLIMITED) -> int:
    """Columns to fit text into: `COLUMNS` where it is set, a terminal's width, or `elsewhere`."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size().columns
    return elsewhere


def bold(text: str) -> str:
    """`text`, bold on a terminal that wants it (see no-color.org), as it is elsewhere."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"\x1b[1m{text}\x1b[0m"
    return text


def note(text: str) -> None:
    """Say something next to the results, on standard error."""
    print(f"mi-toolkit: {text}", file=sys.stderr)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say on standard error what is being done, and wipe it away; nothing unless a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    print(f"{what} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def third_parties_kept_off_stdout() -> Iterator[None]:
    """What a library prints goes to standard error: standard output holds our answer alone."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, what is imported and loaded is not searched for garbage; nor is it ever after.

    Python's collector would go through the hundred thousands of objects of torch, transformers and
    TransformerLens again and again while they come in: a seventh of the time that they take.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def prepare_process() -> None:
    """Set up this process, before anything heavy is imported.

    Third parties' warnings are for whoever writes code with them (`PYTHONWARNINGS=default` shows
    them), their progress bars for a terminal; mi_toolkit's own warnings are one line each.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show × or … gets a ?, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    own = logging.StreamHandler()
    own.setFormatter(logging.Formatter("mi-toolkit: %(message)s"))
    logging.getLogger("mi_toolkit").addHandler(own)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


class UsageError(CycloptsError):
    """Options that do not go together, or a value that cannot be meant; exit code 2.

    >>> str(UsageError(msg="--bos goes with a PROMPT."))
    '--bos goes with a PROMPT.'
    """
