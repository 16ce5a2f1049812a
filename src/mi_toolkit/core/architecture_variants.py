"""Options of a family that TransformerLens' adapter of it does not know, taught to a subclass.

An adapter says which modules of the Hugging Face model are which, and how a fused projection is
cut into queries, keys and values. `VARIANTS` holds, by architecture, what TransformerLens leaves
out; a booting bridge is given the subclass for that one model, and the table of TransformerLens
stays as it is. That the figures are right is not assumed: a model proves itself when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    LinearBridge,
    PositionEmbeddingsAttentionBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.supported_architectures import (
    FalconArchitectureAdapter,
    GPTBigCodeArchitectureAdapter,
    NeoxArchitectureAdapter,
    OptArchitectureAdapter,
    PhiArchitectureAdapter,
)

_Split = tuple[nn.Linear, nn.Linear, nn.Linear]


class _FalconNewDecoder(FalconArchitectureAdapter):
    """Falcon 40B, 180B and 11B: queries of a group, their key, their value; the next group."""

    def __init__(self, cfg: Any) -> None:
        cfg.multi_query = False  # True by default; here it says nothing
        super().__init__(cfg)

    def prepare_model(self, hf_model: Any) -> None:
        super().prepare_model(hf_model)
        if not hasattr(hf_model.transformer.h[0], "ln_attn"):  # one norm for attention and MLP
            self.get_component_mapping()["blocks"].submodules["ln1"].name = "input_layernorm"

    def _split_falcon_qkv(self, original_attention_component: Any) -> _Split:
        n_groups = int(self.cfg.n_key_value_heads or self.cfg.n_heads)
        return _split(
            original_attention_component.query_key_value,
            n_groups,
            int(self.cfg.n_heads) // n_groups,
        )


class _GPTBigCodeMultiHead(GPTBigCodeArchitectureAdapter):
    """`multi_query=False`: each head's query, key and value, one head after the other."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.cfg.n_key_value_heads = cfg.n_heads
        self.weight_processing_conversions = self._qkvo_weight_conversions(n_kv_heads=cfg.n_heads)

    def _split_qkv_matrix(self, original_attention_component: Any) -> _Split:
        return _split(original_attention_component.c_attn, int(self.cfg.n_heads), 1)


class _GPTNeoXWithoutBias(NeoxArchitectureAdapter):
    """`attention_bias=False`."""

    def split_qkv_matrix(self, original_attention_component: Any) -> _Split:
        return _split(original_attention_component.query_key_value, int(self.cfg.n_heads), 1)


class _PhiWithNormsOfQueries(PhiArchitectureAdapter):
    """`qk_layernorm=True`: queries and keys are normalised before they turn."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.get_component_mapping()["blocks"].submodules["attn"] = (
            PositionEmbeddingsAttentionBridge(
                name="self_attn",
                config=self.cfg,
                submodules={
                    "q": LinearBridge(name="q_proj"),
                    "k": LinearBridge(name="k_proj"),
                    "v": LinearBridge(name="v_proj"),
                    "o": LinearBridge(name="dense"),
                    "q_norm": GeneralizedComponent(name="q_layernorm"),
                    "k_norm": GeneralizedComponent(name="k_layernorm"),
                },
            )
        )


class _OPTWithoutFinalNorm(OptArchitectureAdapter):
    """`do_layer_norm_before=False`: the last layer's own norm is the last."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.get_component_mapping().pop("ln_final", None)


def _split(fused: Any, n_groups: int, n_queries: int) -> _Split:
    """Queries, keys and values of a projection that holds them group by group."""

    def parts(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        groups = values.detach().unflatten(0, (n_groups, n_queries + 2, -1))
        each = groups.split([n_queries, 1, 1], dim=1)
        query, key, value = (part.flatten(0, 2).contiguous() for part in each)
        return query, key, value

    biases = (None, None, None) if fused.bias is None else parts(fused.bias)
    query, key, value = map(_linear, parts(fused.weight), biases)
    return query, key, value


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    n_out, n_in = weight.shape
    linear = nn.Linear(n_in, n_out, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def _is_new_decoder(config: Any) -> bool:
    return bool(config.new_decoder_architecture)


def _is_multi_head(config: Any) -> bool:
    return not config.multi_query


def _is_without_bias(config: Any) -> bool:
    return not config.attention_bias


def _normalises_queries(config: Any) -> bool:
    return bool(config.qk_layernorm)


def _has_no_final_norm(config: Any) -> bool:
    return not config.do_layer_norm_before or bool(config._remove_final_layer_norm)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An option of an architecture, and the adapter of models that have it."""

    has: Callable[[Any], bool]
    """Whether a Hugging Face config has the option."""

    adapter: type[ArchitectureAdapter]
    """What TransformerLens is given instead of its own."""


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "FalconForCausalLM": Variant(has=_is_new_decoder, adapter=_FalconNewDecoder),
        "GPTBigCodeForCausalLM": Variant(has=_is_multi_head, adapter=_GPTBigCodeMultiHead),
        "GPTNeoXForCausalLM": Variant(has=_is_without_bias, adapter=_GPTNeoXWithoutBias),
        "PhiForCausalLM": Variant(has=_normalises_queries, adapter=_PhiWithNormsOfQueries),
        "OPTForCausalLM": Variant(has=_has_no_final_norm, adapter=_OPTWithoutFinalNorm),
    }
)
"""By architecture, as transformers names its class."""


@contextmanager
def adapter_of_its_variant(hf_model: Any) -> Iterator[None]:
    """Inside, a bridge of `hf_model` is booted with the adapter that knows its options."""
    architecture = type(hf_model).__name__
    variant = VARIANTS.get(architecture)
    if variant is None or not variant.has(hf_model.config):
        yield
        return
    before = ArchitectureAdapterFactory._adapters[architecture]
    ArchitectureAdapterFactory.register_adapter(architecture, variant.adapter)
    try:
        yield
    finally:
        ArchitectureAdapterFactory.register_adapter(architecture, before)
