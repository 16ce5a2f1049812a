"""What a user tries first works, or one line says the way."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import mi_toolkit as mi
from mi_toolkit.core.errors import (
    BehaviourError,
    ComparisonError,
    GenerationError,
    ModelLoadError,
    ModelTypeError,
    PromptError,
    ReportError,
    StoreError,
    SweepError,
    UnknownNameError,
    WeightError,
)
from mi_toolkit.draw.figures import save_figure
from mi_toolkit.weights.parameters import weight_matrices
from tests.every_job import CLEAN, PROMPT
from tests.models_here import loaded, untouched

PACKAGES = (mi.heads, mi.weights, mi.interventions, mi.activations, mi.attribution, mi.text)
TABLE = pd.DataFrame({"text": [PROMPT]})
BY_NAME = ("load_model", "verify_model", "dynamics", "plan")
"""What takes a model's name."""


def take_a_model() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function whose first argument is a model."""
    for package in (*PACKAGES, mi.compare, mi.draw, mi):
        for name in package.__all__:
            function = getattr(package, name)
            if inspect.isfunction(function) and name not in BY_NAME:
                first = next(iter(inspect.signature(function).parameters.values()), None)
                if first is not None and first.name == "model":
                    yield name, function


def n_required(function: Callable[..., Any]) -> int:
    """Arguments in order that have no default, after the model."""
    in_order = inspect.signature(function).parameters.values()
    return -1 + sum(
        each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in in_order
    )


def scored(model: Any) -> mi.weights.WeightScores:
    return mi.score_weights(model, [PROMPT], "magnitude", layers=0)


def test_a_name_in_the_place_of_a_model_is_told_how_to_become_one() -> None:
    found = dict(take_a_model())
    assert {"classify_heads", "ablating", "perturbed", "record", "describe_model"} <= set(found)
    for name, function in found.items():
        with (
            pytest.raises(ModelTypeError, match=f"{name} takes a model first, not its name"),
            function("toy-gpt2", *[PROMPT] * n_required(function)),  # a context, or it raises
        ):
            pass


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("toy-gpt2", "model = mi.load_model('toy-gpt2'), then classify_heads(model, …)"),
        (PROMPT, "classify_heads(mi.load_model('toy-gpt2'), text)"),
        (None, "takes a model first, not NoneType"),
        ({"model": 1}, "takes a model first, not a dict"),
        (torch.nn.Linear(2, 2), "a Linear has no hooks: classify_heads(mi.load_model(hf_model)"),
    ],
)
def test_what_is_no_model_is_refused_by_what_it_is(given: Any, message: str) -> None:
    with pytest.raises(ModelTypeError, match=re.escape(message)):
        mi.classify_heads(given, PROMPT)
    with pytest.raises(ModelTypeError, match=re.escape(message)):
        mi.classify_heads(model=given)


def test_a_hugging_face_model_is_wrapped_as_the_first_argument() -> None:
    hf_model = untouched("toy-gpt2")
    model = mi.load_model(hf_model)
    assert model.cfg.model_name == hf_model.config.name_or_path
    ids = loaded("toy-gpt2").to_tokens(PROMPT)  # type: ignore[attr-defined]
    assert torch.equal(model(ids), loaded("toy-gpt2")(ids))
    assert torch.equal(model.to_tokens(PROMPT), ids)  # type: ignore[attr-defined]
    with pytest.raises(ModelLoadError, match=r"hooked model already .* use it as it is"):
        mi.load_model(model)  # type: ignore[arg-type]
    with pytest.raises(ModelLoadError, match="Two models were given"):
        mi.load_model(hf_model, hf_model=hf_model)


def test_a_model_of_no_path_takes_no_tokenizer_from_the_folder_that_python_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_model = untouched("toy-gpt2")
    loaded("toy-gpt2").tokenizer.save_pretrained(tmp_path)
    hf_model.config.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    hf_model.config.name_or_path = ""
    model = mi.load_model(hf_model)
    assert model.cfg.model_name == "GPT2LMHeadModel"
    assert model.tokenizer is None


@pytest.mark.parametrize(
    ("ask", "kind", "message"),
    [
        (lambda m: mi.plan(m), ModelTypeError, "plan takes the name of a model that is not loaded"),
        (lambda m: mi.load_model([m]), UnknownNameError, "..: load_model('toy-gpt2') is one"),
        (lambda m: mi.load_model("toy-gpt2", backend=m), UnknownNameError, "... Known: auto"),
        (
            lambda m: mi.confirm_heads(m, "induction"),  # type: ignore[arg-type]
            ReportError,
            "not 'induction': give mi.classify_heads(model), with labels=['induction'] for one",
        ),
        (
            lambda _: mi.sweep("toy-gpt2", "never"),  # type: ignore[arg-type]
            SweepError,
            "not 'toy-gpt2': mi.sweeps.jobs_over(['toy-gpt2'], 'classify') makes one",
        ),
        (
            lambda m: scored(m).top(20, model="toy-gpt2"),  # type: ignore[arg-type]
            ModelTypeError,
            "not from its name: model=mi.load_model('toy-gpt2').",
        ),
        (
            lambda m: mi.view(mi.classify_heads(m, PROMPT), "L0H0"),  # type: ignore[call-overload]
            TypeError,
            "view() takes a HeadReport alone, and shows all of it. mi.head_card(model, 'L0H0')",
        ),
        (
            lambda m: mi.view(mi.trace_pipeline(m, PROMPT), place=1),  # type: ignore[call-overload]
            TypeError,
            "view() has no argument 'place'.",
        ),
        (
            lambda m: mi.Page([mi.classify_heads(m, PROMPT)]),  # type: ignore[list-item]
            UnknownNameError,
            "A page holds views, and no HeadReport: mi.Page([mi.view(result), …]).",
        ),
        (
            lambda m: mi.compare.compare_stimuli(m),
            ComparisonError,
            "give a standard report",
        ),
        (
            lambda m: mi.classify_heads(m, PROMPT, behaviors=["induction"]),
            TypeError,
            "classify_heads() has no argument 'behaviors'. Did you mean 'behaviours'?",
        ),
        (
            lambda m: mi.view_attention(m, PROMPT, 0),
            TypeError,
            "view_attention() takes model, prompt in this order, and all else by name: layer=",
        ),
        (lambda m: mi.verify_model(m), ModelTypeError, "verify_model('gpt2', model=model)"),
        (
            lambda _: mi.compare_models("toy-gpt2", "toy-pythia"),
            ComparisonError,
            "compare_models(['toy-gpt2', …], prompt)",
        ),
        (lambda _: mi.view_report, AttributeError, "mi.view(result) draws any"),
        (lambda _: mi.load_model(None), UnknownNameError, "named by a text or a path, not by None"),
        (
            lambda m: mi.view_attention(m, PROMPT, layer="1"),
            UnknownNameError,
            "layer is a number, as in layer=3; not '1'",
        ),
        (
            lambda m: mi.record(m, PROMPT, ["z", 1]),
            UnknownNameError,
            "1 names no activation: write 'z', ('z', 1) for one layer",
        ),
        (
            lambda m: mi.record(m, PROMPT, "z")["z", 1, "attn"],
            UnknownNameError,
            "names no activation",
        ),
        (
            lambda m: mi.classify_heads(m, PROMPT, min_lift=30),
            PromptError,
            "from 0 (chance) to 1 (perfect); not 30",
        ),
        (lambda m: mi.classify_heads(m, PROMPT, min_lift="high"), PromptError, "not 'high'"),
        (
            lambda m: mi.view(mi.trace_pipeline(m, PROMPT), " John"),
            PromptError,
            "position is a number, 0 to",
        ),
        (
            lambda m: mi.trace_pipeline(m, PROMPT, report="report.safetensors"),
            ReportError,
            "report is what classify_heads returned, not of type str",
        ),
        (
            lambda m: mi.generate(m, PROMPT, sampling=True),
            GenerationError,
            "it takes mi.text.Sampling(",
        ),
        (lambda m: mi.generate(m, PROMPT, eos_ids=" the"), GenerationError, "it takes token ids"),
        (lambda m: mi.head_card(m, ["L2H0", "L0H0"]), PromptError, "A card is of one head"),
        (
            lambda m: mi.head_card(m, "L2H0", profiles="profiles"),
            ReportError,
            "A HeadProfiles is wanted",
        ),
        (lambda m: mi.generate(m, TABLE), PromptError, "as in table['text']"),
        (lambda m: mi.activation_statistics(m, TABLE, "z"), PromptError, "as in table['text']"),
        (
            lambda m: mi.activation_statistics(m, {"text": PROMPT}, "z"),
            PromptError,
            "give its values, as in list(texts.values())",
        ),
        (lambda _: mi.plan("toy-gpt2", memory=4), PromptError, "write its unit, as in '4GiB'"),
        (
            lambda m: mi.ablation_effect(m, PROMPT, 2),
            UnknownNameError,
            "2 names no part of a model, nor several: write 'L5H1' for a head, 'L2' for a whole",
        ),
        (
            lambda m: mi.ablation_effect(m, PROMPT, torch.tensor([2, 0])),
            UnknownNameError,
            "names no part of a model",
        ),
        (
            lambda m: mi.ablation_effect(m, PROMPT, "label:induction"),
            UnknownNameError,
            "report.heads('induction'), of a classify_heads report",
        ),
        (
            lambda m: mi.ablation_effect(m, PROMPT, "L2H0, L1H0"),
            UnknownNameError,
            "Several go into a list: ['L2H0', 'L1H0'].",
        ),
        (
            lambda m: mi.score_weights(m, [PROMPT], ["magnitude", "random"]),
            WeightError,
            "call score_weights for each",
        ),
        (lambda m: mi.score_weights(m, [PROMPT], heads=2), UnknownNameError, "names no head"),
        (lambda _: mi.Head(-1, 0), UnknownNameError, "both counted from zero"),
        (
            lambda m: mi.classify_heads(m, PROMPT, batch_size="4"),
            PromptError,
            "classify_heads(): batch_size is a whole number, and not '4'.",
        ),
        (
            lambda m: mi.attribute(m, PROMPT, steps=3.5),
            PromptError,
            "attribute(): steps is a whole number, and not 3.5.",
        ),
        (
            lambda m: mi.classify_heads(m, PROMPT, behaviours=5),
            BehaviourError,
            "behaviours are names, and not 5",
        ),
        (lambda m: mi.length_sweep(m, ["32"]), ComparisonError, "whole numbers of tokens"),
        (lambda m: mi.perturbed(m, None).__enter__(), WeightError, "None names no weights"),
        (lambda _: mi.Page([]), UnknownNameError, "A page without a view is empty"),
        (
            lambda m: mi.classify_heads(m, PROMPT).not_applicable_reason("successor"),
            UnknownNameError,
            "No behaviour of this report is called 'successor'",
        ),
    ],
)
def test_other_guesses_are_told_the_way(
    ask: Callable[[Any], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        ask(loaded("toy-gpt2"))


def test_a_result_says_what_there_is_in_the_place_of_what_it_has_not() -> None:
    found: Any = mi.ablation_sweep(loaded("toy-gpt2"), CLEAN)
    ways = {"to_df": "to_pandas()", "to_csv": "to_csv(path)", "plot": "view(result)"}
    for guess, way in ways.items():
        assert not hasattr(found, guess)
        with pytest.raises(AttributeError, match=f"AblationSweep has no {guess}, but") as error:
            getattr(found, guess)
        assert way in str(error.value)


@pytest.mark.parametrize(
    "form",
    [
        lambda ids: [ids.tolist(), ids[:5].tolist()],
        lambda ids: [ids, ids[:5]],
        lambda ids: [ids[None], ids[None, :5]],
        lambda ids: [ids.numpy(), ids[:5].numpy()],
        lambda ids: [list(ids), list(ids[:5])],
    ],
)
def test_ids_of_unequal_length_are_texts_in_any_container(form: Callable[[Any], Any]) -> None:
    model: Any = loaded("toy-gpt2")
    ids = model.to_tokens(PROMPT)[0]
    report = mi.classify_heads(model, form(ids), behaviours=["previous_token"])
    assert report.tokens["prompt"].lengths.tolist() == [len(ids), 5]
    assert torch.equal(report.tokens["prompt"].sequence(1), ids[:5])
    part: Any = {"layers": [0], "components": ["W_O"]}
    scored = mi.score_weights(model, form(ids), "wanda", **part)
    expected = mi.score_weights(model, [ids, ids[:5]], "wanda", **part)
    (name,) = scored.scores
    assert torch.equal(scored.scores[name], expected.scores[name])


def test_one_name_is_as_good_as_a_list_of_one(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    asked: dict[str, Any] = {"n_sequences": 4, "n_random": 500}
    found = mi.confirm_heads(model, {"induction": ["L2H0"]}, labels="induction", **asked)
    assert set(found.to_pandas()["label"]) == {"induction"}
    store = mi.record_to_disk(model, [PROMPT], ["resid_post"], tmp_path / "store")
    every = store.read(("resid_post", 1))
    assert torch.equal(store.read(("resid_post", 1), 2), every[[2]])
    for rows in ([3, 1], np.array([3, 1]), torch.tensor([3, 1], dtype=torch.int32)):
        assert torch.equal(store.read(("resid_post", 1), rows), every[[3, 1]])
    assert torch.equal(store.read(("resid_post", 1), np.int64(2)), every[[2]])
    assert store.read(("resid_post", 1), []).shape == (0, every.shape[1])
    for mask in ([True] * len(every), every[:, 0] > 0, torch.tensor([0.5])):
        with pytest.raises(StoreError, match=r"whole numbers, not (bool|float32): of a mask"):
            store.read(("resid_post", 1), mask)
    with pytest.raises(StoreError, match="batch_size=0: rows to a batch are 1 or more"):
        next(store.batches(("resid_post", 1), 0))


def test_one_head_is_named_in_any_way_wherever_heads_are() -> None:
    model = loaded("toy-gpt2")
    expected = mi.score_weights(model, [PROMPT], "magnitude", heads=["L2H0"])
    for head in (mi.Head(2, 0), (2, 0), "L2H0", "2.0"):
        found = mi.score_weights(model, [PROMPT], "magnitude", heads=head)
        assert [place.kept for place in found.places] == [p.kept for p in expected.places]
    assert mi.Head((2, 0)) == mi.Head(2, 0) == mi.Head("L2H0")


def test_a_file_s_name_is_no_text_to_take_a_loss_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere, where texts may be of any size, the same name is read as the file."""
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text(f"{PROMPT}\n", encoding="utf-8")
    model = loaded("toy-gpt2")
    with pytest.raises(PromptError, match=r"'texts\.txt' is a file, and its name would be read as"):
        mi.score_weights(model, "texts.txt", "magnitude")
    assert mi.score_weights(model, ["texts.txt"], "grad_x_weight", layers=0).size
    long = f"{PROMPT} " * 20 + "texts.txt"
    assert mi.score_weights(model, long, "grad_x_weight", layers=0).size
    assert mi.activation_statistics(model, "texts.txt", ("z", 0)).n_documents == 1


