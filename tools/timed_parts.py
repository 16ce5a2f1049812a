"""Runs make's targets as parts of one run, and closes with a table: part, seconds, outcome.

Usage: `python tools/timed_parts.py environments format+lint+types tests`. Parts joined by `+` run
two at a time, and each shows its output when it ends. After a part that failed, no further group
begins. Needs nothing but Python: it is what makes the environments.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Part:
    """One target of make that ended."""

    name: str
    """The target."""

    seconds: float
    """How long it took, in seconds of the clock."""

    passed: bool
    """Whether make said so."""


def run_part(name: str, *, alone: bool) -> Part:
    """Make one target. `alone`: its output is shown as it comes, else all of it at the end."""
    begin = time.monotonic()
    make = os.environ.get("MAKE", "make")
    # What make tells its children of its own jobs would reach none of them through Python.
    environment = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
    done = subprocess.run(
        [make, "--no-print-directory", name],
        check=False,
        env=environment,
        stdout=None if alone else subprocess.PIPE,
        stderr=None if alone else subprocess.STDOUT,
    )
    if not alone:
        sys.stdout.buffer.write(done.stdout)
        sys.stdout.flush()
    return Part(name=name, seconds=time.monotonic() - begin, passed=done.returncode == 0)


def run_parts(groups: Sequence[Sequence[str]]) -> list[Part]:
    """Make the groups one after another, up to the first in which a part fails."""
    ended: list[Part] = []
    for group in groups:
        alone = len(group) == 1
        with ThreadPoolExecutor(AT_ONCE) as pool:
            ended += pool.map(lambda name, alone=alone: run_part(name, alone=alone), group)
        if not all(part.passed for part in ended):
            break
    return ended


def table(groups: Sequence[Sequence[str]], ended: Sequence[Part], seconds: float) -> str:
    """Each part's seconds and outcome, those that never began included, and the whole's."""
    width = max(len("part"), *(len(name) for group in groups for name in group))
    by_name = {part.name: part for part in ended}
    lines = [f"{'part':{width}}  seconds"]
    for name in (name for group in groups for name in group):
        part = by_name.get(name)
        if part is None:
            lines.append(f"{name:{width}}  {'-':>7}  not run")
        else:
            outcome = "" if part.passed else "  FAILED"
            lines.append(f"{name:{width}}  {part.seconds:7.0f}{outcome}")
    return "\n".join([*lines, f"{'all':{width}}  {seconds:7.0f}"])


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; the exit status is that of the whole."""
    groups = [argument.split("+") for argument in arguments]
    begin = time.monotonic()
    ended = run_parts(groups)
    print(f"\n{table(groups, ended, time.monotonic() - begin)}", flush=True)
    return 0 if all(part.passed for part in ended) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
