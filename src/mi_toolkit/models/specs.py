"""The seven models of the table: what each is, fact by fact, with the source of each fact.

Pure Python: reading the table imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mi_toolkit.models.model_spec import KnownModel as KnownModel
from mi_toolkit.models.model_spec import ModelSpec as ModelSpec
from mi_toolkit.models.model_spec import describe_windows as describe_windows

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
