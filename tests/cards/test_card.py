"""Cards: each formula against an independent computation on a small model."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace
from functools import cache
from math import isnan

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import mi_toolkit as mi
from mi_toolkit.cards.card import (
    PARTS,
    HeadCard,
    behaviour_figures,
    examples_of,
    frequent_ids,
    loss_changes,
    nearest_heads,
    token_kinds,
)
from mi_toolkit.cards.circuits import (
    COPYING,
    circuit_tables,
    composition_scores,
    head_vectors,
    interactions,
    links_of,
    map_scores,
    random_corners,
    table_of_tokens,
    turned,
    word_maps,
)
from mi_toolkit.cards.profile import HeadProfiles, profile_heads
from mi_toolkit.core.errors import PromptError, ReportError, UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.core.stimuli import evaluation_passages, loss_batch
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.heads.direct_effect import projection_weights
from mi_toolkit.heads.protocol import effective_embedding
from mi_toolkit.heads.relations import KINDS
from tests.models_here import loaded, untouched

TEXTS = [
    'Ann sold the house (a big one). Then Ann said: "The house, the garden, the house."',
    "One two three one two three.\nFour, five, one two three",
    "The houses are sold, and the house is sold. The garden is not, and so on and on.",
]


@cache
def profiles(name: str = "toy-gpt2") -> HeadProfiles:
    return profile_heads(loaded(name), TEXTS)


@cache
def card() -> HeadCard:
    model = loaded("toy-gpt2")
    report = mi.classify_heads(model, behaviours=["induction", "locality"])
    return mi.head_card(
        model, "L2H0", profiles=profiles(), report=report, n_sequences=4, n_tokens=40,
    )  # fmt: skip


def gpt2_by_hand(ids: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """QK and OV tables of toy-gpt2 from Hugging Face's modules, one pair at a time."""
    hf = untouched("toy-gpt2").transformer
    block, first = hf.h[head.layer], hf.h[0]
    unembedding = untouched("toy-gpt2").lm_head.weight.detach()
    with torch.no_grad():
        embedding = first.mlp(first.ln_2(hf.wte(ids)))
        q, k, v = block.attn.c_attn(block.ln_1(embedding)).split(embedding.shape[1], dim=-1)
        width = q.shape[1] // block.attn.num_heads
        own = slice(head.head * width, (head.head + 1) * width)
        matched = torch.zeros(len(ids), len(ids))
        for a in range(len(ids)):
            for b in range(len(ids)):
                matched[a, b] = q[a, own] @ k[b, own] / width**0.5
        written = v[:, own] @ block.attn.c_proj.weight[own]
        folded = unembedding * hf.ln_f.weight
        folded = folded - folded.mean(dim=1, keepdim=True)
        logits = written @ (folded - folded.mean(dim=0)).T
    return matched, logits[:, ids]


def test_tables_are_those_of_brute_force_over_the_vocabulary() -> None:
    ids = torch.tensor([5, 17, 30, 44, 61, 80])
    tables = circuit_tables(loaded("toy-gpt2"), Head(2, 0), ids, offset=1, seed=0)
    matched, logits = gpt2_by_hand(ids, Head(2, 0))
    torch.testing.assert_close(tables["reads"][0], matched, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tables["writes"][0], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["toy-gpt-neo", "toy-pythia", "toy-opt"])
def test_vectors_put_in_together_are_those_put_in_one_by_one(name: str) -> None:
    model, ids = loaded(name), torch.tensor([5, 17, 30])
    embedding = effective_embedding(model, ids, layer=2)
    together = head_vectors(model, Head(2, 1), embedding, offset=3)
    for place in range(len(ids)):
        alone = head_vectors(model, Head(2, 1), embedding[place : place + 1], offset=3)
        for all_of_them, one in zip(together, alone, strict=True):
            torch.testing.assert_close(all_of_them[place : place + 1], one, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together.query[0], together.query[1])


