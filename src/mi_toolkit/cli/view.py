"""`mi-toolkit view`: where heads look on one prompt, as a picture."""

from __future__ import annotations

from pathlib import Path

from mi_toolkit.cli.errors import UsageError
from mi_toolkit.cli.options import DEFAULT_LOADING, DEFAULT_MODEL, LoadOptions, ModelName, Several
from mi_toolkit.cli.output import check_file, columns, writing
from mi_toolkit.cli.terminal import doing, third_parties_kept_off_stdout, width


def view(
    prompt: str,
    /,
    *,
    model: ModelName = DEFAULT_MODEL,
    layer: Several[int] = None,
    heads: Several[str] = None,
    bos: bool | None = None,
    html: Path | None = None,
    png: Path | None = None,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Draw the attention patterns of one layer, several, or single heads on a prompt.

    Args:
        prompt: The text, in quotes.
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        layer: Layers, counted from zero. May be left out where --heads has whole names.
        heads: Heads by name (L5H1, 5.1), or by number within --layer. Without it: all of
            them.
        bos: Put a beginning-of-sequence token before the prompt. Without the option: wherever the
            model's tokenizer has one.
        html: File for a page that needs no network, to hover over and click.
        png: File for a picture.
        load: How the model is loaded.
    """
    if html is None and png is None:
        raise UsageError(msg="Say where to draw: --html FILE, --png FILE, or both.")
    if not layer and not heads:
        raise UsageError(msg="Say what to draw: --layer N, or --heads such as L0H1.")
    check_file(html)
    check_file(png)
    hooked = load.load(model)
    from mi_toolkit import view_attention

    with doing("Drawing"), third_parties_kept_off_stdout():
        picture = view_attention(
            hooked, prompt, layer=layer or None, heads=heads or None, prepend_bos=bos
        )
        for path, save in ((html, picture.save_html), (png, picture.save_png)):
            if path is not None:
                with writing(path):
                    save(path)
    shown = ", ".join(map(str, picture.heads))
    where = f"{hooked.cfg.model_name} on {len(picture.tokens)} tokens"
    print(*columns([[f"Attention in {where}: {shown}"]], width=width()), sep="\n")
    for path in (html, png):
        if path is not None:
            print(f"Wrote {path}")
