"""`ablating`: parts of a model ablated while a context lasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import HookedModel, HookFunction
from mi_toolkit.interventions.ablation.clean import is_running_clean
from mi_toolkit.interventions.ablation.component import ComponentName, checked_components
from mi_toolkit.interventions.ablation.kinds import KINDS, check_kind
from mi_toolkit.interventions.ablation.target import Hooks, Target, targets_of
from mi_toolkit.process_state import alone_with, known_state
from mi_toolkit.prompts.tokens import Prompt, TokenBatch, tokenise


@contextmanager
def ablating(
    model: HookedModel,
    components: ComponentName | Iterable[ComponentName],
    how: str = "zero",
    reference: Prompt | TokenBatch | None = None,
) -> Iterator[None]:
    """Inside, the components' outputs are replaced in every pass; after it, nothing is left.

    Contexts nest, and leave no hook when an error ends them. What a kind takes from a reference is
    the model's without any ablation, where contexts nest too.

    While it lasts the model belongs to its thread: what another thread asks the library of this
    model waits until the context is left. So do not wait inside for such a thread. A bare
    `model(ids)` in another thread does not wait.

    Args:
        model: the model; its weights are not touched.
        components: heads (`L5H1`, `(5, 1)` or `Head(5, 1)`), neurons (`L5N300`: the MLP's hidden
            activation, behind its gate where it has one), a layer's whole attention (`L5.attn`) or
            MLP (`L5.mlp`), or both (`L5`). All are taken before `W_O` or `W_out`, so what stays of
            a part is its output bias. None changes nothing.
        how: `zero`; `mean`, the part's mean output over the reference, BOS left out (by default
            over the bundled natural passages); `resample`, its output at the same position of
            another sequence: of the reference, or, without one, of the next sequence in the batch;
            `pattern_preserving`, zero, with every later attention pattern kept as it was in a
            clean run on the reference, which must be the ids that will run (one sequence serves a
            batch of copies).
        reference: text or ids that `mean`, `resample` and `pattern_preserving` take from.

    Raises:
        UnknownNameError: no such kind, or no such component in this model.
        PromptError: a reference that the kind needs is missing, or does not fit what ran.
        HookError: a component's hook did not fire inside, so nothing was ablated.

    Example:
        >>> import torch
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> ids = torch.tensor([[0, 5, 6, 7]])
        >>> clean = model(ids)
        >>> with mi.ablating(model, ["L0H1"]):
        ...     ablated = model(ids)
        >>> torch.equal(clean, ablated), torch.equal(clean, model(ids))
        (False, True)
    """
    with alone_with(model):
        with known_state():
            check_kind(how)
            targets = targets_of(model, [checked_components(model, components)])
            if reference is not None and not isinstance(reference, TokenBatch):
                reference = tokenise(model, reference)
            hooks = KINDS[how](model, targets, reference)(targets) if targets else []
        with in_place(model, targets, hooks):
            yield


@contextmanager
def in_place(model: HookedModel, targets: Iterable[Target], hooks: Hooks) -> Iterator[None]:
    """The hooks in place inside; every target's must fire there, in a run that is no reference.

    Raises:
        HookError: a target's hook did not fire inside.
    """
    fired: Counter[str] = Counter()
    counted = [(name, _counted(name, hook, fired)) for name, hook in hooks]
    with model.hooks(fwd_hooks=counted):
        yield
    for target in targets:
        if not fired[target.hook]:
            raise HookError(
                f"{target.hook} of {model.cfg.model_name} did not fire inside ablating(...), so "
                f"{target} were not ablated. Run the model inside."
            )


def _counted(name: str, hook: HookFunction, fired: Counter[str]) -> HookFunction:
    replace = hook

    # TransformerLens passes the hook point by keyword, under this very name.
    def counting(activation: Tensor, hook: Any) -> Tensor | None:
        if is_running_clean():
            return None
        fired[name] += 1
        return replace(activation)

    return counting
