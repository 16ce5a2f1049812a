"""`head_families`: heads grouped by what they move, named behaviours aside.

1. A head's profile is its lift of every relation (`profile_heads`), negative ones taken for 0: what
   it does beyond chance. Heads that lift nothing by `DIFFUSE_BELOW` are one family by that, the
   diffuse one. Of the others the direction of the profile counts, what a head does and not how
   strongly, and HDBSCAN (Campello et al. 2013) finds dense groups; heads in none are left out.
2. A family has to come back where documents are drawn anew, with replacement: its Jaccard index
   with the most similar group, in the mean over draws, is its stability; under `MIN_JACCARD` it is
   shown as unstable.
3. On text that was not used, every head is ablated alone. A family holds where a member's changes
   of loss, token by token, go with another member's more than with those of the heads of that
   other one's layer that are none: the mean difference of the correlations, with a jackknife over
   texts. A family whose interval does not lie above 0 is shown as failed. Heads are set against
   each other one by one, as the mean of a large family has less noise than that of a layer,
   whatever it holds; and against heads as far away, as near ones change alike, whatever they do.
4. It recurs in another model, profiled on the same texts, where heads of that one do the same: the
   nearest head of this model is a member, no farther away than members may be from their nearest
   fellow, or than `NEAR`, where all members are closer. By chance: the same for profiles of as high
   lifts, but of other relations (permuted).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.activations.batcher import Texts
from mi_toolkit.cards.card import LOSS_LENGTH
from mi_toolkit.cards.profile import GROUPS, HeadProfiles, check_comparable, profile_heads
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import MIToolkitError, PromptError, ReportError
from mi_toolkit.core.evaluation import evaluation_passages, halves, loss_batch
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.stats import MIN_TEXTS, students_t
from mi_toolkit.heads.relations import RELATIONS
from mi_toolkit.interventions.confirm.losses import LossRuns, measure
from mi_toolkit.interventions.confirm.setting import every_head
from mi_toolkit.models.describe import describe_model
from mi_toolkit.weights.ranking import jaccard

DIFFUSE = "diffuse"
"""The family of heads that move all kinds of keys about alike."""

DIFFUSE_BELOW = 0.1
"""No relation of such a head is lifted as far as this."""

MIN_JACCARD = 0.8
"""The stability of a family that is shown as one."""

MIN_SIZE = 5
"""Heads of a family, at least."""

SHOWN_RELATIONS = 3

NEAR = 0.3
"""Between the directions of profiles that are of one kind however close others are: their cosine is
0.955."""

PERMUTATIONS = 200
"""Of the relations of another model's heads: what would be found there by chance."""

