"""The pages and pictures of patching: every figure is there, tokens are escaped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from markupsafe import escape
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch

from mi_toolkit import activation_patching, direct_logit_attribution
from mi_toolkit.draw.ablation import view_patching
from mi_toolkit.draw.figures.patching import (
    RAISES,
    attribution_maps,
    direct_map,
    edge_figure,
    patching_map,
)
from mi_toolkit.interventions.gradient_patching import attribution_patching, edge_attribution
from tests.hooked_transformer import HookedTransformer
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
    (shares,) = drawn(patching_map(patched).figure)
    assert torch.equal(shares, patched.recovered.flatten())
    names = [t.get_text() for t in patching_map(patched).get_xticklabels()]
    assert "·John·/·Mary" in names
    estimated = attribution_patching(model, CLEAN, CORRUPTED, **ASKED)
    heads, attention, mlps = drawn(attribution_maps(estimated))
    assert torch.equal(heads, estimated.heads.sum(dim=-1).flatten())
    assert torch.equal(attention, estimated.heads.sum(dim=1).flatten())
    assert torch.equal(mlps, estimated.mlps.flatten())
    direct = direct_logit_attribution(model, CLEAN, **ASKED)
    (written,) = drawn(direct_map(direct).figure)
    assert torch.equal(written.reshape(4, 6)[:, :4], direct.heads)
    assert torch.equal(written.reshape(4, 6)[:, 5], direct.mlps)
    for found in (patched, estimated, direct):
        view = view_patching(found)
        body = view.section().body
        assert "<b>" not in body
        assert (escape(str(found.top(1)[0][-2])) in body) or found is direct
        view.save_html(tmp_path / "page.html")
        assert found.title() in (tmp_path / "page.html").read_text().replace("&#39;", "'")


@pytest.mark.skipif(HookedTransformer is not None, reason="TransformerLens 3 knows no edges")
def test_a_path_is_an_arrow_within_its_token_s_column_coloured_by_its_sign(tmp_path: Path) -> None:
    model = loaded("toy-gpt2")
    found = edge_attribution(model, CLEAN, CORRUPTED, **ASKED)
    ax = edge_figure(found, 12)
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 12
    strongest = found.scores.abs().argsort(descending=True)[:12]
    raises = [bool(score > 0) for score in found.scores[strongest]]
    colours = [to_hex(arrow.get_edgecolor()) for arrow in arrows]
    assert [colour == RAISES for colour in colours] == raises
    named = {text.get_text() for text in ax.texts}
    for index in strongest.tolist():
        writer, reader = found.writers[index], found.readers[index].split()[0]
        assert {writer.replace("embedding", "emb"), reader} <= named
    widths = [arrow.get_linewidth() for arrow in arrows]
    assert widths == sorted(widths, reverse=True)
    view = view_patching(found)
    assert "<b>" not in view.section().body
    view.save_png(tmp_path / "paths.png")
