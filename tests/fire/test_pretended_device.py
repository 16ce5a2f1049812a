"""All jobs on a device that behaves as an accelerator does, with the CPU's figures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.models.load import load_model
from tests.every_job import FURTHER, JOBS, differences, figures_of
from tests.fire.pretended_device import pretended_device
from tests.hooked_transformer import FAMILIES, needs_hooked_transformer, small_hooked
from tests.models_here import TOYS, loaded

pytestmark = pytest.mark.fire
"""A process whose torch ran a backward pass before it had the device has no queue for it: conftest
puts these first, and `test_core` runs some in a process of their own."""

EVERY_JOB = {name: job for name, job in {**JOBS, **FURTHER}.items() if name != "plan"}  # times
LOADS_BY_NAME = ("verify_model",)
GRADIENTS = 1e-4
"""How far the figures of a gradient may lie apart, of the largest in their tensor."""


@pytest.fixture
def device() -> Iterator[torch.device]:
    with pretended_device() as device:
        yield device


@cache
def there(name: str, device: str) -> HookedModel:
    return load_model(name, device=device)


def outcome(job: str, model: HookedModel, folder: Path) -> Any:
    """What a job finds, or in what words it refuses the model."""
    try:
        return figures_of(EVERY_JOB[job](model, folder))
    except MIToolkitError as error:
        return str(error)


def compare(job: str, here: HookedModel, there: HookedModel, folder: Path) -> None:
    """Check that a job finds the same on both, but for what it says of the device.

    Gradients differ by rounding: torch has a kernel of its own for some of them on the CPU.
    """
    wanted = outcome(job, here, folder / "here")
    found = outcome(job, there, folder / "there")
    others = differences(wanted, found, relative=GRADIENTS)
    assert [each for each in others if not each.endswith("and pretend:0")] == []


def test_what_fails_on_an_accelerator_fails_on_it(device: torch.device) -> None:
    values = torch.arange(6.0, device=device).view(2, 3)
    assert values.device == device
    assert torch.equal((values @ values.T).cpu(), torch.tensor([[5.0, 14.0], [14.0, 50.0]]))
    assert float(values.sum() + torch.tensor(1.0)) == 16  # of a CPU scalar, CUDA takes the value
    assert values[torch.tensor([1])].tolist() == [[3, 4, 5]]  # and CPU indices
    with pytest.raises(RuntimeError, match="at least two devices, pretend:0 and cpu"):
        values + torch.ones(3)
    with pytest.raises(RuntimeError, match="at least two devices"):
        torch.cat([values, torch.ones(1, 3)])
    with pytest.raises((RuntimeError, TypeError), match="numpy"):
        values.numpy()
    with pytest.raises(RuntimeError, match="Expected a 'pretend' device type for generator"):
        torch.rand(3, device=device, generator=torch.Generator())


@pytest.mark.parametrize("job", EVERY_JOB)
@pytest.mark.parametrize("name", TOYS)
def test_a_job_gives_the_figures_of_the_cpu(
    job: str, name: str, device: torch.device, tmp_path: Path
) -> None:
    compare(job, loaded(name), there(name, str(device)), tmp_path)


@needs_hooked_transformer
@pytest.mark.parametrize("name", FAMILIES)
def test_transformer_lens_own_class_gives_the_figures_of_the_cpu(
    name: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = small_hooked(name, tmp_path / "cache", monkeypatch, n_layers=4)
    there = load_model(name, backend="hooked", device=device)
    for job in EVERY_JOB:
        if job not in LOADS_BY_NAME:
            compare(job, here, there, tmp_path / job.replace(", ", "_"))
