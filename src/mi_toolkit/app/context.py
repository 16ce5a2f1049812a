"""What the sections of the page share: visitors, their analyses, and the way to a model."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import gradio as gr

from mi_toolkit.app.model_pool import ModelPool, model_bytes
from mi_toolkit.app.settings import Settings
from mi_toolkit.core.errors import MIToolkitError, ModelLoadError, UnsupportedModelError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.progress import watching
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.text.pipeline import Pipeline
from mi_toolkit.text.trace import trace_pipeline

TOP_K = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """One prompt through one model, and what was asked for next to it."""

    model: str
    """The model's name, as `load_model` takes it."""

    prompt: str
    """The text."""

    num_beams: int
    """Beams to search with."""

    max_new_tokens: int
    """Tokens to write."""

    facts: ModelFacts
    """What the model is."""

    n_bytes: int
    """Memory that its weights take."""

    report: HeadReport
    """What its heads do on this prompt."""

    pipeline: Pipeline
    """The prompt's way through it."""


def analyse(
    model: HookedModel,
    name: str,
    prompt: str,
    *,
    num_beams: int,
    max_new_tokens: int,
    settings: Settings,
) -> Analysis:
    """Classify the heads on a prompt, and trace it.

    Raises:
        PromptError: no text, more of it than the server takes, or beyond the context.
    """
    settings.check_text(prompt)
    settings.check_prompt(int(tokenise(model, prompt).lengths[0]))
    report = classify_heads(model, prompt)
    return Analysis(
        model=name,
        prompt=prompt,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        facts=describe_model(model),
        n_bytes=model_bytes(model),
        report=report,
        pipeline=trace_pipeline(model, prompt, report=report, top_k=TOP_K),
    )


class ClientDisconnected(MIToolkitError):
    """The page that asked for this was closed."""


class Sessions:
    """Sessions whose page was closed while they were at work."""

    def __init__(self) -> None:
        """Nobody has left yet."""
        self._at_work: dict[str, int] = {}
        self._left: set[str] = set()
        self._guard = threading.Lock()

    def begin(self, session: str) -> Callable[[], None]:
        """Note that work begins for a session; what comes back raises once its page is closed."""
        with self._guard:
            self._at_work[session] = self._at_work.get(session, 0) + 1

        def still_there() -> None:
            if session in self._left:
                raise ClientDisconnected("The page that asked for this was closed.")

        return still_there

    def end(self, session: str) -> None:
        """Note that it is done."""
        with self._guard:
            self._at_work[session] -= 1
            if not self._at_work[session]:
                del self._at_work[session]
                self._left.discard(session)

    def leave(self, session: str) -> None:
        """Note that a page was closed: what runs for it ends at its next step."""
        with self._guard:
            if session in self._at_work:
                self._left.add(session)

    @property
    def at_work(self) -> int:
        """Sessions that something runs for."""
        return len(self._at_work)


Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class AppContext:
    """One server's settings, models and visitors."""

    settings: Settings
    """What visitors may do."""

    shelf: ModelPool
    """The loaded models."""

    visits: Sessions = field(default_factory=Sessions)
    """Who is at work."""

    def run(
        self,
        work: Callable[[HookedModel], Result],
        *,
        model: str,
        request: gr.Request,
        progress: gr.Progress,
    ) -> Result:
        """What `work` returns, alone with the model, its progress told to the page.

        It stops at its next step when the page is closed.

        Raises:
            gr.Error: the library's own message, where it raised one; the page shows it.
        """
        return self.run_together(
            lambda models: work(models[model]), models=[model], request=request, progress=progress
        )

    def run_together(
        self,
        work: Callable[[Mapping[str, HookedModel]], Result],
        *,
        models: Collection[str],
        request: gr.Request,
        progress: gr.Progress,
    ) -> Result:
        """As `run`, with several models by name, alone with all of them."""
        session = str(request.session_hash)
        still_there = self.visits.begin(session)

        def told(label: str, done: int, total: int | None) -> None:
            still_there()
            progress((done, total), desc=label)

        missing = sorted(set(models) - set(self.shelf.loaded))
        if missing:
            progress(0, desc=f"Loading {' and '.join(missing)}")
        try:
            acquire = self.shelf.acquire_together(models, still_wanted=still_there)
            with watching(told), acquire as hooked:
                still_there()
                return work(hooked)
        except ClientDisconnected as gone:
            raise shown_error(gone) from None
        except UnsupportedModelError as error:
            raise shown_error(error) from error
        except ModelLoadError as error:
            here = ", ".join(self.settings.here())
            raise shown_error(error, f"Models that are here: {here}." if here else "") from error
        except MIToolkitError as error:
            raise shown_error(error) from error
        finally:
            self.visits.end(session)


def shown_error(error: MIToolkitError, further: str = "") -> gr.Error:
    """A library's error as the page shows it: escaped, until it is closed."""
    said = f"{error} {further}".strip()
    return gr.Error(html.escape(said), duration=None, print_exception=False)
