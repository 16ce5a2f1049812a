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

Of an atlas, the heads of all models are grouped together. A family recurs in one of them where the
heads of the others alone place heads of that one in it; changes of loss are set against each other
within a model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.activations.batcher import Texts
from mi_toolkit.cards.card import LOSS_LENGTH
from mi_toolkit.cards.profile import GROUPS, HeadProfiles, check_comparable, profile_heads
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import MIToolkitError, PromptError, ReportError, unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.stats import MIN_TEXTS, students_t
from mi_toolkit.core.stimuli import evaluation_passages, halves, loss_batch
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

    members: tuple[Head, ...]
    """The heads, by their distance from the middle."""

    models: tuple[str, ...]
    """Each member's model."""

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
    def exemplar(self) -> Head:
        """The member nearest to the middle."""
        return self.members[0]

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
    """The heads of a model, or of all models of an atlas, grouped by what they move."""

    FORMAT: ClassVar[str] = "mi_toolkit head families 2"
    OUTDATED: ClassVar[Mapping[str, str]] = {"mi_toolkit head families 1": "find them again"}

    families: tuple[Family, ...]
    """The largest first; unstable ones last."""

    family: Mapping[str, Int[Tensor, "layer head"]]
    """By model, each head's place in `families`; -1 for a head in none."""

    relations: tuple[str, ...]
    """What profiles are of."""

    n_draws: int
    """Draws of documents for each stability."""

    n_held_out: int
    """Texts that membership was tested on; 0 where it was not."""

    provenance: Mapping[str, Provenance]
    """Of each model: its facts, its texts and versions."""

    def unexplained(
        self,
        labelled: Sequence[Head] | Mapping[str, Sequence[Head]] = (),
        *,
        model: str | None = None,
    ) -> float:
        """The share of heads with neither a stable family nor one of the labels given.

        Args:
            labelled: heads that have a label; of an atlas, by model.
            model: one model of an atlas; None for all heads.

        Raises:
            ReportError: heads of several models that do not say of which they are.
            UnknownNameError: no such model.
        """
        if not isinstance(labelled, Mapping):
            if labelled and len(self.family) > 1:
                raise ReportError(
                    "These are heads of several models: give the labelled ones by model, "
                    "{'toy-gpt2': [Head(0, 1)]}."
                )
            labelled = dict.fromkeys(self.family, labelled)
        for name in [*labelled, *([] if model is None else [model])]:
            if name not in self.family:
                raise unknown_name("model of these families", name, self.family)
        stable = [index for index, each in enumerate(self.families) if each.verdict != "unstable"]
        named = []
        for name in self.family if model is None else [model]:
            has_name = torch.isin(self.family[name], torch.tensor(stable))
            for head in labelled.get(name, ()):
                has_name[head] = True
            named.append(has_name.flatten())
        return float((~torch.cat(named)).float().mean())

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per head: its family, how far from its middle, and the family's verdict."""
        distance = {
            (model, head): apart
            for each in self.families
            for model, head, apart in zip(each.models, each.members, each.distances, strict=True)
        }
        for model, family in self.family.items():
            for layer, row in enumerate(family.tolist()):
                for place, index in enumerate(row):
                    head = Head(layer, place)
                    each = None if index < 0 else self.families[index]
                    yield {
                        "model": model,
                        "layer": layer,
                        "head": place,
                        "name": str(head),
                        "family": "" if each is None else each.name,
                        "verdict": "" if each is None else each.verdict,
                        "distance": distance.get((model, head)),
                        "stability": None if each is None else each.stability,
                        "gain": None if each is None else each.gain,
                        "recurs_in": "" if each is None else ", ".join(each.recurs_in),
                    }

    def title(self) -> str:
        """How many there are, in one line."""
        stable = sum(each.verdict != "unstable" for each in self.families)
        models = ", ".join(self.family) if len(self.family) < 4 else f"{len(self.family)} models"
        in_none = sum(int((family < 0).sum()) for family in self.family.values())
        return (
            f"Families of the heads of {models}: {stable} stable, "
            f"{len(self.families) - stable} unstable, {in_none} heads in none"
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
                self._shown(each),
                f"{each.stability:.2f}",
                "" if each.gain != each.gain
                else f"{each.gain:+z.2f} [{each.gain_low:+z.2f}, {each.gain_high:+z.2f}]",
                each.verdict,
                self._recurring(each),
            ]
            for each in self.families
        ]  # fmt: skip

    def _shown(self, family: Family) -> str:
        """The first members; of an atlas, how many each model has, with its nearest one."""
        if len(self.family) == 1:
            more = " …" if len(family.members) > 6 else ""
            return " ".join(map(str, family.members[:6])) + more
        nearest = dict(zip(reversed(family.models), reversed(family.members), strict=True))
        return ", ".join(
            f"{family.models.count(model)} in {model} ({nearest[model]})"
            for model in dict.fromkeys(family.models)
        )

    def _recurring(self, family: Family) -> str:
        """Where it recurs; of one model's families, with how many heads there are elsewhere."""
        if len(self.family) > 1:
            return ", ".join(family.recurs_in)
        return "; ".join(
            f"{len(there.heads)} of {there.n_heads} in {there.model} (chance {there.by_chance:.1f})"
            for there in family.recurrence
        )


