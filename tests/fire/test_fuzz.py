"""Any prompt and any option: figures that are finite and do not hang on order, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import mi_toolkit as mi
from mi_toolkit.core.result import SavedResult
from mi_toolkit.core.tokens import from_sequences, tokenise
from mi_toolkit.heads.behaviours import BEHAVIOURS, STANDARD
from mi_toolkit.heads.kinds import MaskBehaviour
from mi_toolkit.interventions.ablation import KINDS
from mi_toolkit.weights.edits import EDITS
from mi_toolkit.weights.scorers import SCORERS
from tests.conftest import FIRE_SEED, cases
from tests.every_job import differences, figures_of
from tests.fire.damage import refusal_or
from tests.ideal_patterns import figures, random_pattern
from tests.models_here import TOYS, loaded, untouched

pytestmark = [
    pytest.mark.fire,
    pytest.mark.filterwarnings("ignore:Sequence . begins or ends with the padding id"),
]

Counter = Callable[[str, object], None]

LONGEST = 4000
"""Tokens of the longest prompts, far beyond the models' contexts."""


def fuzzed(n: int) -> Callable[[Any], Any]:
    slow = list(HealthCheck)

    def decorate(test: Any) -> Any:
        options = settings(
            max_examples=cases(n), deadline=None, database=None, suppress_health_check=slow
        )
        return seed(FIRE_SEED)(options(test))

    return decorate


unicode = st.characters(exclude_categories=())  # lone surrogates, controls, private use
words = st.sampled_from(["Mary", " John", " the", " store", "\n", ".", " (", ")", ' "', "é", "🙂"])


def texts(name: str) -> st.SearchStrategy[str]:
    """Texts of any kind, with the model's own specials in some of them."""
    specials = st.sampled_from(
        [*loaded(name).tokenizer.all_special_tokens, "<|endoftext|>", "</s>"]
    )
    return st.one_of(
        st.text(unicode, min_size=1, max_size=40),
        st.lists(words, min_size=1, max_size=40).map("".join),
        st.lists(st.one_of(words, specials), min_size=1, max_size=12).map("".join),
    )


def plain_texts(name: str) -> st.SearchStrategy[str]:
    """Texts that can be fed: of the others, what happens to each is tried by itself."""
    return st.lists(words, min_size=2, max_size=24).map("".join)


def ids(name: str, *, wild: bool = False) -> st.SearchStrategy[list[int]]:
    size = int(loaded(name).cfg.d_vocab)
    one = st.integers(-2, size + 2) if wild else st.integers(0, size - 1)
    return st.lists(one, min_size=0 if wild else 1, max_size=40)


def long_prompts(name: str) -> st.SearchStrategy[Any]:
    n = st.integers(1, LONGEST)
    size = int(loaded(name).cfg.d_vocab)
    return st.one_of(
        st.tuples(words, n).map(lambda pair: pair[0] * pair[1]),
        st.tuples(st.integers(0, size - 1), n).map(lambda pair: [pair[0]] * pair[1]),
    )


def prompts(name: str) -> st.SearchStrategy[Any]:
    """Whatever can stand in the place of a prompt."""
    one = st.one_of(texts(name), ids(name), ids(name, wild=True), long_prompts(name))
    return st.one_of(
        one,
        one,
        ids(name).map(torch.tensor),
        st.lists(texts(name), min_size=0, max_size=4),
        st.lists(ids(name), min_size=1, max_size=4),
        st.sampled_from(["", [], [""], [[]], torch.zeros(0), torch.zeros(2, 0, dtype=torch.long)]),
    )


numbers = st.one_of(st.integers(-1, 8), st.sampled_from([10**9, -(10**9)]))
odd_floats = st.one_of(st.floats(), st.floats(0, 1), st.just(0.3))
heads_named = st.lists(
    st.builds("L{}H{}".format, st.integers(0, 4), st.integers(0, 8)), min_size=0, max_size=3
)
behaviours = st.lists(
    st.sampled_from([*STANDARD, *BEHAVIOURS, "offset_3", "offset_0", "no such"]), max_size=4
)


def _weights(name: str) -> st.SearchStrategy[Any]:
    parameter = st.sampled_from(["blocks.0.attn.W_O", "blocks.3.mlp.W_out", "no.such"])
    place = st.integers(-1, 300)
    return st.lists(st.tuples(parameter, place, place), max_size=4)


