"""The commands of `mi-toolkit`, and the look of their help."""

from __future__ import annotations

from collections.abc import Sequence

from cyclopts import App, Group

from mi_toolkit.cli.ablate import ablate
from mi_toolkit.cli.activations import info
from mi_toolkit.cli.atlas import atlas
from mi_toolkit.cli.attribute import attribute
from mi_toolkit.cli.classify import classify
from mi_toolkit.cli.compare import compare
from mi_toolkit.cli.confirm import confirm
from mi_toolkit.cli.describe import describe
from mi_toolkit.cli.generate import generate
from mi_toolkit.cli.help import PlainColumns
from mi_toolkit.cli.models import models
from mi_toolkit.cli.record import record
from mi_toolkit.cli.sensitivity import sensitivity
from mi_toolkit.cli.sensitivity_compare import compare as compare_sensitivity
from mi_toolkit.cli.stimuli import stimuli
from mi_toolkit.cli.super_weights import super_weights
from mi_toolkit.cli.sweep import sweep
from mi_toolkit.cli.trace import trace
from mi_toolkit.cli.verify import verify
from mi_toolkit.cli.view import view
from mi_toolkit.cli.web_page import web_page


def _version() -> str:
    # Imported here: it drags in the standard library's mail parser.
    from importlib import metadata

    return f"mi-toolkit {metadata.version('mi-toolkit')}"


_ARGUMENTS, _OPTIONS = Group("Arguments", sort_key=1), Group("Options", sort_key=2)

app = App(
    name="mi-toolkit",
    help=(
        "Load a language model, classify its attention heads, and see what they look at.\n\n"
        "Results go to standard output, all else to standard error. Exit code 0: it worked, 1: the "
        "work failed, 2: wrong usage."
    ),
    version=_version,
    group_arguments=_ARGUMENTS,
    group_parameters=_OPTIONS,
    help_format="plaintext",
    help_formatter=PlainColumns(),
    # Ctrl-C is told in `main`, with the exit code of every command.
    suppress_keyboard_interrupt=False,
)

_sensitivity = App(
    name="sensitivity",
    default_command=sensitivity,
    group_arguments=_ARGUMENTS,
    group_parameters=_OPTIONS,
)
_sensitivity.command(compare_sensitivity, name="compare")

for _command in (
    classify,
    confirm,
    attribute,
    ablate,
    view,
    generate,
    trace,
    compare,
    sweep,
    stimuli,
    atlas,
    record,
    _sensitivity,
    super_weights,
    models,
    describe,
    verify,
):
    app.command(_command)

app.command(web_page, name="app")

_activations = App(name="activations", help="Look into folders of recorded activations.")
_activations.command(info)
app.command(_activations)


def command_named_in(arguments: Sequence[str]) -> tuple[str, ...]:
    """The command that a command line begins with, if it is one.

    >>> command_named_in(["classify", "--nonsense"])
    ('classify',)
    >>> command_named_in(["clasify"])
    ()
    """
    return app.parse_commands(list(arguments))[0]
