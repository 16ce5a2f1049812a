"""The example that a first visit finds is what the library finds now."""

from __future__ import annotations

import torch

from mi_toolkit.app.example import compute_example, load_example
from tests.models_here import loaded


def test_the_saved_example_is_what_is_computed() -> None:
    (saved, written), (found, again) = load_example(), compute_example(loaded("toy-gpt2"))
    assert saved.facts == found.facts
    assert saved.prompt == saved.pipeline.prompt == found.prompt
    assert saved.pipeline.texts == found.pipeline.texts
    for stage in ("attention", "output", "mlp"):
        one, other = getattr(saved.pipeline, stage), getattr(found.pipeline, stage)
        for name, tensor in vars(one).items():
            if isinstance(tensor, torch.Tensor):
                torch.testing.assert_close(tensor, getattr(other, name), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        saved.report.lift, found.report.lift, equal_nan=True, rtol=1e-3, atol=1e-4
    )
    assert torch.equal(saved.report.labels, found.report.labels)
    assert [each.text for each in written.sequences] == [each.text for each in again.sequences]
