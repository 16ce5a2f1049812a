"""What is claimed of every family, each held against an untouched Hugging Face copy.

A claim takes a subject and raises an AssertionError where a figure is another; what the library
refuses by name it refuses here too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import mi_toolkit as mi
from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import attention_layers
from mi_toolkit.core.passes import logits_and_activations
from mi_toolkit.core.tl_compat import cache_is_sound, checkpoint_path
from mi_toolkit.weights.parameters import weight_matrices
from tests.families.held_blocks import HeldBlocks
from tests.families.zoo import Row, build
from tests.tiny_models import tiny_tokenizer

CLOSE = 2e-5
LENGTH = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A hooked model, and the same weights as Hugging Face runs them."""

    model: Any
    reference: Any
    ids: Tensor

    def reference_patterns(self) -> dict[int, Tensor]:
        """Hugging Face's own, by layer; only for layers with attention."""
        layers = attention_layers(self.model)
        with torch.no_grad():
            found = self.reference(self.ids, output_attentions=True, use_cache=False).attentions
        assert len(found) in (len(layers), self.model.cfg.n_layers)
        by_layer = layers if len(found) == len(layers) else range(len(found))
        return dict(zip(by_layer, found, strict=True))


def subject_of(row: Row) -> Subject:
    """The row's model, loaded, and its copy.

    Raises:
        ModelLoadError: it is refused.
    """
    theirs = build(row)
    reference = copy.deepcopy(theirs)
    model = mi.load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())
    generator = torch.Generator().manual_seed(1)
    return Subject(
        model=model,
        reference=reference,
        ids=torch.randint(3, 300, (2, LENGTH), generator=generator),
    )


def logits(subject: Subject) -> None:
    """Logits are Hugging Face's."""
    found = logits_and_activations(subject.model, subject.ids, [], lambda *_: None)
    assert_close(found, subject.reference(subject.ids, use_cache=False).logits)


def patterns(subject: Subject) -> None:
    """So are attention patterns, in every layer."""
    found = mi.record(subject.model, subject.ids, "pattern")
    for layer, wanted in subject.reference_patterns().items():
        assert_close(found[f"blocks.{layer}.attn.hook_pattern"], wanted)


def scores(subject: Subject) -> None:
    """Scores and chance are what Hugging Face's patterns give, whatever the mask."""
    report = mi.classify_heads(subject.model, subject.ids)
    n = subject.ids.shape[1]
    for layer, pattern in subject.reference_patterns().items():
        seen = (pattern > 0).any(dim=1).any(dim=0)
        for name, offset in (("previous_token", 1), ("current_token", 0)):
            query = torch.arange(1, n)
            query = query[seen[query, query - offset]]
            wanted = pattern[:, :, query, query - offset].mean(dim=(0, -1))
            index = report.index(name)
            assert_close(report.score[index, layer], wanted)
            chance = (1 / seen[query].sum(dim=-1)).mean()
            assert_close(report.null[index, layer], chance.expand_as(wanted))
        rows = torch.arange(8, n)[seen[8:].sum(dim=-1) > 1]
        entropy = torch.special.entr(pattern[:, :, rows]).sum(dim=-1)
        wanted = (entropy / seen[rows].sum(dim=-1).log()).mean(dim=(0, -1))
        assert_close(report.score[report.index("diffuse"), layer], wanted)
        assert_close(report.score[report.index("locality"), layer], _locality(pattern, seen))


def _locality(pattern: Tensor, seen: Tensor) -> Tensor:
    """By its definition, cell by cell; distances count on both sides where a layer looks ahead."""
    position = torch.arange(len(seen))
    query, key = position[:, None], position
    distance = ((query - key).abs() - 1).clamp_min(0)
    may = (key >= 1) & ((key <= query) | bool(seen.triu(1).any()))
    mass = pattern[..., 1:].sum(dim=-1)
    counts = (mass >= 0.05) & (position >= 3)
    looked = (pattern * (key >= 1) * distance).sum(dim=-1) / mass.clamp_min(0.05)
    uniform = (may * distance).sum(dim=-1) / may.sum(dim=-1).clamp_min(1)
    return 1 - (looked * counts).sum(dim=(0, -1)) / (uniform * counts).sum(dim=(0, -1))


def ablation(subject: Subject) -> None:
    """Ablating a head is what zeroing its rows of `W_O` does."""
    model, head = subject.model, 1
    layer = attention_layers(model)[0]
    path = checkpoint_path(model, f"blocks.{layer}.attn.o")
    assert path is not None
    with mi.ablating(model, [f"L{layer}H{head}"]):
        found = logits_and_activations(model, subject.ids, [], lambda *_: None)
    weight = subject.reference.get_submodule(path).weight
    turned = type(subject.reference.get_submodule(path)).__name__ == "Conv1D"
    width = weight.shape[0 if turned else 1] // int(model.cfg.n_heads)
    mine = slice(head * width, (head + 1) * width)
    rows = weight[mine] if turned else weight[:, mine]
    kept = rows.clone()
    rows.zero_()
    try:
        wanted = subject.reference(subject.ids, use_cache=False).logits
    finally:
        rows.copy_(kept)
    assert_close(found, wanted)


