"""Tokens as labels: a form of their text in which nothing is invisible."""

from __future__ import annotations

from mi_toolkit.prompts.token_texts import token_texts as token_texts

SPACE_SIGN = "\N{MIDDLE DOT}"


def visible(text: str, *, longest: int = 18) -> str:
    r"""The text as a label: spaces as `·`, what does not print as its escape, the rest cut off.

    >>> visible(" Mary"), visible("\n"), visible("internationalisation")
    ('·Mary', '\\n', 'internationalisat…')
    """
    signs = [
        SPACE_SIGN if sign == " " else sign if sign.isprintable() else _escaped(sign)
        for sign in text
    ]
    shown = "".join(signs)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
