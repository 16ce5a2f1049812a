"""One `Panel` for every experiment, and the `Builder` that puts the page together and wires it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.context import (
    FIRST,
    Analysis,
    AppContext,
    Job,
    Lend,
    Session,
    errors_shown,
)
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.tools import FORMATS, Saveable, drawing
from mi_toolkit.core.errors import PromptError, UnknownNameError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.draw.primitives import visible

ONCE_MORE = "always_last"
"""What comes while its like is still under way is done after that, the last of it. Gradio's own
way is to leave it out: a click, or the page that a second analysis needs."""

QUIETLY: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "trigger_mode": ONCE_MORE,
}
RUNNING: dict[str, Any] = {
    "api_visibility": "private",
    "trigger_mode": ONCE_MORE,
    "concurrency_limit": 32,
    "concurrency_id": "models",
}

RELISTED = "relisted"
"""Class of a list whose entries follow from something else."""

_WAITING = """(...given) => {
  for (const list of document.querySelectorAll(".%s")) {
    list.waitsFor = (list.waitsFor ?? 0) + %d;
    list.inert = list.waitsFor > 0;
  }
  return given;
}"""
SHUT, OPEN = _WAITING % (RELISTED, 1), _WAITING % (RELISTED, -1)
"""Nobody opens such a list while new entries are on their way: of a list that becomes shorter while
it is open, gradio draws the entries that are gone, and fails."""

CLICK = """() => {
  const button = document.querySelector('#%s');
  (button.querySelector('a') || button).click();
}"""

NOTHING = "There is nothing here yet: run it first."


class Answer(Protocol):
    """What an experiment found out."""

    @property
    def analysis(self) -> Analysis:
        """What it began with."""
        ...


Event = Callable[..., Any] | gr.HTML
"""What a listener answers: a gradio event, or the picks of a drawing."""

Found = TypeVar("Found", bound=Answer)
Given = TypeVar("Given")


def note(text: str) -> Markup:
    """A line where there is nothing to show."""
    return Markup('<p class="caption" role="status">{}</p>').format(text)


def of_same_analysis(current: Analysis, found: Found) -> Found | None:
    """An answer, if it began with the analysis that stands above it."""
    return found if found.analysis is current else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel(Generic[Found]):
    """An experiment on the analyzed prompt: what runs, and what is shown and kept of it."""

    name: str
    """One word: part of element ids."""

    title: str
    """What its fold says."""

    help: str
    """What it shows and what to do, with terms of the glossary in braces."""

    job: Callable[..., Job[Found]]
    """What runs, from the analysis and what the visitor chose."""

    drawings: tuple[str, ...]
    """The ids of its drawings."""

    shown: Callable[[Found], tuple[str, ...]]
    """The HTML of each of them."""

    code: Callable[[Found], str]
    """The Python that gives the same."""

    saveable: Callable[[Found], Saveable]
    """It in files."""

    is_given_last: bool = False
    """Whether its job is given the last answer too, or None, before what the visitor chose."""

    button: str = "Run"
    """What the button says."""

    runs_itself: bool = False
    """Whether it runs after every analysis, without being asked."""

    is_open: bool = False
    """Whether it is unfolded at first."""

    invitation: str = "Press Run."
    """What stands in the first drawing before there is an answer."""

    n_steps: int = 0
    """How often the answer is gone on from: it is shown after each step, and between two of them
    others have their turn."""

    step: Callable[[HookedModel, Found], Found] | None = None
    """What the next step makes of an answer; the same answer where nothing is left to do."""

    still: Callable[[Analysis, Found], Found | None] = of_same_analysis
    """What of an answer holds under a new analysis."""

    def outputs(self, found: Found) -> tuple[str, ...]:
        """The drawings and the code of an answer."""
        return *self.shown(found), self.code(found)

    def without_answer(self, text: str) -> tuple[str, ...]:
        """The same, where there is none."""
        return note(text), *("",) * len(self.drawings)


STALE = "The prompt or the model is another one now: run it again."


@dataclass(kw_only=True, eq=False)
class Built:
    """A panel's components."""

    choices: list[gr.components.Component] = field(default_factory=list)
    """What its job is given the values of; whoever builds it fills them in."""

    drawings: list[gr.HTML] = field(default_factory=list)
    """What shows its answer, once it is built."""

    outputs: list[gr.components.Component] = field(default_factory=list)
    """The drawings and the code, once it is built."""