OPTIONS: Mapping[str, Callable[[str], dict[str, st.SearchStrategy[Any]]]] = {
    "classify_heads": lambda name: {
        "behaviours": behaviours,
        "min_lift": odd_floats,
        "fdr": st.one_of(st.none(), odd_floats),
        "weighting": st.sampled_from(["prompts", "queries", "no such"]),
        "prepend_bos": st.sampled_from([None, True, False]),
        "batch_size": st.one_of(st.none(), numbers),
    },
    "record": lambda name: {
        "names": st.sampled_from(["resid_post", "pattern", ["z", "mlp_out"], "no such", "*", []]),
        "positions": st.sampled_from([None, 0, -1, [0, 1], slice(1, None), 99, "last"]),
        "dtype": st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int8]),
        "batch_size": numbers,
    },
    "activation_statistics": lambda name: {
        "names": st.sampled_from(["resid_post", "mlp_post", "no such"]),
        "top_k": numbers,
        "max_length": st.one_of(st.none(), numbers),
        "overlong": st.sampled_from(["split", "truncate", "error", "no such"]),
    },
    "generate": lambda name: {
        "max_new_tokens": st.integers(-1, 4),
        "num_beams": st.integers(-1, 3),
        "length_penalty": odd_floats,
        "top_k": numbers,
    },
    "trace_pipeline": lambda name: {"top_k": numbers, "n_nearest": numbers, "n_neurons": numbers},
    "attribute": lambda name: {
        "target": st.one_of(st.none(), numbers, texts(name)),
        "method": st.sampled_from(["input_x_gradient", "occlusion", "no such"]),
        "baseline": st.one_of(st.none(), numbers, st.sampled_from(["zero", "mean", "no such"])),
    },
    "direct_logit_attribution": lambda name: {
        "target": st.one_of(st.none(), numbers, texts(name)),
        "other": st.one_of(st.none(), numbers),
    },
    "ablation_effect": lambda name: {
        "components": heads_named,
        "how": st.sampled_from([*KINDS, "no such"]),
        "n_random": st.integers(-1, 3),
        "max_new_tokens": st.one_of(st.none(), st.integers(-1, 2)),
    },
    "activation_patching": lambda name: {
        "corrupted": prompts(name),
        "target": st.one_of(numbers, texts(name)),
        "what": st.sampled_from(["resid_pre", "head", "no such"]),
    },
    "score_weights": lambda name: {
        "metric": st.sampled_from([*SCORERS, "no such"]),
        "layers": st.one_of(st.just([0]), st.lists(st.integers(-1, 5), max_size=2)),
        "n_probes": st.integers(-1, 2),
        "n_steps": st.integers(-1, 2),
        "batch_size": st.integers(-1, 3),
    },
    "perturbation_effect": lambda name: {
        "weights": _weights(name),
        "kind": st.sampled_from([*EDITS, "no such"]),
        "n_random": st.integers(-1, 2),
        "max_new_tokens": st.integers(-1, 2),
    },
    "profile_heads": lambda name: {"top_k": numbers, "batch_size": numbers},
    "find_super_weights": lambda name: {
        "min_spike": odd_floats,
        "min_rise": odd_floats,
        "detailed": numbers,
    },
    "view_attention": lambda name: {
        "layer": st.one_of(st.none(), numbers),
        "heads": st.one_of(st.none(), heads_named),
    },
}

WITHOUT_A_TOKEN = {"minimum", "maximum", "values"}
"""Of units and examples: infinite where there was no token, as their docs say."""

COLLECTIONS = ("activation_statistics", "profile_heads")
"""Take a collection of texts, and not one prompt."""

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    name: next(
        getattr(place, name)
        for place in (mi, mi.weights, mi.cards, mi.interventions)
        if hasattr(place, name)
    )
    for name in OPTIONS
}


def infinite(found: Any, at: str = "") -> list[str]:
    """Where figures are infinite; NaN stands for what is not applicable, and is told so."""
    if isinstance(found, dict):
        return [each for key, value in found.items() for each in infinite(value, f"{at}.{key}")]
    if isinstance(found, list):
        return [each for i, value in enumerate(found) for each in infinite(value, f"{at}[{i}]")]
    if isinstance(found, Tensor):
        return [at] if found.is_floating_point() and found.isinf().any() else []
    return [at] if isinstance(found, float) and math.isinf(found) else []


