from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_toolkit as mi
from mi_toolkit.activations.statistics import Tokens, context_of, moments_of, no_examples
from mi_toolkit.core.errors import ActivationsError, PromptError, UnknownNameError
from tests.models_here import TOYS, loaded

TEXTS = [
    "The cat sat on the mat.",
    "",
    "When Mary and John went to the store, John gave a drink to Mary",
    "one two three one two three",
    "x",
    "The capital of France is Paris, and the capital of Italy is Rome.",
]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_moments_of_parts_merge_to_those_of_the_whole(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(size, 3, generator=generator) * 2 + 1000 for size in sizes]
    whole, merged = moments_of(torch.cat(parts)), moments_of(parts[0])
    for part in parts[1:]:
        merged = merged.merged(moments_of(part))
    assert merged.count == whole.count
    for figure in ("mean", "variance", "rms"):
        torch.testing.assert_close(
            getattr(merged, figure), getattr(whole, figure), rtol=1e-9, atol=1e-9, equal_nan=True
        )
    for figure in ("minimum", "maximum", "positive"):
        assert torch.equal(getattr(merged, figure), getattr(whole, figure))


def test_moments_are_those_of_torch() -> None:
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    moments = moments_of(rows)
    torch.testing.assert_close(moments.mean, rows.double().mean(0))
    torch.testing.assert_close(moments.std, rows.double().std(0, correction=0))
    torch.testing.assert_close(moments.rms, rows.double().norm(dim=0) / 50**0.5)
    torch.testing.assert_close(moments.density, (rows > 0).double().mean(0).float())


def numbered(start: int, stop: int) -> Tokens:
    rows = torch.arange(start, stop)
    return Tokens(place=rows[:, None].expand(-1, 3), context=rows[:, None].int())


@pytest.mark.parametrize("step", [1, 3, 7, 40])
def test_top_examples_are_the_largest_and_of_equal_ones_the_first(step: int) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 6, (40, 5), generator=generator).float()
    top = no_examples(5, 4, 1)
    for start in range(0, 40, step):
        stop = min(start + step, 40)
        top = top.updated(rows[start:stop], numbered(start, stop))
    for unit in range(5):
        best = sorted(range(40), key=lambda row: (-rows[row, unit].item(), row))[:4]
        assert top.place[unit, :, 0].tolist() == best
        assert top.context[unit, :, 0].tolist() == best
        assert top.values[unit].tolist() == [rows[row, unit].item() for row in best]


@pytest.mark.parametrize("step", [1, 3, 40])
def test_what_is_no_number_is_no_example_and_hides_none(step: int) -> None:
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    rows[[3, 17]] = torch.nan
    top = no_examples(5, 4, 1)
    for start in range(0, 40, step):
        stop = min(start + step, 40)
        top = top.updated(rows[start:stop], numbered(start, stop))
    best = rows.nan_to_num(-torch.inf).topk(4, dim=0)
    assert top.values.T.tolist() == best.values.tolist()
    assert top.place[:, :, 0].T.tolist() == best.indices.tolist()


def test_fewer_tokens_than_examples_leave_the_rest_nowhere() -> None:
    top = no_examples(2, 3, 1).updated(torch.tensor([[1.0, -1.0]]), numbered(0, 1))
    assert top.values.tolist() == [[1.0, -torch.inf, -torch.inf], [-1.0, -torch.inf, -torch.inf]]
    assert top.place[0, :, 0].tolist() == [0, -1, -1]


def test_context_ends_where_its_sequence_does() -> None:
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 6, 6]])
    lengths, sequence = torch.tensor([4, 2]), torch.tensor([0, 0, 1])
    context = context_of(ids, lengths, sequence, torch.tensor([0, 2, 1]), before=2, after=1)
    assert context.tolist() == [[-1, -1, 1, 2], [1, 2, 3, 4], [-1, 5, 6, -1]]


@pytest.mark.parametrize("name", TOYS)
def test_statistics_of_neurons_are_those_of_the_recorded_ones(name: str) -> None:
    model = loaded(name)
    how = {"batch_size": 1, "prepend_bos": True}
    statistics = mi.activation_statistics(model, TEXTS, "blocks.*.mlp.hook_post", **how)
    spoken = [text for text in TEXTS if text]
    everything = mi.record(model, spoken, "mlp_post", positions=slice(1, None), **how)
    table = everything.row_table()
    assert list(statistics.units) == list(everything)
    for hook, unit in statistics.units.items():
        rows = everything.rows(hook)
        assert unit.moments.count == len(rows)
        torch.testing.assert_close(unit.moments.mean, rows.double().mean(0))
        torch.testing.assert_close(unit.moments.variance, rows.double().var(0, correction=0))
        assert torch.equal(unit.moments.maximum, rows.amax(0))
        torch.testing.assert_close(unit.norms.mean, rows.norm(dim=1).double().mean())
        assert float(unit.norms.maximum) == float(rows.norm(dim=1).max())
        assert torch.equal(unit.top.values, rows.sort(dim=0, descending=True)[0][:10].T)
    best = statistics.top(("mlp_post", 1), 3)
    row = int(everything.rows(("mlp_post", 1))[:, 3].argmax())
    place = {0: 0, 1: 2, 2: 3, 3: 4, 4: 5}[table.prompt[row]]
    assert (best.document[0], best.position[0]) == (place, table.position[row])
    assert best.token[0] == table.token[row]
    shown = best.before[0] + best.token[0] + best.after[0]
    assert shown.removeprefix(model.tokenizer.decode([0])) in TEXTS[place]
    assert best.value.is_monotonic_decreasing


