"""The fourth section: ablate heads, attribute a prediction, compare a second model."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app.context import AppContext
from mi_toolkit.app.investigate.ablate import ablate_panel
from mi_toolkit.app.investigate.attribute import attribute_panel
from mi_toolkit.app.investigate.compare import compare_panel


def investigate_section(desk: AppContext, analysis: gr.State, analysed: Any) -> None:
    """Ablate, attribute, compare. The last one needs a server that offers two models."""
    gr.Markdown("## Investigate\nExperiments on the prompt above. Each runs when you say so.")
    ablate_panel(desk, analysis, analysed)
    attribute_panel(desk, analysis, analysed)
    if len(desk.settings.offered) > 1:
        compare_panel(desk, analysis, analysed)