@pytest.mark.parametrize("function", OPTIONS)
@pytest.mark.parametrize("name", TOYS)
def test_any_prompt_with_any_options_gives_figures_or_is_refused(
    name: str, function: str, tmp_path: Path, record_property: Counter
) -> None:
    model, options = loaded(name), OPTIONS[function](name)
    before = {key: value.clone() for key, value in model.state_dict().items()}  # type: ignore[attr-defined]
    count = {"cases": 0, "refused": 0}
    prompt = st.lists(texts(name), max_size=4) if function in COLLECTIONS else prompts(name)

    @fuzzed(8)
    @given(
        prompt=prompt,
        given_options=st.fixed_dictionaries(_needed(function, options), optional=options),
    )
    def holds(prompt: Any, given_options: dict[str, Any]) -> None:
        found = refusal_or(lambda: FUNCTIONS[function](model, prompt, **given_options))
        count["cases"] += 1
        count["refused"] += found is None
        if found is None:
            return
        allowed = {key for key, value in given_options.items() if _is_infinite(value)}
        allowed |= WITHOUT_A_TOKEN
        assert [at for at in infinite(figures_of(found)) if at.split(".")[-1] not in allowed] == []
        str(found)
        if isinstance(found, SavedResult):
            place = tmp_path / "saved"
            found.save(place)
            again = type(found).load(place)
            assert differences(figures_of(found), figures_of(again)) == []

    holds()
    after = model.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(after[key], value) for key, value in before.items())
    record_property("fuzzed calls", count["cases"])
    record_property("of them refused by name", count["refused"])


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _needed(function: str, options: dict[str, Any]) -> dict[str, Any]:
    needed = ("names", "components", "corrupted", "target", "weights")
    if function in ("attribute", "direct_logit_attribution"):
        return {}
    return {name: options.pop(name) for name in needed if name in options}


@pytest.mark.parametrize("name", TOYS)
def test_a_batch_gives_what_its_prompts_give_alone_in_any_order(
    name: str, record_property: Counter
) -> None:
    model, count = loaded(name), {"cases": 0}

    @fuzzed(20)
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        given_texts = data.draw(st.lists(plain_texts(name), min_size=2, max_size=4))
        order = data.draw(st.permutations(range(len(given_texts))))
        size = data.draw(st.integers(1, 4))
        hooks = ["resid_post", "pattern"]
        together = mi.record(model, given_texts, hooks, batch_size=size)
        turned = mi.record(model, [given_texts[i] for i in order], hooks, batch_size=size)
        for place, text in enumerate(given_texts):
            alone = mi.record(model, text, hooks)
            n = int(alone.batch.lengths[0])
            for hook, tensor in alone.tensors.items():
                own = together.tensors[hook][place]
                moved = turned.tensors[hook][order.index(place)]
                keys = (slice(None), slice(n), slice(n)) if "pattern" in hook else (slice(n),)
                torch.testing.assert_close(own[keys], tensor[0], rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(moved[keys], own[keys], rtol=1e-4, atol=1e-4)
        count["cases"] += 1

    holds()
    record_property("batches as their prompts alone", count["cases"])


@pytest.mark.parametrize("name", TOYS)
def test_a_report_is_the_mean_over_its_prompts_whatever_their_order(
    name: str, record_property: Counter
) -> None:
    model, count = loaded(name), {"cases": 0}

    @fuzzed(15)
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        given_ids = data.draw(
            st.lists(ids(name).filter(lambda own: len(own) > 2), min_size=2, max_size=4)
        )
        order = data.draw(st.permutations(given_ids))
        report, turned = mi.classify_heads(model, given_ids), mi.classify_heads(model, order)
        for field in ("score", "null", "lift"):
            here, there = getattr(report, field), getattr(turned, field)
            torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5, equal_nan=True)
        single = torch.stack([mi.classify_heads(model, own).score for own in given_ids])
        for row, behaviour in enumerate(report.behaviours):
            if isinstance(BEHAVIOURS[behaviour], MaskBehaviour):
                mean = single[:, row].nanmean(dim=0)
                torch.testing.assert_close(
                    report.score[row], mean, rtol=1e-4, atol=1e-5, equal_nan=True
                )
                finite = report.score[row][report.score[row].isfinite()]
                assert bool(((finite >= 0) & (finite <= 1 + 1e-5)).all())
        count["cases"] += 1

    holds()
    record_property("reports as the mean of their prompts", count["cases"])


