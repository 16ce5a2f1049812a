"""Lists the licence of every package that the library and its extras install.

Usage: `python tools/licences.py`. Ends with an error where one is unknown, or is none that the
library may build on: permissive ones, and the MPL, whose copyleft ends at its own files, which are
used unchanged.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

RUNTIME_EXTRAS = ("app", "families", "gguf", "peft", "ray")
"""The extras that users install."""

ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python"),
    *("HPND", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib"),
}

WRITTEN = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""How packages write it that give no SPDX expression."""


def required(root: str = "mi-toolkit", extras: Collection[str] = RUNTIME_EXTRAS) -> set[str]:
    """All that is installed with a package and those of its extras, without itself."""
    seen: dict[str, set[str]] = {}
    todo = [(canonicalize_name(root), set(extras))]
    while todo:
        name, wanted = todo.pop()
        if name in seen and wanted <= seen[name]:
            continue
        seen[name] = seen.get(name, set()) | wanted
        for requirement in map(Requirement, distribution(name).requires or ()):
            marker, extras_here = requirement.marker, {"", *seen[name]}
            if marker is None or any(marker.evaluate({"extra": each}) for each in extras_here):
                todo.append((canonicalize_name(requirement.name), set(requirement.extras)))
    return set(seen) - {canonicalize_name(root)}


def licence_of(package: Distribution) -> str:
    """Its licence as an SPDX expression; empty where it gives none that is known."""
    told = {
        field: [str(each) for each in package.metadata.get_all(field) or ()]
        for field in ("License-Expression", "License", "Classifier")
    }
    if told["License-Expression"]:
        return told["License-Expression"][0]
    of_classifiers = [
        each.rpartition(" :: ")[2] for each in told["Classifier"] if each.startswith("License ::")
    ]
    for written in [*told["License"], *of_classifiers]:
        named = WRITTEN.get(written.strip(), written.strip())
        if is_known(named):
            return named
    return ""


def is_known(licence: str) -> bool:
    """Whether it is an expression of licences by their SPDX names."""
    return bool(licence) and all(re.fullmatch(r"[\w.+-]+", each) for each in _names(licence))


def is_allowed(licence: str) -> bool:
    """Whether an SPDX expression can be met by licences that the library may build on.

    >>> is_allowed("MPL-2.0 AND (Apache-2.0 OR GPL-3.0-only)"), is_allowed("MIT AND GPL-3.0-only")
    (True, False)
    """
    alternatives = _alternatives(re.findall(r"[()]|[^\s()]+", licence))
    return any(names and names <= ALLOWED for names in alternatives)


def _names(licence: str) -> list[str]:
    return [part for part in re.split(r"\s+(?:AND|OR|WITH)\s+|[()\s]+", licence) if part]


def _alternatives(words: list[str]) -> list[set[str]]:
    """The sets of licences, each of which meets the expression; its words are used up."""
    met: list[set[str]] = []
    every: list[set[str]] = [set()]
    while words:
        word = words.pop(0)
        if word == ")":
            break
        if word == "OR":
            met, every = [*met, *every], [set()]
        elif word == "WITH":
            words.pop(0)  # an exception grants more
        elif word != "AND":
            own = _alternatives(words) if word == "(" else [{word}]
            every = [names | more for names in every for more in own]
    return [*met, *every]


def refused() -> dict[str, str]:
    """Packages whose licence is unknown or not allowed, and what it is."""
    licences = {name: licence_of(distribution(name)) for name in required()}
    return {name: licence for name, licence in licences.items() if not is_allowed(licence)}


def main() -> int:
    """Print the table, and what is refused."""
    names = sorted(required())
    width = max(map(len, names))
    for name in names:
        package = distribution(name)
        print(f"{name:{width}}  {package.version:14}  {licence_of(package) or 'unknown'}")
    wrong = refused()
    print(f"{len(names)} packages, {len(wrong)} refused" + "".join(f": {each}" for each in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
