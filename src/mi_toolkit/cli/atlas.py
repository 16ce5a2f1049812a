"""`mi-toolkit atlas` and `mi-toolkit head`: the heads of several models, and one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_CORPUS,
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    CorpusOptions,
    Count,
    CountOrNone,
    LoadOptions,
    ModelName,
    Several,
    Switch,
    Texts,
    WeightingName,
    between_zero_and_one,
)
from mi_toolkit.cli.output import (
    DEFAULT_OUTPUT,
    OutputOptions,
    as_json,
    check_folder,
    columns,
    writing,
)
from mi_toolkit.cli.terminal import (
    FOR_READING,
    UsageError,
    bold,
    note,
    third_parties_kept_off_stdout,
    width,
)
from mi_toolkit.core.display import counted

if TYPE_CHECKING:
    from mi_toolkit.cards.card import HeadCard


def atlas(
    *models: str,
    output: Path,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    weighting: WeightingName = "prompts",
    seed: int = 0,
    batch_size: CountOrNone = None,
    revisions: Texts = None,
    headvis: Switch = False,
    profiles: Switch = False,
    json: Switch = False,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Classify the heads of several models by the standard protocol, into one folder.

    The folder holds a page to begin at (index.html), a table of all heads (heads.parquet), and for
    each model its report and page. Run again after an interruption, it goes on where it stopped.

    Args:
        models: Names, hub ids, folders or .gguf files; loaded one at a time.
        output: The folder.
        min_lift: The lift over chance (0 chance, 1 perfect) that a label says is exceeded: its
            one-sided p passes Benjamini and Hochberg over all heads and behaviours, at a false
            discovery rate of 5%.
        weighting: What counts alike where texts are of unequal length: prompts, each text; or
            queries, each of their tokens that can show a behaviour.
        seed: Of the random stimulus.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        revisions: Branches, tags or commits on the hub, such as step1000 step2000 of a Pythia
            model: each model is there once for each.
        headvis: Also write each model's heads for HeadVis, into models/NAME/headvis.
        profiles: Also keep what every head moves in natural text, for mi-toolkit head --atlas.
        json: Write JSON instead of a table, and nothing else, to standard output.
        load: How the models are loaded.
    """
    if not models:
        raise UsageError(msg="Say which models: mi-toolkit atlas MODEL... --output DIR.")
    check_folder(output)
    for name in models:
        load.check(name)

    with third_parties_kept_off_stdout(), writing(output / "index.html") as page:
        made = mi.head_atlas(
            models,
            output,
            min_lift=min_lift,
            weighting=weighting,
            seed=seed,
            batch_size=batch_size,
            revisions=revisions,
            headvis=headvis,
            profiles=profiles,
            load=load.arguments(),
        )
    counts = {
        name: {shown.label: shown.count for shown in made.profiles(name) if shown.applicable}
        for name in made.models
    }
    if json:
        print(as_json({"models": counts, "written": [str(page)]}))
        return
    rows = [["model", "heads with each label"]]
    for name, labels in counts.items():
        rows.append(
            [name, ", ".join(f"{label} {count}" for label, count in labels.items() if count)]
        )
    head, *lines = columns(rows, width=width(elsewhere=FOR_READING))
    print(bold(head), *lines, "", f"Wrote {page}", sep="\n")


def head(
    head: str,
    /,
    *,
    model: ModelName = DEFAULT_MODEL,
    profiles: Path | None = None,
    atlas: Path | None = None,
    how: Several[Literal["zero", "mean", "resample"]] = None,
    n_sequences: Count = 16,
    n_random: Count = 12,
    n_tokens: Count = 512,
    seed: int = 0,
    corpus: CorpusOptions = DEFAULT_CORPUS,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """One head: where it looks, when it acts, what it reads and writes, what hangs on it.

    Every figure stands next to what chance would give. All heads are watched in one pass, which
    --profiles keeps for the next head.

    Args:
        head: Such as L5H1 or 5.1, both counted from zero.
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        profiles: A file for what the pass over the texts found: written where it is not there,
            read where it is.
        atlas: An atlas with profiles (mi-toolkit atlas --profiles), in whose other models heads
            like it are looked for; of the bundled passages, so not together with texts.
        how: Kinds of ablation. Without it all three.
        n_sequences: Held-out texts to take losses on.
        n_random: Other heads of its layer to ablate too.
        n_tokens: How many of the most frequent tokens its circuits are read on.
        seed: Of shuffles, turns, and the choice of other heads.
        corpus: The texts to watch it on. Without them the bundled passages.
        out: What it gives; HeadCard.load reads card.safetensors.
        load: How the model is loaded.
    """
    out.check()
    kept = None
    if profiles is not None and profiles.exists():
        kept = mi.cards.HeadProfiles.load(profiles)
        if corpus.data_file is not None or corpus.dataset is not None:
            note(
                f"{profiles} is there: the card is of the {counted(kept.n_documents, 'document')} "
                "that it was made from, and the texts named here are not read."
            )
    texts = corpus.texts() if kept is None else None
    others = None if atlas is None else mi.atlas.HeadAtlas.load(atlas).head_profiles()
    hooked = load.load(model)
    with third_parties_kept_off_stdout():
        # Imported here: it takes seconds. A head that is not there is told before the pass.
        from mi_toolkit.interventions.components import checked_heads

        checked_heads(hooked, head)
        if kept is None:
            kept = mi.cards.profile_heads(hooked, texts, field=corpus.field, seed=seed)
            if profiles is not None:
                kept.save(profiles)
        found = mi.head_card(
            hooked,
            head,
            profiles=kept,
            others=others,
            how=how or ("zero", "mean", "resample"),
            n_sequences=n_sequences,
            n_random=n_random,
            n_tokens=n_tokens,
            seed=seed,
        )
    out.deliver(found, name="card", record=found.record, lines=lambda: _card_lines(found))


def _card_lines(found: HeadCard) -> Iterator[str]:
    table = found.text_table()
    yield bold(table.title)
    yield from columns(table.rows, width=width(elsewhere=FOR_READING))
