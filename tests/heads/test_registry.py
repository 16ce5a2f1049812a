"""Behaviours from outside: by a decorator, by a package's entry point, by a family's name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.cli.report_text import report_lines
from mi_toolkit.core.errors import BehaviourError, UnknownNameError
from mi_toolkit.heads.behaviours import BEHAVIOURS, STANDARD, chosen
from tests.models_here import loaded

WORDS = {"meaning": "what the test says", "trigger": "a prompt of the test's"}
REPEATS = "Mary and John went home. Mary and John slept. Mary"


@pytest.fixture(autouse=True)
def _registrations_end_with_the_test() -> Iterator[None]:
    with BEHAVIOURS.scope():
        yield


def previous(ids: torch.Tensor, has_bos: bool) -> torch.Tensor:
    position = torch.arange(len(ids))
    return (position == position[:, None] - 1) & (position >= int(has_bos))


def test_a_behaviour_of_ones_own_is_measured_like_the_built_in_of_the_same_mask() -> None:
    mi.heads.mask_behaviour(name="one_back", **WORDS)(previous)
    report = mi.classify_heads(loaded("toy-gpt2"), behaviours=["previous_token", "one_back"])
    assert report.behaviours == ("previous_token", "one_back")
    for stimulus in report.parts:
        part = report.on(stimulus)
        for field in ("score", "null", "lift", "ci_low", "ci_high"):
            built_in, own = getattr(part, field)
            assert torch.equal(built_in, own), field
    assert report.heads("one_back") == report.heads("previous_token") != []


def test_a_distribution_of_ones_own_has_a_value_and_a_label_only_with_a_bar() -> None:
    def most(rows, following):
        top = rows.patterns.amax(dim=-1)
        return top, torch.ones_like(top)

    mi.heads.distribution_behaviour(name="peak", **WORDS)(most)
    mi.heads.distribution_behaviour(name="peaked", min_label=0.5, **WORDS)(most)
    report = mi.classify_heads(loaded("toy-gpt2"), REPEATS, behaviours=["peak", "peaked"])
    assert report.label_names == ("peaked",)
    assert torch.equal(report["peak"], report["peaked"])
    assert report.lift.isnan().all()
    assert ((report["peak"] > 0) & (report["peak"] <= 1)).all()
    assert report.heads("peaked")
    assert dict(report.summary())["peak"].startswith("no label; highest L")
    body = mi.view(report).section().body
    assert body.count("what the test says") == 2
    text = list(report_lines(report, width=100, emphasise=str))
    assert any(line.startswith("peak  ") and "no label; highest" in line for line in text)


def test_a_behaviour_need_not_be_in_the_table() -> None:
    behaviour = mi.heads.mask_behaviour(name="one_back", **WORDS)(previous)
    BEHAVIOURS.unregister("one_back")
    assert "one_back" not in BEHAVIOURS
    report = mi.classify_heads(loaded("toy-gpt2"), REPEATS, behaviours=[behaviour, "induction"])
    assert report.behaviours == ("induction", "one_back")


def test_a_report_is_read_where_its_behaviours_are_not_registered(tmp_path: Path) -> None:
    with BEHAVIOURS.scope():
        mi.heads.mask_behaviour(name="one_back", home="natural", **WORDS)(previous)
        mi.heads.mask_behaviour(name="never", **WORDS)(
            lambda ids, _: torch.zeros(2 * ids.shape).bool()
        )
        report = mi.classify_heads(loaded("toy-gpt2"), behaviours=["one_back", "never"])
        report.save(tmp_path / "report.safetensors")
        shown = (repr(report), report.to_pandas(), mi.view(report).section().body)
    assert "one_back" not in BEHAVIOURS
    again = mi.HeadReport.load(tmp_path / "report.safetensors")
    for read in (again, report):
        assert repr(read) == shown[0]
        assert read.to_pandas().equals(shown[1])
        assert mi.view(read).section().body == shown[2]
    assert again.stimulus["one_back"] == "natural"
    assert "needs a prompt of the test's" in repr(again)


def test_the_standard_protocol_stays_what_it_is() -> None:
    mi.heads.mask_behaviour(name="one_back", **WORDS)(previous)
    assert tuple(behaviour.name for behaviour in chosen(None)) == STANDARD
    assert "one_back" in BEHAVIOURS
    assert "one_back" not in STANDARD


@pytest.mark.parametrize("distance", [1, 3])
def test_an_offset_is_looked_up_by_its_name(distance: int) -> None:
    (behaviour,) = chosen([f"offset_{distance}"])
    assert behaviour is mi.heads.offset(distance)
    marked = mi.heads.offset(distance).marked(torch.tensor([0, 7, 7, 7, 7, 7]), True, {})
    assert marked.nonzero().tolist() == [[q, q - distance] for q in range(distance + 1, 6)]


def test_offset_one_is_previous_token() -> None:
    report = mi.classify_heads(
        loaded("toy-pythia"), REPEATS, behaviours=["previous_token", "offset_1"]
    )
    assert torch.equal(report["previous_token"], report["offset_1"])


@pytest.mark.parametrize("name", ["offset_0", "offset_03", "offset_-1", "offset_x", "ofset_3"])
def test_what_is_no_offset_is_no_behaviour(name: str) -> None:
    with pytest.raises((UnknownNameError, BehaviourError), match=r"offset_1, offset_2|1 or more"):
        chosen([name])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(3, 3).bool(), r"The mask of 'odd' must be booleans, .*\[3, 3\]"),
        (torch.zeros(14, 14), r"The mask of 'odd' must be booleans, .*returned float32 \[14, 14\]"),
        ([[True]], "The mask of 'odd' must be a tensor of booleans, .* returned list"),
        (torch.ones(14, 14).bool(), "The mask of 'odd' marks key 1 for query 0: .*is causal"),
    ],
    ids=["shape", "dtype", "type", "future"],
)
def test_a_mask_that_cannot_be_names_its_behaviour(mask, message: str) -> None:
    mi.heads.mask_behaviour(name="odd", **WORDS)(lambda ids, has_bos: mask)
    ids = torch.arange(1, 15)
    with pytest.raises(BehaviourError, match=message):
        mi.classify_heads(loaded("toy-gpt2"), ids, behaviours=["odd"])


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (lambda rows, _: rows.patterns[0], r"returned one tensor \[14, 14\]"),
        (lambda rows, _: (rows.patterns, None), r"returned \(one tensor \[4, 14, 14\], NoneType\)"),
    ],
)
def test_terms_that_cannot_be_name_their_behaviour(terms, message: str) -> None:
    mi.heads.distribution_behaviour(name="odd", **WORDS)(terms)
    with pytest.raises(BehaviourError, match=rf"The terms of 'odd' must be .*{message}"):
        mi.classify_heads(loaded("toy-gpt2"), torch.arange(1, 15), behaviours=["odd"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("induction", "'induction' is a built-in behaviour: "),
        ("two words", "cannot be called 'two words'"),
        ("local", "cannot be called 'local'"),
        ("offset_7", "cannot be called 'offset_7'"),
        ("taken", r"There is a behaviour called 'taken' already: .*unregister\('taken'\)"),
    ],
)
def test_a_name_that_is_taken_or_reserved_is_an_error(name: str, message: str) -> None:
    mi.heads.mask_behaviour(name="taken", **WORDS)(lambda ids, has_bos: torch.eye(len(ids)).bool())
    with pytest.raises(BehaviourError, match=message):
        mi.heads.mask_behaviour(name=name, **WORDS)(previous)


def test_a_notebooks_cell_may_run_twice() -> None:
    first = mi.heads.mask_behaviour(name="again", **WORDS)(previous)
    second = mi.heads.mask_behaviour(name="again", **WORDS)(previous)
    assert BEHAVIOURS["again"] is second is not first


def test_two_behaviours_of_one_name_are_not_taken_for_one() -> None:
    other = mi.heads.MaskBehaviour(name="induction", targets=previous, **WORDS)
    with pytest.raises(BehaviourError, match="Two behaviours given are called 'induction'"):
        chosen(["induction", other])


def test_no_behaviour_at_all_is_refused() -> None:
    with pytest.raises(BehaviourError, match="given by its name or as itself, not 3: "):
        chosen([3])
    for none in ([], ()):
        with pytest.raises(BehaviourError, match="No behaviour is asked for"):
            mi.classify_heads(loaded("toy-gpt2"), "one two", behaviours=none)


def test_unregistering_what_is_not_registered_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="No registered behaviour is called 'induction'"):
        BEHAVIOURS.unregister("induction")


MODULE = """
import torch
from mi_toolkit.heads.behaviours import mask_behaviour

