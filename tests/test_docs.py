"""The docs: what is generated for them, what they quote, and that their example runs."""

from __future__ import annotations

import base64
import re
import shlex
from operator import attrgetter
from pathlib import Path

import pytest

import mi_toolkit as mi
from check_links import broken_links, is_well_formed, malformed_links
from draw_app import PAPERS, SHOTS
from fill_pages import filled
from mi_toolkit.models.specs import MODELS
from pages.families import FACTS, facts, relatives
from pages.notebooks import notebook_files
from pages.quoted import span, table

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def made_notebook(*outputs: object) -> object:
    nbformat = pytest.importorskip("nbformat")
    cells = [
        nbformat.v4.new_markdown_cell("# A question?"),
        nbformat.v4.new_code_cell("1 + 1", outputs=list(outputs)),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def output(data: dict[str, str]) -> object:
    import nbformat

    return nbformat.v4.new_output("display_data", data=data)


@pytest.mark.parametrize("family", sorted({spec.family for spec in MODELS.values()}))
def test_a_family_s_page_states_each_fact_of_each_of_its_models(family: str) -> None:
    shown = facts(family)
    specs = [spec for spec in MODELS.values() if spec.family == family]
    assert all(f"`{spec.name}`" in shown and f"{spec.d_vocab:,}" in shown for spec in specs)
    assert shown.count("\n| ") == len(FACTS) + 1
    page = (DOCS / f"families/{family.casefold()}.md").read_text(encoding="utf-8")
    assert shown in page
    assert specs[0].name in page
    assert "`" in relatives(family)


def test_a_page_quotes_the_table_under_a_heading() -> None:
    page = "# A\n\n## Cost\n\nWords.\n\n| a |\n| - |\n| 1 |\n\n## Else\n\n| b |\n"
    assert table("Cost", page) == "| a |\n| - |\n| 1 |"
    with pytest.raises(ValueError, match="no table under a heading 'Gain'"):
        table("Gain", page)


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.stem)
def test_a_page_holds_what_its_markers_ask_for(path: Path) -> None:
    """`python tools/fill_pages.py` writes them anew."""
    page = path.read_text(encoding="utf-8")
    assert filled(page) == page


def test_markers_are_filled_once_and_again() -> None:
    page = "Costs <!-- toys classify_heads in Cost of benchmarks.md -->9<!-- end --> passes."
    once = filled(page)
    assert filled(once) == once != page
    peers = (DOCS / "peers.md").read_text(encoding="utf-8")
    assert "| smollm2-135m-instruct |" in peers
    emptied = re.sub(r"(<!-- (?!end)[^>]+>).*?(<!-- end)", r"\1\2", peers, flags=re.S)
    assert filled(emptied) == peers != emptied
    with pytest.raises(ValueError, match="no <!-- end --> after <!-- facts of GPT-2 -->"):
        filled("<!-- facts of GPT-2 -->\n\n## Next\n")
    with pytest.raises(ValueError, match="no table under a heading 'Gain'"):
        filled("<!-- table Gain of benchmarks.md --><!-- end -->")


def test_a_page_quotes_the_least_and_the_greatest_figure_of_a_column() -> None:
    rows = "| model | cost |\n| - | - |\n| toy-a | 9.5 |\n| b | 10.2 |\n| c | 9.1 |\n| d |  |"
    assert span("cost", rows, toys=False) == "9.1 to 10.2"
    assert span("cost", rows, toys=True) == "9.5"
    with pytest.raises(ValueError, match="no column 'gain' in the table of model, cost"):
        span("gain", rows, toys=True)


