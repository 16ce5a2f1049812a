"""The fourth section: ablate heads, attribute a prediction, compare a second model."""

from __future__ import annotations

import gradio as gr

from mi_toolkit.app.investigate.ablate import ablate_panel
from mi_toolkit.app.investigate.attribute import attribute_panel
from mi_toolkit.app.investigate.compare import compare_panel
from mi_toolkit.app.panel import Builder


def investigate_section(page: Builder) -> None:
    """Ablate, attribute, compare. The last one needs a server that offers two models."""
    gr.Markdown("## Investigate\nExperiments on the prompt above. Each runs when you say so.")
    ablate_panel(page)
    attribute_panel(page)
    if len(page.context.settings.offered) > 1:
        compare_panel(page)
