"""NaN and infinity in what a model computes: an error that says where, never a figure."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import MIToolkitError, NotFiniteError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.heads.labels import NOT_FINITE, UNCLASSIFIED
from mi_toolkit.models.load import load_model
from tests.every_job import JOBS, PROMPT
from tests.hooked_transformer import small_hooked
from tests.models_here import loaded
from tests.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.arange(3, 40)[None]


@cache
def damaged(name: str) -> HookedModel:
    """A bundled model with one NaN among the weights of the MLP output of layer 1."""
    model = load_model(name)
    weights = [
        (at, weight)
        for at, weight in model.original_model.named_parameters()
        if at.replace("_original_component.", "").endswith(DAMAGED[name])
    ]
    assert len(weights) == 1
    with torch.no_grad():
        weights[0][1][3, 4] = torch.nan
    return model


DAMAGED = {"toy-gpt2": "h.1.mlp.c_proj.weight", "toy-qwen2": "layers.1.mlp.down_proj.weight"}


@cache
def overflowing() -> HookedModel:
    """A Llama in float16 whose third layer's MLP writes more than float16 holds."""
    hf_model = tiny_model("llama")
    with torch.no_grad():
        hf_model.model.layers[2].mlp.down_proj.weight *= 1e5
        hf_model.model.layers[2].mlp.up_proj.weight *= 1e4
    return load_model(
        "overflowing", hf_model=hf_model.half(), tokenizer=tiny_tokenizer(), check=False
    )


CASES = [(job, "toy-gpt2") for job in JOBS if job != "score_weights, random"] + [
    (job, "toy-qwen2")
    for job in ("classify_heads", "trace_pipeline", "generate, beams", "ablation_effect")
]


@pytest.mark.slow
@pytest.mark.parametrize(("job", "name"), CASES)
def test_no_job_gives_figures_of_a_model_with_a_nan_weight(
    job: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(NotFiniteError) as raised:
        JOBS[job](damaged(name), tmp_path)
    said = str(raised.value)
    assert f"{name} computes NaN in float32 here, first in layer 1, at blocks.1.mlp." in said
    assert DAMAGED[name] in said
    assert "holds values that are NaN" in said


@pytest.mark.backend
@pytest.mark.parametrize("job", ["classify_heads", "record", "generate, beams", "attribute"])
def test_overflow_in_float16_is_named_with_its_layer_and_the_way_out(
    job: str, tmp_path: Path
) -> None:
    model = overflowing()
    calls = {
        "classify_heads": lambda: mi.classify_heads(model, IDS),
        "record": lambda: mi.record(model, IDS, "resid_post"),
        "generate, beams": lambda: mi.generate(model, IDS, num_beams=2),
        "attribute": lambda: mi.attribute(model, IDS),
    }
    with pytest.raises(
        NotFiniteError,
        match=r"overflowing computes infinity in float16 here, first in layer 2, at blocks\.2\.mlp"
        r".*Its weights are numbers, .* too large for float16: load .*dtype='float32'",
    ):
        calls[job]()


def test_layers_before_the_overflow_are_recorded_as_they_are() -> None:
    found = mi.record(overflowing(), IDS, ("resid_post", 1))
    assert found.tensors["blocks.1.hook_resid_post"].isfinite().all()


def test_a_report_that_may_hold_nan_says_which_heads_are_no_numbers() -> None:
    report = mi.classify_heads(damaged("toy-gpt2"), PROMPT, allow_nan=True)
    healthy = mi.classify_heads(loaded("toy-gpt2"), PROMPT)
    assert [head.layer for head in report.heads(NOT_FINITE)] == [2] * 4 + [3] * 4
    assert not {*report.heads(UNCLASSIFIED)} & {*report.heads(NOT_FINITE)}
    assert not healthy.not_finite.any()
    assert torch.equal(report["previous_token"][:2], healthy["previous_token"][:2])
    line = dict(report.summary())[NOT_FINITE]
    assert line == "8 heads, from L2H0 on: what the model computes there is NaN or infinite"
    assert NOT_FINITE not in dict(healthy.summary())


def test_what_a_prompt_cannot_show_is_not_called_not_finite() -> None:
    report = mi.classify_heads(loaded("toy-gpt2"), "one two")
    assert report["induction"].isnan().all()
    assert not report.not_finite.any()


def test_a_healthy_model_has_no_head_that_is_not_finite() -> None:
    report = mi.classify_heads(loaded("toy-qwen2"), [PROMPT, "one two three one two three"])
    assert not report.not_finite.any()


def test_nan_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    model = damaged("toy-gpt2")
    kept = mi.record(model, PROMPT, "resid_post", allow_nan=True).tensors
    assert kept["blocks.0.hook_resid_post"].isfinite().all()
    assert kept["blocks.1.hook_resid_post"].isnan().any()
    traced = mi.trace_pipeline(model, PROMPT, allow_nan=True)
    assert traced.output.entropies.isnan().all()
    units = mi.activation_statistics(model, [PROMPT], ("mlp_post", 2), allow_nan=True)
    assert units[("mlp_post", 2)].moments.mean.isnan().all()
    stored = mi.record_to_disk(model, [PROMPT], ("mlp_post", 2), tmp_path / "s", allow_nan=True)
    assert stored.read(("mlp_post", 2)).isnan().all()


def test_what_was_allowed_in_one_call_is_not_in_the_next() -> None:
    mi.record(damaged("toy-gpt2"), PROMPT, "resid_post", allow_nan=True)
    with pytest.raises(NotFiniteError):
        mi.record(damaged("toy-gpt2"), PROMPT, "resid_post")


def test_a_masks_infinities_are_no_overflow() -> None:
    found = mi.record(loaded("toy-gpt2"), PROMPT, ("attn_scores", 0))
    assert (found.tensors["blocks.0.attn.hook_attn_scores"] < -1e30).any()


def test_a_damaged_unembedding_gives_no_copying_scores() -> None:
    model = load_model("toy-pythia")  # whose unembedding is not its embedding
    with torch.no_grad():
        model.unembed.original_component.weight[5, 6] = torch.nan
    with pytest.raises(MIToolkitError, match=r"W_O of layer 0 .* NaN or infinite"):
        mi.heads.copying_scores(model)


@pytest.mark.backend
@pytest.mark.parametrize("family", ["gpt2", "Qwen/Qwen2.5-0.5B"])
def test_a_hooked_transformer_is_held_to_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = small_hooked(family, tmp_path, monkeypatch)
    assert mi.classify_heads(model, IDS).not_finite.any().logical_not()
    with torch.no_grad():
        model.blocks[0].mlp.W_out[3, 4] = torch.nan
    for job in (mi.classify_heads, mi.generate, mi.direct_logit_attribution):
        with pytest.raises(
            NotFiniteError, match=r"first in layer 0, .* blocks\.0\.mlp\.W_out holds"
        ):
            job(model, IDS)
    assert mi.classify_heads(model, IDS, allow_nan=True).not_finite.any()
