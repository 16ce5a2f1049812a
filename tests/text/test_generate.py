"""Generation against Hugging Face's own on unwrapped weights, and against plain loops."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import pytest
import torch
import transformers

from mi_toolkit.core.errors import GenerationError, PromptError, ReportError, UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import z_hook
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.tl_compat import cache_is_sound
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.interventions.ablation import ablating
from mi_toolkit.models.load import load_model
from mi_toolkit.text.generate import generate, unhooked_parts_plain
from mi_toolkit.text.generation import Generation, Sampling, token_rows
from mi_toolkit.text.trace import trace_pipeline
from tests.interventions.test_ablation import OUTPUT_PROJECTION
from tests.models_here import TOYS, loaded, untouched
from tests.text.reference import argmax_loop, kept_beams

PROMPT = "Mary and John went to"
HEADS = [Head(1, 2), Head(2, 0)]
PADDING = 1

unwrapped = cache(untouched)


def of_hugging_face(hf_model, ids: torch.Tensor, n: int, beams: int, **further):
    """Hugging Face's new tokens, padding cut off after an end, and its scores."""
    found = hf_model.generate(
        ids[None],
        attention_mask=torch.ones_like(ids[None]),
        max_new_tokens=n,
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        pad_token_id=PADDING,
        return_dict_in_generate=True,
        output_scores=True,
        **further,
    )
    rows = found.sequences[:, len(ids) :].tolist()
    assert not (set(found.sequences[0, : len(ids)].tolist()) & {PADDING})
    new = [[token for token in row if token != PADDING] for row in rows]
    return new, getattr(found, "sequences_scores", None)


def written(generation: Generation) -> list[list[int]]:
    return [sequence.ids.tolist() for sequence in generation.sequences]


def scores(generation: Generation) -> torch.Tensor:
    return torch.tensor([sequence.score for sequence in generation.sequences])


def test_a_pass_of_several_rows_that_stopped_early_leaves_the_next_text_alone() -> None:
    model = loaded("toy-gpt2")
    before = generate(model, PROMPT, max_new_tokens=3)
    visit_activations(model, before.prompt_ids.repeat(2, 1), ["hook_embed"], lambda *_: None)
    assert written(generate(model, PROMPT, max_new_tokens=3)) == written(before)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", TOYS)
def test_sequences_and_scores_are_hugging_faces(name: str, beams: int) -> None:
    found = generate(loaded(name), PROMPT, max_new_tokens=12, num_beams=beams)
    ids, given = of_hugging_face(unwrapped(name), found.prompt_ids, 12, beams)
    assert written(found) == ids
    if given is not None:
        torch.testing.assert_close(scores(found), given, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TOYS)
def test_log_probabilities_and_alternatives_are_those_of_a_whole_pass(name: str) -> None:
    found = generate(loaded(name), PROMPT, max_new_tokens=6, num_beams=2, top_k=3)
    for sequence in found.sequences:
        whole = torch.cat([found.prompt_ids, sequence.ids])[None]
        with torch.no_grad():
            logits = unwrapped(name)(whole).logits[0, len(found.prompt_ids) - 1 : -1]
        every = logits.log_softmax(dim=-1)
        own = every.gather(-1, sequence.ids[:, None])[:, 0]
        torch.testing.assert_close(sequence.log_probs, own, atol=1e-4, rtol=1e-4)
        best = every.topk(3)
        assert torch.equal(sequence.alternative_ids, best.indices)
        torch.testing.assert_close(
            sequence.alternative_log_probs, best.values, atol=1e-4, rtol=1e-4
        )
        assert sequence.score == pytest.approx(float(own.sum()) / len(own), abs=1e-4)


def test_what_is_chosen_greedily_is_first_where_logits_are_equal() -> None:
    """As they are in bfloat16, of large models: here tokens of odd ids are those before them."""
    model = load_model("toy-gpt2")
    with torch.no_grad():
        model.W_U[:, 1::2] = model.W_U[:, ::2]
    found = generate(model, PROMPT, max_new_tokens=30)
    (sequence,) = found.sequences
    assert (sequence.alternative_log_probs[:, :2].diff() == 0).all()
    assert [row["rank"] for row in token_rows(found)] == [1] * 30
    assert torch.equal(sequence.ids, sequence.alternative_ids[:, 0])
    output = trace_pipeline(model, PROMPT).output
    assert [each.token for each in output.predictions] == output.top_ids[-1].tolist()


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("early", [False, True])
def test_ends_and_length_penalties_are_hugging_faces(penalty: float, early: bool) -> None:
    name = "toy-pythia"
    model = loaded(name)
    # A full stop comes soon, and in some beams before others.
    ends = model.tokenizer.encode(".")
    options = {"length_penalty": penalty, "early_stopping": early}
    found = generate(
        model, PROMPT, max_new_tokens=14, num_beams=4, eos_ids=ends, prepend_bos=True, **options
    )
    ids, given = of_hugging_face(
        unwrapped(name), found.prompt_ids, 14, 4, eos_token_id=ends, **options
    )
    assert written(found) == ids
    torch.testing.assert_close(scores(found), given, atol=1e-5, rtol=1e-5)
    assert any(sequence.ended for sequence in found.sequences)
    for sequence in found.sequences:
        assert sequence.ended == (int(sequence.ids[-1]) in ends)
        total = float(sequence.log_probs.sum())
        assert sequence.score == pytest.approx(total / len(sequence) ** penalty, abs=1e-4)


