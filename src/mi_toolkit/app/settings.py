"""What a server of the page lets its visitors do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mi_toolkit.core.errors import ModelLoadError, PromptError, UnknownNameError, unknown_name
from mi_toolkit.models.registry import BUNDLED, SMOLLM2, find_known
from mi_toolkit.models.sources import is_here
from mi_toolkit.models.specs import MODELS

DROPDOWN = (*MODELS, *BUNDLED, SMOLLM2.name)
"""The models that the page offers by name, where the server allows all."""

LETTERS_PER_TOKEN = 20
"""More than a token of running text has; fewer than would take long to cut into tokens."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The bounds of one server."""

    allow_models: tuple[str, ...] = ()
    """The only models that may be loaded; none named: those of the dropdown, and any hub id."""

    allow_local: bool = False
    """Whether a folder or file of the server may be typed in."""

    memory: int | None = None
    """Bytes that loaded models may fill together; None for half of what is free at the start."""

    most_prompt_tokens: int = 128
    """The longest prompt."""

    most_beams: int = 5
    """Most beams of one search."""

    most_new_tokens: int = 20
    """Most tokens written after one prompt."""

    @property
    def offered(self) -> tuple[str, ...]:
        """The models of the dropdown."""
        return self.allow_models or DROPDOWN

    def model_named(self, given: str) -> str:
        """The one name of a model that a visitor asks for, if the server lets them have it.

        What is no known name is never looked up on the server's disk, unless folders are allowed.

        Raises:
            UnknownNameError: it may not be loaded here, or there is no such name.
            ModelLoadError: a folder, and folders are not allowed.
        """
        asked = given.strip()
        known = find_known(asked)
        name = known.name if known else asked
        if self.allow_models:
            allowed = {_official(each): each for each in self.allow_models}
            if name not in allowed:
                raise UnknownNameError(
                    f"This server loads only: {', '.join(self.allow_models)}. {asked!r} is not "
                    "among them."
                )
            return name
        if known is not None or self.allow_local:
            return name
        if _HUB_ID.fullmatch(asked):
            return asked
        if re.search(r"[/\\~]|^\.|\.gguf$", asked):
            raise ModelLoadError(
                f"{asked!r} is a place on the server's disk. Only a server started with "
                "--allow-local reads folders; a model of the hub is called organisation/name."
            )
        raise unknown_name("model", asked, self.offered)

    def here(self) -> tuple[str, ...]:
        """The models of the dropdown that need no network."""
        known = {name: find_known(name) for name in self.offered}
        return tuple(name for name, each in known.items() if each is not None and is_here(each))

    def check_text(self, text: str) -> None:
        """Check a prompt before it is taken apart: a token has a few letters.

        Raises:
            PromptError: it must be longer than this server takes.
        """
        if len(text) > self.most_letters:
            raise PromptError(
                f"The prompt has {len(text):,} letters; this page takes {self.most_letters:,} at "
                f"most, and {self.most_prompt_tokens} tokens."
            )

    @property
    def most_letters(self) -> int:
        """Letters of the longest prompt."""
        return self.most_prompt_tokens * LETTERS_PER_TOKEN

    def check_prompt(self, n_tokens: int) -> None:
        """Check a prompt's length.

        Raises:
            PromptError: it is longer than this server takes.
        """
        if n_tokens > self.most_prompt_tokens:
            raise PromptError(
                f"The prompt has {n_tokens} tokens; this page takes {self.most_prompt_tokens} at "
                "most. Longer ones: mi_toolkit in a notebook, or `mi-toolkit app --most-tokens`."
            )


def _official(name: str) -> str:
    known = find_known(name)
    return known.name if known else name
