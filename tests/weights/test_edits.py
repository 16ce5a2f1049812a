"""What a weight becomes, kind by kind."""

from __future__ import annotations

import struct

import pytest
import torch

from mi_toolkit.core.model import bits
from mi_toolkit.weights.edits import EDITS, bit_flip, gaussian

OLD = torch.tensor([0.5, -2.0, 0.0, 3.0])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_each_kind_is_what_its_name_says() -> None:
    noise = torch.randn(OLD.shape, generator=generator())
    expected = {
        "zero": torch.zeros(4),
        "sign_flip": -OLD,
        "scale": 0.25 * OLD,
        "gaussian": OLD + 0.25 * OLD.abs() * noise,
    }
    for kind, wanted in expected.items():
        assert torch.equal(EDITS[kind](OLD, 0.25, generator()), wanted), kind
    assert set(EDITS) == {*expected, "bit_flip"}


def test_noise_is_added_in_float32_and_comes_back_in_the_weights_dtype() -> None:
    old = torch.full((2000,), 1.0, dtype=torch.bfloat16)
    new = gaussian(old, 1e-3, generator())
    assert new.dtype == torch.bfloat16
    noise = torch.randn(old.shape, generator=generator())
    assert torch.equal(new, (1 + 1e-3 * noise).bfloat16())


@pytest.mark.parametrize(
    ("dtype", "code"), [(torch.float64, "d"), (torch.float32, "f"), (torch.float16, "e")]
)
def test_bits_are_those_of_the_number(dtype: torch.dtype, code: str) -> None:
    values = torch.tensor([0.0, -0.0, 1.5, float("inf")], dtype=dtype)
    word = {"d": "q", "f": "i", "e": "h"}[code]
    wanted = [struct.unpack(word, struct.pack(code, each))[0] for each in values.tolist()]
    assert bits(values).tolist() == wanted
    assert bits(values[::2]).tolist() == wanted[::2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_bit_flip_changes_one_bit_and_in_time_every_bit(dtype: torch.dtype) -> None:
    old = torch.linspace(-2, 2, 4096, dtype=dtype)
    new = bit_flip(old, 1.0, generator())
    assert new.dtype == dtype
    width = 8 * old.element_size()
    changed = (bits(old) ^ bits(new)).long() & (2**width - 1 if width < 64 else -1)
    counts = [bin(each % 2**64).count("1") for each in changed.tolist()]
    assert set(counts) == {1}
    assert len(changed.unique()) == width


def test_equal_generators_make_equal_edits() -> None:
    old = torch.linspace(-2, 2, 64)
    for kind, edit in EDITS.items():
        one, other = (bits(edit(old, 0.5, generator())) for _ in range(2))
        assert torch.equal(one, other), kind