def test_a_notebook_s_outputs_become_text_files_and_frames() -> None:
    notebook = made_notebook()
    nbformat = pytest.importorskip("nbformat")
    framed = (
        '<iframe data-mi-toolkit sandbox="allow-scripts" title="mi_toolkit view" '
        'style="width:100%;height:99px;border:0" srcdoc="&lt;p&gt;a &quot;b&quot;&lt;/p&gt;">'
        "</iframe><script>1</script>"
    )
    notebook.cells[1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="50%|#####"),
        nbformat.v4.new_output("stream", name="stdout", text="said"),
        output({"image/png": base64.b64encode(b"png").decode(), "text/plain": "<Figure>"}),
        output({"text/html": framed, "text/plain": "View"}),
        output({"text/html": "<style>x</style>\n<table>\n\n<tr></tr></table>", "text/plain": "t"}),
        output({"text/plain": "2"}),
    ]
    made = {file.path: file.content for file in notebook_files(notebook, "01_it")}
    page = made.pop("notebooks/01_it.md")
    assert isinstance(page, str)
    assert "```python\n1 + 1\n```" in page
    assert "50%" not in page
    assert "```text\nsaid\n```" in page
    assert "```text\n2\n```" in page
    assert '<div class="output"><table> <tr></tr></table></div>' in page
    assert "srcdoc" not in page
    (picture,) = [name for name in made if name.endswith(".png")]
    assert made[picture] == b"png"
    assert f"({Path(picture).name})" in page
    (view,) = [name for name in made if name.endswith(".html")]
    assert made[view] == '<p>a "b"</p>'
    assert f'data-mi-toolkit src="../{Path(view).name}"' in page
    assert page.rstrip().endswith('<script src="../frame.js"></script>')


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="sub/">ok</a><a href="sub/#here">ok</a><a href="sub/#gone">no</a>'
        '<img src="gone.png"><a href="https://example.org/x">out</a><a href="#top" id="top">ok</a>'
    )
    (tmp_path / "sub/index.html").write_text('<h1 id="here"></h1><a href="../index.html">ok</a>')
    assert broken_links(tmp_path) == ["index.html: sub/#gone", "index.html: gone.png"]


@pytest.mark.parametrize(
    "link",
    [
        "http://example.org/x",
        "https://example",
        "https://arxiv.org/abs/2209.118",
        "https://arxiv.org/abs/2213.11895",
        "https://github.com/a b/c",
        "https://github.com/",
        "https://doi.org/2209.11895",
    ],
)
def test_a_link_out_that_no_server_could_answer_is_found(link: str, tmp_path: Path) -> None:
    fine = ["https://arxiv.org/abs/2209.11895v2", "https://github.com/a/b.c", "mailto:a@b.org"]
    anchors = "".join(f'<a href="{each}">x</a>' for each in [*fine, link])
    (tmp_path / "index.html").write_text(anchors)
    assert malformed_links(tmp_path) == [f"index.html: {link}"]


def test_links_out_of_the_readme_and_the_pages_are_well_formed() -> None:
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    links = {
        link
        for text in texts
        for link in re.findall(r"\]\((https?:[^)\s]+)\)", text.read_text(encoding="utf-8"))
    }
    assert len(links) > 10
    assert [link for link in links if not is_well_formed(link)] == []


def test_every_page_is_in_the_navigation_and_every_figure_comes_from_code() -> None:
    configured = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert not [page for page in pages if f" {page}\n" not in configured]
    drawn = [path for path in DOCS.rglob("*.png") if "atlas" not in path.parts]
    of_the_page = {f"pictures/app/{name}-{paper}.png" for name in SHOTS for paper in PAPERS}
    assert {path.relative_to(DOCS).as_posix() for path in drawn} == {
        "pictures/readme.png",
        *of_the_page,
    }


def test_what_the_readme_lists_here_is_not_left_to_transformer_lens() -> None:
    page = (DOCS / "coming_from.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ", 1) for line in page.splitlines() if line.startswith("| ")]
    here = {found for row in rows for found in re.findall(r"`([a-z_.]+)[(`]", row[-1])}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("activation_patching", "interventions.attribution_patching"):
        assert f"mi.{name}" in readme
        assert name in here
        assert callable(attrgetter(name)(mi))
    assert {"direct_logit_attribution", "trace_pipeline"} <= here
    left = [did for did, instead in rows if instead.startswith("TransformerLens' own")]
    assert not [did for did in left if re.search("activation|attribution|logit", did)]


def test_every_command_line_of_the_readme_is_understood() -> None:
    from mi_toolkit.cli.app import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^mi-toolkit (.+)$", readme, re.M)
    assert len(lines) > 20
    for line in lines:
        app.parse_args(shlex.split(line), print_error=False, exit_on_error=False)
    assert len(readme.splitlines()) < 150


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_example_of_the_home_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len([line for line in example.splitlines() if line.strip()]) <= 20
    names: dict[str, object] = {}
    exec(compile(example, "index.md", "exec"), names)  # noqa: S102 our own page
    report = names["report"]
    assert [str(head) for head in report.heads("induction")] == ["L2H0"]  # type: ignore[attr-defined]
    assert (tmp_path / "residuals").is_dir()


def test_doctests_are_code_on_the_reference_page() -> None:
    pytest.importorskip("griffe")
    from pages.reference_examples import with_examples

    under = "What.\n\nExample:\n    >>> f(1)\n    2"
    assert with_examples(under) == "What.\n\nExamples:\n    >>> f(1)\n    2"
    assert with_examples("What.\n\n>>> f(1)\n2") == "What.\n\nExamples:\n    >>> f(1)\n    2"
