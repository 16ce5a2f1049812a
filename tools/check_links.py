"""Does every link inside a built site lead somewhere, and is every other one well formed?

Pages, anchors, pictures; nothing is fetched.

python tools/check_links.py site
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
OWN_MACHINE = ("localhost", "127.0.0.1")
FORMS = {
    "arxiv.org": re.compile(r"/(abs|pdf)/\d\d(0[1-9]|1[0-2])\.\d{4,5}(v\d+)?"),
    "github.com": re.compile(
        r"/[A-Za-z0-9-]+(/[\w.-]+(/(blob|tree|issues|pull|releases)(/.+)?)?)?/?"
    ),
    "doi.org": re.compile(r"/10\.\d{4,9}/\S+"),
    "huggingface.co": re.compile(
        r"(/[\w.-]+){0,2}(/(blob|tree|resolve|raw)/.+)?/?|/(docs|papers)/.+"
    ),
}
"""Of hosts whose addresses have a form: what stands after the name."""


@dataclass
class Links(HTMLParser):
    """What a page links to and what can be linked to in it."""

    targets: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """As any parser."""
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep `href`, `src`, `id` and `name`."""
        for name, value in attrs:
            if value and name in ("href", "src") and tag != "base":
                self.targets.append(value)
            elif value and (name == "id" or (name == "name" and tag == "a")):
                self.anchors.add(value)


def broken_links(site: Path) -> list[str]:
    """`page: link` for every link inside the site that leads nowhere."""
    pages = {path.resolve(): read(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for page, links in pages.items():
        if page.name == "404.html":  # its links are absolute, for wherever it is shown
            continue
        for link in links.targets:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir():
                target = target / "index.html"
            known = pages[target].anchors if target in pages else set()
            missing = target in pages and parts.fragment and unquote(parts.fragment) not in known
            if not target.is_file() or missing:
                found.append(f"{page.relative_to(site.resolve())}: {link}")
    return found


def malformed_links(site: Path) -> list[str]:
    """`page: link` for every link out of the site that no server could answer."""
    return [
        f"{page.relative_to(site)}: {link}"
        for page in sorted(site.rglob("*.html"))
        for link in dict.fromkeys(read(page).targets)
        if not is_well_formed(link)
    ]


def is_well_formed(link: str) -> bool:
    """Whether a link out is https, of a host's name, and of its host's form where it has one.

    >>> is_well_formed("https://arxiv.org/abs/2209.11895")
    True
    >>> is_well_formed("https://arxiv.org/abs/2213.11895"), is_well_formed("http://example.org")
    (False, False)
    """
    parts = urlsplit(link)
    if parts.scheme in ("data", "mailto") or not (parts.scheme or parts.netloc):
        return True
    if parts.hostname in OWN_MACHINE:
        return True
    host = parts.hostname or ""
    form = FORMS.get(host.removeprefix("www."))
    return (
        parts.scheme == "https"
        and HOST.fullmatch(host) is not None
        and not re.search(r"\s", link)
        and (form is None or form.fullmatch(parts.path) is not None)
    )


def read(path: Path) -> Links:
    """The links of one page."""
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    return links


def main(site: Path) -> int:
    """Print what is broken."""
    broken = broken_links(site) + malformed_links(site)
    print("\n".join(broken) or f"{site}: every link inside leads somewhere")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