def test_one_number_or_text_is_as_good_as_a_list_of_one() -> None:
    model = loaded("toy-gpt2")
    scores = mi.score_weights(model, [PROMPT], layers=1)
    assert {place.layer for place in scores.places} == {1}
    few: dict[str, Any] = {"controls": "bottom", "kinds": "zero"}
    test = mi.weights.perturbation_test(model, scores, [PROMPT], k=2, **few)
    several = {name: [value] for name, value in few.items()}
    again = mi.weights.perturbation_test(model, scores, [PROMPT], k=[2], **several)
    assert test.to_pandas().equals(again.to_pandas())
    asked: dict[str, Any] = {"metrics": "magnitude", "k": 5, "seeds": (0, 1), "layers": 0}
    stable = mi.weights.ranking_stability(model, [PROMPT] * 2, **asked)
    assert {each.k for each in stable.agreements} == {5}
    asked = {"text": PROMPT, "behaviours": "previous_token", "n_sequences": 1}
    assert mi.length_sweep(model, 8, **asked).lengths == (8,)


def test_a_weight_is_named_as_tables_print_it() -> None:
    model: Any = loaded("toy-gpt2")
    name, row, column = mi.score_weights(model, [PROMPT], layers=1).ranking(1).keys()[0]
    at = next(m for m in weight_matrices(model) if m.name == name)
    places = torch.tensor([row]), torch.tensor([column])
    for given in (f"{name}[{row}, {column}]", [f"{name}[{row},{column}]"], (name, row, column)):
        with mi.perturbed(model, given) as n_changed:
            assert n_changed == 1
            assert at.read(*places) == 0
    with (
        pytest.raises(WeightError, match=r"'blocks.0' names no weight: write \('blocks.0.attn.W_O"),
        mi.perturbed(model, "blocks.0"),
    ):
        pass


