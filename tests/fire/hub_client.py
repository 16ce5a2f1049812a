"""Loads models from a hub as a user's process does, and prints what came of each as JSON.

    python tests/fire/hub_client.py ID [ID …]

Each is loaded, healed, and loaded again.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from typing import Any

import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import MIToolkitError


def tried(name: str) -> dict[str, Any]:
    """The sum of the model's logits on four tokens, or the error."""
    try:
        model = mi.load_model(name, device="cpu")
    except MIToolkitError as error:
        return {"error": type(error).__name__, "message": str(error)}
    with torch.no_grad():
        return {"figure": float(model(torch.tensor([[1, 2, 3, 4]])).double().abs().sum())}


def main() -> None:
    """Try each id twice, with a hub that is mended between."""
    healer = os.environ["HEALER"]
    for name in sys.argv[1:]:
        begun = time.perf_counter()
        first = tried(name)
        seconds = time.perf_counter() - begun
        urllib.request.urlopen(f"{healer}/heal/{name}").read()
        found = {"name": name, "seconds": seconds, "first": first, "second": tried(name)}
        sys.stdout.write(f"{json.dumps(found)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
