"""Record activations of some prompts in memory.

1. The names become hooks of this model, the prompts token ids, the positions a table.
2. Each batch runs once, up to the last hook that is asked for.
3. In each hook the chosen positions are copied into one tensor that was made for all prompts.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_toolkit.activations.activations import Activations
from mi_toolkit.activations.hooks import (
    DEFAULT_BATCH_SIZE,
    ChosenPositions,
    Positions,
    activation_names,
    choose_positions,
    kept_dtype,
    visit_rows,
)
from mi_toolkit.activations.names import Names, is_pattern
from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, tokenise


@one_job
def record(
    model: HookedModel,
    prompts: Prompt,
    names: Names,
    *,
    positions: Positions = None,
    dtype: str | torch.dtype = torch.float32,
    batch_size: int = DEFAULT_BATCH_SIZE,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
    progress: bool | None = None,
    allow_nan: bool = False,
) -> Activations:
    """The named activations on `prompts`, as tensors on the CPU.

    A batch's pass stops after the last activation asked for, and only the chosen positions
    are copied out of it: peak memory is the result, plus one pass over `batch_size` prompts.

    Prompts of different lengths are padded on the right, where no real token sees it. Padded
    positions of the result are 0, and `mask` says which they are. The size of a batch changes the
    last bits of a value, as it changes the order in which matrix products are summed.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        prompts: a string, several, or token ids (one sequence or a batch).
        names: short forms (`"resid_post"`, `("z", 5)`, `"pattern"`), globs
            (`"blocks.*.hook_mlp_out"`), hook names, or several of them. A short form without a
            layer stands for every layer's.
        positions: None for all; `"last"` or a number, negative from the end of each prompt, which
            drops the position axis; a slice; a list of numbers; or a list of numbers for each
            prompt. Of a pattern they choose the queries.
        dtype: what the values are kept in.
        batch_size: prompts to a pass.
        prepend_bos: put a BOS before each string; None: as the model was trained to read it.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        progress: a progress bar; None: where somebody looks and it takes long.
        allow_nan: take activations that are NaN or infinite as they are.

    Raises:
        UnknownNameError: a name stands for no hook of this model.
        HookError: a hook did not fire, or is switched off.
        NotFiniteError: an activation is NaN or infinite; the message names the first module.
        PromptError: the prompts cannot be fed, or have no such position.
        DtypeError: `dtype` cannot hold the values.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> mi.record(model, ["one two three", "one two"], ["resid_post", ("z", 0)])
        Activations of toy-gpt2: 2 prompts, 6 to 9 tokens, 0.05 MB
          blocks.*.hook_resid_post (all layers)  prompt 2, position 9, d_model 128        float32...
          blocks.0.attn.hook_z                   prompt 2, position 9, head 4, d_head 32  float32...
    """
    dtype = kept_dtype(dtype)
    if batch_size < 1:
        raise PromptError(f"batch_size is the number of prompts to a pass, not {batch_size}.")
    batch = tokenise(model, prompts, prepend_bos=prepend_bos, attention_mask=attention_mask)
    hooks = activation_names(model, names)
    chosen = choose_positions(positions, batch.lengths)
    tensors: dict[str, Tensor] = {}
    starts = range(0, len(batch), batch_size)
    for start in track(starts, total=len(starts), label="recording", unit="batch", show=progress):
        stop = min(start + batch_size, len(batch))
        part = chosen.part(start, stop)
        within, _, slot = part.cells()
        place = partial(_place, tensors, chosen, int(batch.lengths.max()), within + start, slot)
        visit_rows(model, batch.part(start, stop), hooks, part, dtype, place)
    return Activations(
        model=model.cfg.model_name,
        n_layers=int(model.cfg.n_layers),
        tensors={
            name: _without_slot(name, tensors[name]) if chosen.single else tensors[name]
            for name in hooks
        },
        batch=batch,
        chosen=chosen,
        texts=tuple(
            token_texts(model.tokenizer, batch.sequence(index).tolist())
            for index in range(len(batch))
        ),
    )


def _place(
    tensors: dict[str, Tensor],
    chosen: ChosenPositions,
    longest: int,
    prompt: Int[Tensor, " row"],
    slot: Int[Tensor, " row"],
    name: str,
    rows: Tensor,
) -> None:
    """Put a batch's rows of one activation into the tensor of all prompts."""
    n_prompts, n_slots = chosen.table.shape
    if is_pattern(name):
        _, n_heads, n_keys = rows.shape
        if name not in tensors:
            tensors[name] = rows.new_zeros(n_prompts, n_heads, n_slots, longest)
        tensors[name][prompt, :, slot, :n_keys] = rows
    else:
        if name not in tensors:
            tensors[name] = rows.new_zeros(n_prompts, n_slots, *rows.shape[1:])
        tensors[name][prompt, slot] = rows


def _without_slot(name: str, tensor: Tensor) -> Tensor:
    """One position was asked for: there is no axis of them."""
    return tensor.squeeze(2 if is_pattern(name) else 1)
