"""What a server of the page lets its visitors do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from mi_toolkit.core.errors import ModelLoadError, PromptError, UnknownNameError, unknown_name
from mi_toolkit.models.sources import is_here
from mi_toolkit.models.specs import BUNDLED, MODELS, SMOLLM2, find_known

DROPDOWN = (*MODELS, *BUNDLED, SMOLLM2.name)
"""The models that the page offers by name, where the server allows all."""

LETTERS_PER_TOKEN = 20
"""More than a token of running text has; fewer than would take long to cut into tokens."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


PUBLIC_MODEL_BYTES, PUBLIC_DISK = 2 * 2**30, 10 * 2**30
"""What a public server's downloads are held to, unless it says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The bounds of one server."""

    public: bool = False
    """Whether strangers may come: then only models that are allowed, or here, are loaded."""

    hosts: tuple[str, ...] = ()
    """Names by which visitors reach it, next to its number and this machine's own."""

    allow_models: tuple[str, ...] = ()
    """The only models that may be loaded; none named: those of the dropdown, and any hub id."""

    allow_local: bool = False
    """Whether a folder or file of the server may be typed in; never where it is public."""

    allow_hub: bool = False
    """Whether a public server downloads other models than those allowed, on a visitor's word."""

    max_model_bytes: int | None = None
    """The largest download; None for no limit, and for 2 GiB where it is public."""

    disk: int | None = None
    """Bytes that the hub's cache may fill; None for no limit, and for 10 GiB where it is public."""

    lend_token: bool = False
    """Whether a public server downloads with its operator's token, gated models too."""

    memory: int | None = None
    """Bytes that models and what visitors found may fill together; None for half of what is free
    at the start."""

    most_prompt_tokens: int = 128
    """The longest prompt."""

    most_beams: int = 5
    """Most beams of one search."""

    most_new_tokens: int = 20
    """Most tokens written after one prompt."""

    def __post_init__(self) -> None:
        """Check what does not go together."""
        if self.public and self.allow_local:
            raise ModelLoadError(
                "A public server never reads folders on a visitor's word: leave --allow-local out, "
                "or name the folders as allowed models."
            )
        if self.public and self.max_model_bytes is None:
            object.__setattr__(self, "max_model_bytes", PUBLIC_MODEL_BYTES)
        if self.public and self.disk is None:
            object.__setattr__(self, "disk", PUBLIC_DISK)

    @property
    def is_closed(self) -> bool:
        """Whether only the offered models are loaded."""
        return bool(self.allow_models) or (self.public and not self.allow_hub)

    @property
    def offered(self) -> tuple[str, ...]:
        """The models of the list, those that are here first."""
        here = self.here()
        if self.public and not self.allow_models and not self.allow_hub:
            return here
        return here + tuple(name for name in self._listed if name not in here)

    @property
    def _listed(self) -> tuple[str, ...]:
        return self.allow_models or DROPDOWN

    def may_download(self, name: str) -> bool:
        """Whether a model that is not here may be fetched from the hub."""
        return not self.public or self.allow_hub or name in self.allow_models

    @property
    def lends_token(self) -> bool:
        """Whether a download goes out with the operator's token."""
        return self.lend_token or not self.public

    def model_named(self, given: str | None) -> str:
        """The one name of a model that a visitor asks for, if the server lets them have it.

        What is no known name is a hub id: it is never looked up on the server's disk, unless
        folders are allowed.

        Raises:
            UnknownNameError: it may not be loaded here, or there is no such name.
            ModelLoadError: a folder, and folders are not allowed.
        """
        asked = (given or "").strip()
        if not asked:
            raise UnknownNameError("No model is chosen: choose one from the list, or type its id.")
        known = find_known(asked)
        name = known.name if known else asked
        if self.is_closed:
            allowed = {_official(each) for each in self.offered}
            if name not in allowed:
                raise UnknownNameError(
                    f"This server loads only: {', '.join(self.offered)}. {asked!r} is not among "
                    "them."
                )
            return name
        if known is not None or self.allow_local:
            return name
        if _HUB_ID.fullmatch(asked) and not asked.casefold().endswith(".gguf"):
            try:
                validate_repo_id(asked)
            except HFValidationError:
                raise unknown_name("model", asked, self.offered) from None
            return asked
        if re.search(r"[/\\~]|^\.|\.gguf$", asked, re.IGNORECASE):
            raise ModelLoadError(
                f"{asked!r} is a place on the server's disk. Only a server started with "
                "--allow-local reads folders; a model of the hub is called organisation/name."
            )
        raise unknown_name("model", asked, self.offered)

    def here(self) -> tuple[str, ...]:
        """The listed models that need no network."""
        known = {name: find_known(name) for name in self._listed}
        return tuple(name for name, each in known.items() if each is not None and is_here(each))

    def check_text(self, text: str) -> None:
        """Check a prompt before it is taken apart: a token has a few letters.

        Raises:
            PromptError: there is none, or it must be longer than this server takes.
        """
        if not text.strip():
            raise PromptError("Your prompt is empty: type a text first.")
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
                "most. The library in a notebook takes longer ones."
            )


def _official(name: str) -> str:
    known = find_known(name)
    return known.name if known else name
