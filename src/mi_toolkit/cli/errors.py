"""What can be wrong with a command line itself."""

from __future__ import annotations

from cyclopts import CycloptsError


class UsageError(CycloptsError):
    """Options that do not go together, or a value that cannot be meant; exit code 2.

    >>> str(UsageError(msg="--bos goes with a PROMPT."))
    '--bos goes with a PROMPT.'
    """
