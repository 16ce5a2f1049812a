from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from mi_toolkit.compare.agreement import Agreement
from mi_toolkit.compare.lengths import LengthSweep
from mi_toolkit.compare.model_comparison import ModelComparison
from mi_toolkit.compare.stimuli import compare_stimuli
from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.draw import figures
from mi_toolkit.draw.figures.ablation import SWEEP_READING
from mi_toolkit.draw.figures.grids import draw_values
from mi_toolkit.draw.figures.style import DOTS_PER_INCH, FONTS, in_house_style, title
from mi_toolkit.draw.primitives import LABELS, SCOPES
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.weights.evaluate_scores import Outcome, PerturbationTest
from mi_toolkit.weights.evaluation import Quality
from mi_toolkit.weights.stability import Agreement as RankingAgreement
from mi_toolkit.weights.stability import RankingStability
from tests.draw.made import made_report
from tests.models_here import loaded

PROVENANCE = made_report({"induction": torch.rand(1, 1)}).provenance


def quality(loss: float) -> Quality:
    return Quality(loss=loss, accuracy=0.5, kl=0.0, n_tokens=10)


def made_test() -> PerturbationTest:
    rises = {"top": [1.0], "random": [0.1, 0.3], "magnitude_matched": [0.2], "bottom": [0.0]}
    outcomes = tuple(
        Outcome(kind="zero", k=k, group=group, draw=draw, quality=quality(2 + k * rise),
                n_not_finite=0)
        for k in (1, 10)
        for group, found in rises.items()
        for draw, rise in enumerate(found)
    )  # fmt: skip
    return PerturbationTest(
        metric="magnitude", baseline=quality(2.0), outcomes=outcomes, scale=1.0,
        provenance=PROVENANCE,
    )  # fmt: skip


def made_stability() -> RankingStability:
    agreement = RankingAgreement(
        over="data", metrics=("magnitude", "magnitude"), k=10, n_pairs=3,
        jaccard=(0.5, 0.4, 0.6), rank_biased_overlap=(0.7, 0.6, 0.8), spearman=(0.9, 0.8, 1.0),
    )  # fmt: skip
    return RankingStability(agreements=(agreement,), provenance=PROVENANCE)


def made_comparison(facts: ModelFacts) -> ModelComparison:
    reports = {
        name: made_report({"induction": torch.tensor([[0.9] * held + [0.0] * (4 - held)])})
        for name, held in (("small", 1), ("large", 2))
    }
    layers = {"small": 1, "large": 4}
    ones = torch.ones(2, 2)
    return ModelComparison(
        models=("small", "large"),
        facts={name: replace(facts, name=name, n_layers=n) for name, n in layers.items()},
        reports=reports,
        groups=(),
        n_texts=1,
        agreement=Agreement(
            positions=ones.long(), share=ones, chance=ones / 2, ci_low=ones, ci_high=ones
        ),
        accuracy={"small": 0.5, "large": 0.5},
    )


def test_the_dose_curve_draws_every_group_and_each_random_draw() -> None:
    ax = figures.dose_curve(made_test())
    by_name = {str(line.get_label()): line for line in ax.lines}
    np.testing.assert_allclose(by_name["the top"].get_ydata(), [1, 10])
    np.testing.assert_allclose(by_name["weights of the same size"].get_ydata(), [0.2, 2])
    draws = [line.get_ydata() for line in ax.lines if line.get_marker() == "."]
    np.testing.assert_allclose(draws, [[0.1, 0.3], [1, 3]])
    with pytest.raises(UnknownNameError, match="No kind of change in this test is called 'flip'"):
        figures.dose_curve(made_test(), "flip")


def test_a_dose_curve_of_one_dose_is_a_dot_with_its_controls() -> None:
    whole = made_test()
    one = replace(whole, outcomes=tuple(each for each in whole.outcomes if each.k == 10))
    for test, drawn in ((one, {"None"}), (whole, {"-", "--", ":"})):
        ax = figures.dose_curve(test)
        groups = [each for each in ax.lines if each.get_marker() in ("D", "o", "s")]
        assert len(groups) == 3
        assert {each.get_linestyle() for each in groups} == drawn


def test_a_map_without_any_figure_above_0_has_no_scale_and_says_so() -> None:
    for values, said in (
        (torch.zeros(2, 3), "0 everywhere"),
        (torch.full((2, 3), torch.nan), "nothing measured"),
        (torch.tensor([[0.0, 0.5, 0.0]]), None),
    ):
        figure = Figure()
        ax = figure.add_axes((0.1, 0.1, 0.5, 0.5))
        rows = [str(row) for row in range(len(values))]
        draw_values(ax, values, title="", rows=rows, columns=list("abc"), across="head")
        words = [text.get_text() for text in ax.texts if " " in text.get_text()]
        assert bool(ax.child_axes) == (said is None)
        assert words == ([] if said is None else [said])


