"""How often intervals over texts and queries hold the truth, and how often labels are false.

Worlds of texts whose truth is known: each text has a lift of its own, drawn around the figure of
the population, and what is asked is whether the interval over n texts holds that figure.

- `alike`: the lift of texts has a standard deviation of .02 or so;
- `wide`: as wide as a beta distribution of 8 texts' worth;
- `odd`: 15% of the texts are .3 away from the rest;
- `runs`: a text is 64 queries that hit or miss, in runs of mean length 6.

`python tools/interval_coverage.py` prints the grid, next to plain jackknife-t, and the power of
labels at a false discovery rate of .05. With `--smollm2`, also the coverage on SmolLM2's 270 heads,
texts drawn from the bundled ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.stats import Estimate, discoveries, over_queries, over_texts
from mi_toolkit.heads.behaviours import chosen
from mi_toolkit.heads.protocol import home_stimuli, pattern_behaviours
from mi_toolkit.heads.stimulus_run import StimulusRun
from mi_toolkit.models.load import load_model

WORLDS = ("alike", "wide", "odd", "runs")
TEXTS = (3, 5, 7, 8, 16, 32, 64)
LIFTS = (0.05, 0.3, 0.9)
ODD_SHARE, ODD_AWAY = 0.15, 0.3
BAR = 0.3


def texts_of(
    world: str, lift: float, n: int, repeats: int, rng: np.random.Generator
) -> tuple[Float[Tensor, "text repeat"], float]:
    """The lifts of n texts, many times over, and the population's figure."""
    shape, truth = (n, repeats), lift
    if world == "runs":
        own = _beta(torch.full(shape, lift), 50, rng)
        hits, current = torch.zeros(shape), _uniform(shape, rng) < own
        for _ in range(64):
            anew = _uniform(shape, rng) < 1 / 6
            current = torch.where(anew, _uniform(shape, rng) < own, current)
            hits += current
        return hits / 64, truth
    mean = torch.full(shape, lift)
    if world == "odd":
        other = lift + ODD_AWAY if lift < 0.5 else lift - ODD_AWAY
        mean[_uniform(shape, rng) < ODD_SHARE] = other
        truth = (1 - ODD_SHARE) * lift + ODD_SHARE * other
    return _beta(mean, {"alike": 200, "wide": 8, "odd": 20}[world], rng), truth


def _beta(
    mean: Float[Tensor, "*shape"], texts_worth: float, rng: np.random.Generator
) -> Float[Tensor, "*shape"]:
    drawn = rng.beta(texts_worth * mean.numpy(), texts_worth * (1 - mean.numpy()))
    return torch.from_numpy(drawn)


def _uniform(shape: tuple[int, ...], rng: np.random.Generator) -> Float[Tensor, "*shape"]:
    return torch.from_numpy(rng.random(shape))


def series_of(
    mean: float, n: int, run: float, repeats: int, rng: np.random.Generator
) -> Float[Tensor, "query repeat"]:
    """A series of attention in [0, 1] that stays the same for runs of a mean length."""
    drawn = _beta(torch.full((n, repeats), mean), 2, rng)
    anew = _uniform((n, repeats), rng) < 1 / run
    place = torch.where(anew, torch.arange(n)[:, None], 0).cummax(dim=0).values
    return drawn.gather(0, place)


def plain(values: Float[Tensor, "text repeat"]) -> Estimate:
    """Jackknife-t of a mean, on its own scale: what `over_texts` is set next to."""
    return over_texts(values, torch.ones(len(values), 1), bounds=None)


def bounded(values: Float[Tensor, "text repeat"]) -> Estimate:
    """What the library takes."""
    return over_texts(values, torch.ones(len(values), 1), bounds=(0.0, 1.0))


def covered(estimate: Estimate, truth: float | Tensor) -> tuple[float, float, float]:
    """How often intervals hold the truth, lie above it, and how wide they are."""
    low, high = (end.clamp(0, 1) for end in estimate.ends())
    holds, above = (low <= truth) & (truth <= high), low > truth
    return float(holds.float().mean()), float(above.float().mean()), float((high - low).mean())


def labelled(
    true_lift: Float[Tensor, " head"], n: int, repeats: int, rng: np.random.Generator
) -> Iterator[Tensor]:
    """Which heads are labelled at a false discovery rate of .05, in one report after another."""
    for _ in range(repeats):
        mean = true_lift.expand(n, -1).clone()
        texts = _beta(mean, 8, rng)
        yield discoveries(bounded(texts).p_at_most(BAR), 0.05)


