"""Statistics of activations over a text collection, of which nothing is stored.

1. Texts are fed as `record_to_disk` feeds them; each batch's rows are seen once and dropped.
2. Each unit's moments, and the tokens that excite it most, are merged with those until then.

Memory holds one batch, and for each unit a few numbers and its top examples, whatever the texts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mi_toolkit.activations.batcher import Batcher, FedBatch, Overlong, Texts, feeding
from mi_toolkit.activations.hooks import (
    DEFAULT_BATCH_SIZE,
    PADDING,
    ChosenPositions,
    Positions,
    activation_names,
    choose_positions,
    visit_rows,
)
from mi_toolkit.activations.names import Names, is_pattern
from mi_toolkit.activations.statistics import (
    MOST_EXAMPLES,
    ActivationStatistics,
    Tokens,
    UnitStatistics,
    check_top_k,
    context_of,
    moments_of,
    no_examples,
)
from mi_toolkit.core.errors import ActivationsError, PromptError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.tokenizer import token_texts


@one_job
def activation_statistics(
    model: HookedModel,
    texts: Texts,
    names: Names,
    *,
    top_k: int = 10,
    before: int = 12,
    after: int = 4,
    positions: Positions = None,
    skip_bos: bool = True,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_length: int | None = None,
    overlong: Overlong = "split",
    prepend_bos: bool | None = None,
    field: str = "text",
    progress: bool | None = None,
    allow_nan: bool = False,
) -> ActivationStatistics:
    """Mean, variance, norms, extremes and top examples of each unit over a text collection.

    Nothing is stored but the figures: memory does not grow with the texts. What excites a neuron
    most says what it does at its extreme, not on the many tokens where it is half on: read the
    density and the mean next to the examples.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        texts: as for `record_to_disk`.
        names: as for `record`; `"mlp_post"` for the neurons. Not patterns.
        top_k: examples to keep of each unit.
        before: tokens of context in front of each.
        after: tokens of context after each.
        positions: as for `record`, but not a list for each document.
        skip_bos: leave out the BOS, whose activations are unlike any other token's.
        batch_size: sequences to a pass.
        max_length: tokens of the longest sequence, BOS included; None: the model's context.
        overlong: what becomes of a longer document: `"split"`, `"truncate"` or `"error"`.
        prepend_bos: put a BOS before each text; None: as the model was trained to read it.
        field: where texts come as records, the field with the text.
        progress: a progress bar; None: where somebody looks and it takes long.
        allow_nan: take activations that are NaN or infinite as they are.

    Raises:
        UnknownNameError: a name stands for no hook of this model.
        HookError: a hook did not fire, or is switched off.
        NotFiniteError: an activation is NaN or infinite; the message names the first module.
        PromptError: a document cannot be fed, or there is no token at all.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> statistics = mi.activation_statistics(model, ["one two", "three"], "mlp_post")
        >>> statistics
        ActivationStatistics of toy-gpt2: 2,048 units of 4 activations, 8 tokens of 2 documents
          blocks.0.mlp.hook_post  512 units
          blocks.1.mlp.hook_post  512 units
          blocks.2.mlp.hook_post  512 units
          blocks.3.mlp.hook_post  512 units
        >>> statistics.top(("mlp_post", 2), 7).columns.tolist()
        ['value', 'document', 'chunk', 'position', 'before', 'token', 'after']
    """
    check_top_k(top_k)
    if not (0 <= before <= MOST_EXAMPLES and 0 <= after <= MOST_EXAMPLES) or batch_size < 1:
        raise PromptError(
            f"batch_size is 1 or more, before and after are 0 to {MOST_EXAMPLES:,} tokens."
        )
    hooks = activation_names(model, names)
    patterns = [hook for hook in hooks if is_pattern(hook)]
    if patterns:
        raise ActivationsError(f"{patterns[0]} has no units: its rows are as long as the texts.")
    how = feeding(model, prepend_bos, max_length, overlong)
    feed = Batcher(model, texts, how, field)
    measuring = _Measuring(model, hooks, top_k, before, after)
    for fed in feed.tracked(batch_size, label="measuring", show=progress):
        measuring.see(fed, _chosen(fed, positions, skip_bos=skip_bos))
    if not measuring.units:
        raise PromptError("The texts have no token to measure: they are empty.")
    return ActivationStatistics(
        model=model.cfg.model_name,
        n_layers=int(model.cfg.n_layers),
        n_documents=feed.end.documents,
        settings={
            "top_k": top_k,
            "before": before,
            "after": after,
            "positions": repr(positions),
            "skip_bos": skip_bos,
            **how.settings,
        },
        units={hook: measuring.units[hook] for hook in hooks},
        texts=_texts(model, measuring.units),
    )


def _chosen(fed: FedBatch, positions: Positions, *, skip_bos: bool) -> ChosenPositions:
    chosen = choose_positions(positions, fed.batch.lengths).once()
    if not skip_bos:
        return chosen
    is_bos = fed.batch.has_bos[:, None] & (chosen.table == 0)
    return ChosenPositions(table=chosen.table.masked_fill(is_bos, PADDING), single=False)


class _Measuring:
    """The figures until now."""

    def __init__(
        self, model: HookedModel, hooks: tuple[str, ...], top_k: int, before: int, after: int
    ) -> None:
        self.model, self.hooks, self.top_k = model, hooks, top_k
        self.before, self.after = before, after
        self.units: dict[str, UnitStatistics] = {}

    def see(self, fed: FedBatch, chosen: ChosenPositions) -> None:
        """Run one batch, and merge what it gives."""
        sequence, position, _ = chosen.cells()
        document, chunk = torch.tensor(fed.document), torch.tensor(fed.chunk)
        ids, lengths = fed.batch.ids, fed.batch.lengths
        tokens = Tokens(
            place=torch.stack([document[sequence], chunk[sequence], position], dim=1),
            context=context_of(ids, lengths, sequence, position, self.before, self.after),
        )

        def take(hook: str, rows: Tensor) -> None:
            self.units[hook] = self._merged(hook, rows, tokens)

        visit_rows(self.model, fed.batch, self.hooks, chosen, torch.float32, take)

    def _merged(self, hook: str, rows: Tensor, tokens: Tokens) -> UnitStatistics:
        flat = rows.flatten(start_dim=1)
        moments, norms = moments_of(rows), moments_of(flat.norm(dim=1))
        until = self.units.get(hook)
        if until is None:
            top = no_examples(flat.shape[1], self.top_k, self.before + 1 + self.after)
        else:
            moments, norms = until.moments.merged(moments), until.norms.merged(norms)
            top = until.top
        return UnitStatistics(moments=moments, norms=norms, top=top.updated(flat, tokens))


def _texts(model: HookedModel, units: Mapping[str, UnitStatistics]) -> dict[int, str]:
    """The text of each token that stands in a top example."""
    seen = {int(i) for unit in units.values() for i in unit.top.context.unique() if i >= 0}
    ids = sorted(seen)
    return dict(zip(ids, token_texts(model.tokenizer, ids), strict=True))
