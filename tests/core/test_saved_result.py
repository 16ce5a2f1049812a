"""Results in files: what the types of their fields say is what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Int, jaxtyped
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_toolkit.core.errors import ReportError
from mi_toolkit.core.head import Head
from mi_toolkit.core.result import Result, SavedResult, save_record


@dataclass(frozen=True)
class Inner:
    values: Float[Tensor, " value"]
    missing: Float[Tensor, " value"] | None
    head: Head


@dataclass(frozen=True)
class Outer(SavedResult):
    FORMAT: ClassVar[str] = "mi_toolkit nested thing 3"

    inner: tuple[Inner, ...]
    pair: tuple[Tensor, Tensor]
    by_name: Mapping[str, Float[Tensor, "row column"]]
    texts: Mapping[int, tuple[str, ...]]
    kind: Literal["a", "b"]
    chance: float
    nothing: int | None


def nested() -> Outer:
    return Outer(
        inner=(
            Inner(torch.tensor([0.5, 1.5]), None, Head(2, 1)),
            Inner(torch.zeros(0), torch.ones(3), Head(10, 7)),
        ),
        pair=(torch.arange(3), torch.tensor(2.5)),
        by_name={"first": torch.eye(2), "second.weight": torch.zeros(1, 2)},
        texts={7: (" a", "<b>"), 12: ()},
        kind="b",
        chance=float("inf"),
        nothing=None,
    )


def test_every_field_comes_back_as_the_type_that_it_was(tmp_path) -> None:
    path = tmp_path / "nested.safetensors"
    nested().save(path)
    again = Outer.load(path)
    one, two = again.inner
    assert isinstance(again.inner, tuple)
    assert torch.equal(one.values, torch.tensor([0.5, 1.5]))
    assert one.missing is None
    assert two.missing is not None
    assert torch.equal(two.missing, torch.ones(3))
    assert (one.head, two.head) == (Head(2, 1), Head(10, 7))
    assert isinstance(one.head, Head)
    assert [each.tolist() for each in again.pair] == [[0, 1, 2], 2.5]
    assert again.pair[0].dtype == torch.long
    assert torch.equal(again.by_name["first"], torch.eye(2))
    assert again.by_name["second.weight"].shape == (1, 2)
    assert again.texts == {7: (" a", "<b>"), 12: ()}
    assert (again.kind, again.chance, again.nothing) == ("b", float("inf"), None)


def test_lengths_that_a_caller_gave_to_axes_do_not_count(tmp_path) -> None:
    path = tmp_path / "nested.safetensors"
    nested().save(path)

    @jaxtyped(typechecker=beartype)
    def loaded_by(theirs: Float[Tensor, " value"]) -> Outer:
        return Outer.load(path)

    assert len(loaded_by(torch.zeros(9)).inner) == 2  # whose values are 2, 0 and 3 long


def test_tensors_lie_under_the_path_of_their_place_and_the_rest_is_plain(tmp_path) -> None:
    path = tmp_path / "nested.safetensors"
    nested().save(path)
    with safe_open(path, framework="pt") as stored:
        assert sorted(stored.keys()) == [
            "by_name/first",
            "by_name/second.weight",
            "inner/0/values",
            "inner/1/missing",
            "inner/1/values",
            "pair/0",
            "pair/1",
        ]
    assert nested().record()["inner"][0] == {"missing": None, "head": "L2H1"}


def test_a_record_whose_fields_do_not_fit_is_refused(tmp_path) -> None:
    path = tmp_path / "nested.safetensors"
    whole, record = {"pair/0": torch.arange(3)}, nested().record()
    for spoilt in ({**record, "more": 1}, {**record, "inner": []}, {"kind": "a"}):
        save_record(path, format=Outer.FORMAT, tensors=whole, record=spoilt)
        with pytest.raises(ReportError, match="a nested thing by its header, but its fields"):
            Outer.load(path)


def test_only_what_prints_as_its_name_is_saved_as_one(tmp_path) -> None:
    @dataclass(frozen=True)
    class Made:
        values: Tensor

        @classmethod
        def of(cls, count: int) -> Made:
            return cls(torch.zeros(count))

    @dataclass(frozen=True)
    class Holder(SavedResult):
        FORMAT: ClassVar[str] = "mi_toolkit holder 1"

        made: Any

    Holder(Made.of(3)).save(tmp_path / "holder")
    with safe_open(tmp_path / "holder", framework="pt") as stored:
        assert list(stored.keys()) == ["made/values"]


def test_another_result_s_file_is_refused_by_its_kind(tmp_path) -> None:
    @dataclass(frozen=True)
    class Other(SavedResult):
        FORMAT: ClassVar[str] = "mi_toolkit other thing 1"

    path = tmp_path / "nested.safetensors"
    nested().save(path)
    with pytest.raises(ReportError, match="holds no other thing of this version"):
        Other.load(path)


@dataclass(frozen=True, repr=False)
class Squares(Result):
    FORMAT: ClassVar[str] = "mi_toolkit squares 1"

    n: int

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"number": i, "its_square": float(i * i), "<b>": None if i % 2 else "even"}
            for i in range(self.n)
        ]

    def title(self) -> str:
        return f"{self.n} <squares>"


def test_one_list_of_rows_gives_the_table_the_words_and_the_html() -> None:
    found = Squares(25)
    assert found.to_pandas().to_dict("records")[3]["its_square"] == 9.0
    title, header, first, second, *_, last = str(found).splitlines()
    assert title == "25 <squares>"
    assert header.split() == ["number", "its", "square", "<b>"]
    assert first.split() == ["0", "0", "even"]
    assert second.split() == ["1", "1", "–"]
    assert last.strip() == "and 5 more"
    shown = found._repr_html_()
    assert "&lt;squares&gt;" in shown
    assert "<b>" not in shown
    assert shown.count("<tr>") == 1 + 20 + 1
    assert str(Squares(0)) == "0 <squares>"


def test_a_byte_that_flips_anywhere_is_seen(tmp_path) -> None:
    path = tmp_path / "nested.safetensors"
    nested().save(path)
    content, whole = path.read_bytes(), repr(nested())
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            assert repr(Outer.load(path)) == whole, place
        except ReportError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_what_was_saved_without_checksums_is_read(tmp_path) -> None:
    path = tmp_path / "nested.safetensors"
    nested().save(path)
    with safe_open(path, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        metadata = stored.metadata()
    older = {name: metadata[name] for name in ("format", "report")}
    save_file(tensors, path, metadata=older)
    assert repr(Outer.load(path)) == repr(nested())


@dataclass(frozen=True)
class Pairs(SavedResult):
    FORMAT: ClassVar[str] = "mi_toolkit pairs 1"

    ids: Int[Tensor, " position"]
    between: Float[Tensor, "head position-1"]


def test_a_tensor_of_another_shape_or_kind_does_not_fit(tmp_path) -> None:
    path, good = tmp_path / "pairs", {"ids": torch.arange(3), "between": torch.ones(2, 2)}
    save_record(path, format=Pairs.FORMAT, tensors=good, record={"ids": None, "between": None})
    assert Pairs.load(path).between.shape == (2, 2)
    for name, other in (
        ("ids", torch.ones(3)),
        ("ids", torch.ones(1, 3).long()),
        ("between", torch.ones(2)),
    ):
        wrong = {**good, name: other}
        save_record(path, format=Pairs.FORMAT, tensors=wrong, record={"ids": None, "between": None})
        with pytest.raises(ReportError, match="its fields do not fit"):
            Pairs.load(path)
