"""What can go wrong with activations, beside what can go wrong with any model and prompt."""

from __future__ import annotations

from mi_toolkit.errors import MIToolkitError


class ActivationsError(MIToolkitError, ValueError):
    """A question that some activations cannot answer, or a file that holds none."""


class DtypeError(ActivationsError):
    """A precision that cannot hold what was asked to be kept in it."""


class StoreError(ActivationsError):
    """A folder of activations that cannot be written, continued or read, and why."""