def test_an_end_stops_greedy_search_and_nothing_stops_it_without_one() -> None:
    model = loaded("toy-gpt2")
    free = generate(model, PROMPT, max_new_tokens=6, eos_ids=())
    third = int(free.sequences[0].ids[2])
    stopped = generate(model, PROMPT, max_new_tokens=6, eos_ids=[third])
    assert written(stopped) == [free.sequences[0].ids[:3].tolist()]
    assert stopped.sequences[0].ended
    assert not free.sequences[0].ended
    assert len(free.sequences[0]) == 6


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
@pytest.mark.parametrize("name", TOYS)
def test_ablated_search_is_an_argmax_loop_under_the_same_hooks(name: str, how: str) -> None:
    model = loaded(name)
    reference = torch.randint(1, 900, (30,), generator=torch.Generator().manual_seed(0))
    with ablating(model, HEADS, how, reference):
        found = generate(model, PROMPT, max_new_tokens=8, eos_ids=())
        looped = argmax_loop(model, found.prompt_ids, 8)
        beams = generate(model, PROMPT, max_new_tokens=5, num_beams=3)
        uncached = generate(model, PROMPT, max_new_tokens=5, num_beams=3, use_cache=False)
    assert written(found) == [looped]
    assert written(beams) == written(uncached)
    torch.testing.assert_close(scores(beams), scores(uncached), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TOYS)
def test_beams_of_an_ablated_model_are_those_of_weights_zeroed_by_hand(name: str) -> None:
    model, hf_model = loaded(name), untouched(name)
    pattern, dim = OUTPUT_PROJECTION[name]
    for head in HEADS:
        weight = hf_model.get_parameter(pattern.format(head.layer))
        with torch.no_grad():
            weight.narrow(dim, head.head * model.cfg.d_head, model.cfg.d_head).zero_()
    with ablating(model, HEADS):
        ablated = generate(model, PROMPT, max_new_tokens=8, num_beams=3)
    ids, given = of_hugging_face(hf_model, ablated.prompt_ids, 8, 3)
    assert written(ablated) == ids
    torch.testing.assert_close(scores(ablated), given, atol=1e-4, rtol=1e-4)
    assert len(ablated.hooks) == 2
    clean = generate(model, PROMPT, max_new_tokens=8, num_beams=3)
    assert not torch.allclose(scores(ablated), scores(clean), atol=1e-4)
    assert clean.hooks == ()


@pytest.mark.parametrize("name", TOYS)
def test_the_tree_holds_every_beam_that_was_kept(name: str) -> None:
    found = generate(loaded(name), PROMPT, max_new_tokens=3, num_beams=3, eos_ids=())
    steps = kept_beams(lambda ids: unwrapped(name)(ids).logits, found.prompt_ids, 3, 3)
    for step, beams in enumerate(steps):
        nodes = (found.tree.steps == step).nonzero()[:, 0].tolist()
        totals = {
            tuple(found.tree.ids[found.tree.path(node)].tolist()): float(found.tree.totals[node])
            for node in nodes
        }
        assert totals == pytest.approx(beams, abs=1e-4)
    leaves = [sequence.leaf for sequence in found.sequences]
    assert [found.tree.find(ids) for ids in written(found)] == leaves


def test_a_text_says_what_was_ablated_while_it_was_written() -> None:
    model = loaded("toy-gpt2")
    with ablating(model, ["L2H0", "L1.mlp"], "zero"), ablating(model, ["L3H1"], "mean"):
        found = generate(model, PROMPT, max_new_tokens=2)
    assert found.changes == ("zero ablation of L1.mlp L2H0", "mean ablation of L3H1")
    assert "(greedy, under zero ablation of L1.mlp L2H0 and mean ablation" in found.title()
    after = generate(model, PROMPT, max_new_tokens=2)
    assert (after.changes, after.title()) == ((), "toy-gpt2 goes on (greedy)")


