"""What the bundled models were trained on the like of, by `tools/toys/corpus.py`; held out."""

from __future__ import annotations

from tests.conftest import ROOT

TOY_TEXT = (ROOT / "tests" / "data" / "toy_text.txt").read_text().splitlines()
