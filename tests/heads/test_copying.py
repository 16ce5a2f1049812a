"""Copying by known answers: heads built by hand, a trained head turned round, logits in full."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch

from mi_toolkit.core.errors import ReportError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers, z_hook
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.stimuli import repeated_random
from mi_toolkit.core.tokens import TokenBatch, from_sequences
from mi_toolkit.heads.behaviours import chosen
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.copying import CopyingMeasurement, CopyQueriesOfPlan
from mi_toolkit.heads.copying_heads import CopyingScores, copying_scores, eigenvalue_ratios
from mi_toolkit.heads.direct_effect import effective_unembedding, output_weights
from mi_toolkit.heads.plan import make_plan
from mi_toolkit.models.load import load_model
from tests.models_here import TOYS, loaded, untouched
from tests.tiny_models import tiny_model, tiny_tokenizer

scored = cache(lambda name: copying_scores(loaded(name)))


def queries_of(batch: TokenBatch) -> dict[int | None, CopyQueriesOfPlan]:
    plan = make_plan(batch, chosen(["induction"]), None, "prompt")
    return {None: CopyQueriesOfPlan(plan, 0)}


def test_what_there_is_to_copy_is_what_followed_earlier_copies() -> None:
    found = queries_of(from_sequences([[7, 5, 6, 5, 8, 5]], 7))[None][0]
    assert found.positions.tolist() == [3, 5]
    assert found.ids.tolist() == [6, 6, 8]
    assert found.owner.tolist() == [0, 1, 1]


def test_a_head_built_to_copy_and_one_built_to_suppress_are_told_apart() -> None:
    model = loaded("toy-gpt2")
    unembedding = effective_unembedding(model)
    batch = repeated_random(model)
    copied = unembedding.directions(batch.ids.roll(-1, dims=1))
    onto = torch.linalg.pinv(output_weights(model, 1))
    z = torch.stack([copied @ onto[0], -copied @ onto[1], 0 * copied @ onto[2]], dim=2)
    idle = torch.randn(z[:, :, :1].shape, generator=torch.Generator().manual_seed(0))
    measurement = CopyingMeasurement(model, {1: None}, queries_of(batch))
    measurement.add(1, torch.cat([z, idle], dim=2), range(len(z)))
    figures = measurement.figures()
    assert figures.ci_low[1, 0] > 1
    assert figures.ci_high[1, 1] < -1
    assert figures.effect[1, 2] == 0
    assert abs(figures.effect[1, 3]) < 0.2
    assert figures.effect[0].isnan().all()


@pytest.mark.parametrize("name", TOYS)
def test_scores_equal_those_of_the_logits_written_out_in_full(name: str) -> None:
    model = loaded(name)
    batch = repeated_random(model).part(0, 2)
    seen: dict[str, torch.Tensor] = {}
    names = [z_hook(layer) for layer in attention_layers(model)]
    visit_activations(model, batch.ids, names, lambda name, z: seen.setdefault(name, z.clone()))
    windows = dict.fromkeys(attention_layers(model))
    measurement = CopyingMeasurement(model, windows, queries_of(batch))
    for layer, hook in enumerate(names):
        measurement.add(layer, seen[hook], range(len(seen[hook])))
    effect = measurement.figures().effect
    norm, unembed = untouched(name).base_model, model.W_U.double()
    gain = effective_unembedding(model).norm.gain.double()
    assert norm is not None
    for layer, hook in enumerate(names):
        for head in range(model.cfg.n_heads):
            per_sequence = []
            for sequence, ids in enumerate(batch.ids):
                write = (
                    seen[hook][sequence, :, head].double()
                    @ model.blocks[layer].attn.W_O[head].double()
                )
                if "RMS" not in type(model.ln_final).__name__:
                    write = write - write.mean(dim=-1, keepdim=True)
                logits = (write * gain) @ unembed
                # The second copy of 64 ids after a BOS: each query's token came 64 earlier.
                effects = [
                    (logits[q, ids[q - 63]] - logits[q].mean()) / logits[q].std(correction=0)
                    for q in range(65, 129)
                ]
                per_sequence.append(torch.stack(effects).mean())
            expected = torch.stack(per_sequence).mean()
            assert effect[layer, head].double() == pytest.approx(float(expected), abs=1e-4)


def test_the_heads_asked_about_have_the_figures_that_all_have() -> None:
    """Also where the outputs were made into effects before it was known which are asked about."""
    model, batch = loaded("toy-gpt2"), repeated_random(loaded("toy-gpt2")).part(0, 9)
    measurement = CopyingMeasurement(model, {1: None, 2: None}, queries_of(batch))
    z = torch.randn(9, 129, 4, 32, generator=torch.Generator().manual_seed(0))
    for layer in (1, 2):
        measurement.add(layer, (layer + 1) * z, range(9))
    asked = torch.zeros(4, 4, dtype=torch.bool)
    asked[1, 2] = asked[2, 0] = True
    some = measurement.figures(heads=asked)
    every = measurement.figures()
    measurement.reduce()
    reduced = measurement.figures(heads=asked)
    for name in ("effect", "ci_low", "ci_high"):
        of_all = getattr(every, name)
        assert bool(of_all[[1, 2]].isfinite().all())
        for found in (getattr(some, name), getattr(reduced, name)):
            assert torch.allclose(found[asked], of_all[asked], atol=1e-6)
            assert bool(found[~asked].isnan().all())


def turned_round(name: str, head: Head) -> HookedModel:
    """The bundled model with the output of one head negated in its own weights."""
    model = copy.deepcopy(loaded(name))
    weight = model.blocks[head.layer].attn.W_O
    with torch.no_grad():
        weight[head.head].neg_()
    return model


def test_the_trained_induction_head_copies_and_turned_round_suppresses() -> None:
    head = Head(2, 0)
    before, other = scored("toy-gpt2"), turned_round("toy-gpt2", head)
    after = copying_scores(other)
    assert before.ci_low[head] > 2
    assert torch.allclose(after.effect[head], -before.effect[head], atol=1e-5)
    assert head in before.heads()
    assert head in after.heads(suppressing=True)
    report, turned = classify_heads(loaded("toy-gpt2")), classify_heads(other)
    assert report.heads("induction") == turned.heads("prefix_suppression") == [head]
    assert report.heads("prefix_suppression") == turned.heads("induction") == []
    row = report.index("induction")
    assert torch.allclose(report.copying[row][head], before.effect[head], atol=1e-5)
    assert turned.copying_high[row][head] < 0
    assert int(report.copying.isfinite().sum()) == 1  # of heads that match the prefix alone
    assert "prefix_suppression" in turned.labels_of(head)
    assert "suppresses" in repr(turned)
    table = turned.to_pandas()
    marked = table[table["label"] == "prefix_suppression"]
    assert set(marked["name"]) == {"L2H0"}
    assert set(marked["behaviour"]) == {"induction"}


def test_a_prompt_of_ones_own_is_judged_by_its_own_repeats() -> None:
    ids = torch.randperm(900, generator=torch.Generator().manual_seed(1))[:40] + 20
    report = classify_heads(loaded("toy-pythia"), torch.cat([ids, ids]))
    head = report.heads("induction")[0]
    assert report.copying[report.index("induction")][head] > 1


@pytest.mark.parametrize(("model_type", "n_kv_heads"), [("qwen2", 2), ("gpt_neox", 4)])
def test_eigenvalue_ratios_equal_those_of_the_whole_matrix(
    model_type: str, n_kv_heads: int
) -> None:
    hf_model = tiny_model(model_type, tie_word_embeddings=False, num_key_value_heads=n_kv_heads)
    model = load_model(model_type, hf_model=hf_model, tokenizer=tiny_tokenizer())
    ratios = eigenvalue_ratios(model, [1])
    assert ratios[[0, 2, 3]].isnan().all()
    attn = model.blocks[1].attn
    for head in range(4):
        values = attn.W_V[head * len(attn.W_V) // 4]
        whole = model.W_E @ values @ attn.W_O[head] @ model.W_U
        eigenvalues = torch.linalg.eigvals(whole.double())
        expected = eigenvalues.sum().real / eigenvalues.abs().sum()
        assert float(ratios[1, head]) == pytest.approx(float(expected), abs=1e-3)


def test_few_sequences_get_an_interval_over_queries_and_few_queries_none() -> None:
    model = loaded("toy-gpt2")
    z = torch.randn(1, 24, 4, 32, generator=torch.Generator().manual_seed(0))
    ids = list(range(20, 32))
    for repeats, has_interval in [(12, True), (3, False)]:
        batch = from_sequences([[*ids, *ids[:repeats]]], None)
        measurement = CopyingMeasurement(model, {0: None}, queries_of(batch))
        measurement.add(0, z, range(len(z)))
        figures = measurement.figures()
        assert figures.n_queries == repeats
        assert bool(figures.effect[0].isfinite().all())
        assert bool(figures.ci_low[0].isfinite().all()) == has_interval


def test_scores_come_back_from_a_file_and_into_a_table(tmp_path) -> None:
    scores = scored("toy-gpt2")
    scores.save(tmp_path / "copying.safetensors")
    again = CopyingScores.load(tmp_path / "copying.safetensors")
    assert again.to_pandas().equals(scores.to_pandas())
    assert repr(again) == repr(scores)
    assert again.provenance == scores.provenance
    row = scores.to_pandas().set_index("name").loc["L2H0"]
    assert row["effect"] == pytest.approx(float(scores.effect[2, 0]))
    with pytest.raises(ReportError, match="No copying scores at"):
        CopyingScores.load(tmp_path / "missing")
