"""What the pages of model families say of facts: read off the registry."""

from __future__ import annotations

from mi_toolkit.models.specs import MODELS, SIBLINGS, KnownModel, ModelSpec

FACTS = {
    "parameters": "parameters, embeddings left out",
    "total_parameters": "parameters in all",
    "n_layers": "layers",
    "n_heads": "query heads of a layer",
    "n_kv_heads": "key and value heads of a layer",
    "d_model": "width of the residual stream",
    "d_head": "width of a head",
    "d_mlp": "neurons of an MLP",
    "d_vocab": "rows of the embedding",
    "context": "context in tokens",
    "positional": "positions",
    "attention_scope": "attention",
    "activation": "activation",
    "gated_mlp": "gated MLP",
    "parallel": "attention and MLP in parallel",
    "normalisation": "normalisation",
    "qkv_bias": "biases of Q, K and V",
    "tied_embeddings": "tied embeddings",
    "licence": "licence",
}


def facts(family: str) -> str:
    """The family's models of the table, a column each, and where the facts are from."""
    specs = [spec for spec in MODELS.values() if spec.family == family]
    lines = [
        ["", *(f"`{spec.name}`" for spec in specs)],
        ["---"] * (len(specs) + 1),
        *([name, *(_text(getattr(spec, key)) for spec in specs)] for key, name in FACTS.items()),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\nThe tests check them against transformers. Sources: {_sources(specs)}."


def relatives(family: str) -> str:
    """The family's other models that `load_model` knows by name."""
    known = [model for model in SIBLINGS.values() if model.family == family]
    return "\n".join(_relative(model) for model in known)


def _sources(specs: list[ModelSpec]) -> str:
    papers = dict.fromkeys(spec.sources["family"] for spec in specs)
    cards = {spec.sources["name"]: f"card of {spec.name}" for spec in specs}
    links = dict.fromkeys(papers, "paper or code of the family") | cards
    return ", ".join(f"[{name}]({url})" for url, name in links.items())


def _relative(model: KnownModel) -> str:
    gated = "; gated: see [troubleshooting](../troubleshooting.md#a-gated-model)"
    return f"- `{model.name}` ({model.licence}{gated if model.access == 'gated' else ''})"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
