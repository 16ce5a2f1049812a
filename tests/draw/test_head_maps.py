from __future__ import annotations

import pytest
import torch

from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.draw import primitives as colours
from mi_toolkit.draw.head_maps import behaviour_map, label_map, map_figure, maps_of, scope_map
from tests.draw.made import made_report

NAN = float("nan")


def test_every_cell_holds_its_own_head_s_figure() -> None:
    report = made_report({"induction": torch.tensor([[0.0, 0.25], [0.5, 1.0]])})
    cells = behaviour_map(report, "induction").cells
    assert [cell.head for cell in cells] == [Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1)]
    assert [cell.text for cell in cells] == ["0.00", "0.25", "0.50", "1.00"]
    assert cells[0].colours == ("#ffffff",)
    assert cells[3].colours == (colours.SEQUENTIAL[-1],)
    assert cells[3].tip == "L1H1: 1.00 [0.95, 1.05]"


def test_frames_are_round_the_labelled_heads() -> None:
    report = made_report({"induction": torch.tensor([[0.1, 0.34], [0.36, 0.9]])})
    framed = [cell.head for cell in behaviour_map(report, "induction").cells if cell.is_framed]
    assert framed == [Head(1, 0), Head(1, 1)]
    assert set(framed) == set(report.heads("induction"))


def test_a_head_without_a_figure_is_no_zero() -> None:
    report = made_report({"induction": torch.tensor([[NAN, 0.5]])})
    unmeasured, measured = behaviour_map(report, "induction").cells
    assert (unmeasured.is_measured, measured.is_measured) == (False, True)
    assert unmeasured.text == ""
    assert unmeasured.tip == "L0H0: not measured"


def test_large_models_have_the_strongest_and_the_labelled_written_out() -> None:
    values = torch.linspace(0, 0.3, 12 * 12).reshape(12, 12)
    values[0, 0] = 0.9
    cells = behaviour_map(made_report({"induction": values}), "induction").cells
    written = {cell.head for cell in cells if cell.text}
    assert written == {Head(0, 0), *(Head(11, head) for head in range(7, 12))}


def test_locality_below_zero_has_a_colour_of_its_own() -> None:
    report = made_report(
        {"locality": torch.tensor([[-1.0, 0.0, 1.0]]), "diffuse": torch.ones(1, 3)}
    )
    shown = [cell.colours for cell in behaviour_map(report, "locality").cells]
    assert shown == [(colours.DIVERGING[0],), ("#ffffff",), (colours.DIVERGING[-1],)]


def test_every_label_of_a_head_has_its_strip() -> None:
    report = made_report(
        {"previous_token": torch.tensor([[0.9, 0.0]]), "induction": torch.tensor([[0.9, 0.0]])}
    )
    both, none = label_map(report).cells
    assert both.colours == (colours.LABELS["previous_token"], colours.LABELS["induction"])
    assert both.tip == "L0H0: previous_token, induction"
    assert none.tip == "L0H1: unclassified"
    assert [*label_map(report).legend] == ["previous_token", "induction", "unclassified"]


def test_a_legend_names_what_its_map_shows_and_nothing_else() -> None:
    all_labelled = made_report({"induction": torch.tensor([[0.9, 0.9]])})
    assert [*label_map(all_labelled).legend] == ["induction"]
    values = torch.tensor([[0.9, 0.9]])
    assert [*scope_map(made_report({"locality": values, "diffuse": values})).legend] == ["local"]


def test_scope_and_windows_stand_together() -> None:
    values = torch.tensor([[0.9, 0.0], [0.5, 0.9]])
    shown = scope_map(made_report({"locality": values, "diffuse": values}, windows=[None, 32]))
    assert [cell.tip.split(": ")[1] for cell in shown.cells] == [
        "local", "global", "undetermined", "local",
    ]  # fmt: skip
    assert shown.layers == ("0", "1 (window 32)")


def test_what_is_not_applicable_has_no_map() -> None:
    report = made_report({"induction": torch.full((2, 2), NAN), "first_token": torch.rand(2, 2)})
    assert [shown.title for shown in maps_of(report)] == ["labels", "first_token"]


def test_a_report_of_nothing_still_has_its_maps() -> None:
    shown = maps_of(made_report({"induction": torch.full((2, 2), NAN)}))
    assert [head_map.title for head_map in shown] == ["labels", "induction"]
    assert not any(cell.is_measured for cell in shown[1].cells)


def test_an_unknown_behaviour_is_named() -> None:
    report = made_report({"induction": torch.rand(2, 2)})
    with pytest.raises(UnknownNameError, match="Did you mean 'induction'"):
        behaviour_map(report, "inducton")


def test_the_svg_has_a_cell_for_each_head_and_says_which_are_labelled() -> None:
    written = map_figure(behaviour_map(made_report({"induction": torch.rand(24, 16)}), "induction"))
    assert written.count("<rect ") == 24 * 16
    assert len(written) < 80_000
    assert 'role="img"' in written
    assert "id=" not in written


def test_ink_and_shade_stay_readable_and_in_range() -> None:
    assert colours.shade(2.0, colours.SEQUENTIAL) == colours.SEQUENTIAL[-1]
    assert colours.ink_on(colours.shade(0.1, colours.SEQUENTIAL)) == "black"
    assert colours.ink_on(colours.shade(0.9, colours.SEQUENTIAL)) == "white"
