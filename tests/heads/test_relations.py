"""Relations of text: targets by hand, known heads, and what does not count."""

from __future__ import annotations

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.stimuli import natural
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.kinds import MaskBehaviour
from mi_toolkit.heads.relations import KINDS, RELATIONS, read_text
from mi_toolkit.heads.targets import mask_of
from tests.ideal_patterns import even_pattern, figures, pattern_of_mask
from tests.models_here import loaded

OF_TEXT = ["delimiter", "subword", "same_word", "sentence_start", "bracket", "quote"]
BOS = "<|endoftext|>"


def pairs(name: str, texts: list[str], ids: list[int] | None = None) -> list[tuple[str, str]]:
    """Query and key of each target, as their texts; position 0 is a BOS."""
    given = [BOS, *texts]
    numbered = torch.tensor([0, *ids]) if ids else torch.arange(len(given))
    mask = mask_of(
        lambda ids, has_bos: RELATIONS[name].keys(read_text(ids, has_bos, given)), numbered, True
    )
    return [(given[query], given[key]) for query, key in mask.nonzero().tolist()]


def test_a_word_goes_on_without_a_space_and_ends_at_a_sign() -> None:
    texts = [" un", "like", "ly", "'s", " end", ".", "1", "9"]
    assert pairs("subword", texts) == [
        ("like", " un"),
        ("ly", " un"),
        ("ly", "like"),
        ("'s", " un"),
        ("'s", "like"),
        ("'s", "ly"),
        ("9", "1"),
    ]


def test_the_same_word_is_found_in_any_case_and_cut_from_its_last_token() -> None:
    texts = [" Ho", "use", " sold", " house", ".", " h", "ouse", " houses"]
    assert pairs("same_word", texts) == [
        (" house", " Ho"),
        (" house", "use"),
        ("ouse", " Ho"),
        ("ouse", "use"),
        ("ouse", " house"),
    ]


def test_the_first_token_of_a_later_sentence_is_what_its_others_look_at() -> None:
    texts = ["He", " left", ".", '"', "\n\n", " Who", " pays", "?", " I", " do"]
    assert pairs("sentence_start", texts) == [(" pays", " Who"), ("?", " Who"), (" do", " I")]


def test_a_stop_inside_a_number_ends_no_sentence() -> None:
    assert pairs("sentence_start", [" 3", ".", "5", " kg", " of", " it"]) == []


def test_a_query_sees_the_delimiter_before_it_and_not_itself() -> None:
    texts = ["One", ",", " two", "?!", " three", "\n", "four"]
    assert pairs("delimiter", texts) == [
        (" two", ","),
        ("?!", ","),
        (" three", "?!"),
        ("\n", "?!"),
        ("four", "\n"),
    ]


def test_brackets_are_the_innermost_open_one_and_the_closing_one_counts() -> None:
    texts = ["f", "(", "a", "[", "1", "]", ")", " b"]
    assert pairs("bracket", texts) == [
        ("a", "("),
        ("[", "("),
        ("1", "["),
        ("]", "["),
        (")", "("),
    ]


def test_a_quotation_ends_at_its_mark_or_with_the_line() -> None:
    texts = [' "', "Go", '."', " She", " “", "ran", "\n", "on"]
    assert pairs("quote", texts) == [("Go", ' "'), ('."', ' "'), ("ran", " “"), ("\n", " “")]


def test_distances_share_out_every_key_but_the_sink() -> None:
    n = 40
    reading = read_text(torch.arange(n), True, [BOS] + [" a"] * (n - 1))
    names = [name for name in RELATIONS if name.startswith(("distance_", "self"))]
    masks = [mask_of(lambda *_, name=name: RELATIONS[name].keys(reading), reading.ids, True)
             for name in names]  # fmt: skip
    seen = torch.ones(n, n).tril().bool()
    seen[:, 0] = False
    assert torch.equal(torch.stack(masks).sum(dim=0), seen.long())


def test_kinds_of_tokens() -> None:
    texts = ["The", " town", "ship", " of", " Bath", " has", " 12", ",", "\n", "But"]
    found = read_text(torch.arange(11), True, [BOS, *texts]).kind
    assert [KINDS[kind] for kind in found] == [
        "other",
        "word",
        "word",
        "inside of a word",
        "word",
        "name",
        "word",
        "number",
        "punctuation",
        "blank",
        "word",
    ]


