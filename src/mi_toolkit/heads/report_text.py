"""A head report in words, label by label."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from mi_toolkit.heads.head import Head
from mi_toolkit.heads.labels import NOT_FINITE, UNCLASSIFIED
from mi_toolkit.heads.token_maps import WEIGHTS

if TYPE_CHECKING:
    from mi_toolkit.heads.report import HeadReport

MOST_HEADS = 6

_OVER = {
    "jackknife over texts": "texts",
    "bootstrap over sequences": "texts",
    "jackknife over queries of this prompt": "queries",
    "bootstrap over blocks of pooled queries": "queries",
    "jackknife over pairs of tokens": "pairs of tokens",
    "bootstrap over pairs of tokens": "pairs of tokens",
}
"""What intervals speak of, by how they were made; the bootstrap is that of reports saved before."""

ON_THIS_PROMPT = (
    "on this prompt: exact for it; intervals speak of its other places, not of other texts "
    "(give 3 or more for those)"
)


def interval_over(made: str) -> str | None:
    """What an interval made so speaks of: `texts`, `queries`; None where there is none."""
    return _OVER.get(made)


def summary_of(report: HeadReport) -> list[tuple[str, str]]:
    """What the report says of each label, of scopes and of the rest, each in one line."""
    lines = [(name, _label_line(report, name)) for name in report.listed]
    scopes = Counter(report.scope_names[index] for index in report.scope.flatten().tolist())
    if "locality" in report.behaviours:
        counts = ", ".join(f"{name} {scopes[name]}" for name in report.scope_names)
        lines.append(("scope", counts))
    lines.append((UNCLASSIFIED, f"{len(report.heads(UNCLASSIFIED))} heads"))
    if broken := report.heads(NOT_FINITE):
        reason = "what the model computes there is NaN or infinite"
        lines.append((NOT_FINITE, f"{len(broken)} heads, from {broken[0]} on: {reason}"))
    borderline = int(report.borderline.sum())
    if borderline:
        lines.append(
            ("borderline", f"{borderline} heads × behaviours, which more texts would decide")
        )
    if "queries" in report.interval_over.values():
        lines.append(("intervals", ON_THIS_PROMPT))
    return lines


def bos_note(report: HeadReport) -> str:
    """What stands at position 0 where it is no BOS; empty where every text begins with one."""
    without = [
        name
        for name, bos in report.provenance.bos.items()
        if "none" in bos.split(" and ") and name != WEIGHTS
    ]
    if not without:
        return ""
    return (
        f"No BOS stands at position 0 of {' and '.join(without)}: first_token and the sink are "
        "then the first word's."
    )


def copying_text(report: HeadReport, label: str, head: Head) -> str:
    """What a head does to the logits of what it looks at: ` copies +1.9`, or nothing."""
    row = report.index(report.behaviour_of(label))
    effect, low, high = (
        float(figures[row][head])
        for figures in (report.copying, report.copying_low, report.copying_high)
    )
    if math.isnan(effect):
        return ""
    verb = "copies" if low > 0 else "suppresses" if high < 0 else "neither copies nor lowers"
    return f" {verb} {effect:+.1f}"


def _label_line(report: HeadReport, name: str) -> str:
    behaviour, hindrance = report.behaviour_of(name), report.hindrance(name)
    if hindrance is not None:
        return hindrance
    if report.interval[behaviour] == "too few":
        return f"too few queries ({report.n_queries[behaviour]}) for an interval"
    if name not in report.label_names:
        strongest = report.strongest(name)
        return f"no label; highest {strongest} {float(report[name][strongest]):.2f}"
    heads = report.heads(name)
    if not heads and name != behaviour:
        return "none"
    if not heads:
        strongest = report.strongest(name)
        return f"none (strongest {strongest} {float(report[name][strongest]):.2f})"
    shown = ", ".join(
        f"{head} {float(report[behaviour][head]):.2f}{copying_text(report, name, head)}"
        for head in heads[:MOST_HEADS]
    )
    more = f", and {len(heads) - MOST_HEADS} more" if len(heads) > MOST_HEADS else ""
    return f"{len(heads)} {'head' if len(heads) == 1 else 'heads'}: {shown}{more}"
