"""`generate`: greedy and beam search, and sampling, that keep hooks active.

1. Hugging Face's `generate` decodes: through a bridge as it is, through a `HookedTransformer` by
   `lens_model`, which has the methods that it calls and TransformerLens' cache.
2. A bridge computes attention step by step and asks hook points at every step, whether or not
   somebody listens. For a token at a time that takes longer than the arithmetic, so parts that
   nobody hooks run as Hugging Face wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import index
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from mi_toolkit.core.errors import GenerationError, UnsupportedModelError
from mi_toolkit.core.model import HookedModel, changes_of, evaluating, pattern_hook
from mi_toolkit.core.passes import check_finite_pass, continuing
from mi_toolkit.core.predictions import most_probable
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import check_wanted, working
from mi_toolkit.core.tl_compat import cache_is_sound, key_value_cache
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise_one
from mi_toolkit.models.describe import provenance_of
from mi_toolkit.text.generation import (
    BeamTree,
    GeneratedSequence,
    Generation,
    Sampling,
    Step,
    beam_tree,
    sampled_tree,
)


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

    sampling: Sampling | None
    """How tokens are drawn; None for a search."""


def decode(
    model: HookedModel,
    ids: Int[Tensor, "1 position"],
    how: Decoding,
    *,
    n_choices: int,
    progress: bool | None = None,
) -> tuple[Int[Tensor, "sequence token"], list[float] | None, list[Step]]:
    """New tokens of each sequence, the best first; their scores in beam search; and the steps.

    `n_choices` next tokens of each beam are recorded, more where the search needs them.

    Raises:
        UnsupportedModelError: Hugging Face cannot generate with the model.
        NotFiniteError: the model computes NaN or infinity, of which no token is the most probable.
    """
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
        _seeded(how.sampling, ids.device),
        working(
            total=how.max_new_tokens, label="Generating", unit="token", show=progress
        ) as written,
    ):

        def at_step(position: int) -> None:
            if how.use_cache:
                at_position(position)
            written()

        keep_all = how.sampling is not None
        recorder = _recorder(model, ids.shape[1], kept, at_step, keep_all=keep_all)
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
    beams = {"length_penalty": how.length_penalty, "early_stopping": how.early_stopping}
    drawn = how.sampling
    sampling: dict[str, Any] = {"num_beams": how.num_beams, "do_sample": False}
    if drawn is not None:
        sampling = {
            "num_beams": 1,
            "do_sample": True,
            "temperature": drawn.temperature,
            "top_k": drawn.top_k,
            "top_p": drawn.top_p,
        }
    return GenerationConfig(
        max_new_tokens=how.max_new_tokens,
        num_return_sequences=how.num_beams,
        eos_token_id=list(how.eos_ids) or None,
        # After a sequence's end only, where it is cut off again.
        pad_token_id=how.eos_ids[0] if how.eos_ids else 0,
        use_cache=how.use_cache,
        return_dict_in_generate=True,
        disable_compile=True,
        **sampling,
        **(beams if drawn is None and how.num_beams > 1 else {}),
    )


@contextmanager
def _seeded(sampling: Sampling | None, device: torch.device) -> Iterator[None]:
    """Hugging Face draws from torch's own generator: seeded for this, and left as it was."""
    if sampling is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(sampling.seed)
        yield


@contextmanager
def _without_defaults(generating: Any) -> Iterator[None]:
    """Keep the model's own defaults (sampling, penalties) from filling in what is not asked for."""
    own = generating.generation_config
    generating.generation_config = GenerationConfig()
    try:
        yield
    finally:
        generating.generation_config = own


def _recorder(
    model: HookedModel, n_prompt: int, n_choices: int, at_step: Any, *, keep_all: bool
) -> Any:
    class Recorder(LogitsProcessor):
        """Looks at each step's scores and leaves them as they are."""

        def __init__(self) -> None:
            self.steps: list[Step] = []

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            check_wanted()
            # In beam search they are log-probabilities already, and this changes nothing.
            log_probs = scores.float().log_softmax(dim=-1)
            check_finite_pass(model, input_ids, log_probs)
            top = most_probable(log_probs, min(n_choices, log_probs.shape[-1]))
            self.steps.append(
                Step(
                    new_ids=input_ids[:, n_prompt:].cpu(),
                    top_ids=top.cpu(),
                    top_log_probs=log_probs.gather(-1, top).cpu(),
                    log_probs=log_probs.cpu() if keep_all else None,
                )
            )
            at_step(input_ids.shape[1])
            return scores

    return Recorder()


