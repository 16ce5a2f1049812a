"""Successor heads by known answers: hits by hand, and a head built to step on."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.heads import protocol as circuits
from mi_toolkit.heads.behaviours import successor_maps
from mi_toolkit.heads.direct_effect import effective_unembedding, frozen_norm, output_weights
from mi_toolkit.heads.kinds import CircuitBehaviour, TokenMap, circuit_figures, pair_hits
from mi_toolkit.heads.protocol import circuit_logits, effective_embedding, measure_circuits
from tests.models_here import TOYS, loaded, untouched

NEXT = torch.arange(1, 9)
STEP, STAY = torch.eye(9)[1:], torch.eye(9)[:8]


def figures(logits: torch.Tensor):
    return circuit_figures(pair_hits(logits[None], NEXT), bar=0.3)


def test_a_head_that_steps_on_has_lift_one() -> None:
    found = figures(STEP)
    assert float(found.score) == 1
    assert float(found.null) == pytest.approx(1 / 8)
    assert float(found.lift) == 1
    assert float(found.ci_low) == pytest.approx(1)


def test_a_head_whose_steps_are_permuted_is_at_chance() -> None:
    permuted = STEP[torch.tensor([3, 4, 5, 6, 7, 0, 1, 2])]
    found = figures(permuted)
    assert float(found.score) == 0
    assert float(found.lift) == pytest.approx(-1 / 7)
    # Over all permutations of the targets the lift is 0, which is what chance means.
    generator = torch.Generator().manual_seed(0)
    lifts = [float(figures(STEP[torch.randperm(8, generator=generator)]).lift) for _ in range(400)]
    assert sum(lifts) / len(lifts) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    "logits",
    [torch.eye(9)[4].expand(8, 9), torch.zeros(8, 9)],
    ids=["one token for all", "nothing"],
)
def test_a_head_that_says_the_same_of_every_token_has_lift_zero(logits: torch.Tensor) -> None:
    assert float(figures(logits).lift) == pytest.approx(0)


def test_a_head_that_copies_is_no_successor() -> None:
    assert float(figures(STAY).score) == 0
    assert float(figures(STAY).ci_high) < 0


def test_half_the_steps_give_half_the_score() -> None:
    found = figures(torch.cat([STEP[:4], STAY[4:]]))
    assert float(found.score) == 0.5
    assert -0.1 <= float(found.ci_low) < float(found.lift) < float(found.ci_high) < 1


def test_under_eight_pairs_there_is_no_interval() -> None:
    found = circuit_figures(pair_hits(STEP[None, :5], NEXT[:5]), bar=0.3)
    assert float(found.score) == 1
    assert found.ci_low.isnan().all()


@pytest.mark.parametrize("name", TOYS)
def test_ordinals_are_single_tokens_and_each_points_to_the_next(name: str) -> None:
    tokenizer = loaded(name).tokenizer
    found = {each.name: each for each in successor_maps(tokenizer)}
    assert {"numbers", "letters"} <= set(found)
    for each in found.values():
        assert {target for _, target in each.pairs} <= set(each.candidates)
    said = {
        tokenizer.decode([a]).strip(): tokenizer.decode([b]).strip()
        for a, b in found["letters"].pairs
    }
    assert said["A"] == "B"
    assert "Z" not in said
    numbers = [tokenizer.decode([a]).strip() for a, _ in found["numbers"].pairs]
    assert numbers[:3] == ["1", "2", "3"]


def test_days_come_round() -> None:
    class Words:
        """Every word is one token, its id its place in `words`."""

        def __init__(self) -> None:
            self.words: list[str] = []

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            for word in text.split():
                if word not in self.words:
                    self.words.append(word)
            return [self.words.index(word) for word in text.split()]

    tokenizer = Words()
    found = {each.name: each for each in successor_maps(tokenizer)}
    assert len(found) == 8
    assert (tokenizer.words.index("Sunday"), tokenizer.words.index("Monday")) in found["days"].pairs
    assert len(found["numbers"].pairs) == 199
    assert len(found["months"].pairs) == 12


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-opt"])
def test_what_the_first_mlp_makes_of_an_embedding_is_what_hugging_face_computes(name: str) -> None:
    ids = torch.arange(40, 48)
    hf = untouched(name)
    embedding = loaded(name).W_E.detach()[ids]
    with torch.no_grad():
        if name == "toy-gpt2":
            block = hf.transformer.h[0]
            wanted = block.mlp(block.ln_2(embedding))
        else:
            block = hf.model.decoder.layers[0]
            wanted = block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(embedding))))
    assert torch.allclose(effective_embedding(loaded(name), ids, layer=1), wanted, atol=1e-5)
    assert torch.equal(effective_embedding(loaded(name), ids, layer=0), embedding)


@pytest.mark.parametrize("name", TOYS)
def test_a_circuit_is_what_the_head_writes_when_it_attends_to_one_token(name: str) -> None:
    """Against the model run on one position: a query that sees itself alone attends to it fully."""
    model, layer = loaded(name), 2
    embedding = effective_embedding(model, torch.arange(40, 46), layer=layer)
    seen: dict[str, torch.Tensor] = {}
    fed = torch.cat([embedding, torch.zeros_like(embedding[:1])])
    with model.hooks([(f"blocks.{layer}.hook_resid_pre", lambda x, hook: fed[:, None].to(x))]):
        hooks = [f"blocks.{layer}.attn.hook_z"]
        circuits.visit_activations(
            model, torch.arange(40, 47)[:, None], hooks, lambda n, z: seen.setdefault(n, z)
        )
    z = seen[hooks[0]][:, 0]
    z = z[:-1] - z[-1]  # a vector of zeros leaves the biases alone
    unembedding = effective_unembedding(model)
    directions = unembedding.directions(torch.arange(100, 110))
    wanted = torch.einsum("thd,hdm,cm->htc", z.float(), output_weights(model, layer), directions)
    found = circuit_logits(model, layer, embedding, directions)
    # Up to the norm's scale, one for each token.
    ratio = (found * wanted).sum(dim=(0, 2)) / (wanted * wanted).sum(dim=(0, 2))
    assert (ratio > 0).all()
    assert torch.allclose(found, wanted * ratio[:, None], rtol=1e-3, atol=1e-3 * found.abs().max())


def letters(tokenizer) -> list[TokenMap]:
    """Eight letters and their successors: as many as a toy's heads have dimensions for."""
    (found,) = (each for each in successor_maps(tokenizer) if each.name == "letters")
    ids = [found.pairs[0][0], *(target for _, target in found.pairs[:8])]
    return [TokenMap(name="letters", candidates=tuple(ids), pairs=tuple(pairwise(ids)))]


