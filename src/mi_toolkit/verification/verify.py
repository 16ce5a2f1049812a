"""`verify_model`: whether a model loads whole, computes what it should, and makes sense."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from mi_toolkit.core.blocks_on_disk import require_in_memory
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import ModelLoadError, ModelTypeError, PromptError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.tables import table_of
from mi_toolkit.models.checkpoints import Loading, load_config, read_weights
from mi_toolkit.models.describe import describe_model, provenance_of
from mi_toolkit.models.gguf_cache import header_parsed_once
from mi_toolkit.models.load import dtype_named, load_model
from mi_toolkit.models.sources import find_source
from mi_toolkit.verification.check_input import (
    PROMPTS,
    CheckInput,
    Completion,
    Outcome,
    complete,
    not_applicable,
    text_for,
)
from mi_toolkit.verification.checks import CHECKS, left_over_in_gguf, weights_outcome

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


HEADER = ("check", "figure", "limit", "verdict", "what it is")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Verification(Result):
    """What was checked of a model, and whether it holds."""

    FORMAT: ClassVar[str] = "mi_toolkit verification 1"

    model: str
    """The model's name, as it was loaded."""

    outcomes: Mapping[str, Outcome]
    """The checks by name, in the order of `CHECKS`."""

    completions: tuple[Completion, ...]
    """What the model goes on with after three prompts; none where it did not load."""

    provenance: Provenance | None
    """Model, text and versions; None where it did not load."""

    @property
    def failed(self) -> tuple[str, ...]:
        """The checks that did not hold."""
        return tuple(name for name, each in self.outcomes.items() if each.verdict == "failed")

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def title(self) -> str:
        """The result in one line."""
        counts = {"passed": 0, "failed": 0, "not applicable": 0}
        for outcome in self.outcomes.values():
            counts[outcome.verdict] += 1
        counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        return f"Verification of {self.model}: {counted}"

    def cells(self) -> list[list[str]]:
        """The table in words, under `HEADER`."""
        return [
            [name, *_figures(outcome), outcome.verdict, outcome.sentence]
            for name, outcome in self.outcomes.items()
        ]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per check."""
        return (
            {"model": self.model, "check": name, "verdict": each.verdict, **asdict(each)}
            for name, each in self.outcomes.items()
        )

    def record(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold."""
        return {
            "model": self.model,
            "passed": self.passed,
            "checks": [
                {name: figure for name, figure in row.items() if name != "model"}
                for row in self.rows()
            ],
            "completions": [asdict(each) for each in self.completions],
            "provenance": None if self.provenance is None else asdict(self.provenance),
        }

    def text_table(self) -> TextTable:
        """The checks in words, and what the model says."""
        said = [["", "", "", f"{each.prompt!r} → {each.text!r}"] for each in self.completions]
        rows = [row[:4] for row in self.cells()]
        return TextTable(title=self.title(), header=HEADER[:4], rows=[*rows, *said])


def completion_table(found: Iterable[Verification]) -> DataFrame:
    """One row per model and prompt."""
    return table_of(
        {"model": each.model, **asdict(said)} for each in found for said in each.completions
    )


def _figures(outcome: Outcome) -> list[str]:
    if outcome.verdict == "not applicable":
        return ["", ""]
    sign = "≥" if outcome.at_least else "≤"
    return [f"{outcome.figure:.3g}", f"{sign} {outcome.limit:.3g}"]


@one_job
def verify_model(
    name: str | os.PathLike[str],
    *,
    model: HookedModel | None = None,
    backend: str = "auto",
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache: bool = True,
    max_new_tokens: int = 20,
    progress: bool | None = None,
) -> Verification:
    """Check a model against its checkpoint as transformers alone runs it, and let it speak.

    The checkpoint is read twice and held in memory twice. Weights that do not load whole end the
    checks: nothing else is then worth measuring.

    Args:
        name: as `load_model` takes it.
        model: the model of that name where it is loaded already; it is left as it was.
        backend: as `load_model` takes it, as are the next four.
        dtype: the precision; limits depend on it.
        device: where to run.
        revision: of the hub repo.
        trust_remote_code: let the repo's own Python code run.
        cache: whether the model may come from the cache of converted GGUF files, as `load_model`
            takes it. The checkpoint that it is set against is always read from the file itself.
        max_new_tokens: the length of each completion.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        ModelLoadError: the model does not load, for another reason than its weights.
        UnknownNameError: nothing is called so.
        ModelTypeError: a model in the place of its name.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.verify_model("toy-pythia")
        >>> found.passed, found.outcomes["positions_shifted"].verdict
        (True, 'passed')
    """
    if isinstance(name, nn.Module):
        raise ModelTypeError(
            "verify_model takes the name of a model, which it loads twice: verify_model('gpt2'), "
            "and verify_model('gpt2', model=model) where that model is in memory already."
        )
    if max_new_tokens < 1:
        raise PromptError(f"max_new_tokens={max_new_tokens}: it has to be 1 or more.")
    if model is not None:
        require_in_memory(model, "Verification")
    reference, loading = _reference(
        name,
        dtype=dtype if model is None else describe_model(model).dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    if model is None:
        try:
            model = load_model(
                name,
                backend=backend,
                device=device,
                dtype=dtype,
                revision=revision,
                trust_remote_code=trust_remote_code,
                cache=cache,
            )
        except ModelLoadError:
            if weights_outcome(loading).verdict == "passed":
                raise
            return _weights_alone(name, loading)
    return _checked(model, reference.to(model.cfg.device), loading, max_new_tokens, progress)


def _reference(
    name: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype,
    revision: str | None,
    trust_remote_code: bool,
) -> tuple[Any, Loading]:
    """The model as transformers alone reads it, and what became of the tensors."""
    source = find_source(name, revision=revision)
    with header_parsed_once(source):
        config = load_config(source, revision=revision, trust_remote_code=trust_remote_code)
        model, loading = read_weights(
            source,
            config,
            dtype=dtype_named(dtype),
            revision=revision,
            attn_implementation="eager",
            trust_remote_code=trust_remote_code,
        )
        if source.gguf_file is not None:
            more = left_over_in_gguf(Path(source.location) / source.gguf_file, model)
            loading = replace(loading, unused=loading.unused + more)
    return model.eval().requires_grad_(requires_grad=False), loading


def _checked(
    model: HookedModel,
    reference: Any,
    loading: Loading,
    max_new_tokens: int,
    progress: bool | None,
) -> Verification:
    facts = describe_model(model)
    prompts = () if model.tokenizer is None else PROMPTS
    subject = CheckInput(
        model=model,
        reference=reference,
        loading=loading,
        facts=facts,
        batch=text_for(model, facts),
        completions=tuple(complete(model, prompt, max_new_tokens) for prompt in prompts),
    )
    label = f"checking {facts.name}"
    named = track(CHECKS.items(), total=len(CHECKS), label=label, unit="check", show=progress)
    return Verification(
        model=facts.name,
        outcomes={check: run(subject) for check, run in named},
        completions=subject.completions,
        provenance=provenance_of(model, {"text": subject.batch}, seed=0),
    )


def _weights_alone(name: str | os.PathLike[str], loading: Loading) -> Verification:
    """The verdict on weights that make no model: nothing else can be measured."""
    skipped = not_applicable("Not run: the weights did not load whole.")
    return Verification(
        model=find_source(name).name,
        outcomes=dict.fromkeys(CHECKS, skipped) | {"weights": weights_outcome(loading)},
        completions=(),
        provenance=None,
    )
