from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.compare.agreement import (
    NoText,
    continuations,
    groups_of,
    own_accuracy,
    size_classes,
    top_tokens,
)
from mi_toolkit.compare.model_comparison import profile
from mi_toolkit.core.errors import ComparisonError, PromptError, ReportError, UnknownNameError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.tokens import tokenise
from tests.draw.made import made_report
from tests.models_here import loaded, untouched

TEXTS = ["When Mary and John went to the store, John gave a drink to Mary.", "One two, one two,"]


@pytest.fixture(scope="module")
def comparison() -> mi.compare.ModelComparison:
    return mi.compare_models([loaded("toy-gpt2"), loaded("toy-qwen2")], TEXTS)


def test_a_model_agrees_with_itself_everywhere() -> None:
    same = mi.compare_models({"one": loaded("toy-opt"), "two": loaded("toy-opt")}, TEXTS)
    assert same.agreement.share.tolist() == [[1, 1], [1, 1]]
    assert same.agreement.lift.tolist() == [[1, 1], [1, 1]]
    ones, twos = (frame.drop(columns="model") for _, frame in same.to_pandas().groupby("model"))
    assert ones.reset_index(drop=True).equals(twos.reset_index(drop=True))


def test_each_report_is_what_classify_heads_gives(comparison: mi.compare.ModelComparison) -> None:
    alone = mi.classify_heads(loaded("toy-qwen2"), TEXTS)
    torch.testing.assert_close(
        comparison.reports["toy-qwen2"].score, alone.score, rtol=0, atol=0, equal_nan=True
    )


def test_continuations_are_the_most_probable_tokens_of_hugging_face() -> None:
    model, text = loaded("toy-gpt2"), TEXTS[0]
    batch = tokenise(model, [text])
    (found,) = continuations(model, [text], batch)
    with torch.no_grad():
        logits = untouched("toy-gpt2")(batch.ids).logits[0]
    encoded = model.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    expected = {
        end: model.tokenizer.decode([int(logits[index + 1].argmax())])
        for index, (_, end) in enumerate(encoded["offset_mapping"])
    }
    assert found == expected
    assert len(text) in found


def test_padding_changes_no_continuation() -> None:
    model = loaded("toy-pythia")
    together = continuations(model, TEXTS, tokenise(model, TEXTS))
    for text, found in zip(TEXTS, together, strict=True):
        assert continuations(model, [text], tokenise(model, text)) == (found,)


def test_batches_of_logits_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = tokenise(loaded("toy-gpt2"), TEXTS)
    whole = top_tokens(loaded("toy-gpt2"), batch)
    monkeypatch.setattr("mi_toolkit.compare.agreement.LOGITS_BUDGET", 1)
    one_by_one = top_tokens(loaded("toy-gpt2"), batch)
    assert all(map(torch.equal, whole, one_by_one))


def test_characters_of_several_tokens_are_crossed_by_no_boundary() -> None:
    model, text = loaded("toy-gpt2"), "wörld 中文"
    (found,) = continuations(model, [text], tokenise(model, text))
    assert {2, 7, 8} <= found.keys() <= set(range(1, 9))


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-qwen2"])
def test_a_model_that_foresees_every_token_is_always_right(name: str) -> None:
    """Where a character is several tokens, too."""
    model, text = loaded(name), "wörld 中文。🙂 and 北京"
    batch = tokenise(model, text)
    foreseen = batch.sequence(0).roll(-1)
    said = continuations(model, [text], batch, [foreseen])
    assert any(isinstance(each, NoText) for each in said[0].values())
    assert own_accuracy([text], said) == 1
    never = continuations(model, [text], batch, [torch.full_like(foreseen, 5)])
    assert own_accuracy([text], never) == 0


