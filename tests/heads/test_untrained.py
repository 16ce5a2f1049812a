"""Untrained twins: what a model of the same config shows that never learnt anything."""

from __future__ import annotations

import gc
import math
import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM

import mi_toolkit as mi
from mi_toolkit.cli.report_text import report_lines, report_record
from mi_toolkit.core.errors import (
    BehaviourError,
    ReportError,
    UnknownNameError,
    UnsupportedModelError,
)
from mi_toolkit.core.model import HookedModel, weights_digest
from mi_toolkit.draw import figures
from mi_toolkit.heads import untrained
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.untrained import initialisation_of, untrained_twin
from mi_toolkit.models.load import load_model
from tests.hooked_transformer import (
    HookedTransformer,
    HookedTransformerConfig,
    needs_hooked_transformer,
    small_hooked,
)
from tests.models_here import loaded
from tests.tiny_models import tiny_model, tiny_tokenizer

TEXT = "one two three one two three one two three"
FEW = ["previous_token", "induction", "diffuse"]


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """By the names that transformers gives them."""
    return {
        name.replace("._original_component", ""): weight
        for name, weight in model.original_model.named_parameters()
    }


@pytest.fixture(scope="module")
def control() -> UntrainedControl:
    return mi.untrained_control(loaded("toy-gpt2"), n=3)


@pytest.fixture(scope="module")
def report() -> HeadReport:
    return mi.classify_heads(loaded("toy-gpt2"))


def test_a_twin_has_the_weights_that_training_begins_from() -> None:
    model = loaded("toy-gpt2")
    first, again, other = (untrained_twin(model, seed=seed) for seed in (0, 0, 1))
    assert weights_digest(first) == weights_digest(again)
    assert weights_digest(first) != weights_digest(other)
    config = first.original_model.config
    assert config.to_dict() == model.original_model.config.to_dict()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.to_dict()))
    expected = dict(plain.named_parameters())
    parts = {"attn.o.": "attn.c_proj.", "mlp.in.": "mlp.c_fc.", "mlp.out.": "mlp.c_proj."}
    found = weights_of(first)
    for name, weight in found.items():
        own = name
        for ours, theirs in parts.items():
            own = own.replace(ours, theirs)
        if own in expected:
            assert torch.equal(weight, expected.pop(own)), name
    # Of queries, keys and values TransformerLens has copies; nothing else may be left over.
    assert {name.rsplit(".", 2)[1] for name in expected} <= {"c_attn", "lm_head"}, list(expected)
    embedding = found["transformer.wte.weight"]
    assert float(embedding.std()) == pytest.approx(config.initializer_range, rel=0.03)
    assert not first.training
    assert not any(weight.requires_grad for weight in first.parameters())


def test_making_twins_leaves_the_model_and_every_source_of_random_numbers_alone() -> None:
    model = loaded("toy-pythia")
    before = weights_digest(model)
    torch.manual_seed(5)
    # Not Python's own: the check of types in these tests draws from it.
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    mi.untrained_control(model, TEXT, n=1, behaviours=FEW)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert weights_digest(model) == before
    assert model.training is False


@pytest.mark.slow
def test_a_control_is_the_strongest_head_of_each_twin_by_the_same_protocol(control, report) -> None:
    model = loaded("toy-gpt2")
    twin = mi.classify_heads(untrained_twin(model, seed=2))
    assert twin.provenance.prompts == report.provenance.prompts == control.provenance.prompts
    assert twin.provenance.bos == report.provenance.bos
    for name in control.behaviours:
        assert float(control[name][2]) == float(twin[name][twin.strongest(name)]), name
    for label, counts in zip(control.label_names, control.labelled, strict=True):
        assert int(counts[2]) == len(twin.heads(label)), label
    assert control.n_heads == 16
    assert len(set(control["first_token"].tolist())) == 3


@pytest.mark.slow
def test_an_untrained_model_has_no_lift_and_is_diffuse_positional_and_global(control) -> None:
    for name in ("previous_token", "current_token", "first_token", "duplicate_token", "induction"):
        assert control.highest(name) < 0.02, name
    assert control.highest("diffuse") > 0.99
    assert control.highest("positional") > 0.9
    counts = dict(zip(control.label_names, control.labelled.sum(dim=1).tolist(), strict=True))
    everything = control.n * control.n_heads
    assert (counts["induction"], counts["diffuse"], counts["global"]) == (0, everything, everything)