def test_the_model_comes_back_as_it_was_and_an_error_leaves_nothing_behind() -> None:
    model = loaded("toy-qwen2")
    hf_model = model.original_model
    ids = tokenise(model, PROMPT).ids
    before, settings = model(ids), hf_model.generation_config
    part = next(iter(hf_model.modules()))
    part.training = True
    try:
        generate(model, PROMPT, max_new_tokens=3, num_beams=2)

        def failing(z: torch.Tensor, hook: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), model.hooks(fwd_hooks=[(z_hook(1), failing)]):
            generate(model, PROMPT, max_new_tokens=3)
        assert part.training
    finally:
        part.training = False
    assert hf_model.generation_config is settings
    assert not any(weight.requires_grad for weight in hf_model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert torch.equal(model(ids), before)


@pytest.mark.parametrize("name", TOYS)
def test_only_parts_without_hooks_run_as_hugging_face_wrote_them_and_only_inside(name) -> None:
    model = loaded(name)
    seen: list[torch.Tensor] = []
    hook = ("blocks.1.attn.hook_pattern", lambda pattern, hook: seen.append(pattern.clone()))
    with model.hooks(fwd_hooks=[hook]), unhooked_parts_plain(model):
        plain = ["forward" in vars(block.attn) for block in model.blocks]
        whole = "forward" in vars(model.blocks[1])
        model(tokenise(model, PROMPT).ids)
    assert len(seen) == 1
    assert plain == [True, False, True, True]
    assert not whole
    with pytest.raises(KeyboardInterrupt), unhooked_parts_plain(model):
        raise KeyboardInterrupt
    assert not any("forward" in vars(each) for each in model.modules())


def test_a_models_own_sampling_and_penalties_play_no_part() -> None:
    model = loaded("toy-gpt2")
    plain = generate(model, PROMPT, max_new_tokens=12)
    settings = model.original_model.generation_config
    settings.repetition_penalty, settings.do_sample, settings.top_k = 1.8, True, 3
    try:
        assert written(generate(model, PROMPT, max_new_tokens=12)) == written(plain)
    finally:
        settings.repetition_penalty = settings.do_sample = settings.top_k = None


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ("", {}, PromptError, "The prompt is empty"),
        (["a", "b"], {}, PromptError, "generate takes one prompt at a time, and 2"),
        ("a", {"num_beams": 0}, GenerationError, "num_beams=0: it must be 1 or more"),
        ("a", {"max_new_tokens": 0}, GenerationError, "max_new_tokens=0: it must be 1 or more"),
        ("a", {"top_k": 0}, GenerationError, "top_k=0: it must be 1 or more"),
        ("a", {"top_k": 9999}, GenerationError, "top_k=9999: the vocabulary of toy-gpt2 has"),
        ("a", {"num_beams": 5000}, GenerationError, "num_beams=5000: a vocabulary of .* feeds"),
        ("a", {"eos_ids": [-1]}, GenerationError, "eos_ids: -1 is no token of toy-gpt2"),
        ("a", {"max_new_tokens": 511}, GenerationError, "holds, 512: ask for 510 at most"),
        (torch.ones(512).long(), {}, GenerationError, "holds, 512: shorten the prompt"),
        (torch.ones(513).long(), {}, PromptError, "513 tokens long .* but the context"),
        (torch.tensor([99999]), {}, PromptError, "outside the vocabulary"),
    ],
)
def test_a_mistaken_call_says_what_to_do(prompt, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        generate(loaded("toy-gpt2"), prompt, **options)


@pytest.mark.parametrize(
    ("how", "reference", "message"),
    [
        ("resample", None, "give ablating a reference of one sequence"),
        ("resample", torch.ones(7).long(), "1 sequences of 7 tokens and more, but 2 of 8 ran"),
        ("resample", torch.ones(2, 30).long(), "give ablating a reference of one sequence"),
        ("pattern_preserving", PROMPT, r"but 2 × 7 ran: .* Generated text outgrows any"),
    ],
)
def test_an_ablation_that_a_growing_text_does_not_fit_is_an_error(how, reference, message) -> None:
    model = loaded("toy-gpt2")
    with pytest.raises(PromptError, match=message), ablating(model, HEADS, how, reference):
        generate(model, PROMPT, num_beams=2, max_new_tokens=4)


def test_it_is_kept_in_a_file_and_shown_as_tables(tmp_path) -> None:
    found = generate(loaded("toy-opt"), PROMPT, max_new_tokens=4, num_beams=2, top_k=3)
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    found.save(paths[0])
    read = Generation.load(paths[0])
    read.save(paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert repr(read) == repr(found)
    assert repr(found).startswith("toy-opt goes on (2 beams) after 'Mary and John went to'\n")
    assert read.text == found.sequences[0].text
    tokens, alternatives, beams = (
        read.to_pandas(rows) for rows in ("tokens", "alternatives", "beams")
    )
    assert len(tokens) == 8
    assert len(alternatives) == 24
    assert len(beams) == len(found.tree)
    chosen = alternatives[alternatives["chosen"]]
    assert chosen["log_prob"].tolist() == tokens.dropna()["log_prob"].tolist()
    with pytest.raises(UnknownNameError, match="Did you mean 'tokens'"):
        found.to_pandas("token")
    with pytest.raises(ReportError, match="No generation at"):
        Generation.load(tmp_path / "none")


def test_text_in_html_is_escaped() -> None:
    found = generate(loaded("toy-gpt2"), "a <b> c", max_new_tokens=2)
    assert "<b>" not in found._repr_html_()
    assert "&lt;b&gt;" in found._repr_html_()


@pytest.mark.smollm2
def test_smollm2_under_hooks_writes_as_an_argmax_loop_does() -> None:
    model = loaded("smollm2-135m-instruct")
    prompt = "The capital of France is"
    assert "Paris" in generate(model, prompt, max_new_tokens=4).text
    with ablating(model, ["L3H1", "L12H4"]):
        found = generate(model, prompt, max_new_tokens=5, num_beams=2)
        greedy = generate(model, prompt, max_new_tokens=5)
        looped = argmax_loop(model, found.prompt_ids, 5)
    assert written(greedy) == [looped]
    assert found.sequences[0].score >= greedy.sequences[0].score


def test_what_is_drawn_is_ruled_by_its_settings_and_leaves_torchs_generator_alone() -> None:
    model, prompt = loaded("toy-gpt2"), "Mary and John went to"
    draw = partial(generate, model, prompt, max_new_tokens=5, num_beams=4, eos_ids=())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again, other = (draw(sampling=Sampling(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    written = [[each.ids.tolist() for each in found.sequences] for found in (one, again, other)]
    assert written[0] == written[1] != written[2]
    scores = [each.score for each in one.sequences]
    assert scores == sorted(scores, reverse=True)
    best = generate(model, prompt, max_new_tokens=5, eos_ids=()).sequences[0].ids
    assert "of the top 99.9%" in Sampling(top_p=0.999).in_words()
    for narrow in (Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(temperature=1e-4)):
        assert all(torch.equal(each.ids, best) for each in draw(sampling=narrow).sequences)
    # Log-probabilities are the model's own, whatever was drawn from.
    hot = draw(sampling=Sampling(temperature=3.0)).sequences[0]
    ids = torch.cat([one.prompt_ids, hot.ids])
    log_probs = model(ids[None], return_type="logits")[0].log_softmax(dim=-1)
    own = log_probs[len(one.prompt_ids) - 1 : -1].gather(-1, hot.ids[:, None])[:, 0]
    torch.testing.assert_close(hot.log_probs, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Sampling(temperature=0.0), "temperature=0.0: it must be above 0"),
        (Sampling(top_k=-1), "top_k=-1: it must be 0"),
        (Sampling(top_p=1.5), "top_p=1.5: it must be above 0, and 1 at most"),
    ],
)
def test_settings_that_draw_nothing_are_refused(wrong: Sampling, told: str) -> None:
    with pytest.raises(GenerationError, match=told):
        generate(loaded("toy-gpt2"), "Mary", sampling=wrong)


@pytest.mark.parametrize("penalty", [282.0, -11.0, math.nan, math.inf])
def test_a_power_that_is_no_number_is_refused(penalty: float) -> None:
    with pytest.raises(GenerationError, match="it is a power of a length, from -10 to 10"):
        generate(loaded("toy-gpt2"), "Mary", max_new_tokens=1, length_penalty=penalty)


def test_where_kept_keys_are_handed_over_by_another_name_they_are_computed_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = loaded("toy-gpt2")
    asked: dict[str, Any] = {"max_new_tokens": 6, "eos_ids": ()}
    with ablating(model, ["L1H1"]):
        wanted = generate(model, PROMPT, use_cache=False, **asked)
    lengths: list[int] = []
    own = transformers.GenerationMixin.prepare_inputs_for_generation

    def prepare(  # with the parameters of 5.24
        self: Any, input_ids: Any, cache: Any = None, attention_mask: Any = None, **given: Any
    ) -> Any:
        found = own(self, input_ids, attention_mask=attention_mask, **given)
        lengths.append(found["input_ids"].shape[1])
        return found

    monkeypatch.setattr(transformers.GenerationMixin, "prepare_inputs_for_generation", prepare)
    assert not cache_is_sound(model)
    with ablating(model, ["L1H1"]):
        found = generate(model, PROMPT, **asked)
    assert torch.equal(found.sequences[0].ids, wanted.sequences[0].ids)
    assert lengths == [*range(lengths[0], lengths[0] + 6)]  # all of the text, at every step