def test_counts_shares_and_depths_are_those_of_the_labelled_heads() -> None:
    figures = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.0, 0.0], [0.7, 0.0]])
    shown = {p.label: p for p in profile(made_report({"induction": figures}))}
    found = shown["induction"]
    assert (found.count, found.share) == (3, 3 / 8)
    assert found.depths == (0.125, 0.375, 0.875)
    assert found.depth_mean == pytest.approx(1.375 / 3)
    assert found.depth_quartiles == pytest.approx((0.25, 0.375, 0.625))
    assert (str(found.strongest), found.figure) == ("L0H0", pytest.approx(0.9))
    assert shown["unclassified"].count == 5


def test_what_the_text_cannot_show_has_no_share() -> None:
    found, *_ = profile(made_report({"induction": torch.full((2, 2), torch.nan)}))
    assert not found.applicable
    assert math.isnan(found.share)
    assert math.isnan(found.depth_mean)


def test_sizes_within_half_again_are_one_class() -> None:
    sizes = {"gpt2": 85, "pythia": 85, "pythia-410m": 302, "qwen": 391, "gpt2-large": 708}
    assert size_classes(sizes) == {
        "gpt2": 85, "pythia": 85, "pythia-410m": 302, "qwen": 302, "gpt2-large": 708,
    }  # fmt: skip


def test_groups_say_what_differs_and_what_is_shared() -> None:
    import dataclasses

    base = mi.describe_model(loaded("toy-gpt2"))
    facts = {
        "a-small": dataclasses.replace(base, family="A"),
        "b-small": dataclasses.replace(base, family="B"),
        "a-large": dataclasses.replace(base, family="A", n_layers=40),
    }
    by_size, by_family = groups_of(facts)
    assert (by_size.varies, by_size.shared) == ("architecture", "0.79M parameters")
    assert by_size.models == ("a-small", "b-small")
    assert (by_family.varies, by_family.shared) == ("scale", "A")
    assert by_family.models == ("a-small", "a-large")


def test_one_model_at_a_time_is_in_memory() -> None:
    alive: list[str] = []

    class Watched:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            alive.remove(self.name)

    seen: list[list[str]] = []

    def load(name: str) -> HookedModel:
        model = mi.load_model(name)
        seen.append(list(alive))
        alive.append(name)
        model.watched = Watched(name)  # type: ignore[attr-defined]
        return model

    mi.compare_models(["toy-gpt2", "toy-opt"], TEXTS[1], behaviours="induction", load=load)
    assert seen == [[], []]
    assert alive == []


def test_it_comes_back_from_disk_as_it_was(
    comparison: mi.compare.ModelComparison, tmp_path: Path
) -> None:
    comparison.save(tmp_path)
    again = mi.compare.ModelComparison.load(tmp_path)
    assert again.to_pandas().equals(comparison.to_pandas())
    assert again.agreement_table().equals(comparison.agreement_table())
    assert (again.facts, again.groups) == (comparison.facts, comparison.groups)
    assert repr(again) == repr(comparison)


def _mistakes() -> Iterator[tuple[object, object, type[Exception], str]]:
    yield ["toy-gpt2"], None, ComparisonError, "two models or more, not 1"
    yield ["toy-gpt2", "toy-optt"], None, UnknownNameError, "Did you mean 'toy-opt'"
    yield ["toy-gpt2", "toy-opt"], torch.tensor([1, 2]), PromptError, "compared on text"
    yield ["toy-gpt2", "toy-gpt2"], "one two", ComparisonError, "Two of the models are called"
    named = {"one": "toy-gpt2", "other": "toy-gpt3"}
    yield named, "one two", UnknownNameError, "Did you mean"


@pytest.mark.parametrize(("models", "prompt", "error", "message"), list(_mistakes()))
def test_what_cannot_be_compared_is_an_error(
    models: list[str], prompt: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mi.compare_models(models, prompt, load=lambda _: pytest.fail("a model was loaded"))  # type: ignore[arg-type]


def test_a_folder_without_a_comparison_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="No model comparison at"):
        mi.compare.ModelComparison.load(tmp_path)
