"""The pages and pictures of ablations: every figure is there, and they stand alone."""

from __future__ import annotations

from pathlib import Path

import torch

from mi_toolkit import ablation_effect, ablation_sweep
from mi_toolkit.draw.ablation import view_ablation
from mi_toolkit.draw.figures.ablation import effect_picture, sweep_maps
from tests.models_here import loaded

PROMPT = "Mary and John <b>went</b> to"


def test_a_sweep_has_a_map_for_each_figure_with_its_values() -> None:
    sweep = ablation_sweep(loaded("toy-gpt2"), PROMPT)
    figure = sweep_maps(sweep)
    maps = {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_title(loc="left")}
    assert list(maps) == [
        "log-probability of the target (nats)",
        "rank of the target",
        "KL from the clean prediction (nats)",
        "loss of the prompt (nats)",
    ]
    for ax, name in zip(maps.values(), ("log_prob", "rank", "kl", "loss"), strict=True):
        drawn = torch.as_tensor(ax.collections[0].get_array().data).reshape(4, 4)
        assert torch.equal(drawn, sweep[name])
        assert len(ax.texts) == 16
    body = view_ablation(sweep).section().body
    assert "<b>went" not in body
    assert "&lt;b&gt;went" in body
    head, change = sweep.top(1)[0]
    row = body[body.index(f">{head}</td>") :]
    assert f"{change:+.3f}</td>" in row[: row.index("</tr>")]


def test_an_effect_shows_tokens_before_and_after_and_its_random_sets(tmp_path: Path) -> None:
    effect = ablation_effect(loaded("toy-gpt2"), PROMPT, ["L2H0"], n_random=3, top_k=4)
    figure = effect_picture(effect)
    tokens, *strips, divergence = figure.axes
    heights = sorted(bar.get_width() for bar in tokens.patches)
    shown = [*effect.top_before, *effect.top_after]
    assert heights[-1] == max(each.probability for each in shown)
    for ax, name in zip(strips, effect.change, strict=True):
        random, own = ax.lines[1], ax.lines[2]
        assert list(random.get_xdata()) == effect.control_changes[name].tolist()
        assert list(own.get_xdata()) == [effect.change[name]]
    assert [bar.get_height() for bar in divergence.patches] == effect.kl.tolist()
    view = view_ablation(effect)
    body = view.section().body
    for row in effect.cells():
        assert f">{row[3]}</td>" in body
    view.save_png(tmp_path / "effect.png")
    view.save_html(tmp_path / "effect.html")
    assert (tmp_path / "effect.png").read_bytes().startswith(b"\x89PNG")
    assert "L2H0 of toy-gpt2 under zero ablation" in (tmp_path / "effect.html").read_text()


def test_nothing_ablated_and_no_random_set_can_be_drawn(tmp_path: Path) -> None:
    view = view_ablation(ablation_effect(loaded("toy-gpt2"), PROMPT, [], n_random=0))
    view.save_png(tmp_path / "nothing.png")
    assert "No random set stands next to it." in view.section().caption
