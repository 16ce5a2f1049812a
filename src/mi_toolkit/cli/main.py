"""The entry point: what the process exits with, and how an error reads.

| exit code | when |
|---|---|
| 0 | it worked |
| 1 | the work failed: a model that does not load, a prompt that does not fit, a full disk |
| 2 | wrong usage: an unknown option, a bad value, a model, behaviour or head that does not exist |
| 130 | Ctrl-C |
| 141 | whoever read the output stopped reading (`| head`) |

A caller's mistake is one line on standard error. A mistake of ours keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

FAILURE, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `mi-toolkit` with `arguments` (the process' own by default), and exit."""
    try:
        # Imported here as in `run`, so that Ctrl-C during the imports is no traceback either.
        from mi_toolkit.cli.terminal import prepare_process

        prepare_process()
        code = run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        # Else Python flushes standard output again at exit, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code; errors of the caller are told on standard error."""
    from cyclopts import CycloptsError

    from mi_toolkit.cli.app import app, command_named_in
    from mi_toolkit.errors import MIToolkitError, UnknownNameError

    try:
        app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        error.verbose = False
        command = " ".join(["mi-toolkit", *command_named_in(arguments)])
        _complain(f"{error} Try '{command} --help'.")
        return USAGE
    except UnknownNameError as error:
        _complain(error)
        return USAGE
    except MIToolkitError as error:
        _complain(error)
        return FAILURE
    return 0


def _complain(problem: object) -> None:
    line = " ".join(part.strip() for part in str(problem).splitlines())
    print(f"mi-toolkit: {line}", file=sys.stderr)