def test_what_stands_out_of_a_figure_is_in_its_file(tmp_path: Path) -> None:
    def width_of(name: str) -> float:
        stability = made_stability()
        (each,) = stability.agreements
        names = replace(each, over="metric", metrics=(name, name))
        ax = figures.stability_figure(replace(stability, agreements=(names,)))
        figures.save_figure(ax.figure, tmp_path / "figure.png")
        edge = imread(tmp_path / "figure.png")[:, :2, :3]
        assert (edge > 0.9).all()  # nothing is cut at the left
        return imread(tmp_path / "figure.png").shape[1] / ax.figure.get_figwidth()

    assert width_of("magnitude") == pytest.approx(DOTS_PER_INCH, rel=0.01)
    ax = figures.stability_figure(made_stability())
    ax.set_yticks([0], ["a name of a metric that is longer than there is room for it"])
    figures.save_figure(ax.figure, tmp_path / "figure.png")
    picture = imread(tmp_path / "figure.png")
    assert picture.shape[1] > DOTS_PER_INCH * ax.figure.get_figwidth() + 20
    assert (picture[:, :2, :3] > 0.9).all()
    assert width_of("weight_integrated_gradients") > 0


@pytest.mark.parametrize("length", [10, 60, 120, 400])
def test_a_title_of_any_length_is_within_its_figure(length: int) -> None:
    figure = Figure(figsize=(6.5, 2))
    title(figure, ("a word after another " * 30)[:length])
    (text,) = figure.texts
    box = text.get_window_extent()
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1
    assert box.y0 >= figure.bbox.y1 - 0.5 * figure.dpi
    assert text.get_text().endswith("\N{HORIZONTAL ELLIPSIS}") == (length == 400)


def test_stability_draws_the_mean_and_the_range_of_each_measure() -> None:
    ax = figures.stability_figure(made_stability())
    drawn = [line.get_xdata() for line in ax.lines]
    expected = [[0.4, 0.6], [0.5], [0.6, 0.8], [0.7], [0.8, 1.0], [0.9]]
    assert [list(map(float, found)) for found in drawn] == expected


def test_the_histogram_counts_every_head_that_has_a_locality_once() -> None:
    values = torch.tensor([[0.95, 0.8, 0.1], [-0.2, float("nan"), 0.5]])
    report = made_report({"locality": values}, windows=[None, 32])
    ax = figures.locality_histogram(report)
    heights = {to_hex(bar.get_facecolor()): 0.0 for bar in ax.patches}
    for bar in ax.patches:
        heights[to_hex(bar.get_facecolor())] += bar.get_height()
    assert heights[SCOPES["local"]] == 2
    assert heights[SCOPES["global"]] == 2
    assert sum(heights.values()) == 5
    assert {bar.get_hatch() for bar in ax.patches} == {None, "////"}
    assert "1 without" in ax.get_title(loc="left")


def test_labels_by_depth_marks_the_layers_of_each_label_and_counts_its_heads() -> None:
    held = torch.tensor([[0.9, 0.9], [0.0, 0.0], [0.9, 0.0]])
    ax = figures.labels_by_depth(made_report({"induction": held}))
    (marks,) = ax.collections
    np.testing.assert_allclose(marks.get_offsets(), [[0, 0], [2, 0]])
    first, last = marks.get_sizes()
    assert first > last
    assert to_hex(marks.get_facecolor()[0]) == LABELS["induction"]
    assert [text.get_text() for text in ax.texts] == ["3"]


def test_scaling_draws_the_share_of_heads_by_size() -> None:
    comparison = made_comparison(describe_model(loaded("toy-gpt2")))
    ax = figures.scaling_figure(comparison)
    (line,) = ax.lines
    sizes = [comparison.facts[name].parameters for name in ("small", "large")]
    np.testing.assert_allclose(line.get_xdata(), sizes)
    np.testing.assert_allclose(line.get_ydata(), [0.25, 0.5])
    with pytest.raises(UnknownNameError, match="No label of this comparison is called 'inductive'"):
        figures.scaling_figure(comparison, ["inductive"])


