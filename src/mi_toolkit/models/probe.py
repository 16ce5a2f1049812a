"""A model proves itself: a short pass as Hugging Face runs it, and the same pass hooked.

1. Before TransformerLens puts its modules between the model's, `reference_pass` runs two sequences
   of random ids and keeps the logits, each layer's output and its attention.
2. Hooked, the model runs the same ids; `prove` refuses it where logits or attention differ by more
   than rounding explains (`core.tolerances`), and names the first layer that differs.

No second copy of the weights is made: the reference is the model itself, before it is wrapped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_toolkit.core.blocks_on_disk import blocks_on_disk
from mi_toolkit.core.errors import ModelLoadError, UnsupportedModelError
from mi_toolkit.core.model import HookedModel, attached, attention_layers, pattern_hook
from mi_toolkit.core.passes import activations_that_fire, logits_and_activations
from mi_toolkit.core.process_state import allowing_nan
from mi_toolkit.core.tolerances import ATTENTION, HALF_PRECISION, LOGITS, logit_floor

SEQUENCES, LENGTH = 2, 32

_AT_ONCE = 2**19
"""Numbers of which a copy in float32 is made at a time: the logits of a whole vocabulary are no
small part of a model's memory."""

_WAY_OUT = (
    "Figures of it would not be the model's own. A newer TransformerLens may run it right "
    "(pip install -U transformer-lens); check=False loads it as it is."
)
_SIZES = frozenset(
    "architectures bos_token_id dtype eos_token_id head_dim hidden_size id2label intermediate_size "
    "label2id layer_types max_position_embeddings model_type n_embd n_head n_inner n_layer "
    "n_positions name_or_path _name_or_path num_attention_heads num_heads num_hidden_layers "
    "num_key_value_heads num_layers pad_token_id torch_dtype transformers_version use_cache "
    "vocab_size".split()
)
"""Config options whose value no wrapper could overlook."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What Hugging Face's own forward gave on the probe."""

    ids: Int[Tensor, "sequence position"]
    logits: Float[Tensor, "sequence position vocabulary"]

    layers: Sequence[Tensor]
    """Each layer's output, first to last; none where the layers could not be found."""

    patterns: Sequence[Tensor]
    """Attention patterns in the order in which they were computed; none where fused kernels ran."""


def check_finite(name: str, module: nn.Module, at: str = "") -> None:
    """Nothing, where every weight of a model that is in memory is a number.

    The least and the greatest of each weight, about the time of reading them once.

    Args:
        name: of the model.
        module: the model, or a part of it.
        at: which part, in words.

    Raises:
        ModelLoadError: a weight is NaN or infinite.
    """
    for weight_name, weight in module.named_parameters():
        if (
            weight.is_meta
            or not weight.numel()
            or weight.dtype not in (torch.float32, torch.float16, torch.bfloat16)
        ):
            continue
        # NaN comes through, and there is no copy, as a sum in float32 would make one.
        least_and_most = torch.stack(torch.aminmax(weight.detach()))
        if not least_and_most.isfinite().all():
            n_bad = int((~weight.isfinite()).sum())
            raise ModelLoadError(
                f"The weights of {name} are damaged: {at}{weight_name} holds {n_bad} of "
                f"{weight.numel()} values that are NaN or infinite. Download or save the model "
                "again; check=False loads it as it is."
            )


def reference_pass(name: str, hf_model: Any) -> Reference | None:
    """What Hugging Face's own forward gives on the probe; None where weights are not in memory.

    Raises:
        ModelLoadError: the logits are no numbers.
    """
    spread = getattr(hf_model, "hf_device_map", None) or blocks_on_disk(hf_model)
    if not spread and any(weight.is_meta for weight in hf_model.parameters()):
        return None
    hf_model.eval()
    config = hf_model.config.get_text_config()
    ids = _probe_ids(config).to(hf_model.get_input_embeddings().weight.device)
    with _watched(hf_model, ids) as (layers, patterns), torch.no_grad():
        logits = hf_model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    if not logits.isfinite().all():
        first = next((l for l, out in enumerate(layers) if not out.isfinite().all()), None)
        where = "its logits" if first is None else f"layer {first} on"
        raise ModelLoadError(
            f"{name} computes NaN or infinity in {str(logits.dtype).removeprefix('torch.')}, from "
            f"{where}, as Hugging Face runs it. Load it in another precision (dtype='float32' or "
            "'bfloat16'); check=False loads it as it is."
        )
    return Reference(ids=ids, logits=logits, layers=layers, patterns=patterns)


def _probe_ids(config: Any) -> Int[Tensor, "sequence position"]:
    """Ids of the vocabulary, the same each time; the generator is the probe's own."""
    context = getattr(config, "max_position_embeddings", None) or LENGTH
    generator = torch.Generator().manual_seed(0)
    shape = SEQUENCES, min(LENGTH, int(context))
    return torch.randint(int(config.vocab_size), shape, generator=generator)


