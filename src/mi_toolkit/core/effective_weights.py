"""Whether a module's `weight` is what the module applies, found out by applying it.

1. A plain `Linear`, `Conv1D` or `Embedding` of torch or transformers, with nothing hooked on, does
   what its weight says.
2. Any other module is applied to a few probe vectors and compared with its weight as read. An
   adapter, a forward hook that adds something, a weight that is packed or scaled: all show there.
3. A parametrised weight (`torch.nn.utils.parametrize`) is computed when it is read, so it can be
   read, but no single entry of it can be scored or written.
4. Where the weight is not what the module applies, but the module is a matrix all the same (an
   adapter, a quantised layer), the matrix is what it makes of the identity: that is read instead.

What reads weights asks here first. Where there is no such matrix, and where single weights are
scored or written, the answer is an error with the way out.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from mi_toolkit.core.blocks_on_disk import bring
from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import plain_module

Layout = Literal["in_out", "out_in"]

ONLY_WATCHES = "_mi_toolkit_only_watches"
"""An attribute of hooks of our own that change nothing: no probe needs to be run past them."""

_PROBES = 3
_UNITS = {torch.float64: 64, torch.float32: 32}
"""Rounding allowed, in units of the dtype's epsilon. Half precision: 2, as sums are in float32."""

_MERGE = (
    "Merge it into the weights: `model.merge_and_unload()` of peft, or load_model on the "
    "PeftModel or the adapter's folder, which merges."
)
_UNPARAMETRISE = (
    "Make it a plain weight: torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')."
)
_UNNORM = "Make it a plain weight: torch.nn.utils.remove_weight_norm(module)."
_DEQUANTISE = (
    "Load the model without quantisation, or dequantise it (`hf_model.dequantize()`), to read its "
    "weights; logits, patterns and ablations need neither."
)
_FOLD = "Put what it adds into the weight itself, or take the hook or wrapper off."


def module_at(model: Any, place: str) -> Any:
    """The module at TransformerLens' path `blocks.3.attn.o`; None where there is none.

    Its weights are in memory, until those of another block are asked for.
    """
    found, names = model, place.split(".")
    if names[0] == "blocks":
        bring(model, int(names[1]))
    for name in names:
        children = dict(found.named_children())
        found = children[name] if name in children else getattr(found, name, None)
        if found is None:
            return None
    return plain_module(found)


def effective_matrix(model: Any, place: str, width: int) -> Float[Tensor, "in out"] | None:
    """The matrix that the module at `place` applies, where its weight is not that; else None.

    Args:
        model: a hooked model of either kind.
        place: TransformerLens' path of a linear module or of an embedding: `blocks.3.attn.o`.
        width: of its input; of an embedding, how many rows it has.

    Raises:
        UnsupportedModelError: it applies no matrix, with what it is and the way out.
    """
    if not hasattr(model, "original_model"):
        if getattr(model.cfg, "load_in_4bit", False):
            raise _refusal(model, place, "packed in 4 bits", _DEQUANTISE)
        return None  # a HookedTransformer applies its parameters themselves
    module = module_at(model, place)
    reason = None if module is None else reading_obstacle(module) or _guessed(module)
    if reason is None:
        return None
    device = next((each.device for each in module.parameters()), torch.device(model.cfg.device))
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        if place == "embed":
            return module(torch.arange(width, device=device)[None])[0]  # type: ignore[no-any-return]
        found = _of_identity(module, width, device)
    if found is None:
        raise _refusal(model, place, *reason)
    return found


def _of_identity(module: Any, width: int, device: torch.device) -> Tensor | None:
    """What a module makes of the identity, less what it makes of nothing; None of no matrix."""
    dtypes = (each.dtype for each in module.parameters() if each.is_floating_point())
    identity = torch.eye(width, dtype=next(dtypes, torch.float32), device=device)
    try:
        nothing = module(torch.zeros_like(identity[:1]))
        matrix: Tensor = module(identity) - nothing
    except (RuntimeError, TypeError):  # another width, or more arguments than a vector
        return None
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(_PROBES, width, generator=generator).to(identity)
    wanted = probes.float() @ matrix.float() + nothing.float()
    found = module(probes).float()
    # Entries that were rounded once each, summed over the width.
    bound = 2 * torch.finfo(matrix.dtype).eps * matrix.float().norm(dim=0).max() * width**0.5
    return matrix if bool((found - wanted).abs().max() <= bound) else None


def require_readable(model: Any, place: str) -> None:
    """Check that the weight at a place is what the model applies.

    Raises:
        UnsupportedModelError: it is not, with its module, what it is, and the way out.
    """
    module = module_at(model, place) if hasattr(model, "original_model") else None
    reason = None if module is None else reading_obstacle(module) or _guessed(module)
    if reason is not None:
        raise _refusal(model, place, *reason)


def _guessed(module: Any) -> tuple[str, str] | None:
    """TransformerLens takes the layout of an unknown class from the shape of its weight."""
    weight = module.weight
    square = weight.ndim == 2 and weight.shape[0] == weight.shape[1]
    if not square or isinstance(module, nn.Linear | nn.Embedding) or _is_conv1d(module):
        return None
    return f"a {type(module).__name__}, of a layout that its square weight does not show", _FOLD


