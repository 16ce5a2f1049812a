"""The finished example that stands on the page before anybody has asked for anything.

Saved results: nothing is computed for it, and no model is loaded until somebody goes on from it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mi_toolkit.app.context import Analysis, analyse
from mi_toolkit.app.settings import Settings
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.models.load import load_model
from mi_toolkit.text.generate import generate
from mi_toolkit.text.generation import Generation
from mi_toolkit.text.pipeline import Pipeline

if TYPE_CHECKING:
    from mi_toolkit.core.model import HookedModel

FOLDER = Path(__file__).parent / "example"

MODEL = "toy-gpt2"
PROMPT = "When Mary and John went to the store, John gave a drink to"
NUM_BEAMS, NEW_TOKENS = 3, 8

REPORT, PIPELINE, GENERATION = "report.safetensors", "trace.safetensors", "generation.safetensors"
REST = "analysis.json"


def compute_example(model: HookedModel) -> tuple[Analysis, Generation]:
    """What pressing Analyze on the page as it opens would find."""
    found = analyse(
        model, MODEL, PROMPT, num_beams=NUM_BEAMS, max_new_tokens=NEW_TOKENS, settings=Settings()
    )
    written = generate(model, PROMPT, num_beams=NUM_BEAMS, max_new_tokens=NEW_TOKENS)
    return found, written


def save_example(folder: Path = FOLDER) -> None:
    """Compute the example, and write it."""
    found, written = compute_example(load_model(MODEL))
    folder.mkdir(parents=True, exist_ok=True)
    found.report.save(folder / REPORT)
    found.pipeline.save(folder / PIPELINE)
    written.save(folder / GENERATION)
    rest = {"facts": found.facts.record(), "n_bytes": found.n_bytes, "seconds": found.seconds}
    (folder / REST).write_text(json.dumps(rest, indent=1) + "\n", encoding="utf-8")


@cache
def load_example(folder: Path = FOLDER) -> tuple[Analysis, Generation]:
    """The example, as it was saved."""
    rest = json.loads((folder / REST).read_text(encoding="utf-8"))
    facts = {**rest["facts"], "windows": tuple(rest["facts"]["windows"])}
    analysis = Analysis(
        model=MODEL,
        prompt=PROMPT,
        num_beams=NUM_BEAMS,
        max_new_tokens=NEW_TOKENS,
        facts=ModelFacts(**facts),
        n_bytes=rest["n_bytes"],
        report=HeadReport.load(folder / REPORT),
        pipeline=Pipeline.load(folder / PIPELINE),
        seconds=rest["seconds"],
        typed=MODEL,
    )
    return analysis, Generation.load(folder / GENERATION)