class Builder:
    """The page while it is put together. Every listener gets the visitor's session first."""

    def __init__(self, context: AppContext, page: gr.Blocks) -> None:
        """A page on a server's settings, models and visitors."""
        self.context, self.page = context, page
        self._parts: list[tuple[Callable[..., Any], list[Any], list[Any]]] = []
        self._next: list[Callable[[Any], Any]] = []
        self._running: list[Any] = []

    def on(
        self,
        event: Event,
        work: Callable[..., Any],
        inputs: Sequence[Any] = (),
        outputs: Any = None,
        **options: Any,
    ) -> Any:
        """Answer an event at once, with what `work(session, *values)` gives.

        Of a drawing, which stands for its picks, the first value is what was picked.
        """
        options = {**QUIETLY, **options}
        return self._listen(
            event, lambda session, _, *values: work(session, *values), inputs, outputs, options
        )

    def relist(
        self, event: Event, work: Callable[..., Any], inputs: Any, outputs: Any, **options: Any
    ) -> Any:
        """Answer an event, as `on` does, that gives lists new entries: they are shut meanwhile."""
        answered = self.on(event, work, inputs, outputs, js=SHUT, **options)
        answered.then(None, js=OPEN)
        return answered

    def run(
        self,
        event: Event,
        job: Callable[..., Job[Given]],
        shown: Callable[[Session, Given], Any],
        inputs: Sequence[Any] = (),
        outputs: Any = None,
        **options: Any,
    ) -> Any:
        """Answer an event with what a job on models gives, its progress on the page.

        Args:
            event: what starts it.
            job: from the session and the inputs' values.
            shown: what the outputs become; it keeps what was found in the session.
            inputs: whose values the job is made from.
            outputs: what shows the progress, and then the answer.
            options: of gradio's listener.
        """

        def work(session: Session, progress: gr.Progress, *values: Any) -> Any:
            asked = job(session, *values)
            become = shown(session, self.context.run(asked, session=session, progress=progress))
            self.context.sessions.count(session)
            return become

        ran = self._listen(event, work, inputs, outputs, {**RUNNING, **options})
        self._running.append(ran)
        return ran

    def _listen(
        self,
        event: Event,
        work: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Any,
        options: dict[str, Any],
    ) -> Any:
        """Have gradio call `work`; by these annotations it finds what to pass."""

        def listen(
            request: gr.Request,
            progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
            *values: Any,
        ) -> Any:
            with errors_shown():
                return work(self.context.sessions.of(request.session_hash), progress, *values)

        def listen_to_pick(
            request: gr.Request,
            event: gr.EventData,
            progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
            *values: Any,
        ) -> Any:
            sent = getattr(event, "_data", None)
            pick = sent.get("pick") if isinstance(sent, dict) else None
            return listen(request, progress, str(pick or ""), *values)

        if isinstance(event, gr.HTML):
            return event.pick(listen_to_pick, inputs=list(inputs), outputs=outputs, **options)
        return event(listen, inputs=list(inputs), outputs=outputs, **options)

    def when_analysed(
        self, work: Callable[..., Any], inputs: Sequence[Any] = (), outputs: Sequence[Any] = ()
    ) -> None:
        """Have outputs become what `work(session, *values)` gives, at every new analysis.

        All parts of the page change together, in one message: none is ever a prompt behind.
        """
        self._parts.append((work, list(inputs), list(outputs)))

    def when_opened(self, work: Callable[..., Any], outputs: Sequence[Any] = ()) -> Any:
        """Have outputs become what `work(session, query)` gives, as a visitor opens the page."""

        def opened(request: gr.Request) -> Any:
            with errors_shown():
                session = self.context.sessions.of(request.session_hash)
                return work(session, dict(request.query_params))

        return self.page.load(opened, outputs=list(outputs), **QUIETLY)

    def wire(self, analysed: Any, stop: gr.Button, opened: Any) -> None:
        """Bring all of these to the event of a new analysis; then what runs by itself.

        `stop` ends all that runs for its page: what waits is taken out of the line, what is at work
        ends at its next step. `opened` is the event of a visit, which may find an example there.
        """
        inputs = [each for _, inputs, _ in self._parts for each in inputs]
        outputs = [each for _, _, outputs in self._parts for each in outputs]

        def everything(session: Session, *values: Any) -> list[Any]:
            session.analysed()
            given, become = iter(values), []
            for work, inputs, outputs in self._parts:
                shown = work(session, *(next(given) for _ in inputs))
                become += [shown] if len(outputs) == 1 else list(shown)
            return become

        def at_first(session: Session, *values: Any) -> list[Any]:
            has_one = session.analysis is not None
            return everything(session, *values) if has_one else [gr.skip() for _ in outputs]

        self.on(opened, at_first, inputs, outputs)
        shown = self.relist(analysed.success, everything, inputs, outputs)
        for run in self._next:
            run(shown.success)

        def stopped(session: Session) -> None:
            session.stops += 1

        self.on(stop.click, stopped, cancels=self._running)

    @contextmanager
    def panel(self, panel: Panel[Found]) -> Iterator[Built]:
        """A panel: within it, its choices are made; after it come button, answer and code."""
        built = Built()
        with gr.Accordion(panel.title, open=panel.is_open, elem_id=panel.name):
            help_text(panel.help)
            yield built
            button = gr.Button(
                panel.button,
                variant="secondary" if panel.runs_itself else "primary",
                interactive=False,
                elem_id=f"{panel.name}-run",
            )
            built.drawings = [
                drawing("" if place else note(FIRST), elem_id=elem_id)
                for place, elem_id in enumerate(panel.drawings)
            ]
            code = self.tools(
                panel.name, lambda session: panel.saveable(self.answer(session, panel))
            )
            built.outputs = [*built.drawings, code]

        def refreshed(session: Session) -> tuple[Any, ...]:
            enabled = gr.update(interactive=True)
            found: Found | None = session.answers.get(panel.name)
            if found is None or (panel.runs_itself and _is_of_before(panel, session, found)):
                return *panel.without_answer(panel.invitation), enabled
            return *self.answered(panel, session, found), enabled

        self.when_analysed(refreshed, outputs=[*built.outputs, button])
        run = partial(
            self.run,
            job=lambda session, *chosen: panel.job(
                session.analysed(), *self._last(session, panel), *chosen
            ),
            shown=partial(self.answered, panel),
            inputs=built.choices,
            outputs=built.outputs,
        )
        if panel.runs_itself:
            self._next.append(partial(run, show_progress_on=built.drawings[0]))
        self._in_steps(panel, run(button.click), built.outputs)

    def _last(self, session: Session, panel: Panel[Found]) -> tuple[Found | None, ...]:
        return (session.answers.get(panel.name),) if panel.is_given_last else ()

    def _in_steps(self, panel: Panel[Found], ran: Any, outputs: list[Any]) -> None:
        """Once an answer is there, go on from it step by step."""

        def going_on(session: Session) -> Job[Found | None]:
            return lambda lend: _next_step(panel, session, lend)

        def gone_on(session: Session, found: Found | None) -> Any:
            is_last = session.answers.get(panel.name) is found
            if found is None or not is_last:
                return (gr.skip(),) * len(outputs)
            return panel.outputs(found)

        for _ in range(panel.n_steps):
            # Over the last drawing: what is there by now can be read meanwhile.
            below = outputs[len(panel.drawings) - 1]
            # Where the same step of a run before is still under way, this one is no less needed.
            ran = self.run(
                ran.success,
                going_on,
                gone_on,
                outputs=outputs,
                show_progress_on=below,
                trigger_mode="multiple",
            )

    def answered(self, panel: Panel[Found], session: Session, found: Found) -> tuple[str, ...]:
        """Keep an answer, and show it; if another prompt was analyzed meanwhile, say so."""
        holds = panel.still(session.analysed(), found)
        if holds is None:
            session.answers.pop(panel.name, None)
            return panel.without_answer(STALE)
        session.answers[panel.name] = holds
        return panel.outputs(holds)

    def answer(self, session: Session, panel: Panel[Found]) -> Found:
        """What a panel found.

        Raises:
            PromptError: nothing yet.
        """
        if panel.name not in session.answers:
            raise PromptError(NOTHING)
        found: Found = session.answers[panel.name]
        return found

    def tools(
        self, name: str, saveable: Callable[..., Saveable], inputs: Sequence[Any] = ()
    ) -> gr.Code:
        """The foot of a panel: its code, which the panel's own listeners fill, and its files.

        Args:
            name: the panel's, one word: part of element ids.
            saveable: the result to keep, from the session and the inputs' values.
            inputs: whose values it is given.
        """
        with gr.Accordion("As code, and files to keep", open=False, elem_classes="tools"):
            code = gr.Code(
                label="The same in Python",
                language="python",
                interactive=False,
                elem_id=f"{name}-code",
            )
            with gr.Row():
                for ending in FORMATS:
                    button = gr.Button(
                        f"Save {ending.upper()}", size="sm", elem_id=f"{name}-save-{ending}"
                    )
                    link = gr.DownloadButton(
                        visible="hidden",
                        elem_id=f"{name}-file-{ending}",
                        elem_classes="hidden-link",
                    )
                    self.on(button.click, partial(_saved, saveable, ending), inputs, link).success(
                        None, js=CLICK % f"{name}-file-{ending}"
                    )
        return code