@pytest.mark.parametrize("head", [Head(2, 1), Head(0, 1)], ids=str)
@pytest.mark.parametrize("offset", [0, 3])
def test_rotation_and_shared_keys_are_those_of_the_model(offset: int, head: Head) -> None:
    """Of what its layer reads: in the first, the embedding, which no MLP has seen yet."""
    model, ids = loaded("toy-qwen2"), torch.tensor([5, 17, 30])
    hf = untouched("toy-qwen2").model
    layer = hf.layers[head.layer]
    with torch.no_grad():
        first = hf.layers[0]
        embedding = hf.embed_tokens(ids)
        if head.layer > 0:
            embedding = first.mlp(first.post_attention_layernorm(embedding))
        read = layer.input_layernorm(embedding)
        width = layer.self_attn.head_dim
        q = layer.self_attn.q_proj(read).unflatten(-1, (-1, width))[:, head.head]
        k = layer.self_attn.k_proj(read).unflatten(-1, (-1, width))
        k = k[:, head.head * k.shape[1] // int(model.cfg.n_heads)]
        cos, sin = hf.rotary_emb(read[None], torch.arange(offset + 1)[None])

        def rotated(vectors: Tensor, place: int) -> Tensor:
            half = width // 2
            turned = torch.cat([-vectors[:, half:], vectors[:, :half]], dim=-1)
            return vectors * cos[0, place] + turned * sin[0, place]

        scores = rotated(q, offset) @ rotated(k, 0).T / width**0.5
    tables = circuit_tables(model, head, ids, offset=offset, seed=0)
    torch.testing.assert_close(tables["reads"][0], scores, rtol=1e-4, atol=1e-4)


def test_what_is_left_of_a_table_has_no_row_or_column_means_and_unit_size() -> None:
    table = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) + torch.arange(7)
    beyond, common = interactions(table)
    torch.testing.assert_close(beyond.mean(dim=0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(beyond.mean(dim=1), torch.zeros(5), atol=1e-5, rtol=0)
    assert float(beyond.square().mean()) == pytest.approx(1, abs=1e-5)
    assert common.argmax() == 6


def test_a_table_finds_the_pairs_that_were_planted_and_shuffled_ones_do_not_reach_them() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(3, 30, 30, generator=generator)
    tables[0, 4, 9] += 30
    tables[0, 9, 4] -= 30
    found = table_of_tokens(tables, [str(token) for token in range(30)])
    assert (found.highest[0].source, found.highest[0].target) == ("4", "9")
    assert (found.lowest[0].source, found.lowest[0].target) == ("9", "4")
    assert found.highest[0].value > 2 * found.shuffled_highest > found.highest[1].value
    assert abs(found.itself) < 3 * found.itself_error


def test_the_error_of_a_token_with_itself_is_that_of_shuffled_pairs() -> None:
    beyond, _ = interactions(torch.randn(24, 24, generator=torch.Generator().manual_seed(1)))
    found = table_of_tokens(beyond[None].repeat(2, 1, 1), ["x"] * 24)
    generator = torch.Generator().manual_seed(2)
    means = torch.stack(
        [beyond[torch.arange(24), torch.randperm(24, generator=generator)].mean()
         for _ in range(4000)]
    )  # fmt: skip
    assert float(means.std()) == pytest.approx(found.itself_error, rel=0.05)


def test_composition_is_that_of_whole_matrices() -> None:
    model, head = loaded("toy-gpt2"), Head(2, 0)
    hf = untouched("toy-gpt2").transformer
    n_heads = int(model.cfg.n_heads)
    links = {(str(link.writer), link.way): link for link in links_of(model, head, seed=0)
             if link.reader == head}  # fmt: skip

    def parts(layer: int, index: int) -> tuple[Tensor, ...]:
        attn = hf.h[layer].attn
        q, k, v = attn.c_attn.weight.detach().split(attn.split_size, dim=1)
        own = slice(index * attn.head_dim, (index + 1) * attn.head_dim)
        out = attn.c_proj.weight.detach()[own]
        gain = hf.h[layer].ln_1.weight.detach()[:, None]
        q, k, v = (gain * each[:, own] for each in (q, k, v))
        q, k, v = (each - each.mean(dim=0) for each in (q, k, v))
        return q, k, v, out

    q, k, v, out = parts(*head)
    for layer in (0, 1):
        for index in range(n_heads):
            _, _, earlier_v, earlier_out = parts(layer, index)
            writes = earlier_v @ earlier_out
            for way, reads in {"query": q @ k.T, "key": k @ q.T, "value": v @ out}.items():
                score = (writes @ reads).norm() / (writes.norm() * reads.norm())
                found = links[str(Head(layer, index)), way]
                assert found.score == pytest.approx(float(score), rel=1e-3), (found.writer, way)


def test_composition_is_that_of_transformer_lens_where_no_norm_stands_between() -> None:
    model, head = mi.load_model("toy-qwen2"), Head(2, 1)
    with torch.no_grad():  # TransformerLens leaves norms out; a gain of 1 makes them nothing
        gains = [
            weights for name, weights in model.named_parameters()
            if "ln1" in name or "input_layernorm" in name
        ]  # fmt: skip
        assert len(gains) >= int(model.cfg.n_layers)
        for gain in gains:
            gain.fill_(1)
    ways = {"query": "Q", "key": "K", "value": "V"}
    scores = {way: model.all_composition_scores(mode) for way, mode in ways.items()}
    links = links_of(model, head, seed=0)
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    assert len(links) == len(ways) * (n_layers - 1) * n_heads
    for link in links:
        theirs = float(scores[link.way][(*link.writer, *link.reader)])
        assert link.score == pytest.approx(theirs, rel=1e-3)


def test_an_induction_head_reads_its_keys_from_the_previous_token_head() -> None:
    best = links_of(loaded("toy-gpt2"), Head(2, 0), seed=0)[0]
    assert (best.writer, best.reader, best.way) == (Head(0, 0), Head(2, 0), "key")
    assert best.z > 5


def test_weights_turned_at_random_lie_within_their_null() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1, 4, 32, generator=generator) * torch.tensor([8.0, 2.0, 1.0, 0.1])[:, None]
    b = torch.randn(1, 32, 4, generator=generator) * torch.tensor([5.0, 1.0, 1.0, 0.5])
    corners = random_corners(32, 4, 4, generator)
    null, sd = turned(a, b, corners)
    frames = torch.linalg.qr(torch.randn(2000, 32, 32, generator=generator)).Q
    scores = composition_scores(a @ frames, b.expand(2000, -1, -1))
    assert float(null) == pytest.approx(float(scores.mean()), rel=0.03)
    assert float(sd) == pytest.approx(float(scores.std()), rel=0.15)


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_projections_are_those_of_hugging_face(which: str) -> None:
    attention = untouched("toy-qwen2").model.layers[1].self_attn
    weight = getattr(attention, f"{which}_proj").weight.detach()
    found = projection_weights(loaded("toy-qwen2"), 1, which)  # type: ignore[arg-type]
    shared = weight.unflatten(0, (-1, attention.head_dim)).transpose(1, 2)
    group = len(found) // len(shared)
    torch.testing.assert_close(found, shared.repeat_interleave(group, dim=0))


def test_losses_by_kind_are_those_of_hugging_face() -> None:
    model = loaded("toy-gpt2")
    batch = loss_batch(model, list(evaluation_passages()[:4]), max_length=40)
    found = {each.kind: each for each in loss_changes(
        model, Head(2, 0), batch, how="zero", n_random=2, seed=0, progress=False
    )}  # fmt: skip
    kinds, hf = token_kinds(model, batch), untouched("toy-gpt2")
    clean: dict[str, list[float]] = {name: [] for name in kinds}
    changed: dict[str, list[float]] = {name: [] for name in kinds}
    width = hf.transformer.h[2].attn.head_dim
    for index in range(len(batch)):
        ids = batch.sequence(index)
        losses = []
        for ablated in (False, True):
            if ablated:
                with torch.no_grad():
                    hf.transformer.h[2].attn.c_proj.weight[:width] = 0
            with torch.no_grad():
                logits = hf(ids[None]).logits[0]
            losses.append(cross_entropy(logits[1:-1], ids[2:], reduction="none"))
        hf = untouched("toy-gpt2")
        for name, marked in kinds.items():
            chosen = marked[index, 2 : len(ids)]
            if chosen.any():
                clean[name].append(float(losses[0][chosen].mean()))
                changed[name].append(float((losses[1] - losses[0])[chosen].mean()))
    for name, each in found.items():
        assert each.clean_loss == pytest.approx(sum(clean[name]) / len(clean[name]), abs=1e-4)
        assert each.effect.change == pytest.approx(
            sum(changed[name]) / len(changed[name]), abs=1e-4
        ), name


def test_each_token_is_of_one_kind_and_either_new_or_not() -> None:
    model = loaded("toy-gpt2")
    kinds = token_kinds(model, loss_batch(model, TEXTS))
    of_kind = torch.stack([kinds[name] for name in KINDS]).long().sum(dim=0)
    mentions = kinds["first mention"].long() + kinds["later mention"].long()
    assert torch.equal(of_kind, kinds["all"].long())
    assert torch.equal(mentions, kinds["all"].long())


def test_examples_show_the_place_its_text_and_what_each_key_adds() -> None:
    model = loaded("toy-gpt2")
    found = list(examples_of(model, profiles(), Head(2, 0)))
    assert [each.tenth for each in found[-10:]] == list(range(10, 0, -1))
    assert len([each for each in found if each.tenth is None]) == len(TEXTS)
    for each in found:
        assert float(each.moved[1:].sum()) == pytest.approx(each.activity, rel=1e-3, abs=1e-4)
        assert len(each.moved) == each.position + 1
        assert "".join(each.texts[1:6]) in TEXTS[each.document]
    tenths = [each.activity for each in found[-10:]]
    assert tenths == sorted(tenths, reverse=True)


def test_distances_are_told_as_distances_next_to_the_median() -> None:
    (row,) = (row for row in card().text_table().rows if row[0] == "nearest heads")
    first = card().nearest[0]
    assert row[1].startswith(f"{first.head} {first.distance:.2f}/{first.typical:.2f}  ")
    assert row[1].endswith("(distance/that of the median head)")
    here, there = (profiles(name).lift().nan_to_num(0.0) for name in ("toy-gpt2", "toy-opt"))
    found = nearest_heads(profiles(), Head(2, 0), {"toy-opt": profiles("toy-opt")})
    for near, lifts in ((found[0], here), (found[-1], there)):
        distances = (lifts - here[2, 0]).norm(dim=-1).flatten().tolist()
        others = sorted(each for each in distances if each > 0)  # all but itself
        assert len(others) == (15 if near.model == "toy-gpt2" else 16)
        assert near.typical == pytest.approx(statistics.median(others), abs=1e-5)
        if near is found[0]:
            assert near.distance == pytest.approx(others[0], abs=1e-5)


def test_the_nearest_head_is_the_one_that_does_the_same() -> None:
    mine = profiles()
    *own, same, _ = nearest_heads(mine, Head(2, 0), {"again": mine, "toy-gpt2": mine})
    assert (same.model, same.head, same.distance) == ("again", Head(2, 0), 0)
    assert own == list(nearest_heads(mine, Head(2, 0), {}))
    assert all(near.head != Head(2, 0) and near.model == "toy-gpt2" for near in own)
    assert own[0].distance <= own[-1].distance <= own[0].typical


@pytest.mark.parametrize("name", ["toy-gpt-neo", "toy-qwen2", "toy-pythia", "toy-opt"])
def test_an_induction_head_is_like_the_induction_heads_of_other_models(name: str) -> None:
    *_, nearest, _ = nearest_heads(profiles(), Head(2, 0), {name: profiles(name)})
    report = mi.classify_heads(loaded(name), behaviours=["induction"])
    assert "induction" in report.labels_of(nearest.head)
    assert nearest.distance < nearest.typical / 2


def test_profiles_of_other_texts_are_not_compared() -> None:
    others = {"toy-qwen2": profile_heads(loaded("toy-qwen2"), TEXTS[:2])}
    with pytest.raises(ReportError, match="toy-qwen2 are of other texts than those of toy-gpt2"):
        nearest_heads(profiles(), Head(2, 0), others)


def test_the_most_frequent_tokens_come_first_and_no_special_does() -> None:
    model = loaded("toy-gpt2")
    ids = frequent_ids(model, profiles().counts, 10)
    counts = profiles().counts[ids].tolist()
    assert counts == sorted(counts, reverse=True)
    assert 0 not in counts
    assert model.tokenizer.bos_token not in token_texts(model.tokenizer, ids.tolist())


def test_maps_of_words_hold_pairs_of_single_tokens() -> None:
    tokenizer = loaded("toy-gpt2").tokenizer
    for each in word_maps(tokenizer):
        assert {target for _, target in each.pairs} <= set(each.candidates)
        for pair in each.pairs:
            for id_ in pair:
                assert tokenizer.encode(tokenizer.decode([id_])) == [id_]


def test_a_head_that_copies_carries_out_the_map_of_words_to_themselves() -> None:
    model = loaded("toy-qwen2")
    copies, rests = (
        next(each for each in map_scores(model, head) if each.name == COPYING)
        for head in (Head(2, 0), Head(2, 2))  # an induction head, and one that looks at the sink
    )
    assert copies.n_pairs == rests.n_pairs >= 8
    assert copies.low > 0.1 > abs(rests.lift)


def test_a_map_of_which_the_vocabulary_has_too_little_is_not_applicable() -> None:
    found = map_scores(loaded("toy-gpt2"), Head(2, 0))
    small = [each for each in found if each.not_applicable]
    assert "English to French" in {each.name for each in small}
    for each in small:
        assert isnan(each.lift)
        assert re.search(r"not applicable: [0-3] of \d+ pairs are single", each.not_applicable)
    lifts = [each.lift for each in found if not each.not_applicable]
    assert lifts == sorted(lifts, reverse=True)


def test_a_card_in_parts_is_the_card_at_once() -> None:
    model, options = loaded("toy-gpt2"), {"n_sequences": 4, "n_tokens": 40}
    report = mi.classify_heads(model, behaviours=["induction", "locality"])
    made = mi.head_card(model, "L2H0", profiles=profiles(), report=report, parts=(), **options)
    assert (made.examples, made.reads, made.links, made.losses) == ((), None, (), ())
    assert made.labels == card().labels
    for n, part in enumerate(PARTS, start=1):
        made = mi.head_card(model, "L2H0", profiles=profiles(), onto=made, parts=[part], **options)
        assert made.parts == tuple(PARTS)[:n]
    assert repr(list(made.rows())) == repr(list(card().rows()))  # a NaN is no NaN's equal
    assert made.provenance == card().provenance


def test_a_card_s_labels_are_the_report_s_whatever_a_head_does_on_the_other_stimulus() -> None:
    model = loaded("toy-qwen2")
    report = mi.classify_heads(model)
    # Labelled among the rows of one stimulus alone, a head may pass or fail where it does not here.
    parts = {
        name: replace(part, labels=torch.zeros_like(part.labels))
        for name, part in report.parts.items()
    }
    for made in (report, replace(report, parts=parts)):
        for head in report.all_heads:
            figures = [*behaviour_figures(made, head)]
            carried = {each.behaviour for each in figures if each.labels}
            assert carried == set(report.labels_of(head))


def test_a_card_says_what_the_head_does() -> None:
    found = card()
    assert "induction" in found.labels
    assert found.relations[0].relation == "after_copy"
    assert found.offset == 8  # the bin of 32 back and more, cut
    assert {loss.how for loss in found.losses} == {"zero", "mean", "resample"}
    assert all(len(loss.effect.random) == 3 for loss in found.losses)  # all of its layer
    assert "after_copy" in str(found.to_pandas()["of"].tolist())
    assert "what followed earlier copies" in repr(found)


def test_what_is_not_of_the_model_is_refused() -> None:
    model = loaded("toy-gpt2")
    with pytest.raises(UnknownNameError, match="has no head L9H0"):
        mi.head_card(model, "L9H0", profiles=profiles())
    with pytest.raises(PromptError, match="1 or more"):
        mi.head_card(model, "L2H0", profiles=profiles(), n_random=0)
    with pytest.raises(UnknownNameError, match="kind of ablation"):
        mi.head_card(model, "L2H0", profiles=profiles(), how=["zeros"])
    report = mi.classify_heads(loaded("toy-qwen2"), TEXTS[:1])
    with pytest.raises(ReportError, match="toy-gpt2; one given is of toy-qwen2"):
        mi.head_card(model, "L2H0", profiles=profiles(), report=report)
    with pytest.raises(UnknownNameError, match="No part of a card is called 'loss'"):
        mi.head_card(model, "L2H0", profiles=profiles(), parts=["loss"])
    with pytest.raises(ReportError, match="is of L2H0, not of L2H1"):
        mi.head_card(model, "L2H1", profiles=profiles(), onto=card())
