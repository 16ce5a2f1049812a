"""The hooks of a model that can be recorded, and the names that stand for them."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_toolkit.activations.names import (
    Names,
    is_glob,
    is_pattern,
    resolve,
    several,
)
from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.hooked_pass import activations_that_fire

SWITCHES = {
    "hook_result": "use_attn_result",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Hooks that fire only where a switch of the model's config is on."""


def activation_names(model: HookedModel, names: Names) -> tuple[str, ...]:
    """The hooks of `model` that `names` stand for, each once.

    A glob stands for those that fire with one value per token: a bridge also has hooks that never
    do. What is named itself is taken at its word, and is an error if it does not fire.

    Raises:
        UnknownNameError: a name stands for nothing.
        HookError: a hook is switched off, or nothing that a glob matches fires.
    """
    owner, n_layers = model.cfg.model_name, int(model.cfg.n_layers)
    known = list(model.hook_dict)
    found: dict[str, None] = {}
    for name in several(names):
        hooks = resolve(name, known, n_layers, owner)
        if is_glob(name):
            hooks = _per_token(model, [hook for hook in hooks if not _switched_off(model, hook)])
            if not hooks:
                raise HookError(f"Of the hooks of {owner} that {name!r} matches, none fires.")
        found |= dict.fromkeys(hooks)
    for hook in found:
        switch = _switched_off(model, hook)
        if switch:
            raise HookError(
                f"{hook} of {owner} is switched off: call model.set_{switch}(True) first."
            )
    return tuple(found)


def _switched_off(model: HookedModel, hook: str) -> str | None:
    switch = SWITCHES.get(hook.rpartition(".")[2])
    return switch if switch and not getattr(model.cfg, switch, False) else None


def _per_token(model: HookedModel, hooks: list[str]) -> tuple[str, ...]:
    """Those of `hooks` that fire with a value per token (or per query and key)."""
    n_sequences, length = 2, 3
    ids = torch.zeros(n_sequences, length, dtype=torch.long)
    fired = activations_that_fire(model, ids, hooks)
    return tuple(
        hook
        for hook in hooks
        if hook in fired
        and fits(hook, tuple(fired[hook].shape), n_sequences, length)
        and not (hook.endswith("hook_attn_scores") and after_softmax(fired[hook]))
    )


def fits(hook: str, shape: tuple[int, ...], n_sequences: int, length: int) -> bool:
    """Whether an activation of this shape has a value per token, or per query and key.

    What is the same of every sequence (a position embedding) may come once.
    """
    if len(shape) < 3 or shape[0] not in (1, n_sequences):
        return False
    if is_pattern(hook):
        return len(shape) == 4 and shape[2:] == (length, length)
    return shape[1] == length


def after_softmax(scores: Tensor) -> bool:
    """Whether attention scores are none: bridges of GPT-Neo and OPT fire the pattern there."""
    sums = scores.sum(dim=-1)
    return not (scores < 0).any() and torch.allclose(sums, torch.ones_like(sums), atol=1e-2)
