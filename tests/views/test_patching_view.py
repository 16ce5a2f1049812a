"""The pages and pictures of patching: every figure is there, tokens are escaped."""

from __future__ import annotations

from pathlib import Path

import torch

from mi_toolkit import (
    activation_patching,
    attribution_patching,
    direct_logit_attribution,
    view_patching,
)
from mi_toolkit.views.figures import attribution_maps, direct_map, patching_map
from tests.models_here import loaded

CLEAN = "Mary and John went home, <b>, John gave a drink to"
CORRUPTED = "Mary and John went home, <b>, Mary gave a drink to"
ASKED = {"target": " Mary", "other": " John"}


def drawn(figure) -> list[torch.Tensor]:
    maps = [ax for ax in figure.axes if ax.get_title(loc="left")]
    return [torch.as_tensor(ax.collections[0].get_array().data).flatten() for ax in maps]


def test_maps_hold_the_figures_of_their_results(tmp_path: Path) -> None:
    model = loaded("toy-pythia")
    patched = activation_patching(model, CLEAN, CORRUPTED, **ASKED, progress=False)
    (shares,) = drawn(patching_map(patched))
    assert torch.equal(shares, patched.recovered.flatten())
    names = [t.get_text() for t in patching_map(patched).axes[0].get_xticklabels()]
    assert "·John·/·Mary" in names
    estimated = attribution_patching(model, CLEAN, CORRUPTED, **ASKED)
    heads, attention, mlps = drawn(attribution_maps(estimated))
    assert torch.equal(heads, estimated.heads.sum(dim=-1).flatten())
    assert torch.equal(attention, estimated.heads.sum(dim=1).flatten())
    assert torch.equal(mlps, estimated.mlps.flatten())
    direct = direct_logit_attribution(model, CLEAN, **ASKED)
    (written,) = drawn(direct_map(direct))
    assert torch.equal(written.reshape(4, 6)[:, :4], direct.heads)
    assert torch.equal(written.reshape(4, 6)[:, 5], direct.mlps)
    for found in (patched, estimated, direct):
        view = view_patching(found)
        body = view.section().body
        assert "<b>" not in body
        view.save_html(tmp_path / "page.html")
        assert found.title() in (tmp_path / "page.html").read_text().replace("&#x27;", "'")
