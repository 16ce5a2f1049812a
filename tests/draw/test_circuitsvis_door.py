from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import circuitsvis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.draw.page import BUNDLE, attention_heads, bundle, json_in_html


def test_the_bundle_is_the_installed_script_to_the_byte() -> None:
    unpacked = gzip.decompress(base64.b64decode(bundle()))
    assert unpacked == (Path(circuitsvis.__file__).parent / BUNDLE).read_bytes()
    assert len(bundle()) < 600_000


def test_without_its_bundle_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.cache_clear()
    monkeypatch.setattr(circuitsvis, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(MIToolkitError, match=r"no dist/cdn/iife\.js.*pip install --force"):
        bundle()


@settings(max_examples=30, deadline=None)
@given(st.text())
def test_json_says_the_same_and_holds_nothing_that_html_reads(text: str) -> None:
    written = json_in_html([text])
    assert json.loads(written) == [text]
    assert not set(written) & set("<>&\u2028\u2029")


def test_values_are_rounded_and_the_future_is_left_out() -> None:
    pattern = torch.tensor([[[1.0, 0.0], [0.123456, 0.876544]]])
    properties = json.loads(attention_heads(pattern, ["a", "b"], ["L0H0"]))
    assert properties["attention"] == [[[1.0], [0.1235, 0.8765]]]
    assert properties["tokens"] == ["a", "b"]
    assert properties["heads"] == ["L0H0"]
