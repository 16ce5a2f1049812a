"""The lines of Python that every panel's code begins with."""

from __future__ import annotations


def opening(model: str, prompt: str) -> str:
    """The library, the model, the prompt.

    >>> print(opening("toy-gpt2", "Mary and John"))
    import mi_toolkit as mi
    <BLANKLINE>
    model = mi.load_model('toy-gpt2')
    prompt = 'Mary and John'
    """
    return f"import mi_toolkit as mi\n\nmodel = mi.load_model({model!r})\nprompt = {prompt!r}"