FAMILY_HEADER = (
    "family", "heads", "exemplar and members", "stability", "gain", "verdict", "recurs in"
)  # fmt: skip


@runtime_checkable
class ProfiledModels(Protocol):
    """Several models whose heads were watched on the same texts: a `HeadAtlas`."""

    def head_profiles(self) -> Mapping[str, HeadProfiles]:
        """What the heads of each model move, by its name."""
        ...

    def load_model(self, model: str) -> HookedModel:
        """One of the models, as it was when it was watched."""
        ...


@dataclass(frozen=True, eq=False)
class Pool:
    """The heads of one model or of several, in one row, by what they move in the same texts."""

    profiles: Mapping[str, HeadProfiles]
    """By model."""

    @cached_property
    def _watched(self) -> dict[str, list[Head]]:
        return {name: watched_heads(each) for name, each in self.profiles.items()}

    @property
    def heads(self) -> list[tuple[str, Head]]:
        """Each head, with its model: those of layers that have attention."""
        return [(name, head) for name, heads in self._watched.items() for head in heads]

    @property
    def relations(self) -> tuple[str, ...]:
        """What the profiles are of, the same in all."""
        return next(iter(self.profiles.values())).relations

    def of(self, model: str) -> Tensor:
        """Which heads are of one model."""
        return torch.tensor([name == model for name, _ in self.heads])

    def vectors(
        self, weights: Float[Tensor, " group"] | None = None
    ) -> Float[Tensor, "head relation"]:
        """What each head lifts beyond chance, as `profile_vectors` says."""
        return torch.cat(
            [
                profile_vectors(each, self._watched[name], weights)
                for name, each in self.profiles.items()
            ]
        )

    @property
    def documents(self) -> Int[Tensor, " drawn"]:
        """Groups of documents in which there is a query, in all models."""
        counts = torch.stack([each.n_queries for each in self.profiles.values()])
        return (counts > 0).all(dim=0).nonzero()[:, 0]


