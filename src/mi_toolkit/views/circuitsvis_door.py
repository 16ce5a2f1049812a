"""The only door to circuitsvis: its components, drawn from its local bundle, without a network.

circuitsvis' own `_repr_html_` asks google.com whether to load its script from a CDN, and its local
page repeats 1.3 MB of script in every view. Only the script is taken from it here: once per page,
compressed, and handed each view's properties as JSON.
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
from mi_toolkit.views.section import Drawing

BUNDLE = "dist/cdn/iife.js"
DECIMALS = 4
FULL_ATTENTION_COLOUR = "#08519c"

_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


@cache
def bundle() -> str:
    """The script that defines `CircuitsVis`, gzipped and in base64: 0.5 MB instead of 1.3."""
    path = Path(circuitsvis.__file__).parent / BUNDLE
    if not path.is_file():
        raise MIToolkitError(
            f"The installed circuitsvis {circuitsvis.__version__} has no {BUNDLE}, without which "
            "its views need a network. Install it again: pip install --force-reinstall circuitsvis"
        )
    return base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode("ascii")


def attention_heads(
    patterns: Float[Tensor, "head query key"], tokens: Sequence[str], names: Sequence[str]
) -> Drawing:
    """Heatmaps of several heads, one of them large: white is no attention, dark blue all of it."""
    rounded = patterns.double().mul(10**DECIMALS).round().div(10**DECIMALS)
    return Drawing(
        component="AttentionHeads",
        properties=json_in_html(
            {
                "attention": [
                    [[value or 0 for value in row] for row in p] for p in rounded.tolist()
                ],
                "attentionHeadNames": list(names),
                "tokens": list(tokens),
                "maxValue": 1,
                "minValue": -1,
                "positiveColor": FULL_ATTENTION_COLOUR,
                "maskUpperTri": True,
            }
        ),
    )


def json_in_html(value: object) -> str:
    r"""`value` as compact JSON that is safe inside a `<script>` element.

    >>> json_in_html("</script>")
    '"\\u003c/script\\u003e"'
    """
    written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return written.translate(_UNSAFE)
