"""Text is read as its model was trained to read it: no stand-in, no second BOS, and it says so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from markupsafe import Markup
from transformers import AutoModelForCausalLM, AutoTokenizer

import mi_toolkit as mi
from mi_toolkit.activations.batcher import Batcher, feeding
from mi_toolkit.cli.report_text import report_lines
from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.stimuli import loss_batch, natural, repeated_random
from mi_toolkit.core.tokenizer import own_bos_id, standard_beginning
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.models.specs import MODELS
from mi_toolkit.verification.check_input import PROMPTS, complete
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.models_here import TOYS, loaded
from tests.tiny_models import published_tokenizer, tiny_model, tiny_tokenizer

TEXT = "The capital of France is"
CHAT = [{"role": "user", "content": "hello world"}]


@pytest.fixture(scope="module", params=MODELS)
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, str]:
    """One of the seven, small, in a hub cache of its own with its own kind of tokenizer."""
    cache = tmp_path_factory.mktemp("hub")
    name = request.param
    snapshot = lay_out(cache, name, shrunk(hub_config(name)), published_tokenizer(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        model = mi.load_model(name)
    return name, model, str(snapshot)


def expected(name: str, snapshot: str, text: str) -> tuple[list[int], str]:
    """What Hugging Face reads, after the BOS of those that are used with one."""
    tokenizer = AutoTokenizer.from_pretrained(snapshot)
    ids = list(tokenizer(text)["input_ids"])
    if "opt" in name:
        assert ids[0] == tokenizer.bos_token_id
        return ids, "own"
    if "gpt" in name:
        return [tokenizer.bos_token_id, *ids], "own"
    return ids, "none"


def test_each_of_the_seven_reads_a_text_as_it_was_trained_to(published) -> None:
    name, model, snapshot = published
    ids, bos = expected(name, snapshot, TEXT)
    batch = tokenise(model, TEXT)
    assert (batch.ids[0].tolist(), batch.bos) == (ids, bos)
    generated = mi.generate(model, TEXT, max_new_tokens=1)
    assert generated.prompt_ids.tolist() == ids
    assert generated.provenance.bos == {"prompt": bos}
    assert loss_batch(model, [TEXT]).ids[0].tolist() == ids
    assert mi.record(model, TEXT, ("resid_post", 0)).batch.ids[0].tolist() == ids
    assert mi.ablation_sweep(model, TEXT).ids.tolist() == ids
    assert mi.trace_pipeline(model, TEXT).tokens.ids.tolist() == ids
    assert mi.attribute(model, TEXT, method="gradient_norm").ids.tolist() == ids
    assert mi.classify_heads(model, TEXT).tokens["prompt"].ids[0].tolist() == ids
    fed = next(Batcher(model, [TEXT], feeding(model, None, None, "split"), "text").batches(1))
    assert fed.batch.ids[0].tolist() == ids


def test_the_completions_that_verify_shows_are_hugging_faces(published) -> None:
    name, model, snapshot = published
    tokenizer = AutoTokenizer.from_pretrained(snapshot)
    plain = AutoModelForCausalLM.from_pretrained(snapshot, attn_implementation="eager").eval()
    for prompt in PROMPTS:
        ids = torch.tensor([expected(name, snapshot, prompt)[0]])
        told = plain.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=mi.generate(model, prompt, max_new_tokens=1).eos_ids[0],
            pad_token_id=0,
        )[0, ids.shape[1] :]
        said = tokenizer.decode(told, skip_special_tokens=True)
        assert complete(model, prompt, 4).text == said


def test_the_standard_protocol_has_a_position_0_and_says_what_it_is(published) -> None:
    name, model, _ = published
    separator = model.tokenizer.get_vocab()["<|endoftext|>"]
    own = own_bos_id(model.tokenizer)
    for batch in (repeated_random(model, n_tokens=8, n_sequences=2), natural(model, n_tokens=8)):
        assert set(batch.ids[:, 0].tolist()) == {separator if own is None else own}
        assert batch.bos == ("stand-in" if "Qwen" in name else "own")
    assert natural(model, n_tokens=8, as_trained=True).bos == tokenise(model, TEXT).bos


@pytest.mark.parametrize("name", TOYS)
def test_a_bos_of_its_own_is_put_where_the_architecture_is_used_with_one(name: str) -> None:
    model = loaded(name)
    own = own_bos_id(model.tokenizer)
    bare = model.tokenizer.encode(TEXT, add_special_tokens=False)
    told = "none" if name in ("toy-pythia", "toy-qwen2") else "own"
    for prepend_bos, bos in ((None, told), (True, "own"), (False, "none")):
        batch = tokenise(model, TEXT, prepend_bos=prepend_bos)
        assert batch.bos == bos
        assert batch.ids[0].tolist() == ([] if bos == "none" else [own]) + bare


@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_a_text_that_begins_with_its_bos_gets_no_second(prepend_bos: bool | None) -> None:
    model = loaded("toy-gpt2")
    batch = tokenise(model, f"<|endoftext|>{TEXT}", prepend_bos=prepend_bos)
    assert batch.ids[0].tolist() == tokenise(model, TEXT, prepend_bos=True).ids[0].tolist()
    assert batch.bos == "in the text"
    both = tokenise(model, [TEXT, f"<|endoftext|>{TEXT}"])
    assert both.bos == "own and in the text"
    assert both.chosen([1]).bos == "in the text"
    how = feeding(model, prepend_bos, 4, "split")
    fed = next(Batcher(model, [f"<|endoftext|>{TEXT}"], how, "text").batches(9)).batch
    alone = next(Batcher(model, [TEXT], feeding(model, True, 4, "split"), "text").batches(9)).batch
    assert fed.sequence(0).tolist() == alone.sequence(0).tolist()


def test_a_stand_in_is_put_where_it_is_asked_for_and_told_apart() -> None:
    model: Any = mi.load_model(
        "mine", hf_model=tiny_model("qwen2"), tokenizer=published_tokenizer("Qwen")
    )
    assert tokenise(model, TEXT).bos == "none"
    asked = tokenise(model, TEXT, prepend_bos=True)
    assert (asked.bos, asked.ids[0, 0]) == ("stand-in", 0)
    assert tokenise(model, f"<|endoftext|>{TEXT}").bos == "in the text"
    assert standard_beginning(model).kind == "stand-in"


@pytest.mark.parametrize("prepends", [False, True])
def test_a_bos_that_the_tokenizer_adds_itself_is_the_models_convention(prepends: bool) -> None:
    """Qwen2 is used without a BOS by TransformerLens' table; the tokenizer knows better."""
    tokenizer = tiny_tokenizer(prepends_bos=prepends)
    model: Any = mi.load_model("mine", hf_model=tiny_model("qwen2"), tokenizer=tokenizer)
    batch = tokenise(model, TEXT)
    assert batch.ids[0].tolist() == tokenizer.encode(TEXT)
    assert batch.bos == ("own" if prepends else "none")