@cache
def renamed(name: str) -> tuple[mi.core.HookedModel, Tensor]:
    """The model with its tokens renamed, and each old token's new name; specials keep theirs."""
    theirs = untouched(name)
    size = theirs.get_input_embeddings().weight.shape[0]
    special = set(loaded(name).tokenizer.all_special_ids)
    free = torch.tensor([token for token in range(size) if token not in special])
    new = torch.arange(size)
    generator = torch.Generator().manual_seed(FIRE_SEED)
    new[free] = free[torch.randperm(len(free), generator=generator)]
    with torch.no_grad():
        tables = {theirs.get_input_embeddings(), theirs.get_output_embeddings()}
        for weight in {id(table.weight): table.weight for table in tables}.values():
            moved = weight.clone()
            weight[new] = moved
    return mi.load_model(f"{name}-renamed", hf_model=theirs, tokenizer=loaded(name).tokenizer), new


@pytest.mark.parametrize("name", TOYS)
def test_renaming_the_tokens_of_a_model_changes_no_score(
    name: str, record_property: Counter
) -> None:
    count = {"cases": 0}

    @fuzzed(10)
    @given(given_ids=st.lists(ids(name), min_size=1, max_size=3))
    def holds(given_ids: list[list[int]]) -> None:
        model, new = renamed(name)
        here = refusal_or(lambda: mi.classify_heads(loaded(name), given_ids))
        there = refusal_or(
            lambda: mi.classify_heads(
                model, [new[own].tolist() for own in map(torch.tensor, given_ids)]
            )
        )
        assert (here is None) == (there is None)
        assume(here is not None)
        for field in ("score", "null", "lift", "ci_low", "ci_high"):
            one, other = getattr(here, field), getattr(there, field)
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)
        count["cases"] += 1

    holds()
    record_property("renamed models", count["cases"])


MASKS = [
    behaviour.name
    for behaviour in BEHAVIOURS.values()
    if isinstance(behaviour, MaskBehaviour) and not behaviour.roles and not behaviour.reads_text
]


def test_renaming_ids_and_permuting_texts_change_no_figure_of_patterns(
    record_property: Counter,
) -> None:
    count = {"cases": 0}

    @fuzzed(400)
    @given(
        sequences=st.lists(
            st.lists(st.integers(0, 6), min_size=1, max_size=24), min_size=1, max_size=5
        ),
        renaming=st.permutations(range(7)),
        data=st.data(),
        name=st.sampled_from([*MASKS, "offset_3"]),
        window=st.sampled_from([None, 1, 4]),
    )
    def holds(
        sequences: list[list[int]],
        renaming: list[int],
        data: st.DataObject,
        name: str,
        window: int | None,
    ) -> None:
        order = data.draw(st.permutations(range(len(sequences))))
        behaviour = BEHAVIOURS.resolve(name)
        length = max(map(len, sequences))
        patterns = [random_pattern(length, seed=place) for place in range(len(sequences))]

        def measured(places: list[int], names: list[int]) -> Any:
            batch = from_sequences([[names[t] for t in sequences[p]] for p in places], None)
            heads = [torch.stack([patterns[p] for p in places])]
            return figures(behaviour, batch, heads, window)

        plain = measured(list(range(len(sequences))), list(range(7)))
        other = measured(order, renaming)
        for field in ("score", "null", "lift", "ci_low", "ci_high"):
            one, two = getattr(plain, field), getattr(other, field)
            # Intervals of one or two texts are over their queries, in their order.
            if field.startswith("ci") and len(sequences) < 3 and order != sorted(order):
                continue
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5, equal_nan=True)
        assert not plain.score.isinf().any()
        count["cases"] += 1

    holds()
    record_property("patterns under other names, in another order", count["cases"])


def test_ids_of_a_text_are_those_of_its_ids(record_property: Counter) -> None:
    count = {"cases": 0}

    @fuzzed(150)
    @given(name=st.sampled_from(TOYS), data=st.data())
    def holds(name: str, data: st.DataObject) -> None:
        model, text = loaded(name), data.draw(texts(name))
        batch = refusal_or(lambda: tokenise(model, text))
        assume(batch is not None)
        again = tokenise(model, batch.sequence(0))
        assert torch.equal(again.ids, batch.ids)
        several = refusal_or(lambda: tokenise(model, [text, text]))
        assert several is not None
        assert several.sequence(1).tolist() == batch.sequence(0).tolist()
        count["cases"] += 1

    holds()
    record_property("texts as their ids", count["cases"])
