"""`activation_patching`: TransformerLens' own, checked, with our names and results."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from mi_toolkit.activations.names import IN_EVERY_LAYER
from mi_toolkit.errors import UnsupportedModelError, unknown_name
from mi_toolkit.heads.direct_effect import output_weights
from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel, evaluating, pattern_hook, uncached
from mi_toolkit.hooked_pass import check_finite_figures, visit_activations
from mi_toolkit.interventions.patching.pairs import Pairs, Tokens
from mi_toolkit.interventions.patching.patching import Patching
from mi_toolkit.process_state import one_job
from mi_toolkit.prompts.tokens import Prompt
from mi_toolkit.transformer_lens_door import patched_metric

BY_POSITION: Mapping[str, str] = MappingProxyType(
    {"resid_pre": "resid_pre", "attn_out": "attn_out", "mlp_out": "mlp_out"}
)
BY_HEAD: Mapping[str, str] = MappingProxyType(
    {
        "z": "attn_head_out_all_pos",
        "q": "attn_head_q_all_pos",
        "k": "attn_head_k_all_pos",
        "v": "attn_head_v_all_pos",
        "pattern": "attn_head_pattern_all_pos",
    }
)
"""TransformerLens' functions by the short form of the activation that they put in."""


@one_job
def activation_patching(
    model: HookedModel,
    clean: Prompt,
    corrupted: Prompt,
    *,
    target: Tokens,
    other: Tokens | None = None,
    what: str = "resid_pre",
    progress: bool | None = None,
) -> Patching:
    """Put clean activations into the corrupted run, one at a time, and see what comes back.

    The metric is the logit of the target behind the prompt, less that of the other token; its mean
    over the pairs. It is TransformerLens' activation patching, one run for each layer and position
    or head. Where the corrupted prompts differ in more than what the answer hangs on, so do the
    activations: what comes back is the difference between these prompts, whatever it is.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        clean: prompts that the target is right for, as text or ids.
        corrupted: as many others of the same length, changed where the answer hangs.
        target: the token to read, as its id or exact text; one, or one for each pair.
        other: the token to set against it, such as the corrupted prompts' right answer.
        what: by position `resid_pre`, `attn_out`, `mlp_out`; by head, at all positions, `z`, `q`,
            `k`, `v`, `pattern`. Where keys and values are shared, `k` and `v` have their heads.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such activation to put in.
        PromptError: no pairs, different lengths, not one token, or prompts that do not differ.
        UnsupportedModelError: a layer has no such activation, or `pattern`, where the model does
            not go on with an edited one.
        HookError: the activation's hook did not fire.
        NotFiniteError: what the model computes is NaN or infinite.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> clean, corrupted = "Mary and John went to", "Mary and John went in"
        >>> found = mi.activation_patching(model, clean, corrupted, target=" the")
        >>> found.values.shape  # layer, position
        torch.Size([4, 6])
    """
    functions = {**BY_POSITION, **BY_HEAD}
    if what not in functions:
        raise unknown_name("activation to patch", what, functions)
    pairs = Pairs.of(model, clean, corrupted, target, other)
    full, none = pairs.both_metrics(model)
    if what == "pattern":
        _check_pattern_counts(model, pairs)
    names = [f"blocks.{l}.{IN_EVERY_LAYER[what]}" for l in range(int(model.cfg.n_layers))]
    check_every_layer(model, names, what)
    kept: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor) -> None:
        kept[name] = activation.clone()

    visit_activations(model, pairs.clean.ids, names, keep)
    ids = pairs.corrupted.ids.to(model.cfg.device)
    with evaluating(model), torch.no_grad():
        values = patched_metric(functions[what], model, ids, kept, pairs.metric, progress=progress)
    check_finite_figures(model, "The patched metrics", values)
    n_places = values.shape[1]
    place = "position" if what in BY_POSITION else "head"
    return Patching(
        values=values.float().cpu(),
        clean=full,
        corrupted=none,
        what=what,
        place="kv_head" if place == "head" and n_places < int(model.cfg.n_heads) else place,
        places=(
            pairs.positions(model) if place == "position" else tuple(map(str, range(n_places)))
        ),
        metric=pairs.in_words(model),
        provenance=provenance_of(
            model, {"clean": pairs.clean, "corrupted": pairs.corrupted}, seed=0
        ),
    )


def check_every_layer(model: HookedModel, names: Sequence[str], what: str) -> None:
    """Check that each layer has this activation, cut by heads where it belongs to heads.

    Raises:
        UnsupportedModelError: a layer has none, or TransformerLens cuts its values otherwise.
    """
    named = model.hook_dict
    without = [layer for layer, name in enumerate(names) if name not in named]
    if without:
        raise UnsupportedModelError(
            f"{what!r} of {model.cfg.model_name} cannot be patched: layers {without} have no "
            f"{names[without[0]]}. Patch 'resid_pre' (activation_patching)."
        )
    if what in ("z", "v") and output_weights(model, 0).shape[1] != model.cfg.d_head:
        raise UnsupportedModelError(
            f"{what!r} of {model.cfg.model_name} cannot be patched: its values have another width "
            "than its queries (multi-head latent attention), which TransformerLens cuts into "
            "other heads. Patch 'resid_pre' or 'attn_out', or ablate the heads."
        )


def _check_pattern_counts(model: HookedModel, pairs: Pairs) -> None:
    """Check that a pattern which a hook changes is the one that the model goes on with.

    Raises:
        UnsupportedModelError: it is not, as in bridges that run Hugging Face's own attention.
    """
    ids = pairs.corrupted.ids.to(model.cfg.device)
    with evaluating(model), torch.no_grad():
        whole = model(ids, **uncached(model))
        nothing = [(pattern_hook(0), lambda pattern, hook: pattern * 0)]
        with model.hooks(fwd_hooks=nothing), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A hook on .* returned a modified tensor")
            without = model(ids, **uncached(model))
    if torch.equal(whole, without):
        raise UnsupportedModelError(
            f"The attention pattern of {model.cfg.model_name} cannot be patched: its attention is "
            "Hugging Face's own code, which has used the pattern when its hook fires. Patch 'z' "
            "or 'v', or load a HookedTransformer (TransformerLens 3, backend='hooked')."
        )