@contextmanager
def _watched(hf_model: Any, ids: Tensor) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """What passes: outputs of the layers, and attention patterns."""
    layers: list[Tensor] = []
    patterns: list[Tensor] = []
    n_layers = int(hf_model.config.get_text_config().num_hidden_layers)
    stacks = [m for m in hf_model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    in_stack = set(map(id, stacks[0])) if stacks else set()
    square = (len(ids), ids.shape[1], ids.shape[1])

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if id(module) in in_stack:
            layers.append((output if isinstance(output, Tensor) else output[0]).detach())
        for part in output[1:] if isinstance(output, tuple | list) else ():
            if not isinstance(part, Tensor) or part.ndim != 4 or not part.is_floating_point():
                continue
            is_pattern = (part.shape[0], *part.shape[2:]) == square
            if is_pattern and not any(part is known for known in patterns):
                patterns.append(part.detach())

    with attached(module.register_forward_hook(look) for module in hf_model.modules()):
        yield layers, patterns


def prove(model: HookedModel, reference: Reference, *, config: Any) -> None:
    """Nothing, where the hooked model computes what Hugging Face does.

    Raises:
        UnsupportedModelError: it does not; the message names the first layer that differs and the
            config options that are not at their class's default.
    """
    hooks = _pattern_hooks(model, reference)
    worst: list[tuple[float, float]] = [(0.0, 0.0)]

    def compare(name: str, pattern: Tensor) -> None:
        worst.append(_apart(pattern, reference.patterns[hooks.index(name)]))

    with allowing_nan():  # what is no number here differs from the reference, as is said below
        logits = logits_and_activations(model, reference.ids, hooks, compare)
    wanted = reference.logits.to(logits.device)
    dtype = str(reference.logits.dtype).removeprefix("torch.")
    most, mean = _apart(logits, wanted)
    most_attention, mean_attention = map(max, zip(*worst, strict=True))
    if dtype in HALF_PRECISION:
        of_logits, of_attention = HALF_PRECISION[dtype]
        is_off = mean > of_logits * float(wanted.std())
        attends_otherwise = mean_attention > of_attention
    else:
        is_off = most > logit_floor(dtype, wanted)
        attends_otherwise = most_attention > ATTENTION[dtype]
    if is_off:
        said = f"logits differ by {most:.2g} from Hugging Face's own"
    elif attends_otherwise:
        said = f"attention weights differ by {most_attention:.2g} from Hugging Face's own"
    else:
        return
    raise UnsupportedModelError(
        f"{model.cfg.model_name} is not hooked faithfully: {said}{_first_layer(model, reference)}. "
        f"{options_set(config)}{_WAY_OUT}"
    )


def _apart(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """The largest difference and the root mean square of all; infinite where one is no number."""
    most, total = 0.0, 0.0
    pairs = (each.flatten().split(_AT_ONCE) for each in (ours, theirs))
    for part, wanted in zip(*pairs, strict=True):
        off = part.float() - wanted.to(part.device).float()
        most = max(most, float(off.abs().max().nan_to_num(torch.inf)))
        total += float(off.square().sum().nan_to_num(torch.inf))
    return most, math.sqrt(total / ours.numel())


def _pattern_hooks(model: HookedModel, reference: Reference) -> list[str]:
    """The hook of each pattern of the reference; none where they cannot be told apart."""
    try:
        layers = attention_layers(model)
    except UnsupportedModelError:  # recurrent: nothing to compare
        return []
    hooks = [pattern_hook(layer) for layer in layers]
    return hooks if len(hooks) == len(reference.patterns) else []


def _first_layer(model: HookedModel, reference: Reference) -> str:
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(len(reference.layers))]
    found = activations_that_fire(model, reference.ids, names)
    for layer, (name, wanted) in enumerate(zip(names, reference.layers, strict=True)):
        if name not in found:
            continue
        here = found[name].to(wanted.device).float()
        floor = LOGITS[str(wanted.dtype).removeprefix("torch.")] * max(1, float(wanted.abs().max()))
        if here.shape == wanted.shape and (here - wanted.float()).abs().max() > floor:
            return f", from layer {layer} on"
    return ", after the last layer" if found else ""


def options_set(config: Any) -> str:
    """A sentence on the config options that are not at their class's default, sizes apart."""
    options: dict[str, Any] = {}
    for part in (config, config.get_text_config()):
        try:
            defaults = type(part)().to_dict()
        except (TypeError, ValueError):  # a config that needs arguments
            defaults = {}
        options |= {
            name: value
            for name, value in part.to_dict().items()
            if name not in _SIZES and value != defaults.get(name)
        }
    if not options:
        return ""
    listed = ", ".join(f"{name}={value!r}" for name, value in sorted(options.items()))
    return f"Config options that are not at their class's default: {listed}. "