Verdict = Literal["unstable", "stable", "holds", "failed"]


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """The heads of another model that do what a family does."""

    model: str
    """That model."""

    heads: tuple[Head, ...]
    """Its heads, the nearest to a member first; none where the family does not recur."""

    n_heads: int
    """How many heads the model has."""

    by_chance: float
    """Heads that would be found, in the mean, were each one's lifts of other relations."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """Heads that move the same kinds of keys."""

    name: str
    """The relations that set it apart, or `diffuse`."""

    exemplar: Head
    """The member nearest to the middle."""

    members: tuple[Head, ...]
    """The heads, the exemplar first, then by their distance from the middle."""

    distances: tuple[float, ...]
    """Each member's distance from the middle, by the direction of its profile."""

    profile: Float[Tensor, " relation"]
    """The mean lift of each relation."""

    stability: float
    """Mean Jaccard index with the most similar group over draws of documents."""

    gain: float
    """How much more a member's changes of loss go with another member's than with those of the
    other heads of that one's layer: a difference of correlations. NaN where it was not tested."""

    gain_low: float
    """Lower end of its 95% interval."""

    gain_high: float
    """Upper end of the same."""

    recurrence: tuple[Recurrence, ...] = ()
    """Where it was looked for, model by model."""

    @property
    def recurs_in(self) -> tuple[str, ...]:
        """The models with more heads like it than chance would give."""
        return tuple(each.model for each in self.recurrence if len(each.heads) > each.by_chance)

    @property
    def verdict(self) -> Verdict:
        """Whether it comes back, and if it was tested, whether membership says anything."""
        if self.stability < MIN_JACCARD:
            return "unstable"
        if self.gain != self.gain:
            return "stable"
        return "holds" if self.gain_low > 0 else "failed"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadFamilies(Result):
    """The heads of a model, grouped by what they move."""

    FORMAT: ClassVar[str] = "mi_toolkit head families 1"

    families: tuple[Family, ...]
    """The largest first; unstable ones last."""

    family: Int[Tensor, "layer head"]
    """Each head's place in `families`; -1 for a head in none."""

    relations: tuple[str, ...]
    """What profiles are of."""

    n_draws: int
    """Draws of documents behind each stability."""

    n_held_out: int
    """Texts that membership was tested on; 0 where it was not."""

    provenance: Provenance
    """Model, texts and versions."""

    def unexplained(self, labelled: Sequence[Head] = ()) -> float:
        """The share of heads with neither a stable family nor one of the labels given."""
        stable = [index for index, each in enumerate(self.families) if each.verdict != "unstable"]
        has_family = torch.isin(self.family, torch.tensor(stable))
        for head in labelled:
            has_family[head] = True
        return float((~has_family).float().mean())

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per head: its family, how far from its middle, and the family's verdict."""
        n_layers, n_heads = self.family.shape
        for head in (Head(l, h) for l in range(n_layers) for h in range(n_heads)):
            place = int(self.family[head])
            each = None if place < 0 else self.families[place]
            yield {
                "model": self.provenance.model,
                "layer": head.layer,
                "head": head.head,
                "name": str(head),
                "family": "" if each is None else each.name,
                "verdict": "" if each is None else each.verdict,
                "distance": None if each is None else each.distances[each.members.index(head)],
                "stability": None if each is None else each.stability,
                "gain": None if each is None else each.gain,
                "recurs_in": "" if each is None else ", ".join(each.recurs_in),
            }

    def title(self) -> str:
        """How many there are, in one line."""
        stable = sum(each.verdict != "unstable" for each in self.families)
        return (
            f"Families of the heads of {self.provenance.model}: {stable} stable, "
            f"{len(self.families) - stable} unstable, {int((self.family < 0).sum())} heads in none"
        )

    def text_table(self) -> TextTable:
        """A row per family."""
        return TextTable(title=self.title(), header=FAMILY_HEADER, rows=self.cells())

    def cells(self) -> list[list[str]]:
        """Each family in words, under `FAMILY_HEADER`."""
        return [
            [
                each.name,
                str(len(each.members)),
                " ".join(map(str, each.members[:6])) + (" …" if len(each.members) > 6 else ""),
                f"{each.stability:.2f}",
                "" if each.gain != each.gain
                else f"{each.gain:+.2f} [{each.gain_low:+.2f}, {each.gain_high:+.2f}]",
                each.verdict,
                "; ".join(
                    f"{len(there.heads)} of {there.n_heads} in {there.model} "
                    f"(chance {there.by_chance:.1f})"
                    for there in each.recurrence
                ),
            ]
            for each in self.families
        ]  # fmt: skip


FAMILY_HEADER = (
    "family", "heads", "exemplar and members", "stability", "gain", "verdict", "recurs"
)  # fmt: skip


