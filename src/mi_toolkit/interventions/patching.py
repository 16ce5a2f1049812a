"""Which parts of a model carry a difference between prompts, or write a prediction.

1. Activation patching and attribution patching are TransformerLens' own, on pairs of prompts of the
   same length that differ in what the answer hangs on: an activation of the clean run is put into
   the corrupted one, or a gradient estimates what that would do.
2. Direct logit attribution splits one logit into what each part writes. TransformerLens' own needs
   weights folded for good; this one reads the raw weights, and states what it leaves over.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.activations.names import IN_EVERY_LAYER
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import PromptError, UnsupportedModelError, unknown_name
from mi_toolkit.core.model import HookedModel, evaluating, pattern_hook, uncached
from mi_toolkit.core.passes import check_finite_figures, check_finite_pass, visit_activations
from mi_toolkit.core.predictions import token_id
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.tl_compat import patched_metric
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise
from mi_toolkit.heads.direct_effect import output_weights
from mi_toolkit.models.describe import provenance_of

if TYPE_CHECKING:
    pass


Token = int | str
Tokens = Token | Sequence[Token]
"""One token for every pair, or one for each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Prompts of one length, two and two, and what is asked after them."""

    clean: TokenBatch
    """What the answer is right for."""

    corrupted: TokenBatch
    """The same prompts, changed in what the answer hangs on."""

    target: Int[Tensor, " pair"]
    """The token whose logit is read after each pair."""

    other: Int[Tensor, " pair"] | None
    """The token whose logit is taken off it, if any."""

    @staticmethod
    def of(
        model: HookedModel, clean: Prompt, corrupted: Prompt, target: Tokens, other: Tokens | None
    ) -> Pairs:
        """The pairs, checked.

        Raises:
            PromptError: prompts of different numbers or lengths, or a token that is not one.
        """
        ours, theirs = tokenise(model, clean), tokenise(model, corrupted)
        if len(ours) != len(theirs):
            raise PromptError(
                f"{len(ours)} clean and {len(theirs)} corrupted prompts are no pairs: give as many "
                "of one as of the other."
            )
        lengths = {*ours.lengths.tolist(), *theirs.lengths.tolist()}
        if len(lengths) > 1:
            counted = ", ".join(
                f"{a} and {b}"
                for a, b in zip(ours.lengths.tolist(), theirs.lengths.tolist(), strict=True)
            )
            raise PromptError(
                "Patching puts activations of one prompt into another, position by position, so "
                f"all prompts must have one length in tokens; these have {counted}."
            )
        n = len(ours)
        return Pairs(
            clean=ours,
            corrupted=theirs,
            target=_ids(model, target, n),
            other=None if other is None else _ids(model, other, n),
        )

    def metric(self, logits: Float[Tensor, "pair position d_vocab"]) -> Float[Tensor, ""]:
        """The mean over pairs of the target's logit after the prompt, less the other's."""
        last, rows = logits[:, -1].float(), torch.arange(len(logits))
        read = last[rows, self.target]
        return (read if self.other is None else read - last[rows, self.other]).mean()

    def one(self, index: int) -> Pairs:
        """One of the pairs alone."""
        return Pairs(
            clean=self.clean.part(index, index + 1),
            corrupted=self.corrupted.part(index, index + 1),
            target=self.target[index : index + 1],
            other=None if self.other is None else self.other[index : index + 1],
        )

    def both_metrics(self, model: HookedModel) -> tuple[float, float]:
        """The metric of the clean run and of the corrupted one.

        Raises:
            PromptError: they are equal, so there is nothing to carry over.
            NotFiniteError: the logits are NaN or infinite.
        """
        found = []
        with evaluating(model), torch.no_grad():
            for batch in (self.clean, self.corrupted):
                ids = batch.ids.to(model.cfg.device)
                logits = model(ids, **uncached(model))
                check_finite_pass(model, ids, logits)
                found.append(float(self.metric(logits)))
        if found[0] == found[1]:
            raise PromptError(
                "The clean and the corrupted prompts give the same "
                f"{self.in_words(model)}, so there is no difference to carry over."
            )
        return found[0], found[1]

    def in_words(self, model: HookedModel) -> str:
        """What is read: the target, or the target against the other."""
        targets = token_texts(model.tokenizer, sorted(set(self.target.tolist())))
        named = ", ".join(map(repr, targets))
        if self.other is None:
            return f"logit of {named}"
        others = token_texts(model.tokenizer, sorted(set(self.other.tolist())))
        return f"logit of {named} less that of {', '.join(map(repr, others))}"

    def positions(self, model: HookedModel) -> tuple[str, ...]:
        """Each position's token in the first pair, both where they differ."""
        ours, theirs = (
            token_texts(model.tokenizer, batch.ids[0].tolist())
            for batch in (self.clean, self.corrupted)
        )
        return tuple(a if a == b else f"{a} /{b}" for a, b in zip(ours, theirs, strict=True))


