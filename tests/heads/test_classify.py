"""`classify_heads` against the formulas written again, on Hugging Face's own attentions."""

from __future__ import annotations

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import HookError, PromptError, UnknownNameError
from mi_toolkit.core.model import pattern_hook
from mi_toolkit.core.passes import visit_patterns
from mi_toolkit.heads.classify import classify_heads
from tests.models_here import TOYS, loaded, untouched
from tests.prompts_made import prompts_with_repeats
from tests.report_against_reference import assert_report_equals_formulas, hf_patterns


@pytest.mark.parametrize("name", TOYS)
def test_scores_equal_the_formulas_on_hugging_face_attentions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(name)
    batch = prompts_with_repeats(model.cfg.d_vocab, 0, [70, 50, 61])
    patterns = hf_patterns(untouched(name), batch)
    assert_report_equals_formulas(model, patterns, batch, monkeypatch)


@pytest.mark.smollm2
def test_scores_equal_the_formulas_on_a_trained_model_with_shared_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = loaded("smollm2-135m-instruct")
    batch = prompts_with_repeats(4000, 1, [48, 40])
    patterns = hf_patterns(untouched("smollm2-135m-instruct"), batch)
    assert_report_equals_formulas(model, patterns, batch, monkeypatch, heads=[0, 4, 8])


@pytest.mark.parametrize("name", TOYS)
def test_batched_equals_one_by_one(name: str) -> None:
    model = loaded(name)
    prompts = ["Mary and John went home, Mary and", "2 + 2 = 4", "one two three one two three one"]
    together = classify_heads(model, prompts, behaviours=["previous_token", "first_token"])
    alone = [
        classify_heads(model, text, behaviours=["previous_token", "first_token"])
        for text in prompts
    ]
    mean = torch.stack([report.score for report in alone]).mean(dim=0)
    assert torch.allclose(together.score, mean, atol=1e-5)


def test_batch_size_and_order_change_no_figure() -> None:
    model = loaded("toy-pythia")
    prompts = [
        f"{name} and Mary went to the store, {name} gave" for name in ("John", "Tom", "Anna")
    ]
    whole, single = (classify_heads(model, prompts, batch_size=size) for size in (3, 1))
    for field in ("score", "null", "lift", "ci_low", "ci_high", "coverage"):
        here, there = getattr(whole, field), getattr(single, field)
        assert torch.allclose(here, there, atol=1e-5, equal_nan=True), field
    turned = classify_heads(model, prompts[::-1])
    assert torch.allclose(whole.score, turned.score, atol=1e-5, equal_nan=True)


def test_no_repeats_means_not_applicable_never_zero() -> None:
    report = classify_heads(loaded("toy-gpt2"), torch.arange(1, 30))
    row = report.index("induction")
    assert report.applicable["induction"] is False
    assert report.score[row].isnan().all()
    assert report.lift[row].isnan().all()
    assert report.heads("induction") == []
    assert "not applicable here: needs a prompt in which a token occurs twice" in repr(report)


def test_too_few_queries_give_no_interval_and_no_label() -> None:
    report = classify_heads(loaded("toy-gpt2"), torch.arange(1, 8))
    assert report.interval["first_token"] == "too few"
    assert report.n_queries["first_token"] == 6
    assert not report.score[report.index("first_token")].isnan().any()
    assert report.ci_low[report.index("first_token")].isnan().all()
    assert not report.labels.any()


def test_one_prompt_is_not_positional_and_two_are() -> None:
    text = "When Mary and John went to the store, John gave a drink to"
    model = loaded("toy-gpt2")
    assert classify_heads(model, text).applicable["positional"] is False
    assert classify_heads(model, [text, text]).applicable["positional"] is False
    assert classify_heads(model, [text, "The capital of France is Paris."]).applicable["positional"]


def test_no_head_is_positional_where_nobody_knows_whether_it_is_diffuse() -> None:
    model = loaded("toy-gpt2")
    names = ("Mary", "John", "Tom", "Sara", "Kate", "Adam")
    deeds = ("went to the store", "gave a ball", "saw a book", "came to the park")
    short = [f"{name} {deed}" for name in names for deed in deeds]
    report = classify_heads(model, short)
    assert report.applicable["positional"]
    assert report.ci_low[report.index("positional")].nan_to_num().max() > 0.6
    assert report.heads("positional") == []
    assert "takes a prompt of nine tokens or more" in dict(report.summary())["positional"]
    long = "When Mary and John went to the store, John gave a drink to"
    of_few = dict(classify_heads(model, [*short, long, long[::-1]]).summary())["intervals"]
    assert "diffuse, which fewer than 3 of the texts can show: exact for those" in of_few
    standard, alone = classify_heads(model), classify_heads(model, behaviours=["positional"])
    assert alone.behaviours == ("positional", "diffuse")
    assert alone.heads("positional") == standard.heads("positional") != []