def test_one_twin_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []

    def counted(model: HookedModel, *, seed: int) -> HookedModel:
        assert [ref for ref in made if ref() is not None] == [], f"before twin {seed}"
        twin: Any = untrained_twin(model, seed=seed)
        twin.holds_itself = [twin]  # as hooks and caches may
        made.extend((weakref.ref(twin), weakref.ref(twin.original_model)))
        return twin

    monkeypatch.setattr(untrained, "untrained_twin", counted)
    gc.disable()
    try:
        mi.untrained_control(loaded("toy-gpt2"), TEXT, n=3, behaviours=FEW)
    finally:
        gc.enable()
    assert len(made) == 6
    assert [ref for ref in made if ref() is not None] == []


@pytest.mark.slow
def test_a_report_shows_each_figure_against_the_twins(control, report) -> None:
    shown = report.against(control)
    assert report.untrained is None
    lines = dict(shown.summary())
    assert lines["induction"].endswith("; untrained 0.00, reaches none of them")
    n_diffuse = len(report.heads("diffuse"))
    assert lines["diffuse"].endswith(f"; untrained 1.00, reaches {n_diffuse} of them")
    table = shown.to_pandas()
    away = table[~table["home"]]
    assert away["untrained_max"].isna().all()
    assert away["untrained_reached"].isna().all()
    for row in table[table["home"]].itertuples():
        figure = report[row.behaviour][row.layer, row.head]
        assert row.untrained_max == float(control[row.behaviour].max())
        if not figure.isnan():
            assert row.untrained_reached == pytest.approx(
                sum(float(twin) >= float(figure) for twin in control[row.behaviour]) / 3
            )
    assert set(report.to_pandas().columns) == set(table.columns) - {
        "untrained_max",
        "untrained_reached",
    }


@pytest.mark.slow
def test_a_control_and_a_report_with_one_load_as_they_were_saved(
    control, report, tmp_path: Path
) -> None:
    control.save(tmp_path / "control.safetensors")
    again = UntrainedControl.load(tmp_path / "control.safetensors")
    assert repr(again) == repr(control)
    assert torch.equal(again.strongest, control.strongest)
    report.against(control).save(tmp_path / "report.safetensors")
    kept = HeadReport.load(tmp_path / "report.safetensors").untrained
    assert kept is not None
    assert kept.record() == control.record()
    assert torch.equal(kept.labelled, control.labelled)
    report.save(tmp_path / "bare.safetensors")
    assert HeadReport.load(tmp_path / "bare.safetensors").untrained is None


@pytest.mark.slow
def test_twins_of_another_model_prompt_or_behaviour_are_refused(control, report) -> None:
    with pytest.raises(ReportError, match="those of toy-gpt2, the report is of toy-pythia"):
        mi.classify_heads(loaded("toy-pythia"), TEXT, behaviours=FEW).against(control)
    with pytest.raises(ReportError, match=r"other texts in the twins \(repeated_random\) than"):
        mi.classify_heads(loaded("toy-gpt2"), TEXT, behaviours=FEW).against(control)
    few = mi.untrained_control(loaded("toy-gpt2"), TEXT, n=1, behaviours=["diffuse"])
    with pytest.raises(UnknownNameError, match="No behaviour of this control is called 'prev"):
        report.against(few)
    with pytest.raises(BehaviourError, match="at least one twin, not 0"):
        mi.untrained_control(loaded("toy-gpt2"), n=0)


@pytest.mark.slow
def test_text_json_and_picture_say_what_the_twins_reach(control, report, tmp_path: Path) -> None:
    shown = report.against(control)
    text = "\n".join(report_lines(shown, width=120, emphasise=str))
    assert re.search(r"^ +chance  untrained  heads ", text, flags=re.MULTILINE)
    row = next(line for line in text.splitlines() if line.startswith("positional"))
    assert f"{control.highest('positional'):.2f}" in row.split()[1]
    assert "untrained: the strongest head of 3 models of the same config" in text
    assert f"{len(report.heads('diffuse'))} of {len(report.heads('diffuse'))} diffuse" in text
    assert "induction" not in text[text.index("reaches these labelled heads") :].split(".")[0]
    assert "untrained" not in "\n".join(report_lines(report, width=120, emphasise=str))
    record = report_record(shown)["untrained"]
    assert record["strongest"]["induction"] == control["induction"].tolist()
    assert report_record(report)["untrained"] is None
    ax = figures.untrained_figure(control, report)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(control.behaviours)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    for name, line in zip(control.behaviours, dots, strict=True):
        assert list(line.get_xdata()) == control[name].tolist()
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    n_labelled = sum(len(report.heads(name)) for name in report.label_names)
    assert len(diamonds) == n_labelled
    assert "0 of 1 reached" in [text.get_text() for text in ax.texts]
    mi.view(control, report).save_html(tmp_path / "twins.html")
    assert "80 of" not in (tmp_path / "twins.html").read_text()
    assert "48 of 48" in (tmp_path / "twins.html").read_text()


