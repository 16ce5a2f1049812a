"""What a figure rests on: an allow-list of facts that another person needs to get it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import metadata

_PACKAGES = ("mi-toolkit", "torch", "transformers", "transformer-lens")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide a figure."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    # Reading four packages' metadata takes as long as a small model's forward pass.
    return {name: metadata.version(name) for name in _PACKAGES}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Model, protocol and versions behind a result; nothing about the user or the machine."""

    model: str
    """The model's name, as it was loaded."""

    revision: str | None
    """The hub revision, None where the model did not come from the hub."""

    backend: str
    """The class that ran it: TransformerBridge or HookedTransformer."""

    dtype: str
    """Of the weights, such as `float32`."""

    seed: int
    """Of the random stimulus."""

    bos: dict[str, bool]
    """Per stimulus: whether its sequences begin with a BOS."""

    bos_id: int | None
    """The id that counts as BOS, None where the tokenizer has none."""

    prompts: dict[str, str]
    """Per stimulus: SHA-256 of its token ids."""

    attention: dict[str, str] = field(default_factory=dict)
    """Per stimulus: how its attention was read, as `whole patterns` or in `blocks of queries`. The
    figures are the same to 1e-5."""

    versions: dict[str, str] = field(default_factory=installed_versions)
    """Installed versions of mi-toolkit, torch, transformers and transformer-lens."""
