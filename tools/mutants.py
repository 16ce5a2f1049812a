"""Breaks the pure code, one small change at a time (mutmut), and counts what its tests notice.

Usage: `python tools/mutants.py [DIGITS]`. Without digits every mutant runs; with `37` those whose
number ends in 3 or 7, a fifth of them. Prints the share that is killed and every survivor that
`tests/fire/survivors.toml` gives no reason for; ends with an error where there is one, or where
fewer than `LEAST` are killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
REASONS = ROOT / "tests" / "fire" / "survivors.toml"
MUTMUT = str(Path(sys.executable).with_name("mutmut"))
LEAST = 0.9
KILLED = (1, 3)
TIMED_OUT = (36, -24, 24, 152, 255)
NO_TESTS = 33


@dataclass(frozen=True, order=True)
class Survivor:
    """A mutant that no test notices."""

    file: str
    """Where it is, from the root of the repository."""

    function: str
    """Its function, after its class where it is a method."""

    was: str
    """The lines that were changed, without their indentation."""

    became: str
    """What they were changed to."""


def main(arguments: list[str]) -> int:
    """Run the mutants, and print what became of them."""
    began = time.monotonic()
    digits = arguments[0] if arguments else ""
    shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    wanted = [f"*__mutmut_*[{digits}]"] if digits else []
    command = [MUTMUT, "run", "--max-children", "2", *wanted]
    single = {**os.environ, "OMP_NUM_THREADS": "1"}  # a process with threads cannot be forked
    done = subprocess.run(command, cwd=ROOT, env=single, capture_output=True, text=True)
    verdicts = read_verdicts(digits)
    if done.returncode or not verdicts:
        print(done.stdout[-3000:] + done.stderr[-3000:])
        return 1
    counted = Counter(told(code) for code in verdicts.values())
    share = counted["killed"] / len(verdicts)
    alive = sorted({survivor(name) for name, code in verdicts.items() if told(code) != "killed"})
    new = [each for each in alive if reason(each) is None]
    for each in new:
        print(f"{each.file}: {each.function}\n  - {each.was}\n  + {each.became}")
    minutes = (time.monotonic() - began) / 60
    print(
        f"{len(verdicts):,} mutants, {counted['killed']:,} killed ({share:.1%}), "
        f"{len(verdicts) - counted['killed']:,} survive, {len(new)} of them without a reason; "
        f"{minutes:.1f} minutes"
    )
    return 1 if new or share < LEAST else 0


def told(code: int | None) -> str:
    """What an exit code of mutmut's says: killed, or not."""
    return "killed" if code in KILLED or code in TIMED_OUT else "survived"


def read_verdicts(digits: str = "") -> dict[str, int | None]:
    """The exit code of each mutant that ran, by name."""
    ends = re.compile(rf"__mutmut_\d*[{digits}]$" if digits else r"__mutmut_\d+$")
    return {
        name: code
        for path in sorted((ROOT / "mutants" / "src").rglob("*.meta"))
        for name, code in json.loads(path.read_text())["exit_code_by_key"].items()
        if ends.search(name)
    }


def survivor(name: str) -> Survivor:
    """The mutant of a name, by what was changed."""
    shown = subprocess.run(
        [MUTMUT, "show", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    # The headers of the difference have three signs.
    was = [line[1:].strip() for line in shown if re.match(r"-(?!--)", line)]
    became = [line[1:].strip() for line in shown if re.match(r"\+(?!\+\+)", line)]
    module, _, mangled = name.rpartition("__mutmut_")[0].rpartition(".")
    function = mangled.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
    file = f"src/{module.replace('.', '/')}.py"
    return Survivor(file, function, " ".join(was), " ".join(became))


def read_reasons() -> dict[Survivor, str]:
    """Why each known survivor may live."""
    listed = tomllib.loads(REASONS.read_text(encoding="utf-8"))["survivor"]
    fields = ("file", "function", "was", "became")
    return {Survivor(*(each[name] for name in fields)): each["reason"] for each in listed}


def read_kinds() -> list[tuple[re.Pattern[str], re.Pattern[str], str]]:
    """Kinds of changes that make no difference: what was and became, and why."""
    listed = tomllib.loads(REASONS.read_text(encoding="utf-8"))["kind"]
    return [
        (re.compile(each["was"]), re.compile(each["became"]), each["reason"]) for each in listed
    ]


def reason(mutant: Survivor) -> str | None:
    """Why a mutant may live; None without one."""
    for was, became, why in read_kinds():
        if was.search(mutant.was) and became.search(mutant.became):
            return why
    return read_reasons().get(mutant)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
