"""Mean, variance and extremes of each unit, merged part by part (Chan, Golub and LeVeque 1979).

For parts A and B with counts `n`, means `m`, sums of squared deviations `s`, `d = m_B - m_A`:

    m = m_A + d · n_B / n        s = s_A + s_B + d² · n_A · n_B / n

All in float64: a residual stream has units whose mean is thousands of times their deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """What some tokens were like, unit by unit."""

    count: int
    """Tokens."""

    mean: Float[Tensor, "*unit"]
    """Per unit, in float64; NaN without a token."""

    deviations: Float[Tensor, "*unit"]
    """Sum of squared deviations from the mean, per unit, in float64."""

    minimum: Float[Tensor, "*unit"]
    """The least value; infinite without a token."""

    maximum: Float[Tensor, "*unit"]
    """The largest value; minus infinity without a token."""

    positive: Int[Tensor, "*unit"]
    """On how many tokens the unit is above 0."""

    @property
    def variance(self) -> Float[Tensor, "*unit"]:
        """Mean squared deviation: of the tokens that were seen, not of a population behind them."""
        return self.deviations / self.count if self.count else self.mean

    @property
    def std(self) -> Float[Tensor, "*unit"]:
        """The square root of the variance."""
        return self.variance.sqrt()

    @property
    def rms(self) -> Float[Tensor, "*unit"]:
        """Root mean square: a unit's L2 norm over the tokens, divided by √count."""
        return (self.mean**2 + self.variance).sqrt()

    @property
    def density(self) -> Float[Tensor, "*unit"]:
        """The share of tokens on which the unit is above 0: how often a ReLU neuron is on."""
        return self.positive / self.count if self.count else self.mean

    def merged(self, other: Moments) -> Moments:
        """The moments of both parts together."""
        if not other.count or not self.count:
            return self if self.count else other
        count = self.count + other.count
        delta = other.mean - self.mean
        spread = delta**2 * (self.count * other.count / count)
        return Moments(
            count=count,
            mean=self.mean + delta * (other.count / count),
            deviations=self.deviations + other.deviations + spread,
            minimum=torch.minimum(self.minimum, other.minimum),
            maximum=torch.maximum(self.maximum, other.maximum),
            positive=self.positive + other.positive,
        )


def moments_of(rows: Float[Tensor, " row *unit"]) -> Moments:
    """The moments of some tokens: `rows` has one each."""
    shape, exact = rows.shape[1:], rows.double()
    if not len(rows):
        return Moments(
            count=0,
            mean=torch.full(shape, torch.nan, dtype=torch.float64),
            deviations=torch.zeros(shape, dtype=torch.float64),
            minimum=torch.full(shape, torch.inf),
            maximum=torch.full(shape, -torch.inf),
            positive=torch.zeros(shape, dtype=torch.long),
        )
    mean = exact.mean(dim=0)
    return Moments(
        count=len(rows),
        mean=mean,
        deviations=(exact - mean).square().sum(dim=0),
        minimum=rows.amin(dim=0).float(),
        maximum=rows.amax(dim=0).float(),
        positive=(rows > 0).sum(dim=0),
    )
