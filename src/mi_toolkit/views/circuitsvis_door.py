"""The only door to circuitsvis: its heatmaps, drawn from its local bundle, without a network.

circuitsvis' own `_repr_html_` asks google.com whether to load its script from a CDN, and its local
page repeats 1.3 MB of script in every view. Only the script is taken from it here: once per page,
compressed, and handed each view's properties as JSON. Of its components it is `AttentionPattern`
that draws the chosen head; `AttentionHeads` draws all heads as large charts before it shows one,
which takes minutes for twelve heads on a hundred tokens.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import circuitsvis
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import MIToolkitError

BUNDLE = "dist/cdn/iife.js"
DECIMALS = 4
FULL_ATTENTION_COLOUR = "#08519c"
CIRCUITSVIS_UP_TO = 150
"""Tokens of the longest prompt that circuitsvis draws; a longer one becomes a plain picture."""

_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


@cache
def bundle() -> str:
    """The script that defines `CircuitsVis`, gzipped and in base64: 0.5 MB instead of 1.3.

    Raises:
        MIToolkitError: the installed circuitsvis comes without it.
    """
    path = Path(circuitsvis.__file__).parent / BUNDLE
    if not path.is_file():
        raise MIToolkitError(
            f"The installed circuitsvis {circuitsvis.__version__} has no {BUNDLE}, without which "
            "its views need a network. Install it again: pip install --force-reinstall circuitsvis"
        )
    return base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode("ascii")


def attention_heads(
    patterns: Float[Tensor, "head query key"], tokens: Sequence[str], names: Sequence[str]
) -> str:
    """What the page's script needs to show several heads, one of them large, as JSON.

    Values are rounded to four decimals; the future, which no query sees, is left out.
    """
    rounded = patterns.double().mul(10**DECIMALS).round().div(10**DECIMALS)
    return json_in_html(
        {
            "heads": list(names),
            "tokens": list(tokens),
            "attention": [
                [[value or 0 for value in row[: query + 1]] for query, row in enumerate(pattern)]
                for pattern in rounded.tolist()
            ],
            "fullColour": FULL_ATTENTION_COLOUR,
            "circuitsvisUpTo": CIRCUITSVIS_UP_TO,
        }
    )


def json_in_html(value: object) -> str:
    r"""`value` as compact JSON that is safe inside a `<script>` element.

    >>> json_in_html("</script>")
    '"\\u003c/script\\u003e"'
    """
    written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return written.translate(_UNSAFE)