@one_job
def generate(
    model: HookedModel,
    prompt: Prompt,
    *,
    max_new_tokens: int = 20,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    eos_ids: Sequence[int] | None = None,
    top_k: int = 5,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    use_cache: bool = True,
    sampling: Sampling | None = None,
    progress: bool | None = None,
) -> Generation:
    """What the model goes on with after a prompt: by greedy or beam search, or drawn.

    Hooks that are active stay active: inside `ablating(...)` it is the ablated model that writes.
    Sequences and scores are those of Hugging Face's `generate` without sampling, whose own code
    decodes. A model's own defaults for sampling and penalties play no part; its end-of-sequence
    tokens do.

    With the cache a hook sees the whole prompt once and then one position at a time. What it does
    must not depend on where in the sequence it is; `use_cache=False` runs every sequence whole at
    every step, and shows it all. Zero and mean ablation and `resample` from a reference are the
    same either way; `pattern_preserving`, which keeps the patterns of given ids, cannot generate.

    Args:
        model: the model; it comes back as it was.
        prompt: one text, or the ids of one sequence.
        max_new_tokens: tokens to write at most; prompt and these must fit the context.
        num_beams: sequences to follow side by side; 1 is greedy search. With `sampling`, how many
            are drawn.
        length_penalty: sequences are ordered by their log-probability over their length to this
            power. 0 prefers short ones; above 0, as the sum is negative, long ones gain.
        early_stopping: stop at `num_beams` sequences that ended. False goes on while a running
            beam's score stands above the worst of these.
        eos_ids: tokens that end a sequence; None for the model's own, `()` for none.
        top_k: alternatives to keep of each token.
        prepend_bos: put a BOS before a text. None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        use_cache: keep keys and values of earlier positions from step to step. It changes time,
            and figures by rounding only.
        sampling: draw tokens, by this temperature, top-k, top-p and seed; None searches.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        PromptError: not one prompt, an empty one, one beyond the context, or impossible ids.
        GenerationError: numbers that make no search, or more tokens than the context holds.
        UnsupportedModelError: Hugging Face cannot generate with the model.
        NotFiniteError: the model computes NaN or infinity, of which no token is the most probable.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.generate(model, "Mary and John went to", max_new_tokens=4).text
        ' the beach, John'
    """
    batch = tokenise_one(
        model, prompt, "generate", prepend_bos=prepend_bos, attention_mask=attention_mask
    )
    how = Decoding(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        length_penalty=float(length_penalty),
        early_stopping=early_stopping,
        eos_ids=_eos_ids(model) if eos_ids is None else _ids(eos_ids),
        use_cache=use_cache,
        sampling=sampling,
    )
    _check(model, batch, how, top_k)
    hooks = _hooked(model)
    found, scores, steps = decode(model, batch.ids, how, n_choices=top_k, progress=progress)
    every = [_until_end(ids, how.eos_ids) for ids in found]
    if sampling is None:
        tree = beam_tree(steps, num_beams=num_beams, eos_ids=how.eos_ids)
    else:
        tree = sampled_tree(steps, every, how.eos_ids)
    made = [
        _sequence(model, ids, score, tree, steps, how, top_k)
        for ids, score in zip_longest(every, scores or [])
    ]
    # A search gives the best first; what is drawn comes in no order.
    sequences = tuple(made if sampling is None else sorted(made, key=lambda each: -each.score))
    return Generation(
        prompt=prompt if isinstance(prompt, str) else _text(model, batch.ids[0]),
        prompt_ids=batch.ids[0],
        sequences=sequences,
        tree=tree,
        texts=_texts(model, [batch.ids, tree.ids, *(each.alternative_ids for each in sequences)]),
        hooks=hooks,
        changes=changes_of(model),
        provenance=provenance_of(model, {"prompt": batch}, seed=0),
        **vars(how),
    )


MOST_PENALTY = 10
"""A power of a length beyond it orders sequences by their length alone, or is no number."""


