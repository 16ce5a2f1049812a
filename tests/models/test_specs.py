"""The table of seven against transformers: its config classes, and models built from them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from huggingface_hub import model_info
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.specs import (
    BUNDLED,
    MODELS,
    SIBLINGS,
    KnownModel,
    ModelSpec,
    find_known,
    known_models,
)
from tests.hub_cache import CONFIGS, hub_config

FACTS = (
    "n_layers n_heads n_kv_heads d_model d_head d_mlp d_vocab context positional activation "
    "gated_mlp normalisation windows qkv_bias tied_embeddings parameters attention_scope"
).split()


@pytest.fixture(scope="module", params=MODELS)
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return MODELS[request.param]


def test_the_table_shows_the_counts_that_transformer_lens_publishes() -> None:
    millions = [round(spec.parameters / 1e6) for spec in MODELS.values()]
    assert millions == [85, 302, 85, 85, 302, 85, 391]
    sizes = [f"{spec.n_layers}x{spec.n_heads}" for spec in MODELS.values()]
    assert sizes == ["12x12", "24x16", "12x12", "12x12", "24x16", "12x12", "24x14"]


def check_against(spec: ModelSpec, config: PretrainedConfig) -> None:
    """Every fact of `spec` is that of the model which transformers builds from `config`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    facts = describe_model(model)
    assert {fact: getattr(spec, fact) for fact in FACTS} == {
        fact: getattr(facts, fact) for fact in FACTS
    }
    assert spec.parallel == facts.parallel_attention_mlp
    assert spec.total_parameters == sum(weight.numel() for weight in model.parameters())


def test_a_spec_states_what_transformers_builds_from_the_hubs_config(spec: ModelSpec) -> None:
    check_against(spec, AutoConfig.for_model(**hub_config(spec.name)))


def test_every_fact_of_a_spec_names_its_source(spec: ModelSpec) -> None:
    inherited = {field.name for field in dataclasses.fields(KnownModel)}
    own = {field.name for field in dataclasses.fields(ModelSpec)} - inherited - {"sources"}
    assert set(spec.sources) == own | {"name", "family", "licence", "access"}
    assert all(source.startswith("https://") for source in spec.sources.values())


def test_there_is_a_config_for_each_of_the_seven_and_no_other() -> None:
    assert {file.stem for file in CONFIGS.iterdir()} == {name.split("/")[-1] for name in MODELS}


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("openai-community/gpt2", "gpt2"),
        ("GPT2", "gpt2"),
        ("pythia-160m", "EleutherAI/pythia-160m"),
        ("gpt-neo-125m", "EleutherAI/gpt-neo-125M"),
        ("EleutherAI/gpt-neo-125m", "EleutherAI/gpt-neo-125M"),
        ("opt-125m", "facebook/opt-125m"),
        ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B"),
        ("smollm2", "smollm2-135m-instruct"),
        ("gpt2-xl", "gpt2-xl"),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
        ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
    ],
)
def test_an_alias_finds_its_model_in_any_case(alias: str, name: str) -> None:
    found = find_known(alias.swapcase())
    assert found is not None
    assert found.name == name


def test_no_two_models_answer_to_one_name() -> None:
    names = [
        name.casefold()
        for model in known_models().values()
        for name in {model.name.casefold(), *map(str.casefold, model.aliases)}
    ]
    assert len(names) == len(set(names))


def test_the_table_holds_seven_and_the_rest_is_apart() -> None:
    assert len(MODELS) == 7
    assert len(BUNDLED) == 5
    assert not MODELS.keys() & (BUNDLED.keys() | SIBLINGS.keys())
    gated = {model.name for model in SIBLINGS.values() if model.access == "gated"}
    assert all(name.startswith(("meta-llama/", "mistralai/")) for name in gated)


def test_reading_the_table_imports_no_torch() -> None:
    code = "import sys, mi_toolkit.models; print({'torch', 'transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.hub
def test_a_spec_states_what_the_hub_holds_today(spec: ModelSpec) -> None:
    for hub_id in spec.hub_ids:
        check_against(spec, AutoConfig.from_pretrained(hub_id))


@pytest.mark.hub
@pytest.mark.parametrize("name", {**MODELS, **SIBLINGS})
def test_licence_and_access_are_those_on_the_models_card(name: str) -> None:
    known = known_models()[name]
    info = model_info(known.hub_ids[0])
    assert bool(info.gated) == (known.access == "gated")
    assert info.card_data is not None
    if known.licence in {"MIT", "Apache-2.0"}:
        assert info.card_data.license == known.licence.lower()
    else:  # a licence of the maker's own
        assert info.card_data.license not in {"mit", "apache-2.0"}