def test_statistics_of_two_collections_merge_to_those_of_both() -> None:
    model = loaded("toy-qwen2")
    options = {"names": ["mlp_post", "z"], "batch_size": 1, "top_k": 3}
    whole = mi.activation_statistics(model, TEXTS, **options)
    parts = [mi.activation_statistics(model, part, **options) for part in (TEXTS[:3], TEXTS[3:])]
    merged = parts[0].merge(parts[1])
    assert repr(merged) == repr(whole)
    assert merged.texts == whole.texts
    for hook, unit in whole.units.items():
        other = merged.units[hook]
        for part in ("values", "place", "context"):
            assert torch.equal(getattr(other.top, part), getattr(unit.top, part))
        for ours, theirs in ((other.moments, unit.moments), (other.norms, unit.norms)):
            torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(ours.variance, theirs.variance, rtol=1e-8, atol=1e-12)
            assert torch.equal(ours.positive, theirs.positive)
    with pytest.raises(ActivationsError, match="different recordings cannot be merged"):
        whole.merge(mi.activation_statistics(model, TEXTS, **options | {"top_k": 4}))


def test_the_bos_is_left_out_unless_asked_for() -> None:
    model = loaded("toy-gpt2")
    without = mi.activation_statistics(model, TEXTS, ("resid_post", 0))
    with_bos = mi.activation_statistics(model, TEXTS, ("resid_post", 0), skip_bos=False)
    one, other = (each["resid_post"].moments.count for each in (without, with_bos))
    assert other - one == 5
    assert (without["resid_post"].top.place[..., 2] != 0).all()
    ids = [[0, 5, 6], [7, 8]]
    given_ids = mi.activation_statistics(model, ids, ("resid_post", 0))
    assert given_ids["resid_post"].moments.count == 4


def test_a_token_that_two_positions_name_counts_once() -> None:
    model, texts = loaded("toy-gpt2"), ["Mary", "Mary and John went"]
    twice = mi.activation_statistics(model, texts, "mlp_post", positions=[1, -1])
    once = mi.activation_statistics(model, texts, "mlp_post", positions=slice(1, None, 3))
    hook = ("mlp_post", 0)
    assert twice[hook].moments.count == once[hook].moments.count == 3
    assert torch.equal(twice[hook].moments.mean, once[hook].moments.mean)
    assert torch.equal(twice[hook].top.place, once[hook].top.place)


def test_heads_have_units_of_two_numbers() -> None:
    statistics = mi.activation_statistics(loaded("toy-gpt2"), TEXTS, ("z", 1), top_k=2)
    table = statistics.to_pandas()
    assert len(table) == 4 * 32
    row = table[table.unit == "3.7"].iloc[0]
    best = statistics.top("z", (3, 7))
    assert len(best) == 2
    assert row.maximum == best.value[0]
    assert row.top_token == best.token[0]
    for unit in (3, (4, 0), (0, 0, 0)):
        with pytest.raises(UnknownNameError, match="has no unit"):
            statistics.top("z", unit)
    with pytest.raises(UnknownNameError, match="these statistics of toy-gpt2"):
        statistics["mlp_post", 0]


def test_saved_statistics_come_back(tmp_path: Path) -> None:
    statistics = mi.activation_statistics(loaded("toy-gpt2"), TEXTS, ["z", "mlp_post"], top_k=2)
    statistics.save(tmp_path / "s.safetensors")
    back = mi.activations.ActivationStatistics.load(tmp_path / "s.safetensors")
    assert repr(back) == repr(statistics)
    assert back.to_pandas().equals(statistics.to_pandas())
    assert back.top(("mlp_post", 2), 5).equals(statistics.top(("mlp_post", 2), 5))
    assert back.merge(statistics).n_documents == 2 * len(TEXTS)


def test_a_page_of_examples_escapes_their_text() -> None:
    texts = ["<script>alert('x')</script> & <b>bold", *TEXTS]
    statistics = mi.activation_statistics(loaded("toy-gpt2"), texts, "mlp_post", top_k=3)
    view = mi.view(statistics, ("mlp_post", 0), range(60))
    body = view.section().body
    assert body.count("<h3>Unit") == 60
    assert body.count("<script") == 0
    assert "alert" not in body or "&#39;" in body
    assert "&lt;" in body
    assert mi.view(statistics, ("mlp_post", 2)).section().body.count("<h3>Unit ") == 8
    with pytest.raises(UnknownNameError, match="has no unit 512: they are 0 to 511"):
        mi.view(statistics, ("mlp_post", 2), 512)


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ([], {}, PromptError, "no token to measure"),
        (["", ""], {}, PromptError, "no token to measure"),
        (["x"], {"top_k": 0}, PromptError, "top_k=0: keep 1 to 10,000 examples"),
        (["x"], {"names": "pattern"}, ActivationsError, "has no units"),
    ],
)
def test_what_has_no_statistics_is_an_error(texts, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        mi.activation_statistics(loaded("toy-gpt2"), texts, **{"names": "z"} | options)