def test_one_view_is_a_page_and_axes_stand_for_their_figure(tmp_path: Path) -> None:
    view = mi.view(mi.classify_heads(loaded("toy-gpt2"), PROMPT, behaviours=["previous_token"]))
    assert mi.Page(view).document() == mi.Page([view]).document()
    figure = Figure()
    inner = figure.subfigures(1, 2)[0]
    save_figure(figure, tmp_path / "whole.svg")
    for number, axes in enumerate((figure.add_subplot(), inner.add_subplot())):
        save_figure(axes, tmp_path / f"{number}.svg")
    save_figure(figure, tmp_path / "whole.svg")
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "whole.svg").read_bytes()


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    model = loaded("toy-gpt2")
    for ids in (np.array([5]), torch.tensor([5]), {5}, [np.int64(5)], 5):
        assert mi.generate(model, PROMPT, max_new_tokens=1, eos_ids=ids).eos_ids == (5,)
    report = mi.classify_heads(model, PROMPT, min_lift=np.float32(0.25))
    assert report.min_lift == 0.25
    traced = mi.trace_pipeline(model, PROMPT)
    assert repr(mi.view(traced, np.int64(1))) == repr(mi.view(traced, 1))


def test_a_folder_in_the_place_of_a_file_is_told_what_is_in_it(tmp_path: Path) -> None:
    report = mi.classify_heads(loaded("toy-gpt2"), PROMPT, behaviours=["previous_token"])
    report.save(tmp_path / "report.safetensors")
    with pytest.raises(ReportError, match=r"is a folder: give one of its files, such as report\.s"):
        mi.HeadReport.load(tmp_path)


