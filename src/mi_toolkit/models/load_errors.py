"""What transformers and the hub raise when a model does not load, as one clear error each."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from mi_toolkit.errors import MIToolkitError, ModelLoadError
from mi_toolkit.models.registry import known_models
from mi_toolkit.models.sources import Source


@contextmanager
def explained(source: Source, *, part: str = "model") -> Iterator[None]:
    """Turn what loading `source` raises into a `ModelLoadError` that says the way out.

    Only what loading is known to raise: a mistake of ours keeps its own traceback.
    """
    try:
        yield
    except (MIToolkitError, SafetensorError):
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelLoadError(_message(source, part, error)) from error


def _message(source: Source, part: str, error: Exception) -> str:
    name = source.name
    causes = tuple(_chain(error))
    if _any(causes, GatedRepoError):
        return (
            f"{name} is gated: accept its licence on https://huggingface.co/{source.location}, "
            "make a token on https://huggingface.co/settings/tokens, and set it as HF_TOKEN (or "
            "run `hf auth login`)."
        )
    if _any(causes, RevisionNotFoundError):
        return f"{name} has no such revision on the hub: {_first_line(error)}"
    if _any(causes, RepositoryNotFoundError):
        return (
            f"The hub has no model {source.location!r} that you may see.{_nearest(name)} Check the "
            "spelling; a private one needs your HF_TOKEN."
        )
    if _any(causes, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        offline = (
            "HF_HUB_OFFLINE is set, so the hub was not asked"
            if constants.HF_HUB_OFFLINE
            else "the hub could not be reached"
        )
        return (
            f"{name} is not in the cache ({constants.HF_HUB_CACHE}), and {offline}."
            f"{_nearest(name)} Connect once to download it, copy its folder into the cache and set "
            "HF_HUB_OFFLINE=1, or use a bundled model such as 'toy-gpt2'."
        )
    if source.gguf_file:
        return _gguf_message(source, error)
    if "trust_remote_code" in str(error):
        return (
            f"{name} runs Python code of its own repo. Read it, and if you trust it pass "
            "trust_remote_code=True."
        )
    if isinstance(error, FileNotFoundError):
        return f"A weight file of {name} is missing: {error.filename or _first_line(error)}."
    return f"The {part} of {name} ({source.location}) cannot be loaded: {_first_line(error)}"


def _gguf_message(source: Source, error: Exception) -> str:
    if isinstance(error, ImportError):
        return (
            f"{source.name} is a GGUF file, and reading it needs the package `gguf`: "
            'pip install "mi-toolkit[gguf]".'
        )
    return (
        f"The GGUF file {source.gguf_file} (in {source.location}) cannot be read: "
        f"{_first_line(error)} It may be damaged or cut short: download it again."
    )


def _nearest(name: str) -> str:
    """A guess at what a hub id meant, or nothing if it is a known one or like none."""
    known = known_models()
    matches = [] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _any(causes: tuple[BaseException, ...], *kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."