@one_job
def head_families(
    model_or_atlas: HookedModel | ProfiledModels,
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
        model_or_atlas: a HookedTransformer or a TransformerBridge, which is left as it was; or a
            `HeadAtlas` with profiles, whose heads are grouped together, all models at once.
        texts: what heads are watched on, as `profile_heads` takes it; None for the bundled
            passages. An atlas has watched its own.
        profiles: of this model, from `profile_heads`, in the place of `texts`.
        others: profiles of other models by name, made on the same texts, in which families are
            looked for (`HeadAtlas.head_profiles`); a model whose heads are grouped is passed over.
        min_size: heads of a family, at least.
        n_draws: draws of documents, with replacement, that each family has to come back in.
        test: whether every head is ablated on held-out text, to see whether membership predicts
            which tokens' loss rises. It takes as many forward passes as there are heads; the models
            of an atlas are loaded for it, one after the other.
        n_sequences: held-out texts for that.
        seed: of the draws.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        MIToolkitError: scikit-learn is not installed.
        PromptError: under 3 groups of documents, or a count under 1; texts or profiles next to an
            atlas.
        ReportError: the profiles are of another model, or those of `others`, or of models of the
            atlas, of other texts; an atlas without profiles, or whose models changed.

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
    pool = _pool_of(model_or_atlas, texts, profiles, seed=seed, progress=progress)
    first, *rest = pool.profiles.values()
    elsewhere = {name: each for name, each in (others or {}).items() if name not in pool.profiles}
    for name, each in [*pool.profiles.items(), *elsewhere.items()]:
        check_comparable(first, each, name)
    if len(pool.documents) < MIN_TEXTS:
        raise PromptError(
            "Families have to come back where documents are drawn anew: give 3 documents or more."
        )
    vectors = pool.vectors()
    groups = grouped(vectors, min_size)
    stability = stabilities(pool, groups, min_size, n_draws=n_draws, seed=seed)
    gains: Mapping[int, tuple[float, float, float]] = {}
    if test:
        changes = {
            name: changes_of(model, n_sequences=n_sequences, progress=progress)
            for name, model in _loaded(model_or_atlas, pool)
        }
        gains = {
            label: family_gain(
                [(each, (groups == label)[pool.of(name)]) for name, each in changes.items()]
            )
            for label in stability
        }
    found = [
        *(
            recurring_within(pool, vectors, groups, name, seed=seed)
            for name in pool.profiles
            if rest
        ),
        *(recurrences(vectors, groups, name, each, seed=seed) for name, each in elsewhere.items()),
    ]
    families = [
        replace(
            _family(pool, vectors, groups, label, stability[label], gains.get(label)),
            recurrence=tuple(of_label[label] for of_label in found),
        )
        for label in sorted(stability)
    ]
    families.sort(key=lambda each: (each.verdict == "unstable", -len(each.members)))
    family = {name: torch.full(each.sink.shape[2:], -1) for name, each in pool.profiles.items()}
    for place, made in enumerate(families):
        for name, head in zip(made.models, made.members, strict=True):
            family[name][head] = place
    return HeadFamilies(
        families=tuple(families),
        family=family,
        relations=pool.relations,
        n_draws=n_draws,
        n_held_out=n_sequences if test else 0,
        provenance={name: each.provenance for name, each in pool.profiles.items()},
    )


def _pool_of(
    model_or_atlas: HookedModel | ProfiledModels,
    texts: Texts | None,
    profiles: HeadProfiles | None,
    *,
    seed: int,
    progress: bool | None,
) -> Pool:
    """The heads of an atlas, or of a model by the profiles given or by new ones."""
    if isinstance(model_or_atlas, ProfiledModels):
        if texts is not None or profiles is not None:
            raise PromptError(
                "An atlas has the profiles of its models: leave texts= and profiles= out, or give "
                "a model."
            )
        return Pool(model_or_atlas.head_profiles())
    name = describe_model(model_or_atlas).name
    if profiles is None:
        profiles = profile_heads(model_or_atlas, texts, seed=seed, progress=progress)
    if profiles.provenance.model != name:
        raise ReportError(f"The profiles are of {profiles.provenance.model}, not of {name}.")
    return Pool({name: profiles})


def _loaded(
    model_or_atlas: HookedModel | ProfiledModels, pool: Pool
) -> Iterator[tuple[str, HookedModel]]:
    """Each model of the pool, by its name: those of an atlas one after the other."""
    for name in pool.profiles:
        if isinstance(model_or_atlas, ProfiledModels):
            yield name, model_or_atlas.load_model(name)
        else:
            yield name, model_or_atlas


def watched_heads(profiles: HeadProfiles) -> list[Head]:
    """The heads of layers that have attention."""
    watched = ~profiles.on[0].isnan().all(dim=-1).all(dim=0)
    return [Head(layer, head) for layer, head in watched.nonzero().tolist()]


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
    pool: Pool, groups: Int[Tensor, " head"], min_size: int, *, n_draws: int, seed: int
) -> dict[int, float]:
    """Each group's mean Jaccard index with the most similar one, over draws of documents."""
    generator = torch.Generator().manual_seed(seed)
    there = pool.documents
    labels = [label for label in groups.unique().tolist() if label >= 0]
    total = dict.fromkeys(labels, 0.0)
    for _ in range(n_draws):
        drawn = there[torch.randint(len(there), (len(there),), generator=generator)]
        weights = drawn.bincount(minlength=GROUPS).float()
        again = grouped(pool.vectors(weights), min_size)
        others = [_members(again, label) for label in again.unique().tolist() if label >= 0]
        for label in labels:
            own = _members(groups, label)
            total[label] += max((jaccard(own, other) for other in others), default=0.0)
    return {label: value / n_draws for label, value in total.items()}


def _members(groups: Int[Tensor, " head"], label: int) -> list[int]:
    return (groups == label).nonzero()[:, 0].tolist()


def recurrences(
    own: Float[Tensor, "head relation"],
    groups: Int[Tensor, " head"],
    name: str,
    other: HeadProfiles,
    *,
    seed: int,
) -> dict[int, Recurrence]:
    """For each group, the heads of another model that belong to it, and how many by chance."""
    there = watched_heads(other)
    found = profile_vectors(other, there)
    reach = reaches(own, groups)
    label, distance = placed(found, own, groups, reach)
    generator = torch.Generator().manual_seed(seed)
    # Diffuse heads are placed in group 0 even where nothing here is in a group.
    by_chance = torch.zeros(max(int(groups.max()), 0) + 2, dtype=torch.long)
    for _ in range(PERMUTATIONS):
        order = torch.rand(found.shape, generator=generator).argsort(dim=1)
        permuted, _ = placed(found.gather(1, order), own, groups, reach)
        by_chance += (permuted + 1).bincount(minlength=len(by_chance))
    nearest = distance.argsort(stable=True).tolist()
    return {
        group: Recurrence(
            model=name,
            heads=tuple(there[place] for place in nearest if int(label[place]) == group),
            n_heads=len(there),
            by_chance=int(by_chance[group + 1]) / PERMUTATIONS,
        )
        for group in groups.unique().tolist()
        if group >= 0
    }