def _check(model: HookedModel, batch: TokenBatch, how: Decoding, top_k: int) -> None:
    """Check the numbers before anything runs.

    Raises:
        GenerationError: numbers that make no search, or more tokens than the context holds.
    """
    counts = {"max_new_tokens": how.max_new_tokens, "num_beams": how.num_beams, "top_k": top_k}
    for name, count in counts.items():
        if count < 1:
            raise GenerationError(f"{name}={count}: it must be 1 or more.")
    if not abs(how.length_penalty) <= MOST_PENALTY:
        raise GenerationError(
            f"length_penalty={how.length_penalty:g}: it is a power of a length, from "
            f"{-MOST_PENALTY} to {MOST_PENALTY}; 1 gives the mean log-probability."
        )
    if how.sampling is not None:
        if not isinstance(how.sampling, Sampling):
            raise GenerationError(
                f"sampling={how.sampling!r}: it takes mi.text.Sampling(temperature=0.8, seed=1), "
                "say."
            )
        _check_sampling(how.sampling)
    name, context, vocabulary = model.cfg.model_name, model.cfg.n_ctx, int(model.cfg.d_vocab)
    length = int(batch.lengths[0])
    if length + how.max_new_tokens > context:
        room = context - length
        raise GenerationError(
            f"max_new_tokens={how.max_new_tokens} after a prompt of {length} tokens is more than "
            f"the context of {name} holds, {context}: "
            + (f"ask for {room} at most." if room else "shorten the prompt.")
        )
    if top_k > vocabulary:
        raise GenerationError(f"top_k={top_k}: the vocabulary of {name} has {vocabulary} tokens.")
    most = vocabulary // max(2, 1 + len(how.eos_ids))
    if how.num_beams > most:
        raise GenerationError(
            f"num_beams={how.num_beams}: a vocabulary of {vocabulary} tokens feeds at most {most}."
        )
    for each in how.eos_ids:
        if not 0 <= each < vocabulary:
            raise GenerationError(f"eos_ids: {each} is no token of {name}, 0 to {vocabulary - 1}.")


def _check_sampling(sampling: Sampling) -> None:
    if not sampling.temperature > 0:
        raise GenerationError(
            f"temperature={sampling.temperature}: it must be above 0. Without sampling, the most "
            "probable token is taken."
        )
    if sampling.top_k < 0:
        raise GenerationError(f"top_k={sampling.top_k}: it must be 0, for all tokens, or more.")
    if not 0 < sampling.top_p <= 1:
        raise GenerationError(f"top_p={sampling.top_p}: it must be above 0, and 1 at most.")


def _ids(eos_ids: Any) -> tuple[int, ...]:
    """Ids as they were given.

    Raises:
        GenerationError: they are no numbers.
    """
    try:
        return tuple(index(each) for each in ([eos_ids] if isinstance(eos_ids, int) else eos_ids))
    except TypeError as error:
        raise GenerationError(
            f"eos_ids={eos_ids!r}: it takes token ids, as model.tokenizer.encode(…) gives them."
        ) from error


def _eos_ids(model: HookedModel) -> tuple[int, ...]:
    """The model's own end-of-sequence tokens: of its generation, else of its tokenizer."""
    configured = getattr(getattr(model, "original_model", None), "generation_config", None)
    found = getattr(configured, "eos_token_id", None)
    if found is None and model.tokenizer is not None:
        found = model.tokenizer.eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (int(found),)


def _hooked(model: HookedModel) -> tuple[str, ...]:
    """The hook points that have a caller's hook now, each under one name.

    Permanent hooks are left out: bridges of some families (OPT) have ones of their own.
    """
    points = {
        id(point): name
        for name, point in model.hook_dict.items()
        if not all(hook.is_permanent for hook in point.fwd_hooks)
    }
    return tuple(sorted(points.values()))


def _until_end(ids: Int[Tensor, " token"], eos_ids: Sequence[int]) -> list[int]:
    """The ids up to the first that ends the sequence; after it there is padding."""
    every = ids.tolist()
    ends = [index for index, each in enumerate(every) if each in eos_ids]
    return every[: ends[0] + 1] if ends else every


def _sequence(
    model: HookedModel,
    ids: list[int],
    score: float | None,
    tree: BeamTree,
    steps: Sequence[Step],
    how: Decoding,
    top_k: int,
) -> GeneratedSequence:
    leaf = tree.find(ids)
    log_probs = tree.log_probs[tree.path(leaf)]
    if score is None:
        score = float(log_probs.sum()) / len(ids) ** how.length_penalty
    looked = [(step, _row(step, ids[:index])) for index, step in enumerate(steps[: len(ids)])]
    return GeneratedSequence(
        ids=torch.tensor(ids),
        text=_text(model, torch.tensor(ids)),
        log_probs=log_probs,
        score=score,
        ended=bool(tree.ended[leaf]),
        leaf=leaf,
        alternative_ids=torch.stack([step.top_ids[row, :top_k] for step, row in looked]),
        alternative_log_probs=torch.stack(
            [step.top_log_probs[row, :top_k] for step, row in looked]
        ),
    )


