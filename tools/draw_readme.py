"""Draw the picture of the README, `docs/pictures/readme.png`: `python tools/draw_readme.py`."""

from __future__ import annotations

from mi_toolkit.draw.figures.style import house_style, save_figure
from pages.pictures import DOCS, home

if __name__ == "__main__":
    with house_style():
        save_figure(home(), DOCS / "pictures/readme.png")
