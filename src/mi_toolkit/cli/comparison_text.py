"""A `ModelComparison`, a `LengthSweep` and a `StimulusComparison` as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mi_toolkit.cli.output import columns, wrapped
from mi_toolkit.compare.lengths import LengthSweep
from mi_toolkit.compare.model_comparison import LabelProfile, ModelComparison
from mi_toolkit.compare.stimuli import StimulusComparison
from mi_toolkit.core.display import human_count
from mi_toolkit.heads.classify import OWN_PROMPT

_NONE = "–"
_GAP = 2


def comparison_lines(
    comparison: ModelComparison, *, width: int, emphasise: Callable[[str], str]
) -> Iterator[str]:
    """The comparison, at most `width` columns wide where names are not too long for it."""
    yield from columns(list(_models(comparison)), width=width, align="<<>>")
    without = [name for name, bos in comparison.bos.items() if bos == "none"]
    if without:
        yield from wrapped(f"No BOS in front of the text: {', '.join(without)}.", width)
    for group in comparison.groups:
        differ = "architecture alone" if group.varies == "architecture" else "size alone"
        yield from wrapped(f"{', '.join(group.models)} differ in {differ} ({group.shared}).", width)
    yield ""
    yield from map(
        emphasise, wrapped("Heads with each label: how many, what share, median depth", width)
    )
    yield from _in_columns(_label_rows(comparison), width)
    yield "Depth runs from 0, the embedding, to 1, the unembedding."
    yield ""
    title = f"Next-token agreement on {comparison.n_texts} texts, and what chance would give"
    yield from map(emphasise, wrapped(title, width))
    yield from _in_columns(_agreement_rows(comparison), width)
    yield from wrapped(
        "Two predictions agree where one is a prefix of the other, at characters where both models "
        "have just finished a token. Right: how often the text goes on as the model says.",
        width,
    )


def sweep_lines(
    sweep: LengthSweep, *, width: int, emphasise: Callable[[str], str]
) -> Iterator[str]:
    """Which heads carry which label at which length, with their figures."""
    yield f"{sweep.model} at {', '.join(map(str, sweep.lengths))} tokens"
    for stimulus in sweep.stimuli:
        yield ""
        first = sweep.report(stimulus, sweep.lengths[0])
        counts = [len(sweep.report(stimulus, n).tokens[OWN_PROMPT]) for n in sweep.lengths]
        title = f"On {stimulus} ({', '.join(map(str, counts))} sequences)"
        yield from map(emphasise, wrapped(title, width))
        rows = [["label", "head", *(str(length) for length in sweep.lengths)]]
        for label in first.label_names:
            rows += _sweep_rows(sweep, stimulus, label)
        if len(rows) == 1:
            rows.append(["none", *[""] * (len(rows[0]) - 1)])
        yield from columns(rows, width=width, align="<<" + ">" * (len(sweep.lengths) - 1))
    yield ""
    yield from wrapped(
        "Lift over the chance of that length (0 chance, 1 perfect), or a value; * the label holds.",
        width,
    )


def stimulus_lines(
    compared: StimulusComparison, *, width: int, emphasise: Callable[[str], str]
) -> Iterator[str]:
    """How far ranks and labels agree from one stimulus to another, behaviour by behaviour."""
    for one, other in dict.fromkeys((pair.stimulus, pair.other) for pair in compared.pairs):
        yield from map(emphasise, wrapped(f"{compared.model}: {one} against {other}", width))
        rows = [["behaviour", "rank correlation", "labelled", "there", "both", "kappa"]]
        rows += [
            [
                pair.behaviour,
                _signed(pair.rank_correlation),
                *(str(count) for count in (pair.labelled, pair.other_labelled, pair.both)),
                _signed(pair.kappa),
            ]
            for pair in compared.pairs
            if (pair.stimulus, pair.other) == (one, other)
        ]
        yield from _in_columns(rows, width)
        yield ""
    yield from wrapped(
        "Labelled: heads with the label on the first, there: on the second. Most heads do nothing "
        "of a kind, and their order is noise, which pulls a rank correlation towards 0. Kappa: "
        "agreement of the labels beyond chance.",
        width,
    )


def _signed(figure: float) -> str:
    return _NONE if figure != figure else f"{figure:+.2f}"


def _sweep_rows(sweep: LengthSweep, stimulus: str, label: str, most: int = 6) -> list[list[str]]:
    holds = sweep.holds(label, stimulus)
    behaviour = sweep.report(stimulus, sweep.lengths[0]).behaviour_of(label)
    found = holds.any(dim=0).nonzero().tolist()
    rows = []
    for layer, head in found[:most]:
        cells = []
        for row, length in enumerate(sweep.lengths):
            report = sweep.report(stimulus, length)
            figure = f"{float(report[behaviour][layer, head]):z.2f}"
            cells.append(figure + ("*" if holds[row, layer, head] else " "))
        rows.append([label, f"L{layer}H{head}", *cells])
    if len(found) > most:
        rows.append([label, f"and {len(found) - most} more", *[""] * len(sweep.lengths)])
    return [[cell or " " for cell in row] for row in rows]


def _models(comparison: ModelComparison) -> Iterator[list[str]]:
    yield ["model", "family", "params", "layers×heads", "positions"]
    for name, facts in comparison.facts.items():
        size = f"{facts.n_layers}×{facts.n_heads}"
        yield [name, facts.family, human_count(facts.parameters), size, facts.positional]


def _label_rows(comparison: ModelComparison) -> list[list[str]]:
    profiles = [{p.label: p for p in comparison.profiles(name)} for name in comparison.models]
    labels = dict.fromkeys(label for model in profiles for label in model)
    rows = [["", *comparison.models]]
    rows += [[label, *(_cell(model.get(label)) for model in profiles)] for label in labels]
    return rows


def _cell(shown: LabelProfile | None) -> str:
    if shown is None or not shown.applicable:
        return "n/a"
    if not shown.count:
        return _NONE
    return f"{shown.count} {shown.share:4.0%} {shown.depth_quartiles[1]:.2f}"


def _agreement_rows(comparison: ModelComparison) -> list[list[str]]:
    a, models = comparison.agreement, comparison.models
    rows = [["", *models]]
    for i, one in enumerate(models):
        cells = [
            f"{comparison.accuracy[one]:.0%} right"
            if i == j
            else f"{float(a.share[i, j]):.0%}, {float(a.chance[i, j]):.0%}"
            if a.positions[i, j]
            else _NONE
            for j in range(len(models))
        ]
        rows.append([one, *cells])
    return rows


def _in_columns(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A table as several below each other where one is too wide, the first column on each."""
    first, *others = (list(column) for column in zip(*rows, strict=True))
    room = width - max(map(len, first))
    while others:
        shown: list[list[str]] = []
        used = 0
        while others and (not shown or used + _GAP + max(map(len, others[0])) <= room):
            shown.append(others.pop(0))
            used += _GAP + max(map(len, shown[-1]))
        widest = max(map(len, shown[-1]))
        shown[-1] = [f"{cell:>{widest}}".replace(" ", "\N{NO-BREAK SPACE}") for cell in shown[-1]]
        table = [list(row) for row in zip(first, *shown, strict=True)]
        yield from columns(table, width=max(width, 20), align="<" + ">" * (len(shown) - 1))
        if others:
            yield ""
