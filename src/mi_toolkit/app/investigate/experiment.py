"""What the three experiments have in common: an answer is shown while it is of this prompt."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import gradio as gr

from mi_toolkit.app.context import Analysis
from mi_toolkit.app.tools import Saveable
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.draw.primitives import visible

FIRST = "Analyze a prompt first, in the form above."
STALE = "The prompt or the model is another one now: run it again."


@runtime_checkable
class Answer(Protocol):
    """What an experiment found out."""

    @property
    def analysis(self) -> Analysis:
        """What it began with."""
        ...


Given = TypeVar("Given", bound=Answer)


def note(text: str) -> str:
    """A line where there is nothing to show."""
    return f'<p class="caption" role="status">{html.escape(text)}</p>'


def analysed_or_told(found: Analysis | None) -> Analysis:
    """The session's analysis.

    Raises:
        gr.Error: there is none; the page shows it.
    """
    if found is None:
        raise gr.Error(FIRST, print_exception=False)
    return found


def keep_fresh(
    analysis: gr.State, analysed: Any, ran: Any, answer: gr.State, shown: list[Any], invitation: str
) -> None:
    """Take an answer away when the prompt changes, even while the experiment runs.

    Args:
        analysis: the session's.
        analysed: the event of a new one.
        ran: the event of a new answer.
        answer: where it is kept.
        shown: the drawing and the code of it.
        invitation: what stands in its place at first.
    """

    def kept(current: Analysis | None, found: Answer | None) -> Any:
        return (
            gr.skip() if is_of(current, found) else (None, note(STALE if found else invitation), "")
        )

    for event in (analysed, ran):
        event.success(
            kept, inputs=[analysis, answer], outputs=[answer, *shown], api_visibility="private"
        )


def is_of(current: Analysis | None, found: Answer | None) -> bool:
    """Whether there is an answer, and it began with the analysis that stands above it."""
    return found is not None and found.analysis is current


def if_fresh(
    saveable: Callable[[Given], Saveable],
) -> Callable[[Given | None], Saveable | None]:
    """Nothing to save where there is no answer."""
    return lambda found: None if found is None else saveable(found)


def token_choices(predictions: tuple[Prediction, ...]) -> list[tuple[str, int]]:
    """Tokens to choose from, each by its id: two may look alike."""
    return [(f"{visible(each.text)}  {each.probability:.1%}", each.token) for each in predictions]


def call(function: str, *arguments: str, **options: Any) -> str:
    """A call as one writes it, an option to a line.

    >>> print(call("mi.attribute", "model", "prompt", target=262))
    mi.attribute(
        model,
        prompt,
        target=262,
    )
    """
    given = [*arguments, *(f"{name}={value!r}" for name, value in options.items())]
    lines = "".join(f"    {each},\n" for each in given)
    return f"{function}(\n{lines})"