def test_a_name_that_says_something_else_is_refused(tmp_path: Path) -> None:
    found = mi.ablation_sweep(loaded("toy-gpt2"), CLEAN)
    with pytest.raises(UnknownNameError, match=r"would hold a page: let its name end in \.html"):
        mi.view(found).save_html(tmp_path / "page.png")
    for ending, writer in (("npz", "numpy.savez"), ("pdf", "mi.view(result).save_png")):
        with pytest.raises(ReportError, match=re.escape(f"{writer} writes that")):
            found.save(tmp_path / f"found.{ending}")
    assert not [*tmp_path.iterdir()]
    for name in ("page", "page.htm", "page.v2"):  # nothing, the same, and nothing known
        mi.view(found).save_html(tmp_path / name)


def test_labels_of_another_model_are_put_next_to_no_weights_patterns_or_stimuli(
    tmp_path: Path,
) -> None:
    model, other = loaded("toy-gpt2"), loaded("toy-opt")
    report = mi.classify_heads(other, PROMPT, behaviours=["previous_token"])
    scores = mi.score_weights(model, [PROMPT], layers=[0], components=["W_O"])
    for join in (lambda: scores.top(3, report=report), lambda: scores.by_head(report)):
        with pytest.raises(ReportError, match="of toy-opt, and not of toy-gpt2"):
            join()
    with pytest.raises(ReportError, match="of toy-opt, and not of toy-gpt2"):
        mi.atlas.export_headvis(model, report, tmp_path)
    own = mi.classify_heads(model, PROMPT, behaviours=["previous_token"])
    with pytest.raises(ComparisonError, match="are of toy-gpt2 and toy-opt: stimuli are compared"):
        mi.compare.compare_stimuli({"one": own, "other": report})
