"""Which parameters are meant: by layer number, by component, by name or pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from mi_toolkit.errors import WeightError, unknown_name
from mi_toolkit.sensitivity.coordinates import MatrixPlace

GROUPS = ("attn", "mlp", "embeddings", "biases", "norms")

Place = TypeVar("Place", bound=MatrixPlace)


def select(
    matrices: Sequence[Place],
    parameters: str | Iterable[str] | None = None,
    *,
    layers: Iterable[int] | None = None,
    components: str | Iterable[str] | None = None,
) -> list[Place]:
    """The parameters that satisfy every condition given.

    Args:
        matrices: to choose from.
        parameters: names or patterns with `*` (`blocks.1.*`, `*.W_out`), any of which fits; None
            for all matrices of attention and MLP, or, with `components`, for all that these name.
        layers: numbers of blocks: 1 is block 1 alone. None for all.
        components: `W_Q`, `b_in`, …, or a group: `attn`, `mlp`, `embeddings`, `biases`, `norms`.

    Raises:
        UnknownNameError: a name, a layer or a component that the model does not have.
        WeightError: no parameter satisfies all of them.
    """
    found = list(matrices)
    if parameters is not None:
        patterns = [parameters] if isinstance(parameters, str) else list(parameters)
        names = [matrix.name for matrix in matrices]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise unknown_name("parameter", pattern, names)
        found = [m for m in found if any(fnmatchcase(m.name, pattern) for pattern in patterns)]
    if components is not None:
        wanted = {components} if isinstance(components, str) else set(components)
        known = dict.fromkeys([*GROUPS, *(matrix.component for matrix in matrices)])
        for component in sorted(wanted - set(known)):
            raise unknown_name("component", component, known)
        found = [matrix for matrix in found if {matrix.component, matrix.group} & wanted]
    if parameters is None and components is None:
        found = [matrix for matrix in found if matrix.group in ("attn", "mlp")]
    if layers is not None:
        numbers = set(layers)
        n_layers = 1 + max(m.layer for m in matrices if m.layer is not None)
        for layer in sorted(numbers - set(range(n_layers))):
            raise unknown_name("layer", str(layer), map(str, range(n_layers)))
        found = [matrix for matrix in found if matrix.layer in numbers]
    if not found:
        raise WeightError(
            f"No parameter satisfies parameters={parameters}, layers={layers} and "
            f"components={components} at once."
        )
    return found