def _is_of_before(panel: Panel[Found], session: Session, found: Found) -> bool:
    return panel.still(session.analysed(), found) is None


def _next_step(panel: Panel[Found], session: Session, lend: Lend) -> Found | None:
    """Take the next step from a panel's answer and keep it; None where another came meanwhile.

    A visitor who starts anew while steps of before still wait has more steps than are needed. They
    are all of the newest answer; what one of them made, the next goes on from.
    """
    before: Found | None = session.answers.get(panel.name)
    if before is None or panel.step is None:
        return None
    with lend(before.analysis.model) as model:
        begun: Found | None = session.answers.get(panel.name)
        if begun is None or begun.analysis.model != before.analysis.model:
            return None
        found = panel.step(model, begun)
        if session.answers.get(panel.name) is not begun:
            return None
        session.answers[panel.name] = found
        return found


def of_analysis(saveable: Callable[..., Saveable]) -> Callable[..., Saveable]:
    """Of what stands on the page, in files."""
    return lambda session, *values: saveable(session.analysed(), *values)


def index_picked(pick: str, n: int) -> int:
    """The place that was picked among `n`.

    Raises:
        UnknownNameError: there is no such place.
    """
    if not pick.isdecimal() or int(pick) >= n:
        raise UnknownNameError(f"There is no place {pick!r} here: 0 to {n - 1}.")
    return int(pick)


def token_choices(predictions: Sequence[Prediction]) -> list[tuple[str, int]]:
    """Tokens to choose from, each by its id: two may look alike."""
    return [(f"{visible(each.text)}  {each.probability:.1%}", each.token) for each in predictions]


def token_dropdown(label: str, elem_id: str) -> gr.Dropdown:
    """A place to choose one of the most probable next tokens."""
    info = "The most probable ones after the prompt."
    return gr.Dropdown([], label=label, info=info, elem_id=elem_id, elem_classes=RELISTED)


def most_probable(found: Analysis) -> Any:
    """What such a place becomes: the tokens, the first of them chosen."""
    choices = token_choices(found.pipeline.output.predictions)
    return gr.update(choices=choices, value=choices[0][1])


def _saved(saveable: Callable[..., Saveable], ending: str, session: Session, *values: Any) -> str:
    kept = saveable(session, *values)
    path = Path(tempfile.mkdtemp(dir=_folder().name)) / f"{kept.name}.{ending}"
    kept.save(path)
    return str(path)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder of this process, gone with it."""
    return tempfile.TemporaryDirectory(prefix="mi-toolkit-")
