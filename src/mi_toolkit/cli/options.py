"""Options that several commands share, and the loading that they steer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter, Token, convert

import mi_toolkit as mi
from mi_toolkit.cli.terminal import UsageError, doing, third_parties_kept_off_stdout, uncollected
from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.models.sources import find_source

if TYPE_CHECKING:
    from mi_toolkit.activations.batcher import Texts as Documents
    from mi_toolkit.core.model import HookedModel

DEFAULT_MODEL = "toy-gpt2"

DEFAULT_PROMPT = "When Mary and John went to the store, John gave a drink to"
"""What is shown where the caller gives no prompt: repeated names, which several kinds of head
react to."""

Switch = Annotated[bool, Parameter(negative=())]
"""An option that is on when it is named; it has no `--no-` form."""


def between_commas(kind: Any, tokens: Sequence[Token]) -> Any:
    """Values of an option, each in an argument of its own, or several with commas between."""
    parts = [
        token.evolve(value=part.strip())
        for token in tokens
        for part in token.value.split(",")
        if part.strip()
    ]
    return convert(kind, parts)


Value = TypeVar("Value")
Several = Annotated[
    list[Value] | None,
    Parameter(consume_multiple=True, negative=(), converter=between_commas),
]
"""Several values after one option (`--topk 50 100` or `--topk 50,100`), the option repeated, or
both."""

Texts = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]
"""The same of texts, which may have commas in them."""


WeightingName = Literal["prompts", "queries"]
"""As in `classify_heads`, whose modules take seconds to import."""

ModelName = Annotated[str, Parameter(name=["--model", "-m"])]
"""The option that names a model."""


def at_least_one(_: object, value: int | None) -> None:
    """Check an option that counts something."""
    if value is not None and value < 1:
        raise ValueError("Must be 1 or more.")


Count = Annotated[int, Parameter(validator=at_least_one)]
"""How many of something: 1 or more."""

CountOrNone = Annotated[int | None, Parameter(validator=at_least_one)]
"""The same where leaving it out says something else."""


def between_zero_and_one(_: object, value: float) -> None:
    """Check an option that is a share."""
    if not 0 <= value <= 1:
        raise ValueError("Must be between 0 and 1.")


@Parameter(name="*", group=Group("Loading the model", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded."""

    backend: Literal["auto", "bridge", "hooked"] = "auto"
    """Class that runs the model: bridge (also auto) is TransformerBridge, hooked is
    HookedTransformer, which TransformerLens 3 has."""

    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the weights."""

    device: str | None = None
    """Where to run: cpu, cuda, cuda:1, mps. Without it, or with auto, CUDA if there is one, else
    the CPU."""

    device_map: str | None = None
    """Spread a large model over devices, as transformers does: auto, balanced, sequential."""

    layers_at_a_time: CountOrNone = None
    """Leave the weights of the blocks in their files, and read so many at a time: a large model in
    little memory. 1 takes the least."""

    revision: str | None = None
    """Branch, tag or commit on the hub, such as step1000 of a Pythia model."""

    trust_remote_code: Switch = False
    """Let Python code that comes with the model run on this machine."""

    unchecked: Switch = False
    """Leave out the short passes that compare the hooked model with Hugging Face's own forward."""
    no_cache: Switch = False
    """Convert a GGUF file anew, and keep nothing; without it, the converted weights are kept
    next to the Hugging Face hub's cache."""

    def check(self, name: str) -> None:
        """Tell a typo in `name` before the work, or the models, that come before it.

        Raises:
            MIToolkitError: as `load_model` does for a name.
        """
        _check_name(name, self.revision)

    def load(self, name: str) -> HookedModel:
        """The model called `name`.

        Raises:
            MIToolkitError: as `load_model` does.
        """
        _check_name(name, self.revision)
        with doing(f"Loading {name}"), third_parties_kept_off_stdout(), uncollected():
            from mi_toolkit.core.tl_compat import import_lightly

            import_lightly()
            return mi.load_model(name, **self.arguments())

    def arguments(self) -> dict[str, Any]:
        """These options as arguments of `load_model`."""
        return {
            "backend": self.backend,
            "dtype": self.dtype,
            "device": None if self.device == "auto" else self.device,
            "device_map": self.device_map,
            "layers_at_a_time": self.layers_at_a_time,
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
            "check": not self.unchecked,
            "cache": not self.no_cache,
        }


@Parameter(name="*", group=Group("Texts", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """Which texts are read: those of a file, or of a data set by its name."""

    data_file: Path | None = None
    """Texts: .txt (one per line), .jsonl or .parquet."""

    dataset: str | None = None
    """In the place of a file a data set of the hub, or a folder of one, read as it streams:
    Salesforce/wikitext."""

    dataset_config: str | None = None
    """Its configuration, where it has several: wikitext-2-raw-v1."""

    split: str = "train"
    """Its split."""

    n_documents: CountOrNone = None
    """The first so many of its records. Without it all of them, however many there are."""

    field: str = "text"
    """Where there are records, the field or column with the text."""

    def texts(self) -> Documents | None:
        """What to read, or None where nothing is named.

        Raises:
            MIToolkitError: both are named, or what is named is not there.
        """
        if self.dataset is None:
            if self.dataset_config or self.n_documents or self.split != "train":
                raise UsageError(
                    msg="--dataset-config, --split and --n-documents are of a --dataset: name it."
                )
            if self.data_file is not None and not self.data_file.is_file():
                raise UsageError(msg=f"There is no file {self.data_file}.")
            return self.data_file
        if self.data_file is not None:
            raise UsageError(msg="Give --data-file or --dataset, not both.")
        from mi_toolkit.activations.batcher import NamedDataset

        named = NamedDataset(
            name=self.dataset,
            config=self.dataset_config,
            split=self.split,
            n_documents=self.n_documents,
        )
        with doing(f"Opening {self.dataset}"), third_parties_kept_off_stdout():
            next(iter(named), None)  # what cannot be read is told before a model is loaded
        return named


def token_named(given: str | None) -> int | str | None:
    """A token as the library takes it: an id where `id:42` is given, else its text."""
    if given is None or not given.startswith("id:"):
        return given
    try:
        return int(given.removeprefix("id:"))
    except ValueError:
        raise UsageError(msg=f"{given!r} is no token id: write it as id:42.") from None


def _check_name(name: str, revision: str | None) -> None:
    """Tell a typo before the seconds that torch takes to import.

    Raises:
        UnknownNameError: with the nearest names; all of them would fill the screen.
    """
    try:
        find_source(name, revision=revision)
    except UnknownNameError as error:
        nearest = str(error).partition(" Known:")[0]
        raise UnknownNameError(
            f"{nearest} All names: mi-toolkit models --all. A hub id has its organisation in "
            "front, a folder in this one ./."
        ) from None


DEFAULT_CORPUS = CorpusOptions()
"""The options of `CorpusOptions` where the caller gives none."""

DEFAULT_LOADING = LoadOptions()
"""The options of `LoadOptions` where the caller gives none."""
