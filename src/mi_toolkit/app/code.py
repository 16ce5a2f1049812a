"""The lines of Python that every panel's code begins with."""

from __future__ import annotations

from typing import Any

from mi_toolkit.app.context import TOP_K, Analysis


def opening(model: str, prompt: str) -> str:
    """The library, the model, the prompt.

    >>> print(opening("toy-gpt2", "Mary and John"))
    import mi_toolkit as mi
    <BLANKLINE>
    model = mi.load_model('toy-gpt2')
    prompt = 'Mary and John'
    """
    return f"import mi_toolkit as mi\n\nmodel = mi.load_model({model!r})\nprompt = {prompt!r}"


def traced(found: Analysis) -> str:
    """The same, and what Analyze did."""
    return (
        f"{opening(found.model, found.prompt)}\n"
        f"traced, report = mi.text.trace_and_classify(model, prompt, top_k={TOP_K})"
    )


def call(function: str, *arguments: str, **options: Any) -> str:
    """A call as one writes it, an option to a line.

    >>> print(call("mi.attribute", "model", "prompt", target=262))
    mi.attribute(
        model,
        prompt,
        target=262,
    )
    """
    given = [*arguments, *(f"{name}={value!r}" for name, value in options.items())]
    lines = "".join(f"    {each},\n" for each in given)
    return f"{function}(\n{lines})"