def print_grid(repeats: int) -> None:
    """Coverage, misses below and width in every world, plain jackknife-t next to it."""
    print(
        "| world | lift | texts | holds | low > truth | width | plain holds | plain low > truth |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for world in WORLDS:
        for lift in LIFTS:
            for n in TEXTS:
                rng = np.random.default_rng(0)
                values, truth = texts_of(world, lift, n, repeats, rng)
                ours, other = covered(bounded(values), truth), covered(plain(values), truth)
                print(
                    f"| {world} | {lift} | {n} | {ours[0]:.3f} | {ours[1]:.3f} | {ours[2]:.2f} "
                    f"| {other[0]:.3f} | {other[1]:.3f} |"
                )


def print_series(repeats: int) -> None:
    """Coverage over the queries of one text."""
    print("\n| runs of | mean | queries | holds | width |\n|---|---|---|---|---|")
    for run in (1, 3):
        for mean in LIFTS:
            for n in (8, 16, 32, 127):
                rng = np.random.default_rng(0)
                values = series_of(mean, n, run, repeats, rng)
                found = over_queries(values, torch.ones(n, 1), lengths=[n], bounds=(0.0, 1.0))
                holds, _, width = covered(found, mean)
                print(f"| {run} | {mean} | {n} | {holds:.3f} | {width:.2f} |")


def print_power(repeats: int) -> None:
    """The share of heads of a true lift that are labelled, by the number of texts."""
    lifts = (0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.9)
    heads = torch.tensor([*([0.02] * 200), *(lift for lift in lifts for _ in range(10))])
    print(f"\n| texts | {' | '.join(map(str, lifts))} | false |\n|{'---|' * (len(lifts) + 2)}")
    for n in (3, 5, 8, 16, 32, 64):
        rng = np.random.default_rng(0)
        found = torch.stack(list(labelled(heads, n, repeats, rng))).float()
        share = found[:, 200:].view(repeats, len(lifts), 10).mean(dim=(0, 2))
        false = found[:, heads <= BAR].sum(dim=1) / found.sum(dim=1).clamp_min(1)
        error = float(false.std()) / repeats**0.5
        print(
            f"| {n} | {' | '.join(f'{each:.2f}' for each in share.tolist())} "
            f"| {float(false.mean()):.3f} ± {error:.3f} |"
        )


def print_smollm2(repeats: int) -> None:
    """Coverage on real heads: texts drawn from the bundled ones, whose own figure is the truth."""
    model = load_model("smollm2-135m-instruct")
    behaviours = pattern_behaviours(chosen(None))
    print("\n| stimulus | behaviour | texts | holds | low > truth |\n|---|---|---|---|---|")
    for stimulus, batch in home_stimuli(model, behaviours, seed=0).items():
        run = StimulusRun(model, batch, behaviours, stimulus, None)
        for cut in run.batches:
            run.measure(cut)
        (measurement,) = set(run.measurements.values())
        for index, behaviour in enumerate(behaviours):
            units = measurement.unit_sums(index)
            if not units.n_queries.any() or units.units_to_term > 1:
                continue
            above, below = units.numerator.flatten(1), units.denominator.flatten(1)
            bounds = getattr(behaviour, "value_range", None)
            if units.null is not None:
                above, below = above - units.null[:, None], below - units.null[:, None]
                bounds = (-float(units.null.sum() / below.sum()), 1.0)
            truth = above.sum(dim=0) / below.sum(dim=0)
            rng = np.random.default_rng(0)
            for n in TEXTS:
                if n >= len(above):
                    continue
                holds = misses = heads = 0.0
                for _ in range(repeats):
                    texts = torch.from_numpy(rng.integers(len(above), size=n))
                    low, high = over_texts(above[texts], below[texts], bounds=bounds).ends()
                    known = ~low.isnan() & ~truth.isnan()
                    holds += float(((low <= truth) & (truth <= high))[known].sum())
                    misses += float((low > truth)[known].sum())
                    heads += float(known.sum())
                print(
                    f"| {stimulus} | {behaviour.name} | {n} | {holds / heads:.3f} "
                    f"| {misses / heads:.3f} |",
                    flush=True,
                )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--smollm2", action="store_true")
    asked = parser.parse_args()
    print_grid(asked.repeats)
    print_series(asked.repeats)
    print_power(max(20, asked.repeats // 20))
    if asked.smollm2:
        print_smollm2(max(10, asked.repeats // 100))


if __name__ == "__main__":
    main()
