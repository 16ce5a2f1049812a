"""The commands of `mi-toolkit`, and the look of their help.

The entry point: what the process exits with, and how an error reads.

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
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from rich.text import Text

from mi_toolkit.cli.ablate import ablate
from mi_toolkit.cli.atlas import atlas, head
from mi_toolkit.cli.attribute import attribute
from mi_toolkit.cli.classify import classify
from mi_toolkit.cli.compare import compare, stimuli
from mi_toolkit.cli.confirm import confirm
from mi_toolkit.cli.generate import generate
from mi_toolkit.cli.models import describe, models, plan, verify
from mi_toolkit.cli.output import columns, wrapped
from mi_toolkit.cli.record import info, record
from mi_toolkit.cli.sensitivity import compare as compare_sensitivity
from mi_toolkit.cli.sensitivity import sensitivity, super_weights
from mi_toolkit.cli.sweep import dynamics, sweep, sweep_run
from mi_toolkit.cli.trace import trace, view
from mi_toolkit.cli.web_page import web_page

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions


_LONGEST_NAME = 24


class PlainColumns:
    """A formatter of help as cyclopts calls it, part by part."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print one panel: its title, and a row for each command or option."""
        if not panel.entries:
            return
        self._print(console, Text(str(panel.title), style="bold"))
        rows = [_row(entry, _plain(console, options, entry.description)) for entry in panel.entries]
        for line in columns(rows, width=console.width, widest=_LONGEST_NAME):
            self._print(console, line)
        self._print(console, "")

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the line that says how the command is called."""
        if usage:
            text = _plain(console, options, usage)
            self._print(console, text if text.startswith("Usage:") else f"Usage: {text}")
            self._print(console, "")

    def render_description(self, console: Console, options: ConsoleOptions, text: Any) -> None:
        """Print what the command does, its paragraphs wrapped to the terminal."""
        for paragraph in _paragraphs(_plain(console, options, text)):
            for line in wrapped(paragraph, console.width):
                self._print(console, line)
            self._print(console, "")

    def _print(self, console: Console, text: str | Text) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _row(entry: HelpEntry, description: str) -> list[str]:
    # cyclopts 5 adds the kind of value (`--layer INT...`).
    labels = getattr(entry, "display_labels_with_metavar", (*entry.names, *entry.shorts))
    parts = [" ".join(description.split())]
    if entry.choices:
        parts.append(f"[{', '.join(entry.choices)}]")
    if entry.default is not None and entry.default != "False":
        parts.append(f"[default: {entry.default}]")
    if entry.required:
        parts.append("[required]")
    return ["", ", ".join(labels), " ".join(filter(None, parts))]


def _plain(console: Console, options: ConsoleOptions, text: Any) -> str:
    if text is None or text == "":
        return ""
    segments = console.render(text, options.update(width=10_000))
    return "".join(segment.text for segment in segments).strip()


def _paragraphs(text: str) -> Iterator[str]:
    lines = [line.strip() for line in text.splitlines()]
    for paragraph in "\n".join(lines).split("\n\n"):
        yield " ".join(paragraph.split())


def _version() -> str:
    # Imported here: it drags in the standard library's mail parser.
    from importlib import metadata

    return f"mi-toolkit {metadata.version('mi-toolkit')}"


_ARGUMENTS, _OPTIONS = Group("Arguments", sort_key=1), Group("Options", sort_key=2)

app = App(
    name="mi-toolkit",
    help=(
        "Load a language model, classify its attention heads, and see what they look at.\n\n"
        "A text is one argument, in quotes. One that begins with a dash goes after --, after all "
        'options: mi-toolkit classify --seed 1 -- "- a list"; as the value of an option, after '
        "an equals sign: --target=-. Several values of an option stand apart by spaces or "
        "commas.\n\n"
        "Folders that are not there are made. In those that are, files of the same names are "
        "replaced, and others stay; a run that was interrupted goes on in its folder, and one "
        "that holds another run of the same command is refused.\n\n"
        "Results go to standard output, all else to standard error. Exit code 0: it worked, 1: the "
        "work failed, 2: wrong usage."
    ),
    version=_version,
    group_arguments=_ARGUMENTS,
    group_parameters=_OPTIONS,
    help_epilogue=(
        "Texts that begin with a dash, several values, folders that are there: mi-toolkit --help."
    ),
    help_format="plaintext",
    help_formatter=PlainColumns(),
    # Ctrl-C is reported in `main`, with the exit code of every command.
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
    head,
    attribute,
    ablate,
    view,
    generate,
    trace,
    compare,
    sweep,
    sweep_run,
    dynamics,
    stimuli,
    atlas,
    record,
    _sensitivity,
    super_weights,
    models,
    describe,
    plan,
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
        _forget_output()
        code = PIPE_CLOSED
    except OSError as error:
        from mi_toolkit.core.io import FULL, disk_is_full

        if not disk_is_full(error):
            raise
        _forget_output()
        _complain(f"standard output cannot be written: {FULL}.")
        code = FAILURE
    sys.exit(code)


def _forget_output() -> None:
    """Else Python flushes standard output again at exit, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code; the caller's errors go to standard error."""
    from mi_toolkit.core.errors import MIToolkitError, UnknownNameError

    try:
        app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        error.verbose = False
        command = command_named_in(arguments)
        rule = _dash_rule(error, arguments)
        message = _in_words(error, command)
        if rule:  # of a text cyclopts names the first two letters, as if they were an option
            message = _FIRST_LETTERS.sub("", message)
        _complain(f"{message}{rule} Try '{' '.join(['mi-toolkit', *command])} --help'.")
        return USAGE
    except UnknownNameError as error:
        _complain(error)
        return USAGE
    except MIToolkitError as error:
        _complain(error)
        return FAILURE
    return 0


