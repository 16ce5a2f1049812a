from pathlib import Path

import pytest

from mi_toolkit.app.glossary import asset, definitions, explained, terms, with_terms
from mi_toolkit.core.errors import UnknownNameError


def test_the_docs_and_the_page_have_one_glossary(repository: Path) -> None:
    of_docs = (repository / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert asset("glossary.md") == of_docs, "cp docs/glossary.md src/mi_toolkit/app/glossary.md"


def test_every_entry_is_read_and_in_the_order_of_the_alphabet() -> None:
    names = [term.name for term in dict.fromkeys(terms().values())]
    assert len(names) == asset("glossary.md").count("\n**")
    assert names == sorted(names, key=str.casefold)
    assert len({term.anchor for term in terms().values()}) == len(names)


def test_a_term_opens_what_it_means() -> None:
    assert 'popovertarget="term-lift"' in explained("Lift")
    assert '<div popover id="term-lift" class="definition"><b>Lift.</b> <code>' in definitions()


def test_a_term_with_several_names_is_found_by_each() -> None:
    assert terms()["chance"] is terms()["null"]


def test_definitions_lead_to_no_page_that_is_not_there() -> None:
    assert "](" not in definitions()
    assert terms()["attribution"].definition.endswith("several methods.")


def test_a_sentence_explains_the_terms_that_it_marks_and_escapes_the_rest() -> None:
    shown = with_terms("<b> {heads|head} and {lift}")
    assert shown.startswith("&lt;b&gt; <button")
    assert ">heads</button> and <button" in shown
    assert "term-head" in shown


def test_a_term_that_the_glossary_lacks_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"term of the glossary.*Did you mean 'lift'"):
        explained("lifts")