def test_a_head_built_to_step_on_is_labelled_and_one_built_to_jump_is_not() -> None:
    model = mi.load_model("toy-gpt2")
    (steps,) = letters(model.tokenizer)
    read = frozen_norm(model.blocks[3].ln1, model.blocks[3].attn.W_O.detach()[0, 0])(
        effective_embedding(model, torch.tensor([source for source, _ in steps.pairs]), layer=3)
    )
    directions = effective_unembedding(model).directions(torch.tensor(steps.candidates))
    onto = torch.linalg.pinv(directions).T  # raises one candidate's logit and no other's
    attention = model.blocks[3].attn
    d_head = int(model.cfg.d_head)
    for head, order in ((0, range(1, 9)), (1, [4, 5, 6, 7, 8, 1, 2, 3])):
        values, output = torch.zeros(read.shape[1], d_head), torch.zeros(d_head, read.shape[1])
        values[:, :8] = torch.linalg.pinv(read)
        output[:8] = onto[list(order)]
        attention.W_V.data[head] = values
        attention.W_O.data[head] = output
    with mi.heads.BEHAVIOURS.scope():
        mi.heads.circuit_behaviour(name="steps", meaning="the next letter", trigger="letters")(
            letters
        )
        report = mi.classify_heads(model, behaviours=["steps", "successor"])
    assert float(report["steps"][3, 0]) == pytest.approx(1)
    assert report.heads("steps")[0] == (3, 0)
    assert float(report.score[report.index("steps")][3, 1]) == 0
    assert (3, 1) not in report.heads("steps")
    assert report.stimulus["steps"] == "weights"
    assert report.n_queries["steps"] == 8


def test_a_vocabulary_without_ordinals_makes_it_not_applicable() -> None:
    behaviour = CircuitBehaviour(name="none", meaning="", trigger="tokens", maps=lambda _: [])
    report = mi.classify_heads(loaded("toy-gpt2"), behaviours=[behaviour])
    assert report.applicable["none"] is False
    assert report["none"].isnan().all()
    assert report.not_applicable_reason("none") == "not applicable here: needs tokens"


def test_a_model_without_one_final_norm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(model: object) -> None:
        raise UnsupportedModelError("no norm")

    monkeypatch.setattr(circuits, "effective_unembedding", unsupported)
    maps = successor_maps(loaded("toy-gpt2").tokenizer)
    with pytest.raises(UnsupportedModelError, match="no norm"):
        measure_circuits(loaded("toy-gpt2"), maps, bar=0.3)
