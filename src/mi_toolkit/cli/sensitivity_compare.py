"""`mi-toolkit sensitivity compare`: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mi_toolkit.cli.options import Switch
from mi_toolkit.cli.output import (
    as_json,
    check_file,
    check_folder,
    draw,
    say_written,
    write_tables,
)

if TYPE_CHECKING:
    from mi_toolkit.sensitivity.run_comparison import RunComparison


def compare(
    *runs: Path,
    output: Path | None = None,
    html: Path | None = None,
    json: Switch = False,
) -> None:
    """Set runs side by side: where in depth the top weights are, in which matrices, what is shared.

    For studies of scale or architecture. Of each metric that all runs have, the longest list that
    all have is compared.

    Args:
        runs: Output folders of mi-toolkit sensitivity, two or more.
        output: Folder for comparison_METRIC.csv and comparison_METRIC.png.
        html: File for a page of its own.
        json: Write JSON instead of tables, and nothing else, to standard output.
    """
    check_folder(output)
    check_file(html)
    from mi_toolkit.sensitivity.run_comparison import compare_runs

    found = compare_runs(runs)
    written = [] if output is None else _write(found, output)
    if html is not None:
        from mi_toolkit.views.page import Page
        from mi_toolkit.views.run_comparison import view_runs

        Page([view_runs(each) for each in found]).save_html(html)
        written.append(html)
    if json:
        print(as_json([row for each in found for row in each.to_pandas().to_dict("records")]))
        return
    for index, each in enumerate(found):
        if index:
            print()
        print(each)
    say_written(written)


def _write(found: list[RunComparison], folder: Path) -> list[Path]:
    from mi_toolkit.views.run_comparison import view_runs

    written = write_tables(
        folder, {f"comparison_{each.metric}.csv": each.to_pandas() for each in found}
    )
    for each in found:
        written += draw(view_runs(each), None, folder / f"comparison_{each.metric}.png")
    return written