def _ids(model: HookedModel, tokens: Tokens, n_pairs: int) -> Tensor:
    named = [tokens] * n_pairs if isinstance(tokens, int | str) else list(tokens)
    if len(named) != n_pairs:
        raise PromptError(f"{len(named)} tokens for {n_pairs} pairs: give one, or one for each.")
    return torch.tensor([token_id(model, token) for token in named])


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PairsResult(Result):
    """What is found between the clean and the corrupted run of pairs of prompts."""

    clean: float
    """The metric of the clean run."""

    corrupted: float
    """The metric of the corrupted run, with nothing put in."""

    metric: str
    """What the metric reads, in words."""

    provenance: Provenance
    """Model, prompts and versions."""

    @abstractmethod
    def title(self) -> str:
        """What was done, in one line."""

    @abstractmethod
    def top(self, n: int = 10) -> Sequence[tuple[Any, ...]]:
        """What matters most: its names, and its figure last."""

    @abstractmethod
    def header(self) -> list[str]:
        """What the columns of `top` are."""

    def text_table(self) -> TextTable:
        """What matters most, next to the metric of both runs."""
        about = f"{self.metric}, {self.clean:+z.3f} clean, {self.corrupted:+z.3f} corrupted"
        rows = [[*map(str, names), f"{figure:+z.3f}"] for *names, figure in self.top()]
        return TextTable(title=f"{self.title()}: {about}", header=self.header(), rows=rows)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Patching(PairsResult):
    """The metric of corrupted runs, each with one clean activation put in."""

    FORMAT: ClassVar[str] = "mi_toolkit patching 1"

    values: Float[Tensor, "layer place"]
    """The metric with the clean activation of that layer, at that position or in that head."""

    what: str
    """The activation that was put in, such as `resid_pre` or `z`."""

    place: str
    """What the second axis is: `position`, `head`, or `kv_head` where keys are shared."""

    places: tuple[str, ...]
    """The second axis' names: tokens, of both prompts where they differ, or numbers of heads."""

    @property
    def recovered(self) -> Float[Tensor, "layer place"]:
        """The share of the difference that comes back: 0 as corrupted, 1 as clean."""
        shares = (self.values - self.corrupted) / (self.clean - self.corrupted)
        return self.with_names(shares, "layer", "place")

    def top(self, n: int = 10) -> list[tuple[int, str, float]]:
        """Layer, place and share of what brings most back, or takes most away.

        A position is named by its token and its number: `' to' at 14`.
        """
        shares = self.recovered
        names = [
            f"{name!r} at {place}" if self.place == "position" else name
            for place, name in enumerate(self.places)
        ]
        order = shares.flatten().abs().argsort(descending=True)[:n].tolist()
        cells = [divmod(index, shares.shape[1]) for index in order]
        return [(layer, names[p], float(shares[layer, p])) for layer, p in cells]

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per layer and place."""
        n_layers, n_places = self.values.shape
        return (
            {
                "model": self.provenance.model,
                "activation": self.what,
                "layer": layer,
                self.place: index,
                "name": self.places[index],
                "value": float(self.values[layer, index]),
                "recovered": float(self.recovered[layer, index]),
            }
            for layer in range(n_layers)
            for index in range(n_places)
        )

    def title(self) -> str:
        """What was done, in one line."""
        return f"Clean {self.what} put into the corrupted run of {self.provenance.model}"

    def header(self) -> list[str]:
        """What the columns of `top` are."""
        return ["layer", self.place.replace("_", " "), "share brought back"]


BY_POSITION: Mapping[str, str] = MappingProxyType(
    {"resid_pre": "resid_pre", "attn_out": "attn_out", "mlp_out": "mlp_out"}
)
BY_HEAD: Mapping[str, str] = MappingProxyType(
    {
        "z": "attn_head_out_all_pos",
        "q": "attn_head_q_all_pos",
        "k": "attn_head_k_all_pos",
        "v": "attn_head_v_all_pos",
        "pattern": "attn_head_pattern_all_pos",
    }
)
"""TransformerLens' functions by the short form of the activation that they put in."""


