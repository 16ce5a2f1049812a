"""`Generation`: what a model wrote, how sure it was, and what else it looked at on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import unknown_name
from mi_toolkit.core.predictions import ranks_in_order
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.tables import table_of

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


PROMPT = -1
"""What stands for the prompt among a tree's parents: the root, which is no node."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """What one step of decoding looked at: the running beams and their best next tokens."""

    new_ids: Int[Tensor, "beam token"]
    """The tokens after the prompt of each running beam."""

    top_ids: Int[Tensor, "beam choice"]
    """Each beam's most probable next tokens, best first."""

    top_log_probs: Float[Tensor, "beam choice"]
    """Their log-probabilities, in nats."""

    log_probs: Float[Tensor, "beam vocabulary"] | None = None
    """Those of all tokens, where tokens are drawn: any of them may be."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BeamTree:
    """Every beam that was kept or came to its end, as a tree of tokens under the prompt.

    A node is a token; nodes stand in the order of their steps.
    """

    ids: Int[Tensor, " node"]
    """Id of the token."""

    parents: Int[Tensor, " node"]
    """The node before it; -1 where that is the prompt."""

    steps: Int[Tensor, " node"]
    """How many new tokens stand before it: 0 for the first."""

    log_probs: Float[Tensor, " node"]
    """Log-probability of the token after its parent, in nats."""

    totals: Float[Tensor, " node"]
    """The sum of log-probabilities from the first new token up to it, in nats."""

    ended: Bool[Tensor, " node"]
    """Whether it ended its sequence, as an end-of-sequence token does."""

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, node: int) -> list[int]:
        """The nodes from the first new token up to this one."""
        nodes = []
        while node != PROMPT:
            nodes.append(node)
            node = int(self.parents[node])
        return nodes[::-1]

    def find(self, ids: Sequence[int]) -> int:
        """The node that these new tokens lead to.

        Raises:
            KeyError: no beam went there.
        """
        children = {
            (int(parent), int(token)): node
            for node, (parent, token) in enumerate(zip(self.parents, self.ids, strict=True))
        }
        node = PROMPT
        for token in ids:
            node = children[node, int(token)]
        return node


class _Growing:
    """The nodes so far, and which of them the tokens of a beam that may go on lead to."""

    def __init__(self) -> None:
        self.nodes: list[tuple[int, int, int, float, float, bool]] = []
        self.at: dict[tuple[int, ...], int] = {(): PROMPT}

    def total(self, node: int) -> float:
        return 0.0 if node == PROMPT else self.nodes[node][4]

    def add(self, before: tuple[int, ...], token: int, log_prob: float, *, ended: bool) -> None:
        parent = self.at[before]
        total = self.total(parent) + log_prob
        if not ended:
            self.at[(*before, token)] = len(self.nodes)
        self.nodes.append((token, parent, len(before), log_prob, total, ended))

    def grown(self) -> BeamTree:
        columns = list(zip(*self.nodes, strict=True))
        return BeamTree(
            ids=torch.tensor(columns[0]),
            parents=torch.tensor(columns[1]),
            steps=torch.tensor(columns[2]),
            log_probs=torch.tensor(columns[3]),
            totals=torch.tensor(columns[4]),
            ended=torch.tensor(columns[5]),
        )


def beam_tree(steps: Sequence[Step], *, num_beams: int, eos_ids: Sequence[int]) -> BeamTree:
    """The tree of the beams that `steps` looked at.

    A step keeps the best `num_beams` of all beams' continuations that do not end; those that end
    count where they stand among the best `num_beams` of all. So decides Hugging Face's search.
    """
    tree = _Growing()
    for index, step in enumerate(steps):
        running = _running(step, tree)
        best = _candidates(step, running, tree)
        ends = [each for each in best[:num_beams] if each[1] in eos_ids]
        if index + 1 < len(steps):
            # What was kept is on record: the sums here could order two near-equal ones otherwise.
            kept_ids = {tuple(ids) for ids in steps[index + 1].new_ids.tolist()}
            kept = [each for each in best if (*each[0], each[1]) in kept_ids and each not in ends]
        else:
            kept = [each for each in best[:num_beams] if each not in ends]
        for before, token, log_prob in [*kept, *ends]:
            tree.add(before, token, log_prob, ended=token in eos_ids)
    return tree.grown()


def sampled_tree(
    steps: Sequence[Step], sequences: Sequence[Sequence[int]], eos_ids: Sequence[int]
) -> BeamTree:
    """The tree of sequences that were drawn: what they share stands in it once."""
    tree = _Growing()
    for index, step in enumerate(steps):
        if step.log_probs is None:
            raise ValueError("The steps of a search hold no log-probability of every token.")
        rows = step.new_ids.tolist()
        for before, token in dict.fromkeys(
            (tuple(ids[:index]), ids[index]) for ids in sequences if index < len(ids)
        ):
            log_prob = float(step.log_probs[rows.index(list(before)), token])
            tree.add(before, token, log_prob, ended=token in eos_ids)
    return tree.grown()


def _running(step: Step, tree: _Growing) -> dict[tuple[int, ...], int]:
    """The row of each running beam; before the first token all rows are the prompt, one counts."""
    rows: dict[tuple[int, ...], int] = {}
    for row, ids in enumerate(step.new_ids.tolist()):
        if tuple(ids) in tree.at:
            rows.setdefault(tuple(ids), row)
    return rows


def _candidates(
    step: Step, running: dict[tuple[int, ...], int], tree: _Growing
) -> list[tuple[tuple[int, ...], int, float]]:
    """Continuations of the running beams, the most probable first: what before, token, its own."""
    found = []
    for before, row in running.items():
        total = tree.total(tree.at[before])
        choices = zip(step.top_ids[row].tolist(), step.top_log_probs[row].tolist(), strict=True)
        found += [(total + log_prob, before, token, log_prob) for token, log_prob in choices]
    found.sort(key=lambda each: -each[0])
    return [(before, token, log_prob) for _, before, token, log_prob in found]


HEADER = ("score", "log-probability", "tokens", "ended", "text")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn, in place of a search for the most probable text.

    Logits over the temperature; of these the `top_k` greatest; of these the fewest that hold
    `top_p` of the probability together; of these one, by its share.
    """

    temperature: float = 1.0
    """What logits are divided by: below 1 the probable ones are drawn more often."""

    top_k: int = 0
    """How many of the most probable tokens may be drawn; 0 for all."""

    top_p: float = 1.0
    """How much of the probability those hold together that may be drawn, in (0, 1]."""

    seed: int = 0
    """Of the draws: the same one gives the same sequences, on the same machine."""

    def in_words(self) -> str:
        """The settings that narrow the draws, and the seed."""
        said = [f"temperature {self.temperature:g}"]
        said += [f"of the {self.top_k} most probable"] if self.top_k else []
        said += [f"of the top {100 * self.top_p:.6g}%"] if self.top_p < 1 else []
        return ", ".join([*said, f"seed {self.seed}"])


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedSequence:
    """One continuation of the prompt."""

    ids: Int[Tensor, " token"]
    """The new tokens, the one that ended it included."""

    text: str
    """The new text, without special tokens."""

    log_probs: Float[Tensor, " token"]
    """Each token's log-probability after all before it, in nats."""

    score: float
    """What sequences are ordered by: the sum of `log_probs` over `len(ids) ** length_penalty`.
    In beam search it is Hugging Face's `sequences_scores`."""

    ended: bool
    """Whether it came to an end-of-sequence token; else it was cut off at `max_new_tokens`."""

    leaf: int
    """The node of the tree that it leads to."""

    alternative_ids: Int[Tensor, "token choice"]
    """The most probable tokens in each token's place, best first."""

    alternative_log_probs: Float[Tensor, "token choice"]
    """Their log-probabilities, in nats."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Generation(Result):
    """Continuations of one prompt, the best first."""

    FORMAT: ClassVar[str] = "mi_toolkit generation 3"

    prompt: str
    """The prompt's text; decoded, where ids were given."""

    prompt_ids: Int[Tensor, " position"]
    """What the model was fed."""

    sequences: tuple[GeneratedSequence, ...]
    """The finished texts, as many as there were beams, best score first."""

    tree: BeamTree
    """All beams that were kept at some step, or came to an end."""

    texts: Mapping[int, str]
    """The text of every token that stands here, by id."""

    max_new_tokens: int
    """Tokens to write at most."""

    num_beams: int
    """Beams that ran side by side, or sequences that were drawn; 1 is greedy search, or one."""

    sampling: Sampling | None
    """How tokens were drawn; None for a search."""

    length_penalty: float
    """The power of its length that a sequence's log-probability is divided by."""

    early_stopping: bool
    """Whether the search stopped at `num_beams` sequences that ended."""

    eos_ids: tuple[int, ...]
    """Tokens that end a sequence."""

    use_cache: bool
    """Whether keys and values of earlier positions were kept from step to step."""

    hooks: tuple[str, ...]
    """The hook points that had hooks while it ran, such as those of an ablation."""

    provenance: Provenance
    """Model, prompt and versions."""

    changes: tuple[str, ...] = ()
    """What this library changed in the model while it ran, such as `zero ablation of L5H1`."""

    @property
    def text(self) -> str:
        """The best sequence's text."""
        return self.sequences[0].text

    def tokens(self, ids: Int[Tensor, " token"]) -> tuple[str, ...]:
        """The text of each of these tokens, its leading space included.

        Raises:
            KeyError: a token that does not stand here.
        """
        return tuple(self.texts[int(each)] for each in ids)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What `rows` and `to_pandas` take."""
        return tuple(ROWS)

    def rows(self, kind: str = "tokens") -> Iterable[Mapping[str, Any]]:
        """One row per token of each sequence, per alternative of each token, or per beams' node.

        Raises:
            UnknownNameError: no such kind of rows.
        """
        if kind not in ROWS:
            raise unknown_name("kind of rows", kind, ROWS)
        return ROWS[kind](self)

    def to_pandas(self, rows: str = "tokens") -> DataFrame:
        """A table of one kind of rows: `tokens`, `alternatives` or `beams`."""
        return table_of(self.rows(rows))

    def title(self) -> str:
        """What was done, in one line."""
        search = f"{self.num_beams} beams" if self.num_beams > 1 else "greedy"
        if self.sampling is not None:
            search = f"{self.num_beams} drawn, {self.sampling.in_words()}"
        points = self.hooks[0] if len(self.hooks) == 1 else f"{len(self.hooks)} points"
        under = f", under hooks at {points}" if self.hooks else ""
        if self.changes:
            under = f", under {' and '.join(self.changes)}"
        return f"{self.provenance.model} goes on ({search}{under})"

    def cells(self) -> list[list[str]]:
        """The sequences in words, under `HEADER`."""
        return [
            [
                f"{each.score:.3f}",
                f"{float(each.log_probs.sum()):.2f}",
                str(len(each)),
                "yes" if each.ended else "no",
                repr(each.text),
            ]
            for each in self.sequences
        ]

    def text_table(self) -> TextTable:
        """The sequences in words."""
        title = f"{self.title()} after {self.prompt!r}"
        return TextTable(title=title, header=HEADER, rows=self.cells())


def token_rows(generation: Generation) -> Iterator[dict[str, Any]]:
    """Each sequence's tokens with their probability and their rank among the alternatives.

    Tokens that tie share the better rank.
    """
    for index, sequence in enumerate(generation.sequences):
        log_probs = sequence.log_probs.tolist()
        for step, (token, log_prob) in enumerate(
            zip(sequence.ids.tolist(), log_probs, strict=True)
        ):
            others = sequence.alternative_log_probs[step]
            own = others[sequence.alternative_ids[step] == token]
            yield {
                "sequence": index,
                "step": step,
                "id": token,
                "token": generation.texts[token],
                "log_prob": log_prob,
                "probability": math.exp(log_prob),
                "rank": int((others > own).sum()) + 1 if len(own) else None,
            }


def alternative_rows(generation: Generation) -> Iterator[dict[str, Any]]:
    """The most probable tokens in each token's place, best first."""
    for index, sequence in enumerate(generation.sequences):
        chosen = sequence.ids.tolist()
        ids, log_probs = sequence.alternative_ids, sequence.alternative_log_probs
        for step, row in enumerate(zip(ids.tolist(), log_probs.tolist(), strict=True)):
            for token, log_prob, rank in zip(*row, ranks_in_order(row[1]), strict=True):
                yield {
                    "sequence": index,
                    "step": step,
                    "rank": rank,
                    "id": token,
                    "token": generation.texts[token],
                    "log_prob": log_prob,
                    "probability": math.exp(log_prob),
                    "chosen": token == chosen[step],
                }


def beam_rows(generation: Generation) -> Iterator[dict[str, Any]]:
    """The tree's nodes, with the sequences that pass through each."""
    tree = generation.tree
    through: dict[int, list[int]] = {}
    for index, sequence in enumerate(generation.sequences):
        for node in tree.path(sequence.leaf):
            through.setdefault(node, []).append(index)
    for node in range(len(tree)):
        token = int(tree.ids[node])
        yield {
            "node": node,
            "parent": int(tree.parents[node]),
            "step": int(tree.steps[node]),
            "id": token,
            "token": generation.texts[token],
            "log_prob": float(tree.log_probs[node]),
            "total": float(tree.totals[node]),
            "ended": bool(tree.ended[node]),
            "sequences": " ".join(map(str, through.get(node, []))),
        }


ROWS: Mapping[str, Callable[[Generation], Iterator[dict[str, Any]]]] = MappingProxyType(
    {"tokens": token_rows, "alternatives": alternative_rows, "beams": beam_rows}
)
"""The kinds of rows by name."""
