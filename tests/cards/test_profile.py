"""What heads move: against whole vectors, on heads that are known, in parts and at once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mi_toolkit.cards.profile import AFTER, HeadProfiles, profile_heads
from mi_toolkit.core.errors import PromptError, ReportError
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.progress import Watcher, watching
from mi_toolkit.core.stimuli import passages
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.heads.relations import RELATIONS, read_text
from mi_toolkit.heads.targets import mask_of
from tests.dense_masks import visible
from tests.models_here import loaded, untouched

TEXTS = [
    'Ann sold the house (a big one). Then Ann said: "The house, the garden, the house."',
    "One two three one two three.\nFour, five, one two three",
    "The houses are sold, and the house is sold. The garden is not, and so on and on.",
]


def output_matrices(name: str, layer: int, n_heads: int) -> Tensor:
    """`W_O` of a layer, `[head d_head d_model]`, as Hugging Face holds it."""
    weights = dict(untouched(name).named_parameters())
    places = {
        "toy-gpt2": f"transformer.h.{layer}.attn.c_proj.weight",
        "toy-gpt-neo": f"transformer.h.{layer}.attn.attention.out_proj.weight",
        "toy-qwen2": f"model.layers.{layer}.self_attn.o_proj.weight",
    }
    matrix = weights[places[name]].detach()
    return (matrix if name == "toy-gpt2" else matrix.T).unflatten(0, (n_heads, -1))


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-gpt-neo", "toy-qwen2"])
def test_shares_are_those_of_whole_vectors(name: str) -> None:
    model = loaded(name)
    found = profile_heads(model, TEXTS, batch_size=2)
    n_heads, batch = int(model.cfg.n_heads), tokenise(model, TEXTS)
    for layer in (0, 3):
        shown: dict[str, Tensor] = {}
        hooks = [f"blocks.{layer}.attn.hook_{point}" for point in ("v", "pattern")]
        weights = output_matrices(name, layer, n_heads)
        on, among, chance = torch.zeros(3, 2, n_heads, len(RELATIONS))
        at_sink, total = torch.zeros(2, 2, n_heads)
        for index in range(len(batch)):
            ids = batch.sequence(index)
            visit_activations(
                model,
                ids[None],
                hooks,
                lambda hook, made, kept=shown: kept.update({hook: made[0].clone()}),
            )
            n = len(ids)
            values, patterns = (shown[hook] for hook in hooks)
            values = values.repeat_interleave(n_heads // values.shape[1], dim=1)
            written = torch.einsum("hqk,khd,hdm->hqkm", patterns, values, weights)
            moved = torch.stack([written.norm(dim=-1), patterns])
            seen = visible(n, found.windows[layer])
            reading = read_text(
                ids, bool(batch.has_bos[index]), token_texts(model.tokenizer, ids.tolist())
            )
            at_sink += moved[..., 1:, 0].sum(dim=-1)
            total += moved[..., 1:, :].sum(dim=(-2, -1))
            off = moved[..., 1:]
            for place, relation in enumerate(RELATIONS.values()):
                mask = (mask_of(lambda *_, r=relation, t=reading: r.keys(t), ids, True) & seen)[
                    :, 1:
                ]
                queries = mask.any(dim=-1)
                on[..., place] += (off * mask).sum(dim=(-2, -1))
                row = off.sum(dim=-1) * queries
                among[..., place] += row.sum(dim=-1)
                chance[..., place] += (row * mask.sum(dim=-1) / seen[:, 1:].sum(dim=-1)
                                       .clamp_min(1)).sum(dim=-1)  # fmt: skip
        for row, weighting in enumerate(("moved", "attended")):
            close = {"rtol": 1e-4, "atol": 1e-5, "equal_nan": True}
            torch.testing.assert_close(found.share(weighting)[layer], on[row] / among[row], **close)
            torch.testing.assert_close(
                found.null(weighting)[layer], chance[row] / among[row], **close
            )
            torch.testing.assert_close(
                found.sink_share(weighting)[layer], at_sink[row] / total[row], **close
            )


@cache
def on_passages() -> HeadProfiles:
    return profile_heads(loaded("toy-gpt2"), passages()[:16], max_length=96, overlong="truncate")


def test_a_head_that_is_known_stands_out_by_its_relation() -> None:
    profiles = on_passages()
    lift, names = profiles.lift(), profiles.relations
    assert names[int(lift[2, 0].nan_to_num(-1).argmax())] == "after_copy"  # the induction head
    assert float(lift[2, 0, names.index("after_copy")]) > 0.8
    before = [names.index(name) for name in names if name.startswith(("distance", "self"))]
    assert names[before[int(lift[0, 0, before].argmax())]] == "distance_1"  # its previous token
    assert float(profiles.sink_share("attended").flatten()[2 * 4]) < 0.2


def test_the_interval_holds_the_lift_and_needs_three_groups_of_documents() -> None:
    profiles = on_passages()
    low, high = profiles.interval()
    place = profiles.relations.index("distance_1")
    assert (low <= profiles.lift() + 1e-5)[..., place].all()
    assert (high >= profiles.lift() - 1e-5)[..., place].all()
    assert (high - low)[..., place].max() < 0.4
    assert profile_heads(loaded("toy-gpt2"), TEXTS[:2]).interval()[0].isnan().all()


def test_the_places_kept_are_those_of_the_greatest_activity() -> None:
    model = loaded("toy-gpt2")
    found = profile_heads(model, TEXTS, top_k=3)
    assert len(found.sample.place) == int(found.n_queries.sum())  # all of them, so few are there
    by_head = found.sample.activity.flatten(1)
    expected = by_head.sort(dim=0, descending=True).values[:3].T
    torch.testing.assert_close(found.top.values, expected)
    torch.testing.assert_close(by_head.mean(dim=0), found.activity().flatten())
    for document, chunk, position in found.top.place[5].tolist():
        batch = tokenise(model, TEXTS)
        assert chunk == 0
        kept = found.sample.context[
            (found.sample.place == torch.tensor([document, chunk, position])).all(dim=1)
        ][0]
        until = kept[:-AFTER][kept[:-AFTER] >= 0]
        assert until.tolist() == batch.sequence(document)[: position + 1].tolist()


def test_batches_change_nothing_and_padding_is_not_counted() -> None:
    one, all_together = (
        profile_heads(loaded("toy-qwen2"), TEXTS, batch_size=size) for size in (1, 3)
    )
    for name in ("on", "among", "chance", "sink", "total"):
        torch.testing.assert_close(
            getattr(one, name), getattr(all_together, name), rtol=1e-4, atol=1e-5
        )
    assert torch.equal(one.counts, all_together.counts)
    assert int(one.counts.sum()) == int(one.n_queries.sum()) + len(TEXTS)
    assert torch.equal(one.sample.place, all_together.sample.place)


class Stopped(Exception):
    pass


def test_an_interrupted_pass_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    model, path = loaded("toy-gpt2"), tmp_path / "sums.safetensors"
    texts = TEXTS * 3

    class Stopping(Watcher):
        def report(self, label: str, done: int, total: int | None) -> None:
            if done == 4:
                raise Stopped

    class Seeing(Watcher):
        def report(self, label: str, done: int, total: int | None) -> None:
            seen.append(done)

    with pytest.raises(Stopped), watching(Stopping()):
        profile_heads(model, texts, batch_size=2, resume=path)
    seen: list[int] = []
    with watching(Seeing()):
        resumed = profile_heads(model, texts, batch_size=2, resume=path)
    assert len(seen) < 6
    straight = profile_heads(model, texts, batch_size=2)
    assert _bits(resumed) == _bits(straight)
    with pytest.raises(ReportError, match="top_k was 32 and is 5"):
        profile_heads(model, texts, batch_size=2, top_k=5, resume=path)


def _bits(profiles: HeadProfiles) -> dict[str, bytes]:
    _, tensors = profiles.taken_apart()
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_memory_does_not_grow_with_the_texts() -> None:
    few, many = (profile_heads(loaded("toy-gpt2"), TEXTS * n) for n in (6, 9))
    sizes = [
        {name: tensor.shape for name, tensor in each.taken_apart()[1].items()}
        for each in (few, many)
    ]
    assert sizes[0] == sizes[1]


def test_hooks_on_patterns_make_it_read_them_whole() -> None:
    model = loaded("toy-gpt2")
    blocks = profile_heads(model, TEXTS)
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", lambda pattern, hook: None)]):
        whole = profile_heads(model, TEXTS)
    assert whole.provenance.attention == {"texts": "whole patterns"}
    torch.testing.assert_close(blocks.on, whole.on, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(PromptError, match="no token to measure"):
        profile_heads(loaded("toy-gpt2"), [])
    with pytest.raises(PromptError, match="keep 1 to"):
        profile_heads(loaded("toy-gpt2"), TEXTS, top_k=0)