def _row(step: Step, before: list[int]) -> int:
    """The row of a step that ran the beam of these tokens."""
    return step.new_ids.tolist().index(before)


def _text(model: HookedModel, ids: Int[Tensor, " token"]) -> str:
    """The text of ids without special tokens; the ids themselves where there is no tokenizer."""
    if model.tokenizer is None:
        return " ".join(map(str, ids.tolist()))
    text: str = model.tokenizer.decode(
        ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def _texts(model: HookedModel, ids: Sequence[Tensor]) -> dict[int, str]:
    """The text of every token among these, by id."""
    every = sorted({token for each in ids for token in each.flatten().tolist()})
    return dict(zip(every, token_texts(model.tokenizer, every), strict=True))


class LensCache:
    """TransformerLens' keys and values, with what beam search asks of a cache."""

    is_compileable = False

    def __init__(self, model: HookedModel, n_rows: int) -> None:
        self.kept = key_value_cache(model, n_rows)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many positions are kept."""
        return int(self.kept[0].past_keys.shape[1])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each beam the past of the beam that it goes on from."""
        for entry in self.kept.entries:
            entry.past_keys = entry.past_keys[beam_idx.to(entry.past_keys.device)]
            entry.past_values = entry.past_values[beam_idx.to(entry.past_values.device)]


def lens_cache(model: HookedModel, n_rows: int) -> LensCache:
    """An empty cache for as many rows."""
    return LensCache(model, n_rows)


def lens_model(model: HookedModel) -> Any:
    """`model` with the few methods that Hugging Face's decoding calls."""

    class LensModel(PreTrainedModel, GenerationMixin):
        """Runs `model`; it has no weights of its own."""

        @property
        def device(self) -> torch.device:
            return torch.device(model.cfg.device)

        @property
        def dtype(self) -> torch.dtype:
            dtype: torch.dtype = model.cfg.dtype
            return dtype

        def prepare_inputs_for_generation(
            self,
            input_ids: Any,
            next_sequence_length: Any = None,
            past_key_values: Any = None,
            attention_mask: Any = None,
            inputs_embeds: Any = None,
            is_first_iteration: Any = None,
            **kwargs: Any,
        ) -> Any:
            # One prompt has no padding, so every position counts, whatever the mask.
            start = 0 if past_key_values is None else past_key_values.get_seq_length()
            return {"input_ids": input_ids[:, start:], "past_key_values": past_key_values}

        def forward(self, input_ids: Any, past_key_values: Any, *, return_dict: bool) -> Any:
            logits = model(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                past_kv_cache=None if past_key_values is None else past_key_values.kept,
            )
            return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    return LensModel(PretrainedConfig.from_dict({"vocab_size": int(model.cfg.d_vocab)}))


@contextmanager
def unhooked_parts_plain(model: HookedModel) -> Iterator[None]:
    """Inside, modules without a hook anywhere in them run the code of the module that they wrap.

    A module that holds a hooked one stays as it is: what it computes may differ in its steps.
    """
    plain = [] if getattr(model, "compatibility_mode", False) else _plain(model)
    for module, wrapped in plain:
        vars(module)["forward"] = wrapped.forward
    try:
        yield
    finally:
        for module, _ in plain:
            del vars(module)["forward"]


def _plain(model: HookedModel) -> list[tuple[Any, Any]]:
    """The modules of the layers that nobody hooks, each with the module that it wraps."""
    found: list[tuple[Any, Any]] = []
    known: dict[int, bool] = {}
    blocks: Any = getattr(model, "blocks", ())
    for block in blocks:
        _gather(block, found, known)
    return found


def _gather(module: Any, found: list[tuple[Any, Any]], known: dict[int, bool]) -> bool:
    """Whether a hook is in the module or in any part of it; those without are put down."""
    if id(module) not in known:
        known[id(module)] = bool(getattr(module, "fwd_hooks", None))
        for part in module.children():
            known[id(module)] |= _gather(part, found, known)
        wrapped = getattr(module, "original_component", None)
        if wrapped is not None and not known[id(module)] and "forward" not in vars(module):
            found.append((module, wrapped))
    return known[id(module)]