def recurring_within(
    pool: Pool,
    vectors: Float[Tensor, "head relation"],
    groups: Int[Tensor, " head"],
    model: str,
    *,
    seed: int,
) -> dict[int, Recurrence]:
    """For each group of a pool, the heads of one of its models that the others' heads place there.

    A group that no other model has heads of recurs in none.
    """
    rest = ~pool.of(model)
    profiles = pool.profiles[model]
    found = recurrences(vectors[rest], groups[rest], model, profiles, seed=seed)
    alone = Recurrence(model=model, heads=(), n_heads=int((~rest).sum()), by_chance=0.0)
    return {label: found.get(label, alone) for label in groups.unique().tolist() if label >= 0}


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


@dataclass(frozen=True, eq=False)
class Changes:
    """What ablating each head of a model alone does to the loss on held-out texts."""

    change: Float[Tensor, "head query"]
    """Of each head's ablation, at each counted query."""

    text: Int[Tensor, " query"]
    """Which text each query is of."""

    layer: Int[Tensor, " head"]
    """Each head's layer."""


def changes_of(model: HookedModel, *, n_sequences: int, progress: bool | None) -> Changes:
    """Ablate every head alone, by its mean, on the second half of the bundled passages."""
    heads = every_head(model, attention_layers(model))
    batch = loss_batch(
        model, halves(evaluation_passages(model))[1], max_length=LOSS_LENGTH, limit=n_sequences
    )
    position = torch.arange(batch.ids.shape[1])
    queries = (position >= 1) & (position < batch.lengths[:, None] - 1)
    run = LossRuns(model, [(), *((head,) for head in heads)], batch, queries, how="mean")
    measure([run], resume=None, progress=progress)
    return Changes(
        change=run.losses[1:] - run.losses[0],
        text=run.sequence_of_query,
        layer=torch.tensor([head.layer for head in heads]),
    )


def family_gain(found: Sequence[tuple[Changes, Tensor]]) -> tuple[float, float, float]:
    """What membership tells of a head's changes beyond the layer, and its 95% interval.

    Of a member, another member's changes are correlated with its own; so are, on average, those of
    the heads of that other one's layer that are no members. The gain is the mean difference: heads
    that are near each other change the loss alike whatever they do, and the difference is blind to
    that. The interval is a jackknife over texts.

    Args:
        found: of each model, the changes and which of its heads are of the family. Heads are set
            against those of their own model: tokens differ between models.
    """
    asked = [(each, *_pairs(each, member)) for each, member in found]
    asked = [(each, pairs, outsiders) for each, pairs, outsiders in asked if pairs.any()]
    if not asked:
        return (float("nan"),) * 3

    def mean_gain(left_out: int | None) -> Tensor:
        gains = []
        for each, pairs, outsiders in asked:
            # Each head's changes count alike, however large they are.
            kept = each.change if left_out is None else each.change[:, each.text != left_out]
            rows = kept - kept.mean(dim=1, keepdim=True)
            rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
            alike = rows @ rows.T
            gains.append((alike - alike @ outsiders.T)[pairs])
        return torch.cat(gains).mean()

    texts = torch.cat([each.text for each, *_ in asked]).unique().tolist()
    value = mean_gain(None)
    without = torch.stack([mean_gain(text) for text in texts])
    n = len(texts)
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    half = students_t(torch.tensor(max(n - 1.0, 1.0))) * error
    return float(value), float(value - half), float(value + half)


def _pairs(changes: Changes, member: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of members of which the second's layer has others, and the weights of those others."""
    outsiders = (changes.layer[:, None] == changes.layer).float() * ~member
    pairs = member[:, None] & member & ~torch.eye(len(member), dtype=torch.bool)
    pairs &= outsiders.any(dim=1)
    return pairs, outsiders / outsiders.sum(dim=1, keepdim=True).clamp_min(1)


def _family(
    pool: Pool,
    vectors: Float[Tensor, "head relation"],
    groups: Int[Tensor, " head"],
    label: int,
    stability: float,
    gain: tuple[float, float, float] | None,
) -> Family:
    members = (groups == label).nonzero()[:, 0]
    mean, pointing = vectors[members].mean(dim=0), directions(vectors)[members]
    distances = (pointing - pointing.mean(dim=0)).norm(dim=1)
    order = distances.argsort(stable=True).tolist()
    value, low, high = gain or (float("nan"),) * 3
    models, heads = zip(*(pool.heads[int(members[place])] for place in order), strict=True)
    return Family(
        name=family_name(pool.relations, mean, vectors.mean(dim=0)) if label else DIFFUSE,
        members=heads,
        models=models,
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
