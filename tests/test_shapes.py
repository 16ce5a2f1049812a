"""The run-time checks find another shape than stated, and leave alone what states none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from mi_toolkit.core.head import Head
from mi_toolkit.core.model import by_head
from mi_toolkit.core.tokens import from_sequences
from tests.shapes import states_shape


def test_an_argument_of_another_shape_than_stated_is_an_error() -> None:
    assert by_head(torch.zeros(1, 2, 3, 4), 3).shape == (1, 2, 3, 4)
    with pytest.raises(TypeCheckError, match="z"):
        by_head(torch.zeros(2, 3, 4), 3)


def test_fields_that_disagree_on_an_axis_are_an_error() -> None:
    batch = from_sequences([[1, 2, 3], [4, 5, 6]], 0)
    with pytest.raises(TypeCheckError, match="lengths"):
        replace(batch, lengths=torch.tensor([3, 3, 3]))


def test_what_states_no_shape_is_not_wrapped() -> None:
    assert hasattr(by_head, "__wrapped__")
    assert not hasattr(Head.__str__, "__wrapped__")


def test_a_shape_within_another_type_is_one() -> None:
    assert states_shape(Mapping[str, Float[Tensor, " head"]] | None)
    assert not states_shape(Mapping[str, Tensor] | None)