@pytest.mark.parametrize("n_behaviours", [1, 3])
def test_how_to_read_a_sweep_stands_whole_above_it_however_narrow_it_is(n_behaviours: int) -> None:
    names = ["induction", "first_token", "previous_token"][:n_behaviours]
    made = made_report({name: torch.tensor([[0.9]]) for name in names})
    sweep = LengthSweep(model="made", lengths=(8,), reports={("prompt", 8): made})
    figure = figures.sweep_grid(sweep)
    figure.canvas.draw()
    said = [text for text in figure.texts if text.get_text() in SWEEP_READING]
    assert " ".join(text.get_text() for text in said) == SWEEP_READING
    highest = max(ax.get_window_extent().y1 for ax in figure.axes)
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in said)
    assert all(text.get_window_extent().y0 > highest for text in said)


def test_a_length_curve_is_one_panel_of_the_sweep() -> None:
    reports = {
        ("prompt", length): made_report({"induction": torch.tensor([[0.9 / length]])})
        for length in (1, 2)
    }
    sweep = LengthSweep(model="made", lengths=(1, 2), reports=reports)
    ax = figures.length_curve(sweep, "induction")
    drawn = next(line for line in ax.lines if line.get_label() == "L0H0")
    np.testing.assert_allclose(drawn.get_ydata(), [0.9, 0.45])
    with pytest.raises(UnknownNameError, match="No behaviour of this sweep"):
        figures.length_curve(sweep, "locality")


def test_a_head_far_below_chance_is_still_in_the_panel() -> None:
    one = made_report({"induction": torch.tensor([[-0.4, 0.9], [0.1, 0.2]])})
    sweep = LengthSweep(model="made", lengths=(1,), reports={("prompt", 1): one})
    assert figures.length_curve(sweep, "induction").get_ylim()[0] < -0.4
    panel, *_ = figures.stimulus_grid(compare_stimuli({"one": one, "other": one})).axes
    assert panel.get_xlim()[0] < -0.4
    assert panel.get_ylim()[0] < -0.4


def test_every_new_figure_draws_in_the_caller_s_axes() -> None:
    ax = Figure().subplots()
    report = made_report({"induction": torch.rand(2, 2), "locality": torch.rand(2, 2)})
    assert figures.dose_curve(made_test(), ax=ax) is ax
    assert figures.stability_figure(made_stability(), ax) is ax
    assert figures.locality_histogram(report, ax) is ax
    assert figures.labels_by_depth(report, ax) is ax
    unlabelled = made_report({"induction": torch.zeros(2, 2)})
    assert not unlabelled.labels.any()
    assert figures.labels_by_depth(unlabelled, Figure().subplots()).get_ylim() == (0.5, -0.5)
    assert figures.pattern_map(torch.eye(2), ["a", "$b$"], "L0H0", ax) is ax


def test_the_sheet_of_axes_is_the_whole_figure_in_a_subfigure_too() -> None:
    figure = Figure()
    ax = figure.subfigures(1, 2)[0].subplots()
    assert figures.sheet_of(ax) is figure
    ax.remove()
    with pytest.raises(ValueError, match="removed from their figure"):
        figures.sheet_of(ax)


@pytest.mark.parametrize("paper", ["light", "dark"])
def test_a_saved_figure_keeps_its_paper(paper: str, tmp_path: Path) -> None:
    report = made_report({"induction": torch.rand(2, 2)})
    with figures.house_style(paper):
        figure = figures.report_grid(report)
    figures.save_figure(figure, tmp_path / "report.png")
    corner = imread(tmp_path / "report.png")[0, 0, :3].mean()
    assert (corner > 0.9) == (paper == "light")
    figures.save_figure(figure, tmp_path / "report.svg")
    assert "<svg" in (tmp_path / "report.svg").read_text(encoding="utf-8")


def test_the_house_style_leaves_nothing_behind() -> None:
    before = dict(mpl.rcParams)
    with pytest.raises(ZeroDivisionError), figures.house_style("dark"):
        raise ZeroDivisionError
    assert dict(mpl.rcParams) == before
    report = made_report({"induction": torch.rand(2, 2)})
    assert to_hex(figures.report_grid(report).get_facecolor()) == "#ffffff"
    with pytest.raises(UnknownNameError, match="No paper is called 'grey'"):
        figures.house_style("grey").__enter__()


def test_every_figure_is_drawn_in_the_house_style() -> None:
    others = {"as_svg", "house_style", "save_figure", "sheet_of"}
    drawing = set(figures.__all__) - others
    assert len(drawing) > 30
    # Not by __wrapped__: what checks shapes wraps functions too.
    styled = in_house_style(figures.head_map).__code__
    plain = {name for name in drawing if getattr(figures, name).__code__ is not styled}
    assert plain == set()


def test_the_docs_name_the_fonts_that_pictures_look_for(repository: Path) -> None:
    text = (repository / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    said = " ".join(text.split())
    for font in FONTS[1:]:
        assert font.removesuffix(" SC").removesuffix(" JP") in said
