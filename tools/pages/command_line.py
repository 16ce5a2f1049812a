"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

from pages.made import Made

PATH = "command_line.md"


def command_line_page() -> Made:
    """What `--help` says of every command, on one page."""
    from mi_toolkit.cli.app import app

    return Made(PATH, app.generate_docs(output_format="markdown"))