@one_job
def head_families(
    model: HookedModel,
    texts: Texts | None = None,
    *,
    profiles: HeadProfiles | None = None,
    others: Mapping[str, HeadProfiles] | None = None,
    min_size: int = MIN_SIZE,
    n_draws: int = 50,
    test: bool = False,
    n_sequences: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> HeadFamilies:
    """Heads grouped by what they move, with how stable each group is.

    Needs scikit-learn, the extra `families`. A family says that heads move the same kinds of keys
    in these texts, not that they do the same with them.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        texts: what heads are watched on, as `profile_heads` takes it; None for the bundled
            passages.
        profiles: of this model, from `profile_heads`, in the place of `texts`.
        others: profiles of other models by name, made on the same texts, in which families are
            looked for (`HeadAtlas.head_profiles`); one of this model's name is passed over.
        min_size: heads of a family, at least.
        n_draws: draws of documents, with replacement, that each family has to come back in.
        test: whether every head is ablated on held-out text, to see whether membership predicts
            which tokens' loss rises. It takes as many forward passes as the model has heads.
        n_sequences: held-out texts for that.
        seed: of the draws.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        MIToolkitError: scikit-learn is not installed.
        PromptError: under 3 groups of documents, or a count under 1.
        ReportError: the profiles are of another model, or those of `others` of other texts.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.head_families(mi.load_model("toy-gpt2"), min_size=2, n_draws=10)
        >>> found.families[0].name
        'diffuse'
    """
    if importlib.util.find_spec("sklearn") is None:
        raise MIToolkitError(
            "Families are found by scikit-learn, which is not installed: pip install "
            "'mi-toolkit[families]'."
        )
    if min_size < 2 or n_draws < 1 or n_sequences < 1:
        raise PromptError("min_size is 2 or more, n_draws and n_sequences are 1 or more.")
    if profiles is None:
        profiles = profile_heads(model, texts, seed=seed, progress=progress)
    if profiles.provenance.model != describe_model(model).name:
        raise ReportError(
            f"The profiles are of {profiles.provenance.model}, not of {describe_model(model).name}."
        )
    if int((profiles.n_queries > 0).sum()) < MIN_TEXTS:
        raise PromptError(
            "Families have to come back where documents are drawn anew: give 3 documents or more."
        )
    elsewhere = {
        name: each for name, each in (others or {}).items() if name != profiles.provenance.model
    }
    for name, each in elsewhere.items():
        check_comparable(profiles, each, name)
    heads = every_head(model, attention_layers(model))
    groups = grouped(profile_vectors(profiles, heads), min_size)
    stability = stabilities(profiles, heads, groups, min_size, n_draws=n_draws, seed=seed)
    gains: Mapping[int, tuple[float, float, float]] = {}
    if test:
        gains = gains_of(model, heads, groups, n_sequences=n_sequences, progress=progress)
    found = {
        name: recurrences(profiles, heads, groups, name, each, seed=seed)
        for name, each in elsewhere.items()
    }
    families = [
        replace(
            _family(profiles, heads, groups, label, stability[label], gains.get(label)),
            recurrence=tuple(of_label[label] for of_label in found.values()),
        )
        for label in sorted(stability)
    ]
    families.sort(key=lambda each: (each.verdict == "unstable", -len(each.members)))
    family = torch.full(profiles.sink.shape[2:], -1)
    for place, made in enumerate(families):
        for head in made.members:
            family[head] = place
    return HeadFamilies(
        families=tuple(families),
        family=family,
        relations=profiles.relations,
        n_draws=n_draws,
        n_held_out=n_sequences if test else 0,
        provenance=profiles.provenance,
    )


def profile_vectors(
    profiles: HeadProfiles, heads: Sequence[Head], weights: Float[Tensor, " group"] | None = None
) -> Float[Tensor, "head relation"]:
    """What each head lifts beyond chance; `weights` count groups of documents, None for once."""
    counted = torch.ones(GROUPS) if weights is None else weights
    on, among, chance = (
        torch.einsum("g l h r, g -> l h r", getattr(profiles, name)[0], counted)
        for name in ("on", "among", "chance")
    )
    lift = ((on - chance) / (among - chance)).nan_to_num(0.0).clamp(0, 1)
    return lift[[head.layer for head in heads], [head.head for head in heads]]


def directions(vectors: Float[Tensor, "head relation"]) -> Float[Tensor, "head relation"]:
    """Profiles by what they lift, however much: of length 1, but those of diffuse heads."""
    diffuse = vectors.amax(dim=1, keepdim=True) < DIFFUSE_BELOW
    return torch.where(diffuse, vectors, vectors / vectors.norm(dim=1, keepdim=True))


def grouped(vectors: Float[Tensor, "head relation"], min_size: int) -> Int[Tensor, " head"]:
    """The group of each head: 0 the diffuse one, from 1 on those of HDBSCAN, -1 none."""
    from sklearn.cluster import HDBSCAN

    diffuse = vectors.amax(dim=1) < DIFFUSE_BELOW
    labels = torch.where(diffuse, 0, -1)
    rest = directions(vectors)[~diffuse]
    if len(rest) >= min_size:
        density = HDBSCAN(
            min_cluster_size=min_size, min_samples=max(1, min_size - 2), copy=True
        ).fit_predict(rest.double().numpy())
        found = torch.from_numpy(density).long()
        labels[~diffuse] = torch.where(found >= 0, found + 1, -1)
    return labels


def stabilities(
    profiles: HeadProfiles,
    heads: Sequence[Head],
    groups: Int[Tensor, " head"],
    min_size: int,
    *,
    n_draws: int,
    seed: int,
) -> dict[int, float]:
    """Each group's mean Jaccard index with the most similar one, over draws of documents."""
    generator = torch.Generator().manual_seed(seed)
    there = (profiles.n_queries > 0).nonzero()[:, 0]
    labels = [label for label in groups.unique().tolist() if label >= 0]
    total = dict.fromkeys(labels, 0.0)
    for _ in range(n_draws):
        drawn = there[torch.randint(len(there), (len(there),), generator=generator)]
        weights = drawn.bincount(minlength=GROUPS).float()
        again = grouped(profile_vectors(profiles, heads, weights), min_size)
        others = [_members(again, label) for label in again.unique().tolist() if label >= 0]
        for label in labels:
            own = _members(groups, label)
            total[label] += max((jaccard(own, other) for other in others), default=0.0)
    return {label: value / n_draws for label, value in total.items()}


def _members(groups: Int[Tensor, " head"], label: int) -> list[int]:
    return (groups == label).nonzero()[:, 0].tolist()


def recurrences(
    profiles: HeadProfiles,
    heads: Sequence[Head],
    groups: Int[Tensor, " head"],
    name: str,
    other: HeadProfiles,
    *,
    seed: int,
) -> dict[int, Recurrence]:
    """For each group, the heads of another model that belong to it, and how many by chance."""
    n_layers, n_heads = other.sink.shape[2:]
    there = [
        Head(layer, head)
        for layer in range(n_layers)
        for head in range(n_heads)
        if not other.on[0, :, layer, head].isnan().all()
    ]
    own, found = profile_vectors(profiles, heads), profile_vectors(other, there)
    reach = reaches(own, groups)
    label, distance = placed(found, own, groups, reach)
    generator = torch.Generator().manual_seed(seed)
    by_chance = torch.zeros(int(groups.max()) + 2)
    for _ in range(PERMUTATIONS):
        order = torch.rand(found.shape, generator=generator).argsort(dim=1)
        permuted, _ = placed(found.gather(1, order), own, groups, reach)
        by_chance += (permuted + 1).bincount(minlength=len(by_chance)) / PERMUTATIONS
    nearest = distance.argsort(stable=True).tolist()
    return {
        group: Recurrence(
            model=name,
            heads=tuple(there[place] for place in nearest if int(label[place]) == group),
            n_heads=len(there),
            by_chance=float(by_chance[group + 1]),
        )
        for group in groups.unique().tolist()
        if group >= 0
    }


def reaches(
    vectors: Float[Tensor, "head relation"], groups: Int[Tensor, " head"]
) -> Float[Tensor, " head"]:
    """For each head of a group, the greatest distance of its members from their nearest fellow.

    `NEAR` where that is less.
    """
    pointing = directions(vectors)
    apart = torch.cdist(pointing, pointing)
    apart.fill_diagonal_(torch.inf)
    apart[groups[:, None] != groups] = torch.inf
    nearest = apart.amin(dim=1)
    reach = torch.full_like(nearest, NEAR)
    for group in groups.unique().tolist():
        own = nearest[groups == group]
        if own.isfinite().all():
            reach[groups == group] = own.amax().clamp_min(NEAR)
    return reach


def placed(
    found: Float[Tensor, "other relation"],
    own: Float[Tensor, "head relation"],
    groups: Int[Tensor, " head"],
    reach: Float[Tensor, " head"],
) -> tuple[Int[Tensor, " other"], Float[Tensor, " other"]]:
    """Which group each head of another model is of, -1 for none, and how far its nearest head is.

    Diffuse heads are of the diffuse one, as they are here.
    """
    distance, nearest = torch.cdist(directions(found), directions(own)).min(dim=1)
    label = torch.where(distance <= reach[nearest], groups[nearest], -1)
    diffuse = found.amax(dim=1) < DIFFUSE_BELOW
    return torch.where(diffuse, 0, torch.where(label == 0, -1, label)), distance


def gains_of(
    model: HookedModel,
    heads: Sequence[Head],
    groups: Int[Tensor, " head"],
    *,
    n_sequences: int,
    progress: bool | None,
) -> dict[int, tuple[float, float, float]]:
    """For each group, how much more its members' changes of loss are alike than layers explain."""
    batch = loss_batch(
        model, halves(evaluation_passages(model))[1], max_length=LOSS_LENGTH, limit=n_sequences
    )
    position = torch.arange(batch.ids.shape[1])
    queries = (position >= 1) & (position < batch.lengths[:, None] - 1)
    run = LossRuns(model, [(), *((head,) for head in heads)], batch, queries, how="mean")
    measure([run], resume=None, progress=progress)
    changes = run.losses[1:] - run.losses[0]
    layer = torch.tensor([head.layer for head in heads])
    return {
        label: family_gain(changes, run.sequence_of_query, groups == label, layer)
        for label in groups.unique().tolist()
        if label >= 0
    }


def family_gain(
    changes: Float[Tensor, "head query"],
    sequence: Int[Tensor, " query"],
    member: Tensor,
    layer: Int[Tensor, " head"],
) -> tuple[float, float, float]:
    """What membership tells of a head's changes beyond the layer, and its 95% interval.

    Of a member, another member's changes are correlated with its own; so are, on average, those of
    the heads of that other one's layer that are no members. The gain is the mean difference: heads
    that are near each other change the loss alike whatever they do, and the difference is blind to
    that. The interval is a jackknife over texts.

    Args:
        changes: of each head's ablation, at each counted query.
        sequence: which text each query is of.
        member: which heads are of the family.
        layer: each head's layer.
    """
    same_layer = (layer[:, None] == layer).float()
    outsiders = same_layer * ~member  # of each head's layer
    pairs = member[:, None] & member & ~torch.eye(len(member), dtype=torch.bool)
    pairs &= outsiders.any(dim=1)
    if not pairs.any():
        return (float("nan"),) * 3
    outsiders = outsiders / outsiders.sum(dim=1, keepdim=True).clamp_min(1)

    def mean_gain(kept: Tensor) -> Tensor:
        # Each head's changes count alike, however large they are.
        rows = changes[:, kept] - changes[:, kept].mean(dim=1, keepdim=True)
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        alike = rows @ rows.T
        gain: Tensor = (alike - alike @ outsiders.T)[pairs].mean()
        return gain

    texts = sequence.unique()
    value = mean_gain(torch.ones_like(sequence, dtype=torch.bool))
    without = torch.stack([mean_gain(sequence != text) for text in texts])
    n = len(texts)
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    half = students_t(torch.tensor(max(n - 1.0, 1.0))) * error
    return float(value), float(value - half), float(value + half)


def _family(
    profiles: HeadProfiles,
    heads: Sequence[Head],
    groups: Int[Tensor, " head"],
    label: int,
    stability: float,
    gain: tuple[float, float, float] | None,
) -> Family:
    vectors = profile_vectors(profiles, heads)
    members = (groups == label).nonzero()[:, 0]
    mean, pointing = vectors[members].mean(dim=0), directions(vectors)[members]
    distances = (pointing - pointing.mean(dim=0)).norm(dim=1)
    order = distances.argsort(stable=True).tolist()
    value, low, high = gain or (float("nan"),) * 3
    return Family(
        name=family_name(profiles.relations, mean, vectors.mean(dim=0)) if label else DIFFUSE,
        exemplar=heads[int(members[order[0]])],
        members=tuple(heads[int(members[place])] for place in order),
        distances=tuple(float(distances[place]) for place in order),
        profile=mean,
        stability=stability,
        gain=value,
        gain_low=low,
        gain_high=high,
    )


def family_name(
    relations: Sequence[str],
    mean: Float[Tensor, " relation"],
    everybody: Float[Tensor, " relation"],
) -> str:
    """The relations by which a family stands out most from all heads, in words."""
    apart = mean - everybody
    best = [
        place for place in apart.argsort(descending=True).tolist() if mean[place] > DIFFUSE_BELOW
    ]
    shown = [place for place in best if apart[place] > apart[best[0]] / 2][:SHOWN_RELATIONS]
    return "; ".join(RELATIONS[relations[place]].meaning for place in shown) or "mixed"
