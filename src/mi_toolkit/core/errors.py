"""What the library raises: each says what is wrong and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import accumulate


class MIToolkitError(Exception):
    """Base class of every error that mi_toolkit raises on purpose."""


def in_one_line(error: BaseException) -> str:
    """An error in 500 letters at most, after its kind where it is none of the library's own."""
    words = " ".join(str(error).split())
    message = words if isinstance(error, MIToolkitError) else f"{type(error).__name__}: {words}"
    return message[:500]


def short_repr(value: object, most: int = 100) -> str:
    """What was given, as Python writes it, in so many letters at most: a model takes thousands.

    >>> short_repr([1, 2]), short_repr("x" * 200, most=12)
    ('[1, 2]', "'xxxxxxxx...")
    """
    text = " ".join(repr(value).split()) if not isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


class WriteError(MIToolkitError, OSError):
    """A file that cannot be written: the disk is full, say. One that was there is as it was."""


class OutOfMemoryError(MIToolkitError, MemoryError):
    """Work that takes more memory than there is: how much it takes, and what takes less."""


class UnknownNameError(MIToolkitError, ValueError):
    """A name (of a model, behaviour, head, layer, …) that does not exist here."""


class PromptError(MIToolkitError, ValueError):
    """A prompt that cannot be fed: empty, longer than the context, or with impossible ids."""


class ModelTypeError(MIToolkitError, TypeError):
    """What was given in the place of a model is none: a name, a text, a model without hooks."""


class ModelLoadError(MIToolkitError):
    """A model that cannot be loaded: missing, damaged, gated, unreachable, or not a causal LM."""


class BehaviourError(MIToolkitError, ValueError):
    """A behaviour that cannot be registered or measured: its name, its mask, its entry point."""


class UnsupportedModelError(ModelLoadError):
    """A model that loads but whose attention cannot be hooked."""


class GenerationError(MIToolkitError, ValueError):
    """Generation that cannot be run as asked: no beams, no tokens, more than the context holds."""


class HookError(MIToolkitError, RuntimeError):
    """A hook that should have fired did not: the figure it should have measured is not 'none'."""


class NotFiniteError(MIToolkitError, ValueError):
    """Activations that are NaN or infinite: no figure of them would mean anything."""


class WeightError(MIToolkitError, ValueError):
    """Weights that cannot be scored, ranked or perturbed as asked."""


class AttributionError(MIToolkitError, ValueError):
    """Scores of tokens that do not add up to what they should explain, or that are no numbers."""


class ReportError(MIToolkitError, ValueError):
    """A saved report that cannot be read, or a question that a report cannot answer."""


class ComparisonError(MIToolkitError, ValueError):
    """Models, lengths or stimuli that cannot be set side by side."""


class SweepError(MIToolkitError):
    """A sweep that cannot be run or read as asked: its jobs, its folder, its workers."""


class VerificationError(MIToolkitError):
    """A model that failed a check."""


MOST_SIGNS = 400
"""How long an error's list of known names may get."""


def unknown_name(
    kind: str, name: object, known: Iterable[str], *, shown: Iterable[str] | None = None
) -> UnknownNameError:
    """The error for `name`, naming what was given, the nearest known names, and all, if few.

    `shown` stands in for the list of all where that is long.

    >>> raise unknown_name("behaviour", "inducton", ["induction", "locality"])
    Traceback (most recent call last):
    mi_toolkit.core.errors.UnknownNameError: No behaviour is called 'inducton'. Did you mean \
'induction'? Known: induction, locality.
    """
    names = list(known)
    folded = {candidate.casefold(): candidate for candidate in names}
    asked = str(name).casefold()  # a number is a caller's mistake like any other name
    nearest = [folded[match] for match in difflib.get_close_matches(asked, folded, n=3)]
    guess = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    lengths = accumulate(len(each) + len(", ") for each in names)
    n_shown = max(1, sum(length <= MOST_SIGNS for length in lengths))
    listed = ", ".join(names[:n_shown] if shown is None else shown)
    if shown is None and n_shown < len(names):
        listed += f" and {len(names) - n_shown} more"
    return UnknownNameError(f"No {kind} is called {short_repr(name)}.{guess} Known: {listed}.")


class ActivationsError(MIToolkitError, ValueError):
    """A question that some activations cannot answer, or a file that holds none."""


class DtypeError(ActivationsError):
    """A precision that cannot hold what was asked to be kept in it."""


class StoreError(ActivationsError):
    """A folder of activations that cannot be written, continued or read, and why."""