@one_job
def activation_patching(
    model: HookedModel,
    clean: Prompt,
    corrupted: Prompt,
    *,
    target: Tokens,
    other: Tokens | None = None,
    what: str = "resid_pre",
    progress: bool | None = None,
) -> Patching:
    """Put clean activations into the corrupted run, one at a time, and see what comes back.

    The metric is the logit of the target after the prompt, less that of the other token; its mean
    over the pairs. It is TransformerLens' activation patching, one run for each layer and position
    or head. Where the corrupted prompts differ in more than what the answer hangs on, so do the
    activations: what comes back is the difference between these prompts, whatever it is.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        clean: prompts that the target is right for, as text or ids.
        corrupted: as many others of the same length, changed where the answer hangs.
        target: the token to read, as its id or exact text; one, or one for each pair.
        other: the token to set against it, such as the corrupted prompts' right answer.
        what: by position `resid_pre`, `attn_out`, `mlp_out`; by head, at all positions, `z`, `q`,
            `k`, `v`, `pattern`. Where keys and values are shared, `k` and `v` have their heads.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such activation to put in.
        PromptError: no pairs, different lengths, not one token, or prompts that do not differ.
        UnsupportedModelError: a layer has no such activation, or `pattern`, where the model does
            not go on with an edited one.
        HookError: the activation's hook did not fire.
        NotFiniteError: what the model computes is NaN or infinite.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> clean, corrupted = "Mary and John went to", "Mary and John went in"
        >>> found = mi.activation_patching(model, clean, corrupted, target=" the")
        >>> found.values.shape  # layer, position
        torch.Size([4, 6])
    """
    functions = {**BY_POSITION, **BY_HEAD}
    if what not in functions:
        raise unknown_name("activation to patch", what, functions)
    pairs = Pairs.of(model, clean, corrupted, target, other)
    full, none = pairs.both_metrics(model)
    if what == "pattern":
        _check_pattern_counts(model, pairs)
    names = [f"blocks.{l}.{IN_EVERY_LAYER[what]}" for l in range(int(model.cfg.n_layers))]
    check_every_layer(model, names, what)
    kept: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor) -> None:
        kept[name] = activation.clone()

    visit_activations(model, pairs.clean.ids, names, keep)
    ids = pairs.corrupted.ids.to(model.cfg.device)
    with evaluating(model), torch.no_grad():
        values = patched_metric(functions[what], model, ids, kept, pairs.metric, progress=progress)
    check_finite_figures(model, "The patched metrics", values)
    n_places = values.shape[1]
    place = "position" if what in BY_POSITION else "head"
    return Patching(
        values=values.float().cpu(),
        clean=full,
        corrupted=none,
        what=what,
        place="kv_head" if place == "head" and n_places < int(model.cfg.n_heads) else place,
        places=(
            pairs.positions(model) if place == "position" else tuple(map(str, range(n_places)))
        ),
        metric=pairs.in_words(model),
        provenance=provenance_of(
            model, {"clean": pairs.clean, "corrupted": pairs.corrupted}, seed=0
        ),
    )


def check_every_layer(model: HookedModel, names: Sequence[str], what: str) -> None:
    """Check that each layer has this activation, cut by heads where it belongs to heads.

    Raises:
        UnsupportedModelError: a layer has none, or TransformerLens cuts its values otherwise.
    """
    named = model.hook_dict
    without = [layer for layer, name in enumerate(names) if name not in named]
    if without:
        raise UnsupportedModelError(
            f"{what!r} of {model.cfg.model_name} cannot be patched: layers {without} have no "
            f"{names[without[0]]}. Patch 'resid_pre' (activation_patching)."
        )
    if what in ("z", "v") and output_weights(model, 0).shape[1] != model.cfg.d_head:
        raise UnsupportedModelError(
            f"{what!r} of {model.cfg.model_name} cannot be patched: its values have another width "
            "than its queries (multi-head latent attention), which TransformerLens cuts into "
            "other heads. Patch 'resid_pre' or 'attn_out', or ablate the heads."
        )


def _check_pattern_counts(model: HookedModel, pairs: Pairs) -> None:
    """Check that a pattern which a hook changes is the one that the model goes on with.

    Raises:
        UnsupportedModelError: it is not, as in bridges that run Hugging Face's own attention.
    """
    ids = pairs.corrupted.ids.to(model.cfg.device)
    with evaluating(model), torch.no_grad():
        whole = model(ids, **uncached(model))
        nothing = [(pattern_hook(0), lambda pattern, hook: pattern * 0)]
        with model.hooks(fwd_hooks=nothing), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A hook on .* returned a modified tensor")
            without = model(ids, **uncached(model))
    if torch.equal(whole, without):
        raise UnsupportedModelError(
            f"The attention pattern of {model.cfg.model_name} cannot be patched: its attention is "
            "Hugging Face's own code, which has used the pattern when its hook fires. Patch 'z' "
            "or 'v', or load a HookedTransformer (TransformerLens 3, backend='hooked')."
        )