@mask_behaviour(name="third_token", meaning="position 2", trigger="a prompt of three tokens")
def third_token(ids, has_bos):
    position = torch.arange(len(ids))
    return (position == 2) & (position[:, None] >= 2)

no_behaviour = 3
"""


def installed(folder: Path, name: str, points: str, module: str = MODULE) -> None:
    """A distribution of one module, as pip leaves it on disk."""
    package = name.replace("-", "_")
    (folder / f"{package}.py").write_text(module)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mi_toolkit.behaviours]\n{points}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("heads_of_"):
            del sys.modules[name]


def test_a_package_adds_a_behaviour_that_is_imported_when_it_is_asked_for(site: Path) -> None:
    installed(site, "heads-of-mine", "third_token = heads_of_mine:third_token")
    assert "third_token" in list(BEHAVIOURS)
    assert "heads_of_mine" not in sys.modules
    chosen(["induction"])
    assert "heads_of_mine" not in sys.modules
    report = mi.classify_heads(loaded("toy-gpt2"), REPEATS, behaviours=["third_token"])
    assert "heads_of_mine" in sys.modules
    assert report.applicable["third_token"]
    # The module's own decorator registered the same object: that is one claim, not two.
    assert BEHAVIOURS["third_token"] is sys.modules["heads_of_mine"].third_token


def test_a_misspelt_name_is_told_with_those_that_packages_add(site: Path) -> None:
    installed(site, "heads-of-mine", "third_token = heads_of_mine:third_token")
    with pytest.raises(UnknownNameError, match="Did you mean 'third_token'"):
        chosen(["thrid_token"])
    assert "heads_of_mine" not in sys.modules


def test_a_package_that_cannot_be_imported_is_named_and_hinders_no_other(site: Path) -> None:
    installed(site, "heads-of-woe", "third_token = heads_of_woe:x", "import torch_of_the_future")
    assert chosen(["induction"])[0].name == "induction"
    assert BEHAVIOURS.owner("negative_name_mover") == "name_mover"
    assert BEHAVIOURS.owner("third_token") == "third_token"
    with pytest.raises(
        BehaviourError,
        match=r"third_token = heads_of_woe:x of heads-of-woe could not be imported: "
        "ModuleNotFoundError: No module named 'torch_of_the_future'",
    ):
        chosen(["third_token"])


@pytest.mark.parametrize(
    ("points", "name", "message"),
    [
        ("nothing = heads_of_woe:no_behaviour", "nothing", "gives no behaviour, but int"),
        ("fourth = heads_of_woe:third_token", "fourth", "gives a behaviour called 'third_token'"),
        (
            "induction = heads_of_woe:induction",
            "induction",
            "Several define a behaviour called 'induction': mi_toolkit, heads-of-woe",
        ),
    ],
)
def test_an_entry_point_that_cannot_be_used_says_why(
    site: Path, points: str, name: str, message: str
) -> None:
    module = (
        f"{MODULE}\nfrom dataclasses import replace\n"
        "induction = replace(third_token, name='induction')\n"
    )
    installed(site, "heads-of-woe", points, module)
    with pytest.raises(BehaviourError, match=message):
        chosen([name])


def test_two_packages_that_claim_one_name_are_both_named(site: Path) -> None:
    for name in ("heads-of-one", "heads-of-two"):
        package = name.replace("-", "_")
        module = MODULE.replace(
            "@mask_behaviour(", "@(lambda **words: lambda f: MaskBehaviour(targets=f, **words))("
        ).replace("import mask_behaviour", "import MaskBehaviour")
        installed(site, name, f"third_token = {package}:third_token", module)
    with pytest.raises(BehaviourError, match="'third_token': heads-of-one, heads-of-two"):
        chosen(["third_token"])