def test_chat_messages_go_through_the_tokenizers_own_template() -> None:
    tokenizer = published_tokenizer("Qwen")
    model: Any = mi.load_model("mine", hf_model=tiny_model("qwen2"), tokenizer=tokenizer)
    replied = [*CHAT, {"role": "assistant", "content": "France"}]
    batch = tokenise(model, CHAT)
    asked = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert batch.ids[0].tolist() == asked
    both = tokenise(model, [CHAT, replied])
    assert both.sequence(0).tolist() == asked
    ended = tokenizer.apply_chat_template(replied, return_dict=False)
    assert both.sequence(1).tolist() == ended
    assert mi.generate(model, CHAT, max_new_tokens=1).prompt_ids.tolist() == asked
    with pytest.raises(PromptError, match="prepend_bos goes with strings"):
        tokenise(model, CHAT, prepend_bos=True)
    with pytest.raises(PromptError, match=r"tokenizer of toy-gpt2 has no chat template"):
        tokenise(loaded("toy-gpt2"), CHAT)


@pytest.mark.parametrize(
    ("name", "prompt", "asked", "sentence"),
    [
        (
            "toy-gpt2",
            TEXT,
            {},
            r"begin with the tokenizer's own beginning-of-sequence token \(BOS\)",
        ),
        ("toy-gpt2", TEXT, {"prepend_bos": False}, r"begin with their own first token, .* it\b"),
        (
            "toy-gpt2",
            [TEXT, f"<|endoftext|>{TEXT}"],
            {},
            "own .*, or brought .*, and no second one",
        ),
    ],
)
def test_every_form_of_a_report_says_in_a_sentence_what_texts_begin_with(
    name: str, prompt: Any, asked: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    report = mi.classify_heads(loaded(name), prompt, **asked)
    report.save(tmp_path / "report.safetensors")
    for each in (report, mi.HeadReport.load(tmp_path / "report.safetensors")):
        for shown in (str(each), Markup(mi.view(each).section().body).striptags()):
            assert re.search(f"all texts .*{sentence}", shown)
        assert re.search(sentence, " ".join(report_lines(each, width=10**6, emphasise=str)))


def test_stimuli_that_begin_differently_are_told_apart() -> None:
    made = mi.classify_heads(loaded("toy-gpt2"), TEXT).provenance
    both = replace(made, bos={"natural": "own", "prompt": "none"})
    assert re.match(
        r"texts of natural begin with .*; texts of prompt begin with their own", both.bos_text
    )
    separated = replace(made, bos={"natural": "stand-in"}).bos_text
    assert re.match("all texts begin with the document separator in place of .*BOS", separated)
    assert replace(made, bos={}).bos_text == ""


def test_models_are_compared_each_by_its_own_convention() -> None:
    names = ["toy-gpt2", "toy-pythia"]
    own = mi.compare_models(names, TEXT, behaviours=["first_token"], load=loaded)
    assert own.bos == {"toy-gpt2": "own", "toy-pythia": "none"}
    all_with = mi.compare_models(
        names, TEXT, behaviours=["first_token"], load=loaded, prepend_bos=True
    )
    assert set(all_with.bos.values()) == {"own"}


@pytest.mark.slow
@pytest.mark.smollm2
def test_a_chat_prompt_keeps_smollm2s_first_token_heads() -> None:
    """With a BOS in front of the template's own, 207 heads become 74."""
    model = loaded("smollm2-135m-instruct")
    rendered = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    report = mi.classify_heads(model, rendered, behaviours=["first_token"])
    assert report.provenance.bos == {"prompt": "in the text"}
    assert len(report.heads("first_token")) > 150
    reply = mi.generate(model, asked, max_new_tokens=12)
    assert reply.prompt_ids.tolist() == report.tokens["prompt"].ids[0].tolist()
    assert "Paris" in reply.text
