"""Weights of chosen heads alone: the same scores, ranked and tested among themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.cli.app import run
from mi_toolkit.core.errors import UnknownNameError, WeightError
from mi_toolkit.core.head import Head
from mi_toolkit.core.random_sets import random_control
from mi_toolkit.weights.evaluate_scores import bottom, magnitude_matched
from mi_toolkit.weights.study import Settings, run_study
from mi_toolkit.weights.weight_scores import WeightScores
from tests.models_here import loaded
from tests.weights.toy_text import TOY_TEXT

TEXTS = TOY_TEXT[:8]

HEADS = ["L2H0", (2, 3), Head(0, 1)]


def owned(scores: WeightScores, name: str, row: int, column: int) -> tuple[int | None, int]:
    """The layer and the head (or key and value head) of a weight."""
    (place,) = (each for each in scores.places if each.name == name)
    units = place.units(torch.tensor([row]), torch.tensor([column]))
    assert units is not None
    return place.layer, int(units)


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-qwen2"])
@pytest.mark.parametrize("metric", ["grad_x_weight", "signed_grad_x_weight"])
def test_weights_of_heads_rank_as_they_do_among_all(name: str, metric: str) -> None:
    model = loaded(name)
    everything = mi.score_weights(model, TEXTS, metric)
    scores = mi.score_weights(model, TEXTS, metric, heads=HEADS)
    shared = model.cfg.n_heads // (model.cfg.n_key_value_heads or model.cfg.n_heads)
    asked = {(2, 0), (2, 3), (0, 1)}
    read = {(layer, head // shared) for layer, head in asked}
    assert {place.component for place in scores.places} == {"W_Q", "W_K", "W_V", "W_O"}
    meant = {"head": asked, "kv_head": read}
    units = {place.name: meant[str(place.unit)] for place in scores.places}
    for place in scores.places:
        mask = scores.masks[place.name]
        rows, columns = mask.nonzero(as_tuple=True)
        owners = place.units(rows, columns)
        assert owners is not None
        assert {(place.layer, unit) for unit in owners.tolist()} == {
            at for at in units[place.name] if at[0] == place.layer
        }
        assert torch.equal(scores.scores[place.name], everything.scores[place.name] * mask)
    values = torch.cat([everything.scores[name][mask] for name, mask in scores.masks.items()])
    highest = values.sort(descending=True).values[:200]
    assert torch.equal(scores.ranking(200).scores[:200], highest)
    # All of them and nothing else, also where scores are below 0.
    ranked = scores.ranking(scores.size).keys()
    assert len(ranked) == scores.size == sum(int(mask.sum()) for mask in scores.masks.values())
    assert all(owned(scores, *at) in units[at[0]] for at in ranked[-300:])
    with pytest.raises(WeightError, match=f"number of weights, {scores.size:,}"):
        scores.ranking(scores.size + 1)
    sums = scores.by_layer()
    assert int(sums["n_weights"].sum()) == scores.size
    assert sums["share"].sum() == pytest.approx(1)


def test_controls_are_weights_of_the_same_heads() -> None:
    scores = mi.score_weights(loaded("toy-gpt2"), TEXTS, heads=["L2H1"])
    top = scores.ranking(400).keys()[:400]
    shapes = {place.name: place.shape for place in scores.places}
    places = scores.matrices_in(loaded("toy-gpt2"))
    weights = {name: matrix.value() for name, matrix in places.items()}
    controls = (
        random_control(top, shapes, torch.Generator().manual_seed(0), scores.masks),
        magnitude_matched(top, weights, scores.masks),
        bottom(top, scores.scores),
    )
    for control in controls:
        assert len(set(control)) == 400
        assert {owned(scores, *at) for at in control} == {(2, 1)}


def test_a_label_stands_for_the_heads_that_have_it(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    by_label = mi.score_weights(model, TEXTS, "magnitude", heads="label:induction")
    by_name = mi.score_weights(model, TEXTS, "magnitude", heads=["L2H0"])
    assert by_label.places == by_name.places
    assert repr(by_label).startswith(
        f"WeightScores of toy-gpt2 by magnitude: {by_name.size:,} weights in 4 matrices of "
        "L2H0, the highest"
    )
    by_label.save(tmp_path / "scores")
    again = WeightScores.load(tmp_path / "scores")
    assert again.places == by_label.places
    assert again.ranking(20).keys() == by_label.ranking(20).keys()


def test_a_few_blocks_at_a_time_give_the_same(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    whole = mi.score_weights(model, TEXTS, heads=HEADS)
    parts = mi.weights.score_blockwise(model, TEXTS, folder=tmp_path, heads=HEADS)
    assert parts.ranking(50).keys() == whole.ranking(50).keys()
    assert [place.kept for place in parts.places] == [place.kept for place in whole.places]


def test_stability_samples_the_weights_of_the_heads_alone() -> None:
    scores = mi.score_weights(loaded("toy-gpt2"), TEXTS, heads=["L2H0"])
    assert sum(map(len, scores.meant())) == scores.size
    assert all(bool((part != 0).any()) for part in scores.meant())


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (["L9H0"], "has no head L9H0: its layers are 0 to 3 and its heads 0 to 3"),
        ([], "The list of heads is empty"),
        ("nose", "'nose' names no head"),
        ("label:inducton", "No label is called 'inducton'. Did you mean 'induction'?"),
        ("label:duplicate_token", "has no head labelled duplicate_token by the standard protocol"),
    ],
)
def test_heads_that_are_not_there_are_named(heads: Any, message: str) -> None:
    with pytest.raises(UnknownNameError, match=re.escape(message)):
        mi.score_weights(loaded("toy-gpt2"), TEXTS, "magnitude", heads=heads)


def test_a_run_of_heads_goes_on_and_says_whose_weights_they_are(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    settings = Settings(topk=(5,), heads=("L2H0",))
    study = run_study(model, settings, texts=TEXTS, folder=tmp_path, perturbing=False)
    assert study.of_heads == ("L2H0",)
    assert set(study.top["grad_x_weight", 5]["head"]) == {0}
    named_otherwise = Settings(topk=(5,), heads=("2.0",))
    again = run_study(model, named_otherwise, texts=TEXTS, folder=tmp_path, perturbing=False)
    assert "scores of grad_x_weight" in again.reused
    other = Settings(topk=(5,), heads=("L2H1",))
    assert not run_study(model, other, texts=TEXTS, folder=tmp_path, perturbing=False).reused


def test_the_command_takes_heads_and_labels(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sensitivity", "--topk", "3", "--no-perturbation", "--eval-limit", "4", "--heads"]
    assert run([*command, "L2H0,L2H1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["heads"] == ["L2H0", "L2H1"]
    assert {(row["layer"], row["head"] // 2) for row in told["top"][0]["weights"]} == {(2, 0)}
    assert run([*command, "label:inducton"]) == 2
    assert "No label is called 'inducton'" in capsys.readouterr().err
