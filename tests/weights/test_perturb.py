"""Single weights changed and put back."""

from __future__ import annotations

import os
import signal
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_toolkit.core.errors import UnknownNameError, WeightError
from mi_toolkit.models.load import load_model
from mi_toolkit.weights.coordinates import WeightMatrix
from mi_toolkit.weights.edits import EDITS, bit_flip
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.perturb import perturbed
from mi_toolkit.weights.score import score_weights
from tests.hooked_transformer import small_hooked
from tests.models_here import TOYS, untouched

IDS = torch.randint(1, 300, (2, 12), generator=torch.Generator().manual_seed(0))
SOME = [("blocks.0.attn.W_K", 3, 5), ("blocks.1.mlp.W_out", 7, 2), ("blocks.0.attn.W_K", 4, 5)]


def bits(model: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exactly_the_named_weights_change_and_every_bit_comes_back(kind: str, dtype: str) -> None:
    model: Any = load_model("toy-qwen2", dtype=dtype)
    before = bits(model)
    with perturbed(model, SOME, kind, scale=0.5) as n_changed:
        changed = sum(int((a != b).sum()) for a, b in zip(before, model.parameters(), strict=True))
        assert changed == n_changed == 3
    assert all(map(torch.equal, before, model.parameters()))


def test_each_kind_makes_of_a_weight_what_it_says() -> None:
    model = load_model("toy-opt")
    matrix = next(m for m in weight_matrices(model) if m.name == SOME[0][0])
    rows, columns = torch.tensor([3, 4]), torch.tensor([5, 5])
    old = matrix.read(rows, columns)
    noise = torch.randn(2, generator=torch.Generator().manual_seed(3))
    expected = {
        "zero": torch.zeros(2),
        "sign_flip": -old,
        "scale": 0.25 * old,
        "gaussian": old + 0.25 * old.abs() * noise,
    }
    for kind, values in expected.items():
        generator = torch.Generator().manual_seed(3)
        at = [SOME[0], SOME[2]]
        with perturbed(model, at, kind, scale=0.25, generator=generator):
            assert torch.equal(matrix.read(rows, columns), values), kind


def test_a_bit_flip_flips_one_bit_of_the_weights_own_dtype() -> None:
    for dtype, code, word in ((torch.float32, "<f", "<I"), (torch.float16, "<e", "<H")):
        old = torch.linspace(-2, 2, 64, dtype=dtype)
        new = bit_flip(old, 1.0, torch.Generator().manual_seed(0))
        flipped = set()
        for a, b in zip(old.tolist(), new.tolist(), strict=True):
            if b == b:  # a NaN's bits do not survive Python
                words = [struct.unpack(word, struct.pack(code, value))[0] for value in (a, b)]
                difference = words[0] ^ words[1]
                assert difference.bit_count() == 1
                flipped.add(difference.bit_length())
        assert len(flipped) > 8


def test_bits_that_make_a_weight_infinite_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = load_model("toy-gpt2", dtype="float16")
    weights = [("blocks.0.mlp.W_in", row, 0) for row in range(100)]
    for matrix in weight_matrices(model):
        if matrix.name == "blocks.0.mlp.W_in":
            # 1.75 · 2^0: with its highest exponent bit flipped, every exponent bit is set.
            rows = torch.arange(100)
            matrix.write(rows, torch.zeros(100, dtype=torch.long), torch.full((100,), 1.75))
    with caplog.at_level("WARNING"), perturbed(model, weights, "bit_flip"):
        pass
    assert "of the perturbed weights are infinite or NaN" in caplog.text


@pytest.mark.parametrize("name", TOYS)
def test_a_perturbed_model_computes_what_the_edited_hugging_face_model_does(name: str) -> None:
    model, hf_model = load_model(name), untouched(name)
    scores = score_weights(model, IDS)
    top = scores.top(30)
    for row in top.itertuples():
        with torch.no_grad():
            hf_model.get_parameter(row.hf_name)[row.hf_row, row.hf_column] = 0.0
    with torch.no_grad(), perturbed(model, top):
        changed = model(IDS)
    with torch.no_grad():
        torch.testing.assert_close(changed, hf_model(IDS).logits, atol=5e-4, rtol=1e-4)
        assert not torch.allclose(changed, model(IDS), atol=1e-2)


def test_tied_embeddings_of_a_hooked_transformer_change_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any
    model, _ = small_hooked("gpt2", tmp_path, monkeypatch)
    before = bits(model)
    with perturbed(model, [("embed.W_E", 7, 3)]) as n_changed:
        assert (n_changed, float(model.W_E[7, 3]), float(model.W_U[3, 7])) == (1, 0.0, 0.0)
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_inside_restores(error: type[BaseException]) -> None:
    model: Any = load_model("toy-gpt2")
    before = bits(model)
    with pytest.raises(error), perturbed(model, SOME, "sign_flip"):
        raise error
    assert all(map(torch.equal, before, model.parameters()))


def test_ctrl_c_while_weights_are_being_written_waits_and_restores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A shell starts what runs in the background with Ctrl-C ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    model: Any = load_model("toy-gpt2")
    before = bits(model)
    real = WeightMatrix.write
    calls: list[int] = []

    def interrupting(self: WeightMatrix, *given: Any) -> None:
        calls.append(1)
        if len(calls) == 2:  # between the two parameters
            os.kill(os.getpid(), signal.SIGINT)
        real(self, *given)

    monkeypatch.setattr(WeightMatrix, "write", interrupting)
    with pytest.raises(KeyboardInterrupt), perturbed(model, SOME):
        time.sleep(10)  # it comes a moment after the weights are written
    monkeypatch.undo()
    assert len(calls) >= 4  # both written, both written back
    assert all(map(torch.equal, before, model.parameters()))
    assert signal.signal(signal.SIGINT, handler) is signal.default_int_handler


@pytest.mark.parametrize(
    ("weights", "kind", "error", "message"),
    [
        (SOME, "zer", UnknownNameError, "called 'zer'. Did you mean 'zero'"),
        ([("blocks.0.attn.W_X", 0, 0)], "zero", UnknownNameError, "'blocks.0.attn.W_X'. Did you"),
        ([("blocks.0.attn.W_K", 0, 128)], "zero", UnknownNameError, r"has no weight \[0, 128\]"),
        ([("blocks.0.attn.W_K", -1, 0)], "zero", UnknownNameError, r"has no weight \[-1, 0\]"),
        ([SOME[0], SOME[0]], "zero", WeightError, "is named twice"),
        ([], "zero", WeightError, "There is no weight to change"),
        (SOME, "scale", WeightError, "2 of 2 weights of blocks.0.attn.W_K did not change"),
    ],
)
def test_a_mistaken_call_says_what_to_do(weights, kind: str, error, message: str) -> None:
    model: Any = load_model("toy-gpt2")
    before = bits(model)
    with pytest.raises(error, match=message), perturbed(model, weights, kind, scale=1.0):
        pytest.fail("nothing should run")
    assert all(map(torch.equal, before, model.parameters()))
