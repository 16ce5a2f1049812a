"""Adapters of peft: merged into the weights where a model is loaded, or refused by name.

A model with an adapter that is not merged has two sets of weights. Merged it has one, which is what
it applies: every figure that is read off weights is then the adapted model's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from mi_toolkit.core.errors import ModelLoadError

logger = logging.getLogger("mi_toolkit")


def with_adapter(hf_model: Any, folder: Path) -> Any:
    """A model with the adapter in a folder merged into its weights.

    Raises:
        ModelLoadError: peft cannot put it on this model, or it has no weights to merge.
    """
    from peft import PeftModel  # an extra, and heavy

    try:
        adapted = PeftModel.from_pretrained(hf_model, str(folder))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ModelLoadError(
            f"peft cannot put the adapter in {str(folder)!r} on a {type(hf_model).__name__}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return merged(adapted)


def is_peft(hf_model: Any) -> bool:
    """Whether a model is wrapped by peft (a `PeftModel`)."""
    return any(kind.__name__ == "PeftModel" for kind in type(hf_model).__mro__)


def merged(peft_model: Any) -> Any:
    """The model in a `PeftModel`, with its adapters in its weights: merged in place.

    Raises:
        ModelLoadError: adapters that are no change of weights, or give weights that are no numbers.
    """
    kinds = ", ".join(
        sorted({str(each.peft_type).rpartition(".")[2] for each in peft_model.peft_config.values()})
    )
    try:
        model = peft_model.merge_and_unload(safe_merge=True)
    except (AttributeError, ValueError, NotImplementedError) as error:
        raise ModelLoadError(
            f"The adapter ({kinds}) cannot be merged into the weights of its model, and is not "
            f"loaded otherwise: {str(error).splitlines()[0]}"
        ) from error
    left = next(unmerged(model), None)
    if left is not None:
        raise ModelLoadError(f"{left} is an adapter still after merge_and_unload() ({kinds}).")
    logger.info("The adapter (%s) is merged into the weights of %s.", kinds, type(model).__name__)
    return model


def unmerged(hf_model: nn.Module) -> Iterator[str]:
    """Names of the modules that an adapter wraps, such as `model.layers.0.self_attn.q_proj`."""
    for name, module in hf_model.named_modules():
        if isinstance(getattr(module, "base_layer", None), nn.Module):
            yield name.replace("._original_component", "")
