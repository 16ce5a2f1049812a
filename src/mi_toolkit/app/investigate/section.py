"""The section: three panels, each an experiment on the prompt that was analyzed."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app.desk import Desk
from mi_toolkit.app.investigate.ablate_panel import ablate_panel
from mi_toolkit.app.investigate.attribute_panel import attribute_panel
from mi_toolkit.app.investigate.compare_panel import compare_panel


def investigate_section(desk: Desk, analysis: gr.State, analysed: Any) -> None:
    """Ablate, attribute, compare. The last one needs a server that offers two models."""
    gr.Markdown("## Investigate\nExperiments on the prompt above. Each runs when you say so.")
    ablate_panel(desk, analysis, analysed)
    attribute_panel(desk, analysis, analysed)
    if len(desk.settings.offered) > 1:
        compare_panel(desk, analysis, analysed)
