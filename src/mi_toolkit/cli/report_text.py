"""A `HeadReport` as lines of text, and as plain values for `--json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from mi_toolkit.cli.output import columns, packed, wrapped
from mi_toolkit.core.head import Head
from mi_toolkit.heads.classify import OWN_PROMPT
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.kinds import WEIGHTS
from mi_toolkit.heads.labels import NOT_FINITE, UNCLASSIFIED
from mi_toolkit.heads.report import ABOUT_TEXTS, NOT_SHOWN, HeadReport
from mi_toolkit.heads.summary import TOO_FEW
from mi_toolkit.models.specs import describe_windows

MOST_LINES = 4
_NONE = "–"
_BOS = {"own": "BOS first", "stand-in": "a separator first", "none": "no BOS"}
_STIMULI = {
    "repeated_random": "random tokens given twice",
    "natural": "natural text",
    "ioi": "IOI prompts",
    "needle": "a needle in a haystack",
}


def report_lines(
    report: HeadReport, *, width: int, emphasise: Callable[[str], str]
) -> Iterator[str]:
    """The report, at most `width` columns wide; headings go through `emphasise`."""
    yield from columns([[line] for line in _heading(report)], width=width)
    for is_mask, stimulus in dict.fromkeys(_group(report, name) for name in report.listed):
        names = [name for name in report.listed if _group(report, name) == (is_mask, stimulus)]
        yield ""
        title = _group_title(report, is_mask=is_mask, stimulus=stimulus)
        yield from map(emphasise, wrapped(title, width))
        yield from _group_table(report, names, width)
    yield ""
    yield from columns(_closing_rows(report, width), width=width)
    yield ""
    yield from columns([[note] for note in _notes(report)], width=width)


def _heading(report: HeadReport) -> Iterator[str]:
    n_layers, n_heads = report.scope.shape
    shared = f" (keys and values: {report.n_kv_heads})" if report.n_kv_heads != n_heads else ""
    made = report.provenance
    yield (
        f"{made.model}: {n_layers} layers × {n_heads} heads{shared}, {made.dtype}, {made.backend}"
    )
    if any(window is not None for window in report.windows):
        yield f"Attention by design: {describe_windows(report.windows)}"


def _group(report: HeadReport, name: str) -> tuple[bool, str]:
    behaviour = report.behaviour_of(name)
    return report.facts[behaviour].has_chance, report.stimulus[behaviour]


def _group_title(report: HeadReport, *, is_mask: bool, stimulus: str) -> str:
    batch = report.tokens[stimulus]
    if stimulus == WEIGHTS:
        return f"Lift over chance of what the weights make of {len(batch)} tokens"
    lengths = sorted({int(batch.lengths.min()), int(batch.lengths.max())})
    tokens = f"{' to '.join(map(str, lengths))} tokens"
    if stimulus == OWN_PROMPT:
        on = f"the prompt ({tokens}" if len(batch) == 1 else f"{len(batch)} prompts ({tokens}"
    else:
        on = f"{_STIMULI.get(stimulus, stimulus)} ({len(batch)} × {tokens}"
    bos = report.provenance.bos[stimulus]
    return f"{'Lift over chance' if is_mask else 'Value'} on {on}, {_BOS.get(bos, f'BOS: {bos}')})"


def _group_table(report: HeadReport, names: list[str], width: int) -> list[str]:
    widest = max(map(len, report.listed))
    room = width - widest - len("  chance  heads  ")
    has_chance = any(_group(report, name)[0] for name in names)
    twins = [] if report.untrained is None else ["untrained"]
    room -= sum(len(f"  {name}") for name in twins)
    titles = ["", "chance" if has_chance else "", *twins, "heads"]
    rows = [[*titles, "strongest first, with 95% interval"]]
    for name in names:
        behaviour = report.behaviour_of(name)
        can_show = report.applicable[behaviour] and name in report.label_names
        count = str(len(report.heads(name)) or _NONE) if can_show else _NONE
        cells = [f"{name:{widest}}", f"{chance(report, behaviour):>6}"]
        cells += [untrained_highest(report, behaviour) for _ in twins] + [count]
        rows.append([*cells, _heads(report, name, room)])
    return columns(rows, width=width, align="<>>" + ">" * len(twins))


def untrained_highest(report: HeadReport, behaviour: str) -> str:
    """The highest figure of any head of an untrained twin; nothing where there is none."""
    highest = math.nan if report.untrained is None else report.untrained.highest(behaviour)
    return "" if math.isnan(highest) else f"{highest:z.2f}"


def chance(report: HeadReport, behaviour: str) -> str:
    """What uniform attention would score, a range where layers differ; else nothing."""
    null = report.null[report.index(behaviour)]
    known = null[null.isfinite()]
    if not len(known):
        return ""
    low, high = f"{float(known.min()):.2f}", f"{float(known.max()):.2f}"
    return low if low == high else f"{low}–{high}"


def figure(report: HeadReport, behaviour: str, head: Head) -> str:
    """A head with its figure and interval: `L5H1 0.92 [0.91, 0.93]`."""
    row = report.index(behaviour)
    low, high = float(report.ci_low[row][head]), float(report.ci_high[row][head])
    interval = f" [{low:z.2f}, {high:z.2f}]" if low == low else ""
    return f"{head} {float(report[behaviour][head]):z.2f}{interval}"


def _heads(report: HeadReport, name: str, room: int) -> str:
    not_applicable_reason = report.not_applicable_reason(name)
    if not_applicable_reason is not None:
        return not_applicable_reason
    behaviour = report.behaviour_of(name)
    if report.interval[behaviour] == TOO_FEW:
        return (
            f"too few queries for an interval ({report.n_queries[behaviour]}): a longer prompt "
            f"gives more; highest {figure(report, behaviour, report.strongest(behaviour))}"
        )
    if name not in report.label_names:
        return f"no label; highest {figure(report, name, report.strongest(name))}"
    heads = report.heads(name)
    if not heads and name != behaviour:
        return "none"
    if not heads and (reason := report.no_label_reason(name)) is not None:
        return reason
    if not heads:
        return f"none; highest {figure(report, name, report.strongest(name))}"
    bare = [figure(report, behaviour, head) for head in heads]
    whole = [bare[i] + report.copying_text(name, head) for i, head in enumerate(heads)]
    for i, head in enumerate(heads):  # which is said however narrow the terminal
        if report.copying_shown(name, head) is False:
            bare[i] += f" {NOT_SHOWN}"
    return _listed(whole if max(map(len, whole)) <= room else bare, room)


def _listed(items: list[str], room: int) -> str:
    text, left_out = packed(items, width=room, most_lines=MOST_LINES)
    return f"{text}  and {left_out} more" if left_out else text


def _closing_rows(report: HeadReport, width: int) -> list[list[str]]:
    widest = max(len(UNCLASSIFIED), *map(len, report.listed), 0)
    rows = []
    if "locality" in report.behaviours:
        counts = [f"{len(report.heads(scope))} {scope}" for scope in report.scope_names]
        rows.append(["scope", ", ".join(counts)])
    bare = report.heads(UNCLASSIFIED)
    count = f"{len(bare)} of {len(report.all_heads)}"
    room = width - widest - len(f"  {count}: ")
    names, left_out = packed([str(head) for head in bare], width=room, most_lines=MOST_LINES)
    # They come in no order of strength: a few of many would say nothing.
    rows.append([UNCLASSIFIED, f"{count}: {names}" if bare and not left_out else count])
    lines, further = dict(report.summary()), (NOT_FINITE, *ABOUT_TEXTS)
    rows.extend([name, lines[name]] for name in further if name in lines)
    return [[f"{name:{widest}}", text] for name, text in rows]


def _notes(report: HeadReport) -> Iterator[str]:
    shown = [name for name in report.label_names if report.applicable[report.behaviour_of(name)]]
    bars = [f"lift {report.min_lift:g}"] if any(_group(report, name)[0] for name in shown) else []
    bars += [
        f"{name} {bar:g}"
        for name in shown
        if (bar := report.facts[report.behaviour_of(name)].min_label) is not None
    ]
    if bars:
        needed = ", ".join(bars)
        if report.fdr is None:
            yield f"A label needs its interval's lower end at {needed} or above."
        else:
            yield (
                f"A label says beyond doubt: above {needed}; of all labels at most "
                f"{report.fdr:.0%} are false in expectation."
            )
    if report.untrained is not None:
        yield untrained_note(report, report.untrained)
    lines = [report.copying_text(name, head) for name in shown for head in report.heads(name)]
    words = [word for word in ("copies", "suppresses", NOT_SHOWN) if any(word in t for t in lines)]
    if words:
        yield (
            f"{', '.join(words)}: what the head does to the logits of the tokens that it looks at, "
            "in standard deviations over the vocabulary."
        )
    asking = [name for name, facts in report.facts.items() if facts.suppressing]
    if report.require_copying and asking:
        yield f"{', '.join(asking)} asks that the head is shown to copy, too."


def untrained_note(report: HeadReport, control: UntrainedControl) -> str:
    """What the column of untrained twins holds, and which labelled heads they reach."""
    reached = []
    for name in report.label_names:
        behaviour, heads = report.behaviour_of(name), report.heads(name)
        shares = control.reached(behaviour, report[behaviour])
        n_reached = sum(float(shares[head]) > 0 for head in heads)
        reached += [f"{n_reached} of {len(heads)} {name}"] * bool(n_reached)
    found = (
        f"reaches these labelled heads: {', '.join(reached)}"
        if reached
        else ("reaches no labelled head")
    )
    return (
        f"untrained: the strongest head of {control.n} models of the same config with fresh "
        f"weights; it {found}."
    )


_FIGURES = (
    *("score", "null", "lift", "ci_low", "ci_high", "p"),
    *("copying", "copying_low", "copying_high"),
)


def report_record(report: HeadReport) -> dict[str, Any]:
    """The report: its record, figures per behaviour as `[layer][head]`, labels with their heads."""
    record = report.record()
    n_layers, n_heads = report.scope.shape
    labels = {name: [str(head) for head in report.heads(name)] for name in report.label_names}
    return {
        "model": report.provenance.model,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_kv_heads": report.n_kv_heads,
        "windows": list(report.windows),
        "min_lift": report.min_lift,
        "fdr": report.fdr,
        "weighting": report.weighting,
        "labels": {**labels, UNCLASSIFIED: [str(head) for head in report.heads(UNCLASSIFIED)]},
        "scope": [[report.scope_names[index] for index in row] for row in report.scope.tolist()],
        "coverage": report.coverage.tolist(),
        "behaviours": {
            name: {
                **{
                    key: record[key][name]
                    for key in ("stimulus", "applicable", "interval", "n_sequences", "n_queries")
                },
                "interval_over": report.interval_over[name],
                "borderline": report.borderline[row].tolist(),
                **{field: getattr(report, field)[row].tolist() for field in _FIGURES},
            }
            for row, name in enumerate(report.behaviours)
        },
        "untrained": None if report.untrained is None else _twins(report.untrained),
        "provenance": record["provenance"],
    }


def _twins(control: UntrainedControl) -> dict[str, Any]:
    """Per behaviour the strongest head of each twin, per label how many heads carry it."""
    return {
        "n": control.n,
        "n_heads": control.n_heads,
        "initialisation": control.initialisation,
        "strongest": dict(zip(control.behaviours, control.strongest.tolist(), strict=True)),
        "labelled": dict(zip(control.label_names, control.labelled.tolist(), strict=True)),
    }