def require_plain(model: Any, place: str, module: Any) -> Layout | None:
    """Check that a module's weight can be scored and written: a parameter, applied as it is.

    Returns the layout of a matrix `[in, out]` or `[out, in]`, None of a vector.

    Raises:
        UnsupportedModelError: it cannot, with what it is and the way out.
    """
    reason = reading_obstacle(module)
    if reason is None and parametrize.is_parametrized(module, "weight"):
        reason = ("a weight that is computed from others (torch's parametrize)", _UNPARAMETRISE)
    if reason is None and not isinstance(module._parameters.get("weight"), nn.Parameter):
        reason = ("a weight that is no parameter", _FOLD)
    if reason is not None:
        raise _refusal(model, place, *reason)
    return layout(module)


def is_without_weight(module: Any) -> bool:
    """Whether there is nothing to read: no module, or one without parameters and buffers."""
    if module is None:
        return True
    return not callable(getattr(module, "weight", None)) and not any(
        True for tensors in (module.parameters(), module.buffers()) for _ in tensors
    )


def reading_obstacle(module: Any) -> tuple[str, str] | None:
    """What a module is, and the way out, where its `weight` is not what it applies; else None."""
    wrapped = [
        name
        for name, child in module.named_children()
        if name != "parametrizations" and any(True for _ in child.parameters())
    ]
    if wrapped:
        kind = f"a {type(module).__name__} with {wrapped[0]} in it, an adapter that is not merged"
        return kind, _MERGE
    if "weight_g" in module._parameters:
        return "weight-normed: its weight is computed in a hook", _UNNORM
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.itemsize < 2:
        held = str(weight.dtype) if isinstance(weight, Tensor) else "no tensor"
        return f"quantised: a {type(module).__name__} whose weight is {held}", _DEQUANTISE
    if weight.is_meta or _does_as_it_says(module) or weight.ndim != 2:
        return None
    if isinstance(module, nn.Embedding):
        applies = _embeds(module, weight)
    else:
        applies = layout(module) is not None
    if applies:
        return None
    return f"a {type(module).__name__} that applies something other than its weight", _FOLD


def layout(module: Any) -> Layout | None:
    """How a module applies its weight `[in, out]`: as it is, or turned; None where neither."""
    weight = module.weight
    if weight.ndim != 2:
        return None
    if isinstance(module, nn.Embedding) or _is_conv1d(module):
        return "in_out"
    if _does_as_it_says(module):
        return "out_in"
    for way in ("out_in", "in_out"):
        if _multiplies(module, weight.mT if way == "out_in" else weight):
            return "out_in" if way == "out_in" else "in_out"
    return None


def _does_as_it_says(module: Any) -> bool:
    """Whether the class is known, and nothing on this object changes what it does."""
    known = type(module) in (nn.Linear, nn.Embedding) or _is_conv1d(module)
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    changes = any(not getattr(hook, ONLY_WATCHES, False) for hook in hooks)
    return known and not changes and "forward" not in vars(module)


def _is_conv1d(module: Any) -> bool:
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _multiplies(module: Any, matrix: Tensor) -> bool:
    """Whether the module gives `x @ matrix + bias`, to rounding."""
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(_PROBES, matrix.shape[0], generator=generator).to(matrix)
    bias = getattr(module, "bias", None)
    with torch.no_grad(), torch.autocast(matrix.device.type, enabled=False):
        try:
            found = module(probes)
        except (RuntimeError, TypeError):  # another width, or more arguments than a vector
            return False
        if not isinstance(found, Tensor) or found.shape != (_PROBES, matrix.shape[1]):
            return False
        # In one operation or in two, as a module may round in either way.
        ways = (functional.linear(probes, matrix.mT, bias), probes @ matrix)
        wanted = (ways[0], ways[1] if bias is None else ways[1] + bias)
    return any(_close(found, each) for each in wanted)


def _embeds(module: nn.Embedding, weight: Tensor) -> bool:
    """Whether a row of the weight comes out for its id, but for one scale of all (Gemma)."""
    if hasattr(module, "offset"):
        return True  # learned positions that take a mask (OPT), and find rows by themselves
    try:
        ids = torch.arange(min(_PROBES, len(weight)), device=weight.device)[None]
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            found, rows = module(ids)[0].float(), weight[ids[0]].float()
    except (RuntimeError, TypeError, IndexError):
        return False
    size = rows.square().sum()
    scale = (found * rows).sum() / size if size > 0 else size
    return _close(found, rows * scale)


def _close(found: Tensor, wanted: Tensor) -> bool:
    found, rounding = found.to(wanted), torch.finfo(wanted.dtype).eps
    bound = _UNITS.get(wanted.dtype, 2) * rounding * wanted.abs().max()
    return bool((found - wanted).abs().max() <= bound)


def _refusal(model: Any, place: str, kind: str, way_out: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{place} of {model.cfg.model_name} is {kind}: its weight is not what the model applies, "
        f"so no figure is read off it. {way_out}"
    )
