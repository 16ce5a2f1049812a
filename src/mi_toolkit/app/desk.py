"""What every part of the page works with: the settings, the models, and how to run one."""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import gradio as gr

from mi_toolkit.app.settings import Settings
from mi_toolkit.app.shelf import ModelShelf
from mi_toolkit.app.visits import VisitorLeft, Visits
from mi_toolkit.errors import MIToolkitError, ModelLoadError, UnsupportedModelError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.progress import watching

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Desk:
    """One server's settings, models and visitors."""

    settings: Settings
    """What visitors may do."""

    shelf: ModelShelf
    """The loaded models."""

    visits: Visits = field(default_factory=Visits)
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
            lent = self.shelf.lent_together(models, still_wanted=still_there)
            with watching(told), lent as hooked:
                still_there()
                return work(hooked)
        except VisitorLeft as gone:
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
