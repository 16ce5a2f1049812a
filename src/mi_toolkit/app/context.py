"""What the sections of the page share: visitors, what each has found, and the way to a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import gradio as gr
from markupsafe import escape

from mi_toolkit.app.model_pool import ModelPool, held_bytes, model_bytes, return_memory
from mi_toolkit.app.settings import Settings
from mi_toolkit.core.errors import (
    MIToolkitError,
    ModelLoadError,
    PromptError,
    UnsupportedModelError,
)
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.progress import Watcher, clock, watching
from mi_toolkit.core.tokens import batched, rows_of, tokenise
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.text.pipeline import Pipeline
from mi_toolkit.text.trace import trace_and_classify

TOP_K = 10


Result = TypeVar("Result")


Lend = Callable[[str], AbstractContextManager[HookedModel]]
"""Lends a model by name, with nobody else at it meanwhile; one at a time."""

Job = Callable[[Lend], Result]
"""What is to be done with models. Between two loans, and where the library is at rest with one,
others have their turn."""


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

    seconds: float
    """How long the analysis took."""

    typed: str = ""
    """What the visitor called the model."""

    def job(self, work: Callable[[HookedModel], Result]) -> Job[Result]:
        """Work on the analyzed model."""

        def job(lend: Lend) -> Result:
            with lend(self.model) as model:
                return work(model)

        return job


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
    begun = time.perf_counter()
    settings.check_text(prompt)
    rows = rows_of(model, prompt)
    settings.check_prompt(len(rows[0].ids))  # before the model's context: it is the less of both
    batch = tokenise(model, batched(model, rows))
    traced, report = trace_and_classify(model, batch, top_k=TOP_K)
    return Analysis(
        model=name,
        prompt=prompt,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        facts=describe_model(model),
        n_bytes=model_bytes(model),
        report=report,
        pipeline=replace(traced, prompt=prompt),  # as typed, whatever the tokens say
        seconds=time.perf_counter() - begun,
    )


class ClientDisconnected(MIToolkitError):
    """The page that asked for this was closed, or its visitor pressed Stop."""


FIRST = "Analyze a prompt first, in the form above."
GIVEN_UP = "What was found here was given up to make room for others: Analyze it again."
TOO_LARGE = (
    "What was found takes more memory than this server has for one visitor: a shorter prompt."
)

MOST_SESSIONS = 10_000
"""Pages that are known at a time; the one that was used longest ago is forgotten."""

SHARE = 4
"""A visitor's part of the memory for all visitors: a quarter."""


@dataclass(eq=False)
class Session:
    """One visitor's page: what it has found. Kept on the server, so that nothing of it travels."""

    analysis: Analysis | None = None
    """The prompt that stands on the page."""

    answers: dict[str, Any] = field(default_factory=dict)
    """What each panel found out, by its name."""

    jobs: int = 0
    """How much runs for it."""

    has_left: bool = False
    """Whether the page was closed."""

    stops: int = 0
    """How often Stop was pressed."""

    n_bytes: int = 0
    """Memory that all this holds."""

    was_given_up: bool = False
    """Whether what it had was given up for space."""

    asked: dict[str, Any] = field(default_factory=dict)
    """What the page's address asks for in a result, until it is shown: a `head`, a `position`."""

    def analysed(self) -> Analysis:
        """The analysis.

        Raises:
            PromptError: there is none.
        """
        if self.analysis is None:
            raise PromptError(GIVEN_UP if self.was_given_up else FIRST)
        return self.analysis

    def give_up(self) -> None:
        """Let go of what it found."""
        self.analysis, self.was_given_up = None, True
        self.answers.clear()
        self.n_bytes = 0

    def check_wanted(self, stops: int = 0) -> None:
        """Nothing, while somebody waits for what began when Stop had been pressed `stops` times.

        Raises:
            ClientDisconnected: the page was closed, or Stop was pressed again.
        """
        if self.has_left:
            raise ClientDisconnected("The page that asked for this was closed.")
        if self.stops != stops:
            raise ClientDisconnected("Stopped.")