def test_what_nothing_could_show_stays_unknown() -> None:
    model = loaded("toy-gpt2")
    ids = torch.arange(1, 30)
    control = mi.untrained_control(model, ids, n=2, behaviours=FEW)
    assert control["induction"].isnan().all()
    assert math.isnan(control.highest("induction"))
    assert "not applicable" in repr(control)
    shown = mi.classify_heads(model, ids, behaviours=FEW).against(control)
    assert "untrained" not in dict(shown.summary())["induction"]
    assert control.reached("induction", shown["induction"]).isnan().all()


def test_a_twin_keeps_dtype_and_shared_keys() -> None:
    hf_model = tiny_model("qwen2").to(torch.bfloat16)
    model = load_model("tiny", hf_model=hf_model, tokenizer=tiny_tokenizer())
    twin = untrained_twin(model)
    assert {weight.dtype for weight in weights_of(twin).values()} == {torch.bfloat16}
    assert {name: weight.shape for name, weight in weights_of(twin).items()} == {
        name: weight.shape for name, weight in weights_of(model).items()
    }


def test_a_model_that_nothing_initialises_is_refused_by_name() -> None:
    config = TransformerBridgeConfig(
        n_layers=1, d_model=16, n_ctx=64, d_head=8, n_heads=2, d_vocab=320, act_fn="gelu"
    )
    model = TransformerBridge.boot_native(config, tokenizer=named_tokenizer())
    with pytest.raises(UnsupportedModelError, match="native wraps a NativeModel, which has no Hu"):
        mi.untrained_control(model, n=1)


def named_tokenizer() -> Any:
    """One that TransformerLens' own classes take as it is."""
    tokenizer = tiny_tokenizer()
    tokenizer.init_kwargs |= {"add_bos_token": True, "name_or_path": "tiny"}
    return tokenizer


@pytest.mark.backend
def test_a_hooked_transformer_is_initialised_by_its_hugging_face_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = small_hooked("gpt2", tmp_path, monkeypatch)
    assert initialisation_of(model) == "transformers' GPT2LMHeadModel"
    twin = untrained_twin(model, seed=1)
    assert type(twin) is type(model)
    assert weights_digest(twin) == weights_digest(untrained_twin(model, seed=1))
    assert float(twin.W_E.std()) == pytest.approx(0.02, rel=0.05)
    control = mi.untrained_control(model, TEXT, n=1, behaviours=FEW)
    assert control["induction"] < 0.02


@pytest.mark.backend
@needs_hooked_transformer
def test_a_config_of_transformer_lens_own_is_initialised_by_transformer_lens() -> None:
    config = HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=64, d_head=8, n_heads=2, d_vocab=320, act_fn="gelu", seed=5
    )
    with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
        model = HookedTransformer(config, tokenizer=named_tokenizer())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, other = (untrained_twin(model, seed=seed) for seed in (0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert model.cfg.seed == 5
    digests = [weights_digest(each) for each in (model, first, other, untrained_twin(model))]
    assert len(set(digests)) == 3
    assert digests[1] == digests[3]
    assert initialisation_of(model) == "TransformerLens' HookedTransformer, mode gpt2"


def test_the_median_of_an_even_number_of_twins_is_in_the_middle(control) -> None:
    rows = torch.tensor([[0.1, 0.5, 0.9, 0.2]]).expand(len(control.behaviours), -1)
    four = replace(control, strongest=rows, labelled=control.labelled[:, :1].expand(-1, 4))
    (row,) = (row for row in four.text_table().rows if row[0] == "previous_token")
    assert row[1:3] == ["0.350", "0.900"]
