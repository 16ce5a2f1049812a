"""Write the passages that the bundled models are measured on: text of the kind that they know.

    python tools/toy_passages.py

Documents of `toys/corpus.py` that none of the models was trained on, a few to a line.
"""

from __future__ import annotations

import random
from pathlib import Path

from toys.corpus import ANSWER, documents

BUNDLED = Path(__file__).parent.parent / "src" / "mi_toolkit" / "models" / "bundled"
N_PASSAGES, LETTERS = 128, 340
TRAINED_ON = 40_000, 0
"""How many documents with which seed: `train_toys.py`'s own."""


def passages() -> list[str]:
    """Lines of about 100 tokens."""
    trained = set(documents(*TRAINED_ON))
    fresh = [each for each in documents(20_000, 77) if each not in trained]
    fresh = list(dict.fromkeys(each.replace(ANSWER, "") for each in fresh))
    random.Random(77).shuffle(fresh)
    found: list[str] = []
    for _ in range(N_PASSAGES):
        line = ""
        while len(line) < LETTERS:
            line = f"{line} {fresh.pop()}".strip()
        found.append(line)
    return found


if __name__ == "__main__":
    (BUNDLED / "passages.txt").write_text("\n".join(passages()) + "\n", encoding="utf-8")
