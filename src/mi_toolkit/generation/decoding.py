"""Hugging Face's decoding, watched: sequences and scores, and what each step looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_toolkit.errors import UnsupportedModelError
from mi_toolkit.generation.beam_tree import Step
from mi_toolkit.generation.lens_model import lens_cache, lens_model
from mi_toolkit.generation.unhooked import unhooked_parts_plain
from mi_toolkit.hooked_model import HookedModel, evaluating, pattern_hook
from mi_toolkit.hooked_pass import check_finite_pass, continuing
from mi_toolkit.transformer_lens_door import cache_is_sound


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to decode."""

    max_new_tokens: int
    """Tokens to write at most."""

    num_beams: int
    """Beams that run side by side; 1 is greedy search."""

    length_penalty: float
    """The power of its length that a beam's log-probability is divided by."""

    early_stopping: bool
    """Whether to stop at `num_beams` sequences that ended, whatever could still come."""

    eos_ids: tuple[int, ...]
    """Tokens that end a sequence."""

    use_cache: bool
    """Whether keys and values of earlier positions are kept from step to step."""


def decode(
    model: HookedModel, ids: Int[Tensor, "1 position"], how: Decoding, *, n_choices: int
) -> tuple[Int[Tensor, "sequence token"], list[float] | None, list[Step]]:
    """New tokens of each sequence, the best first; their scores in beam search; and the steps.

    `n_choices` next tokens of each beam are recorded, more where the search needs them.

    Raises:
        UnsupportedModelError: Hugging Face cannot generate with the model.
        NotFiniteError: the model computes NaN or infinity, of which no token is the most probable.
    """
    from transformers import LogitsProcessorList

    ids = ids.to(model.cfg.device)
    # Beams change places; not every release of transformers moves a recurrent state with them.
    if (how.num_beams > 1 and _is_recurrent(model)) or not cache_is_sound(model):
        how = replace(how, use_cache=False)
    generating, further = _hugging_face_model(model, how)
    kept = max(n_choices, max(2, 1 + len(how.eos_ids)) * how.num_beams)
    with (
        evaluating(model),
        unhooked_parts_plain(model),
        _without_defaults(generating),
        continuing() as at_position,
    ):
        recorder = _recorder(model, ids.shape[1], kept, at_position if how.use_cache else None)
        found = generating.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=_configuration(how),
            logits_processor=LogitsProcessorList([recorder]),
            **further,
        )
    scores = getattr(found, "sequences_scores", None)
    sequences = found.sequences[:, ids.shape[1] :].cpu()
    return sequences, None if scores is None else scores.tolist(), recorder.steps


def _is_recurrent(model: HookedModel) -> bool:
    if getattr(model.cfg, "is_stateful", False):
        return True
    named = model.hook_dict
    return not any(pattern_hook(layer) in named for layer in range(model.cfg.n_layers))


def _hugging_face_model(model: HookedModel, how: Decoding) -> tuple[Any, dict[str, Any]]:
    wrapped = getattr(model, "original_model", None)
    if wrapped is None:
        cache = lens_cache(model, how.num_beams) if how.use_cache else None
        return lens_model(model), {} if cache is None else {"past_key_values": cache}
    if not (hasattr(wrapped, "can_generate") and wrapped.can_generate()):
        raise UnsupportedModelError(
            f"{model.cfg.model_name} wraps a {type(wrapped).__name__}, which Hugging Face cannot "
            "generate with."
        )
    return wrapped, {}


def _configuration(how: Decoding) -> Any:
    from transformers import GenerationConfig

    beams = {"length_penalty": how.length_penalty, "early_stopping": how.early_stopping}
    return GenerationConfig(
        max_new_tokens=how.max_new_tokens,
        num_beams=how.num_beams,
        num_return_sequences=how.num_beams,
        do_sample=False,
        eos_token_id=list(how.eos_ids) or None,
        # Behind a sequence's end only, where it is cut off again.
        pad_token_id=how.eos_ids[0] if how.eos_ids else 0,
        use_cache=how.use_cache,
        return_dict_in_generate=True,
        disable_compile=True,
        **(beams if how.num_beams > 1 else {}),
    )


@contextmanager
def _without_defaults(generating: Any) -> Iterator[None]:
    """Keep the model's own defaults (sampling, penalties) from filling in what is not asked for."""
    from transformers import GenerationConfig

    own = generating.generation_config
    generating.generation_config = GenerationConfig()
    try:
        yield
    finally:
        generating.generation_config = own


def _recorder(model: HookedModel, n_prompt: int, n_choices: int, at_position: Any) -> Any:
    from transformers import LogitsProcessor

    class Recorder(LogitsProcessor):
        """Looks at each step's scores and leaves them as they are."""

        def __init__(self) -> None:
            self.steps: list[Step] = []

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            # In beam search they are log-probabilities already, and this changes nothing.
            log_probs = scores.float().log_softmax(dim=-1)
            check_finite_pass(model, input_ids, log_probs)
            top = log_probs.topk(min(n_choices, log_probs.shape[-1]), dim=-1)
            self.steps.append(
                Step(
                    new_ids=input_ids[:, n_prompt:].cpu(),
                    top_ids=top.indices.cpu(),
                    top_log_probs=top.values.cpu(),
                )
            )
            if at_position is not None:
                at_position(input_ids.shape[1])
            return scores

    return Recorder()
