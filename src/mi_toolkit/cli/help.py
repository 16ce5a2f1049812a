"""The look of `--help`: titles and aligned columns without lines, in a terminal as in a mail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mi_toolkit.cli.output import columns, wrapped

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