_FIRST_LETTERS = re.compile(r" -. is not a recognized option\.", flags=re.DOTALL)
_OPTION = re.compile(r"-[A-Za-z]|--[A-Za-z][\w-]*(=.*)?", flags=re.DOTALL)


def _in_words(error: CycloptsError, command: Sequence[str]) -> str:
    """What is wrong with a command line; of arguments too many, which the command takes.

    >>> _in_words(UnusedCliTokensError(unused_tokens=["b", "c"]), ["describe"])
    "describe takes one MODEL; 'b' and 'c' are too many."
    """
    if not isinstance(error, UnusedCliTokensError):
        return str(error)
    unused = error.unused_tokens or []
    inner = app
    for name in command:
        inner = inner[name]
    known = inner.assemble_argument_collection()
    takes = [f"one {each.name}" for each in known if each.field_info.is_positional]
    many = f"{' and '.join(map(repr, unused))} {'is' if len(unused) == 1 else 'are'} too many"
    return f"{' '.join(command)} takes {' and '.join(takes) or 'no argument'}; {many}."


def _dash_rule(error: CycloptsError, arguments: Sequence[str]) -> str:
    """How to give a text that begins with a dash, where an error is about one."""
    dashed = [each for each in arguments if each.startswith("-") and not _OPTION.fullmatch(each)]
    if not dashed or dashed[0] == "--":
        return ""
    text = dashed[0]
    if isinstance(error, UnknownOptionError):
        return f" A text that begins with a dash goes after --, after all options: -- {text!r}."
    after = dict(pairwise(arguments))
    if isinstance(error, MissingArgumentError) and after.get(error.keyword or "") in dashed:
        text = f"{error.keyword}={after[error.keyword or '']}"
        return f" A value that begins with a dash goes after an equals sign: {text!r}."
    return ""


def _complain(problem: object) -> None:
    line = " ".join(part.strip() for part in str(problem).splitlines())
    print(f"mi-toolkit: {line}", file=sys.stderr)