def writes(subject: Subject) -> None:
    """What each part writes towards a logit is the change that it makes in the residual stream.

    A part's own output is taken away in Hugging Face's forward, what comes after it in the block
    held fixed, and the change of the block's output read by final norm and unembedding.
    """
    model, prompt, target = subject.model, subject.ids[0], 7
    found = mi.direct_logit_attribution(model, prompt, target=target)
    held = HeldBlocks(subject, prompt)
    reader = held.reader(target)
    total = held.embedding @ reader
    for layer in range(int(model.cfg.n_layers)):
        mlp = held.change(layer, "mlp") @ reader
        assert_close(found.mlps[layer], mlp)
        heads = torch.stack(
            [held.change(layer, head) @ reader for head in range(int(model.cfg.n_heads))]
        )
        assert_close(found.heads[layer], heads)
        whole = (held.after[layer] - held.before[layer])[-1] @ reader
        assert_close(found.attention_biases[layer], whole - heads.sum() - mlp)
        total = total + whole
    assert_close(torch.tensor(found.embedding), held.embedding @ reader)
    assert_close(torch.tensor(found.constant), held.uncapped(target) - total)
    assert_close(torch.tensor(sum(found.parts().values()) + found.residue), held.logits[target])


def _layers(model: Any) -> list[int]:
    try:
        return attention_layers(model)
    except UnsupportedModelError:
        return []


def beams(subject: Subject) -> None:
    """Beam search writes what Hugging Face's writes, with its scores."""
    prompt = subject.ids[0, :8]
    found = mi.generate(subject.model, prompt, max_new_tokens=4, num_beams=2, eos_ids=())
    theirs = subject.reference.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt[None]),
        max_new_tokens=4,
        num_beams=2,
        num_return_sequences=2,
        do_sample=False,
        # transformers does not move a recurrent state, such as RWKV's, with its beam.
        use_cache=bool(_layers(subject.model)),
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert [each.ids.tolist() for each in found.sequences] == theirs.sequences[:, 8:].tolist()
    assert_close(torch.tensor([each.score for each in found.sequences]), theirs.sequences_scores)


def gradients(subject: Subject) -> None:
    """Gradients with respect to the embeddings are Hugging Face's."""
    prompt, target = subject.ids[0, :8], 7
    found = mi.attribute(subject.model, prompt, target, "gradient_norm")
    held: list[Tensor] = []

    def hold(_: Any, __: Any, embedding: Tensor) -> Tensor:
        held.append(embedding.detach().requires_grad_())
        return held[0]

    embedding = subject.reference.get_input_embeddings()
    base = subject.reference.base_model
    # What a norm makes of an embedding (BLOOM, ModernBERT) is part of it.
    norm = getattr(base, "word_embeddings_layernorm", embedding)
    norm = getattr(getattr(base, "embeddings", None), "norm", norm)
    handle = norm.register_forward_hook(hold)
    with torch.enable_grad():
        logit = subject.reference(prompt[None], use_cache=False).logits[0, -1, target]
        (wanted,) = torch.autograd.grad(logit, held)
    handle.remove()
    # So is Granite's factor, in releases of TransformerLens that hook the embedding after it.
    shown = mi.record(subject.model, prompt, "embed")["hook_embed"]
    assert_close(found.scores, wanted[0].norm(dim=-1) * held[0].norm() / shown.norm())


def verified(subject: Subject) -> None:
    """From a folder it loads whole, and `verify_model` finds no fault in it."""
    with TemporaryDirectory() as folder:
        subject.reference.save_pretrained(folder)
        found = mi.verify_model(folder, progress=False)
    assert found.outcomes["logits"].verdict == "passed"
    known: set[str] = set() if cache_is_sound(subject.model) else {"cache_steps"}
    assert set(found.failed) == known, [found.outcomes[fault] for fault in found.failed]


def weights(subject: Subject) -> None:
    """Scores of all matrices are what Hugging Face's gradients give at their coordinates."""
    found = mi.score_weights(subject.model, subject.ids, "signed_grad_x_weight", batch_size=1)
    reference = subject.reference.requires_grad_(requires_grad=True)
    with torch.enable_grad():
        logits = reference(subject.ids, use_cache=False).logits[:, :-1].float()
        targets = subject.ids[:, 1:].flatten()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).backward()
    seen: dict[str, Tensor] = {}
    for matrix in weight_matrices(subject.model):
        rows, columns = torch.meshgrid(*map(torch.arange, matrix.shape), indexing="ij")
        assert matrix.hf is not None
        parameter = reference.get_parameter(matrix.hf.name)
        at = matrix.hf.within(rows.flatten(), columns.flatten())
        assert torch.equal(matrix.value(), parameter.detach()[at].view(matrix.shape)), matrix
        seen.setdefault(matrix.hf.name, torch.zeros(parameter.shape))[at] += 1
        if matrix.group in ("attn", "mlp"):
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert_close(found.scores[matrix.name], -(gradient * parameter)[at].view(matrix.shape))
    reference.requires_grad_(requires_grad=False).zero_grad()
    # No weight is in two matrices, and what a matrix has it has whole.
    assert all(int(counts.max()) == 1 for counts in seen.values())
    partial = {name for name, counts in seen.items() if int(counts.min()) == 0}
    assert all("embed_positions" in name for name in partial), partial
    left = {name for name, each in reference.named_parameters() if each.ndim > 1} - set(seen)
    assert not left, left


CLAIMS: Mapping[str, Callable[[Subject], None]] = {
    claim.__name__: claim
    for claim in (
        logits,
        patterns,
        scores,
        writes,
        ablation,
        beams,
        gradients,
        weights,
        verified,
    )
}
"""By the name of the column."""


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """Equal to rounding, as a share of the largest value where that is above 1."""
    wanted = wanted.detach().float()
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found.float(), wanted, atol=CLOSE * scale, rtol=0)
