"""The same heads at several lengths, on random tokens given twice and on text.

1. For each length, sequences of exactly so many tokens behind a BOS: random tokens, the first half
   again as the second, and passages, joined where one is too short.
2. `classify_heads` on each; a finished report is written to `folder`, and read back next time.
3. One table, one picture: figures, chance and intervals by length, and which labels hold where.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mi_toolkit.comparison.sweep import LengthSweep, report_file
from mi_toolkit.comparison.texts import of_length
from mi_toolkit.errors import ComparisonError, ReportError
from mi_toolkit.heads.behaviours import chosen
from mi_toolkit.heads.classify import OWN_PROMPT, classify_heads
from mi_toolkit.heads.kinds import Behaviour
from mi_toolkit.heads.labels import DEFAULT_MIN_LIFT
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.models.describe import describe_model
from mi_toolkit.process_state import one_job
from mi_toolkit.progress import track
from mi_toolkit.prompts.bos import standard_beginning, text_beginning
from mi_toolkit.prompts.stimuli import passages, repeated_random
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.provenance import installed_versions

DEFAULT_LENGTHS = (32, 64, 128, 256)
SEQUENCES = 32


@one_job
def length_sweep(
    model: HookedModel,
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    *,
    text: str | Sequence[str] | None = None,
    behaviours: Sequence[str | Behaviour] | str | None = None,
    n_sequences: int = SEQUENCES,
    min_lift: float = DEFAULT_MIN_LIFT,
    batch_size: int | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> LengthSweep:
    """How the heads' figures and labels change with the length of what they read.

    A score falls with length where its targets drown among more keys; lift takes the chance of each
    length out, and what is left of a fall is the head's own. A label that holds at one length and
    on one stimulus alone is a statement about that length and stimulus.

    Every length has the same number of random sequences, but the longer the fewer of text
    (passages are never read twice), so intervals widen there; under eight sequences they rest on
    blocks of queries. Each figure is what `classify_heads` gives for the same ids.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        lengths: in tokens, the BOS not counted: of random tokens both copies together (an odd
            length is one token longer than they are).
        text: your own, in place of the bundled natural passages; it is cut and joined to length.
        behaviours: as `classify_heads` takes them; None for the standard ones that show on random
            tokens or plain text.
        n_sequences: sequences of each stimulus at each length, as far as the text goes.
        min_lift: the lower end of a lift's interval that earns a mask behaviour's label.
        batch_size: sequences to a forward pass; it changes figures by rounding only.
        seed: of the random tokens.
        folder: where each finished report is written. One that is there already, of the same
            model, tokens, protocol and versions, is read back, so an interrupted sweep goes on.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        ComparisonError: no length, one under 4, or one beyond the model's context.
        PromptError: too few tokens of text, or too few usable ids, for a length.
        UnknownNameError: no such behaviour.

    Example:
        >>> import mi_toolkit as mi
        >>> sweep = mi.length_sweep(mi.load_model("toy-gpt2"), [16, 32], n_sequences=8)
        >>> sweep.lengths, sweep.stimuli
        ((16, 32), ('repeated_random', 'natural'))
    """
    lengths = _checked(model, lengths)
    wanted = _behaviours(behaviours)
    texts = passages() if text is None else [text] if isinstance(text, str) else list(text)
    on_text = "natural" if text is None else OWN_PROMPT
    steps = [
        _Step(length, stimulus, shown)
        for length in lengths
        for stimulus in ("repeated_random", on_text)
        if (shown := [b for b in wanted if stimulus not in b.excluded_stimuli])
    ]
    facts = describe_model(model)
    reports: dict[tuple[str, int], HeadReport] = {}
    for step in track(
        steps, total=len(steps), label="sweeping lengths", unit="length", show=progress
    ):
        batch = _batch(model, step, texts, n_sequences=n_sequences, seed=seed)
        path = None if folder is None else Path(folder) / report_file(step.stimulus, step.length)
        fingerprint = {
            "model": (facts.name, facts.revision, facts.dtype, type(model).__name__),
            "behaviours": {b.name: b.facts for b in step.behaviours},
            "protocol": (min_lift, seed, batch.digest),
            "versions": installed_versions(),
        }
        report = None if path is None else _finished(path, fingerprint)
        if report is None:
            report = classify_heads(
                model,
                batch,
                behaviours=step.behaviours,
                min_lift=min_lift,
                batch_size=batch_size,
                seed=seed,
                progress=False,
            )
            if path is not None:
                report.save(path)
        reports[step.stimulus, step.length] = report
    sweep = LengthSweep(model=facts.name, lengths=lengths, reports=reports)
    if folder is not None:
        sweep.save_record(folder)
    return sweep


@dataclass(frozen=True)
class _Step:
    length: int
    stimulus: str
    behaviours: Sequence[Behaviour]


def _checked(model: HookedModel, lengths: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(set(lengths)))
    if not found or found[0] < 4:
        raise ComparisonError(f"Lengths are 4 tokens or more, not {list(lengths)}.")
    room = model.cfg.n_ctx - len(standard_beginning(model).ids)
    if found[-1] > room:
        raise ComparisonError(
            f"A length of {found[-1]} tokens does not fit the context of {model.cfg.model_name}: "
            f"{room} beside the BOS."
        )
    return found


def _behaviours(names: Sequence[str | Behaviour] | str | None) -> tuple[Behaviour, ...]:
    found = chosen(names)
    if names is None:
        found = tuple(b for b in found if b.home in ("repeated_random", "natural"))
    return found


def _batch(
    model: HookedModel, step: _Step, texts: Sequence[str], *, n_sequences: int, seed: int
) -> TokenBatch:
    if step.stimulus == "repeated_random":
        return repeated_random(model, n_tokens=step.length // 2, n_sequences=n_sequences, seed=seed)
    own = step.stimulus == OWN_PROMPT
    return of_length(
        model,
        texts,
        n_tokens=step.length,
        n_sequences=n_sequences,
        beginning=text_beginning(model) if own else standard_beginning(model),
    )


def _finished(path: Path, fingerprint: Mapping[str, object]) -> HeadReport | None:
    """The report at `path`, if it is of this very measurement."""
    if not path.is_file():
        return None
    try:
        report = HeadReport.load(path)
    except ReportError:
        return None
    made = report.provenance
    found = {
        "model": (made.model, made.revision, made.dtype, made.backend),
        "behaviours": dict(report.facts),
        "protocol": (report.min_lift, made.seed, made.prompts.get(OWN_PROMPT)),
        "versions": dict(made.versions),
    }
    return report if found == fingerprint else None
