"""What we ask of a model: the part that HookedTransformer and TransformerBridge share.

Every public function takes any object that fits `HookedModel`; none asks which class it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_toolkit.core.blocks_on_disk import bring_for
from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.process_state import alone_with, known_state

HookFunction = Callable[..., Tensor | None]
"""`(activation, hook)`, called in the forward pass; a returned tensor replaces the activation."""


@runtime_checkable
class HookedModel(Protocol):
    """A causal language model with named hook points (TransformerLens 3 and 4)."""

    tokenizer: Any

    @property
    def cfg(self) -> Any:
        """Sizes and names: `n_layers`, `n_heads`, `n_ctx`, `d_vocab`, `model_name` and more."""
        ...

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Every hook point by its name."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Every module of the model."""
        ...

    def hooks(
        self, fwd_hooks: Sequence[tuple[str, HookFunction]] = ...
    ) -> AbstractContextManager[Any]:
        """Hooks that are active inside the context and gone after it."""
        ...

    def __call__(self, input: Tensor, **kwargs: Any) -> Any:
        """Run a batch of token ids, `["batch sequence"]`."""
        ...


_CHANGES: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()


@contextmanager
def changed(model: HookedModel, what: str) -> Iterator[None]:
    """Inside, `changes_of` says of a model that it is changed so, in words for a result's title."""
    changes = _CHANGES.setdefault(model, [])
    changes.append(what)
    try:
        yield
    finally:
        changes.remove(what)


def changes_of(model: HookedModel) -> tuple[str, ...]:
    """What is changed in a model now, such as `zero ablation of L5H1`; hooks of others apart."""
    return tuple(_CHANGES.get(model, ()))


_SAMPLED = 64


def pattern_hook(layer: int) -> str:
    """The name of the hook point with a layer's attention pattern, `["batch head query key"]`."""
    return f"blocks.{layer}.attn.hook_pattern"


def z_hook(layer: int) -> str:
    """The name of the hook point with a layer's head outputs before `W_O`.

    `["batch position head d_head"]`, per query head where keys and values are shared.
    """
    return f"blocks.{layer}.attn.hook_z"


def by_head(
    z: Float[Tensor, "batch position part width"], n_heads: int
) -> Float[Tensor, "batch position head d_head"]:
    """`z` cut by heads, where TransformerLens cuts it by the width of queries.

    With multi-head latent attention values may be wider or narrower than queries.
    """
    return z if z.shape[-2] == n_heads else z.reshape(*z.shape[:-2], n_heads, -1)


def neuron_hook(layer: int) -> str:
    """The name of the hook point with a layer's neurons: after the nonlinearity, and the gate.

    `["batch position d_mlp"]`, what `W_out` reads.
    """
    return f"blocks.{layer}.mlp.hook_post"


def plain_module(module: Any) -> Any:
    """The module that computes, inside TransformerLens' wrappers around it."""
    while getattr(module, "original_component", None) is not None:
        module = module.original_component
    return module


def neuron_count(model: HookedModel, layer: int) -> int:
    """How many neurons a layer's MLP has; 0 without one, and in a mixture of experts.

    Read off its weights: the width in a config is not that of every layer, nor always the model's
    (OPT's, on a bridge, is four times `d_model` whatever its `ffn_dim`). Of a mixture of experts
    TransformerLens shows the output, in the place of neurons.
    """
    mlp = getattr(getattr(model, "blocks", {layer: None})[layer], "mlp", None)
    if mlp is None:
        return 0
    if not hasattr(model, "original_model"):
        return 0 if model.cfg.num_experts else int(model.cfg.d_mlp)
    out: Any = dict(mlp.named_children()).get("out")
    if out is None:  # a dense layer among experts, which TransformerLens does not take apart
        out = getattr(plain_module(mlp), "down_proj", None)
    out = plain_module(out)
    weight = getattr(out, "weight", None)
    if weight is None:
        return 0
    return int(weight.shape[-1 if isinstance(out, nn.Linear) else 0])


def mlp_layers(model: HookedModel) -> list[int]:
    """The layers whose neurons can be hooked: not those of a mixture of experts."""
    return [layer for layer in range(model.cfg.n_layers) if neuron_count(model, layer)]


def attention_layers(model: HookedModel) -> list[int]:
    """The layers whose attention pattern can be hooked: all of them, unless the model is a hybrid.

    Raises:
        UnsupportedModelError: no layer has a pattern to hook.
    """
    named = model.hook_dict  # a bridge gathers it anew each time
    layers = [l for l in range(model.cfg.n_layers) if pattern_hook(l) in named]
    if not layers:
        raise UnsupportedModelError(
            f"{model.cfg.model_name} has no attention pattern to hook in any of its "
            f"{model.cfg.n_layers} layers (no {pattern_hook(0)}). Attention heads can be "
            "classified in models with softmax attention; this one may be recurrent."
        )
    return layers


def uncached(model: HookedModel) -> dict[str, bool]:
    """What keeps a run from keeping every layer's keys and values for a next token.

    Transformers would; a `HookedTransformer` does so only where it is given a cache.
    """
    return {"use_cache": False} if hasattr(model, "original_model") else {}


@contextmanager
def evaluating(model: HookedModel) -> Iterator[None]:
    """Every pass runs in here: dropout off, in a known state, no other thread at the model.

    After it every module is in the mode that it was in.
    """
    with alone_with(model), known_state(), _dropout_off(model):
        yield


@contextmanager
def _dropout_off(model: HookedModel) -> Iterator[None]:
    _forget_rows(model)
    modules = list(model.modules())
    wrapped = getattr(model, "original_model", None)
    if wrapped is not None:
        modules.extend(wrapped.modules())
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
        _forget_rows(model)


def _forget_rows(model: HookedModel) -> None:
    """Take back what a bridge noted for a pass that stopped before its positions were embedded.

    It notes how many rows run, for its position embedding to read and clear: after such a pass
    Hugging Face's own forward, as generation runs it, would get as many rows as that.
    """
    positions = getattr(model, "pos_embed", None)
    if positions is not None and hasattr(positions, "_current_batch_size"):
        positions._current_batch_size = None


@contextmanager
def attached(handles: Iterable[Any]) -> Iterator[None]:
    """Inside, these hooks of torch are there; after it they are removed.

    Give a generator that registers them: it runs as the context is entered.
    """
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


@contextmanager
def method_replaced(module: nn.Module, method: str, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, `function` is this one module's method."""
    # Around nn.Module's own attribute setting, which bridges overload.
    before = module.__dict__.get(method)
    module.__dict__[method] = function
    try:
        yield
    finally:
        if before is None:
            del module.__dict__[method]
        else:
            module.__dict__[method] = before


def bits(values: Tensor) -> Tensor:
    """The same bits as whole numbers: equal where values are, NaN and the sign of 0 included."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    return values.contiguous().view(whole)


def weights_digest(model: HookedModel) -> str:
    """SHA-256 that differs between sets of weights, down to a single bit of a single weight.

    Of each parameter: its shape, the exact sum of its bits as integers (no order of summation
    changes it, however many threads run), and a sample of its values, which tells the order. It
    reads every weight once, which takes about as long as copying them.
    """
    sha = hashlib.sha256()
    for module in model.modules():
        bring_for(model, module)
        for weight in module.parameters(recurse=False):
            numbers = bits(weight.detach()).flatten()
            sample = numbers[:: max(1, len(numbers) // _SAMPLED)]
            facts = (list(weight.shape), int(numbers.sum(dtype=torch.int64)), sample.tolist())
            sha.update(repr(facts).encode())
    return sha.hexdigest()