def test_the_standard_protocol_labels_each_behaviour_at_home() -> None:
    report = classify_heads(loaded("toy-pythia"))
    assert report.stimulus["induction"] == "repeated_random"
    assert report.stimulus["locality"] == "natural"
    random, text = report.on("repeated_random"), report.on("natural")
    row = report.index("induction")
    assert torch.equal(report.lift[row], random.lift[row])
    # NaN where a head rests on the sink: it looks nowhere near or far.
    assert torch.allclose(report["locality"], text["locality"], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(random["induction"], text["induction"])
    assert random.applicable["positional"] is False
    assert report.n_sequences["induction"] == 32
    assert report.n_sequences["diffuse"] == 64
    assert report.interval["induction"] == "jackknife over texts"
    assert report.interval_over["induction"] == "texts"
    assert report.provenance.bos == {"repeated_random": "own", "natural": "own"}
    low, high = report.ci_low[row], report.ci_high[row]
    assert ((low <= report.lift[row]) & (report.lift[row] <= high)).all()


def test_a_window_hides_targets_and_their_queries() -> None:
    model = loaded("toy-gpt-neo")
    report = classify_heads(model, behaviours=["induction", "first_token"]).on("repeated_random")
    windowed = [layer for layer, window in enumerate(report.windows) if window is not None]
    assert windowed
    assert report.windows[windowed[0]] < 64
    assert report["induction"][windowed].isnan().all()
    assert not report["first_token"][windowed].isnan().any()
    # Of position 0, a windowed layer's queries see something only while it is within the window.
    first = report.index("first_token")
    assert int(report.head_queries[first, windowed[0], 0]) == 32 * (report.windows[windowed[0]] - 1)


def test_the_model_comes_back_as_it_was() -> None:
    model = loaded("toy-gpt2")
    ids = torch.arange(1, 20)[None]
    before = model(ids)
    hooks = [len(point._forward_hooks) for point in model.hook_dict.values()]
    model.blocks[0].train()
    try:
        classify_heads(model, ids)
        assert model.blocks[0].training
        assert not model.blocks[1].training
    finally:
        model.blocks[0].eval()
    assert [len(point._forward_hooks) for point in model.hook_dict.values()] == hooks
    assert torch.equal(model(ids), before)


def test_the_pass_stops_behind_the_last_pattern() -> None:
    model = loaded("toy-gpt2")
    ran: list[str] = []
    later = [("unembed.hook_in", lambda x, hook: ran.append(hook.name))]
    with model.hooks(fwd_hooks=later):
        visit_patterns(model, torch.arange(1, 9)[None], [0, 1], lambda *_: None)
    assert ran == []


def test_a_pattern_that_does_not_come_is_an_error() -> None:
    model = loaded("toy-gpt2")

    class Silent:
        """The model, one of whose hooks never fires."""

        cfg, tokenizer, hook_dict = model.cfg, model.tokenizer, model.hook_dict
        modules = model.modules

        def hooks(self, fwd_hooks):
            return model.hooks(fwd_hooks=[h for h in fwd_hooks if h[0] != pattern_hook(1)])

        def __call__(self, *args, **kwargs):
            return model(*args, **kwargs)

    with pytest.raises(HookError, match=r"blocks.1.attn.hook_pattern of .* did not fire"):
        visit_patterns(Silent(), torch.arange(1, 9)[None], [0, 1], lambda *_: None)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"behaviours": ["inducton"]}, UnknownNameError, "Did you mean 'induction'"),
        ({"batch_size": 0}, PromptError, "batch_size is the number of sequences"),
        (
            {"prepend_bos": False},
            PromptError,
            "prepend_bos and attention_mask go with a prompt of your own",
        ),
    ],
)
def test_a_mistaken_call_says_what_to_do(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        mi.classify_heads(loaded("toy-gpt2"), **call)