def test_no_relation_marks_the_sink_or_the_future() -> None:
    model = loaded("toy-gpt2")
    texts = ['(Ann said: "Ann, Ann\'s (big) house house." Then\nAnn left. He (too)', "a a a a a a"]
    for has_bos in (True, False):
        batch = tokenise(model, texts, prepend_bos=has_bos)
        for index in range(len(batch)):
            ids = batch.sequence(index)
            reading = read_text(ids, has_bos, token_texts(model.tokenizer, ids.tolist()))
            for name, relation in RELATIONS.items():
                mask = mask_of(lambda *_, r=relation, t=reading: r.keys(t), ids, has_bos)
                assert not mask[:, 0].any(), name
                assert not mask.triu(1).any(), name


@pytest.mark.parametrize("name", OF_TEXT)
def test_a_head_that_does_just_that_scores_1_and_a_uniform_one_has_lift_0(name: str) -> None:
    model = loaded("toy-gpt2")
    behaviour = BEHAVIOURS[name]
    assert isinstance(behaviour, MaskBehaviour)
    batch = natural(model).chosen(range(0, 64, 3))
    n = batch.ids.shape[1]
    ideal = even_pattern(n).repeat(len(batch), 1, 1)
    for index in range(len(batch)):
        ids = batch.sequence(index)
        mask = behaviour.marked(ids, True, {}, token_texts(model.tokenizer, ids.tolist()))
        ideal[index, : len(ids), : len(ids)] = pattern_of_mask(mask)
    uniform = even_pattern(n).repeat(len(batch), 1, 1)
    found = figures(behaviour, batch, [ideal, uniform], tokenizer=model.tokenizer)
    assert float(found.score.flatten()[0]) == pytest.approx(1)
    assert float(found.lift.flatten()[0]) == pytest.approx(1)
    assert float(found.lift.flatten()[1]) == pytest.approx(0, abs=1e-6)


def test_reports_have_them_on_natural_text_and_say_what_they_need() -> None:
    model = loaded("toy-gpt2")
    report = mi.classify_heads(model, behaviours=OF_TEXT)
    assert set(report.stimulus.values()) == {"natural"}
    assert all(report.applicable.values())
    none = mi.classify_heads(model, "one two three four five", behaviours=["quote", "subword"])
    assert "double quotes" in (none.not_applicable_reason("quote") or "")


def test_figures_of_a_report_are_those_of_whole_masks() -> None:
    model, text = loaded("toy-gpt2"), "Ann sold the house (a big one). Then she sold it, too."
    report = mi.classify_heads(model, text, behaviours=["delimiter", "subword", "bracket"])
    batch = report.tokens["prompt"]
    ids = batch.sequence(0)
    texts = token_texts(model.tokenizer, ids.tolist())
    pattern = mi.record(model, text, ["pattern"])
    for name in report.behaviours:
        behaviour = BEHAVIOURS[name]
        assert isinstance(behaviour, MaskBehaviour)
        mask = behaviour.marked(ids, bool(batch.has_bos[0]), {}, texts)
        eligible = mask.any(dim=-1)
        for layer in range(4):
            rows = pattern[f"blocks.{layer}.attn.hook_pattern"][0]
            score = (rows * mask).sum(dim=-1)[:, eligible].mean(dim=-1)
            torch.testing.assert_close(report.score[report.index(name), layer], score)


def test_a_model_without_a_tokenizer_has_no_text_to_read() -> None:
    behaviour = BEHAVIOURS["subword"]
    assert isinstance(behaviour, MaskBehaviour)
    assert not behaviour.keys(torch.arange(5), True, {}).count.any()


def test_a_behaviour_of_ones_own_may_read_the_text() -> None:
    with mi.heads.BEHAVIOURS.scope():

        @mi.heads.mask_behaviour(
            name="the", meaning="the word the", trigger="a text with 'the'", reads_text=True
        )
        def the(ids: torch.Tensor, has_bos: bool, *, texts: list[str]) -> torch.Tensor:
            is_the = torch.tensor([text == " the" for text in texts])
            return is_the.expand(len(ids), -1).tril()

        report = mi.classify_heads(loaded("toy-gpt2"), "over the hill", behaviours=[the])
    read = token_texts(loaded("toy-gpt2").tokenizer, report.tokens["prompt"].sequence(0).tolist())
    assert report.n_queries["the"] == len(read) - read.index(" the")