class Sessions:
    """The open pages, the one used last at the end, and the memory that they may fill together."""

    def __init__(self, limit: int = 2**30) -> None:
        """Nobody has come yet; `limit` bytes for all that they will find."""
        self.limit = limit
        self._open: dict[str, Session] = {}
        self._guard = threading.Lock()

    def of(self, name: str | None) -> Session:
        """The session of that name; one of its own for a request that has none."""
        if name is None:
            return Session()
        with self._guard:
            session = self._open.pop(name, None) or Session()
            self._open[name] = session
            if len(self._open) > MOST_SESSIONS:
                del self._open[next(iter(self._open))]
            return session

    @property
    def open(self) -> tuple[Session, ...]:
        """Those that asked for something."""
        with self._guard:
            return tuple(self._open.values())

    @property
    def n_bytes(self) -> int:
        """Memory that all they found holds."""
        return sum(each.n_bytes for each in self.open)

    def count(self, session: Session) -> None:
        """Measure what a session holds; others' goes to make room, the least recently used first.

        Raises:
            PromptError: it is more than one visitor may hold; then it is given up.
        """
        session.n_bytes = held_bytes([session.analysis, session.answers])
        if session.n_bytes > self.limit // SHARE:
            session.give_up()
            raise PromptError(TOO_LARGE)
        session.was_given_up = False
        others = [each for each in self.open if each is not session and each.n_bytes]
        while others and self.n_bytes > self.limit:
            others.pop(0).give_up()
        return_memory()

    def leave(self, name: str | None) -> None:
        """Forget a page that was closed: what runs for it ends at its next step."""
        with self._guard:
            session = self._open.pop(name or "", None)
        if session is not None:
            session.has_left = True
            session.give_up()
            return_memory()


@dataclass(frozen=True, eq=False)
class AppContext:
    """One server's settings, models and visitors."""

    settings: Settings
    """What visitors may do."""

    pool: ModelPool
    """The loaded models."""

    sessions: Sessions = field(default_factory=Sessions)
    """The open pages."""

    def run(self, job: Job[Result], *, session: Session, progress: gr.Progress) -> Result:
        """What the job gives, its progress shown on the page.

        It stops at its next step when the page is closed.

        Raises:
            MIToolkitError: what the job or loading raises.
            ClientDisconnected: the page was closed.
        """
        run = _Run(self.pool, session, progress)
        session.jobs += 1
        try:
            with watching(run):
                return job(run.lend)
        except UnsupportedModelError:
            raise
        except ModelLoadError as error:
            here = ", ".join(self.settings.here())
            raise ModelLoadError(
                f"{error} Models that are here: {here}." if here else str(error)
            ) from error
        finally:
            session.jobs -= 1


class _Run(Watcher):
    """One job: how far it is, whether somebody still wants it, and the model that it has."""

    def __init__(self, pool: ModelPool, session: Session, progress: gr.Progress) -> None:
        self._pool, self._session, self._progress = pool, session, progress
        self._stops = session.stops
        self._lent = ""
        self._begun: tuple[str, float] = ("", 0.0)

    @contextmanager
    def lend(self, name: str) -> Iterator[HookedModel]:
        """A model, with nobody else at it meanwhile."""
        if name not in self._pool.loaded:
            self._progress(0, desc=f"Loading {name}")
        with self._pool.acquire(name, waiting=self._wait) as model:
            self._lent = name
            self.check()
            yield model

    def report(self, label: str, done: int, total: int | None) -> None:
        self.check()
        now = time.perf_counter()
        if not done or self._begun[0] != label:
            self._begun = (label, now)
        text = label
        if done and total:
            text += f", about {clock((now - self._begun[1]) / done * (total - done))} to go"
        self._progress((done, total), desc=text)

    def check(self) -> None:
        self._session.check_wanted(self._stops)

    def make_way(self) -> None:
        self._pool.pass_on(self._lent, waiting=self._wait)

    def _wait(self, name: str, place: int) -> None:
        self.check()
        self._progress(0, desc=f"{ordinal(place)} in line for {name}")


def ordinal(place: int) -> str:
    """A place in a line.

    >>> [ordinal(place) for place in (2, 3, 4, 11, 21, 112)]
    ['2nd', '3rd', '4th', '11th', '21st', '112th']
    """
    teens = place % 100 in (11, 12, 13)
    return f"{place}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(place % 10, 'th')}"


@contextmanager
def errors_shown() -> Iterator[None]:
    """The library's own errors as the page shows them: escaped, until they are closed."""
    try:
        yield
    except MIToolkitError as error:
        raise gr.Error(str(escape(str(error))), duration=None, print_exception=False) from error
