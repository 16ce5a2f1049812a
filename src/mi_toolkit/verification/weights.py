"""Whether every tensor found its place."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mi_toolkit.models.checkpoints import Loading
from mi_toolkit.verification.outcome import Outcome, at_most
from mi_toolkit.verification.subject import Subject


def weights(subject: Subject) -> Outcome:
    """No tensor of the model is made up, and none of the checkpoint is left over."""
    return weights_outcome(subject.loading)


def left_over_in_gguf(file: Path, model: nn.Module) -> tuple[str, ...]:
    """What a GGUF file holds more than the model; transformers skips it without a word.

    By number of values, which splitting and merging tensors leave as they are. Frequencies of
    rotary positions are no weights.
    """
    from gguf import GGUFReader

    held = sum(
        int(tensor.n_elements)
        for tensor in GGUFReader(file).tensors
        if not tensor.name.startswith("rope_freqs")
    )
    extra = held - sum(parameter.numel() for parameter in model.parameters())
    return (f"{extra:,} values of {file.name}",) if extra > 0 else ()


def weights_outcome(loading: Loading) -> Outcome:
    """The verdict on what transformers says of the loading; buffers do not count."""
    wrong = {
        "missing": loading.missing,
        "of another size": tuple(name for name, _, _ in loading.mismatched),
        "left over": loading.unused,
    }
    told = [
        f"{len(names)} {what} ({names[0]}{', …' if len(names) > 1 else ''})"
        for what, names in wrong.items()
        if names
    ]
    sentence = (
        f"Tensors that did not find their place: {', '.join(told)}."
        if told
        else "No tensor of the model is missing from the checkpoint, and none of it is left over."
    )
    return at_most(0.0, float(sum(map(len, wrong.values()))), sentence)
