"""What a figure rests on: an allow-list of facts that another person needs to get it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import metadata

_PACKAGES = ("mi-toolkit", "torch", "transformers", "transformer-lens")

_BEGINNINGS = {
    "own": "begin with the tokenizer's own beginning-of-sequence token (BOS), put in front of them",
    "stand-in": (
        "begin with the document separator in place of a beginning-of-sequence token (BOS), which "
        "the tokenizer does not have"
    ),
    "in the text": (
        "brought their beginning-of-sequence token (BOS) along, and no second one was put in front"
    ),
    "none": (
        "begin with their own first token, with no beginning-of-sequence token (BOS) in front: "
        "that token is at position 0, the sink"
    ),
}
"""What texts of each kind of `Provenance.bos` do, in words for a person who meets the term here."""


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide a figure."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    # Reading four packages' metadata takes as long as a small model's forward pass.
    return {name: metadata.version(name) for name in _PACKAGES}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """A result's model, protocol and versions; nothing about the user or the machine."""

    model: str
    """The model's name, as it was loaded."""

    revision: str | None
    """The hub revision, None where the model did not come from the hub."""

    backend: str
    """The class that ran it: TransformerBridge or HookedTransformer."""

    dtype: str
    """Dtype of the weights, such as `float32`."""

    seed: int
    """Seed of the random stimulus."""

    bos: dict[str, str]
    """Per stimulus, what its sequences begin with: `own`, the tokenizer's BOS, put there;
    `stand-in`, the document separator in the place of a BOS; `in the text`, a BOS that the text or
    the ids brought along; or `none`. Where they differ, all that occur, with "and" between."""

    bos_id: int | None
    """The id that counts as BOS, None where the tokenizer has none."""

    prompts: dict[str, str]
    """Per stimulus: SHA-256 of its token ids."""

    checked: bool | None = None
    """Whether the model proved itself as it was loaded: its logits and attention on a short probe
    are Hugging Face's own. False where `check=False` left it out, None where the model was hooked
    by somebody else."""

    attention: dict[str, str] = field(default_factory=dict)
    """Per stimulus: how its attention was read, as `whole patterns` or in `blocks of queries`. The
    figures are the same to 1e-5."""

    versions: dict[str, str] = field(default_factory=installed_versions)
    """Installed versions of mi-toolkit, torch, transformers and transformer-lens."""

    @property
    def bos_text(self) -> str:
        """What the texts begin with, in words; empty where there was no text."""
        read = {name: bos for name, bos in self.bos.items() if bos}
        if len(set(read.values())) == 1:
            return f"all texts {_beginning(next(iter(read.values())))}"
        return "; ".join(f"texts of {name} {_beginning(bos)}" for name, bos in read.items())


def _beginning(bos: str) -> str:
    """What texts do that begin so; where they differ, all that some of them do."""
    return ", or ".join(_BEGINNINGS[kind] for kind in bos.split(" and "))
