"""Pages by kind to fit and to judge main content by: manuals of Debian's documentation packages, and made pages.

    python -m benchmarks.pages FOLDER       # writes FOLDER/kinds.jsonl.zst; downloads some 300 MB, installs nothing

Needs Debian 12's apt-get and dpkg-deb, and a network. Of manuals, the main content is the text of the element that the
generator marks as the page's body, less what it marks as navigation; indexes are left out. Part of the packages is held
out, and so are half of the layouts of made pages (layouts.py), whose prose comes from the packages on the same side.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import lxml.etree
import lxml.html
import zstandard

from benchmarks.layouts import LAYOUTS, pages
from benchmarks.shingles import KINDS

FIT = """python3.11-doc python-flask-doc python-attr-doc python-cryptography-doc python-sqlalchemy-doc python-celery-doc
cmake-doc numba-doc borgbackup-doc knot-doc kitty-doc mkdocs-doc python-djangorestframework-doc docutils-doc
debian-handbook apt-doc debian-kernel-handbook git-doc libglib2.0-doc libcairo2-doc libgtk-4-doc maxima-doc
libfftw3-doc libeigen3-doc fltk1.3-doc libsfml-doc junit4-doc libcommons-lang3-java-doc apache2-doc sqlite3-doc
exim4-doc-html nodejs-doc swi-prolog-doc zsh-doc cppreference-doc-en-html lemonldap-ng-doc"""
HELD_OUT = """python-django-doc python-click-doc python-aiohttp-doc python-dask-doc python-lxml-doc notmuch-doc mypy-doc
ganeti-doc openvswitch-doc keystone-doc freetype2-doc libpango1.0-doc libsoup-3.0-doc libxml2-doc gnutls-doc
debian-policy developers-reference postgresql-doc-15 valgrind derby-doc groovy-doc libjsoup-java-doc
libjfreechart-java-doc doxygen-doc libtorrent-rasterbar-doc povray-doc nim-doc emscripten-doc libsdl2-doc git-annex"""
WIKIS = ("cppreference-doc-en-html", "lemonldap-ng-doc", "libsdl2-doc", "git-annex")  # the last: half with comments
PAGES, WIKI_PAGES = 20, 60  # of a package
SEEDS = 10  # sites of a layout
LEAST_WORDS = 30
NAVIGATION = " or ".join(
    f"@class='{name}'"
    for name in "navheader navfooter navigation header nav-panel navigate nav NavPanel docnav nosearch".split()
)
# The body of a page, the first of these that there is
BODIES = (
    "//*[@role='main']",
    "//main",
    "//*[@itemprop='articleBody']",
    "//*[@class='docs-body']",
    "//section[@id='main']",
    "//*[@id='page-content' or @id='mw-content-text' or @id='main-content' or @id='apicontent']",
    "//*[@id='dokuwiki__content']",
    "//*[@class='contents' or @class='contentContainer' or @class='documentwrapper' or @class='document']",
    "//article",
    "//*[@id='content' or @id='doc']",
    f"//body[.//*[{NAVIGATION}]]",
)
BLOCKS = frozenset("p div li dt dd tr td th pre br h1 h2 h3 h4 h5 h6 table ul ol dl section blockquote hr".split())
AROUND = (
    ".//script | .//style | .//nav | .//form | .//*[contains(@class, 'headerlink') or @class='footer' or "
    "@id='quickview' or @id='banner' or @class='viewcode-link']"
)


def manuals(folder: Path, packages: str, held_out: bool) -> Iterator[dict]:
    """PAGES pages of each package whose body is marked. Packages are left in `folder`."""
    for package in packages.split():
        if not any(folder.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
        with tempfile.TemporaryDirectory() as tree:
            subprocess.run(["dpkg-deb", "-x", str(next(folder.glob(f"{package}_*.deb"))), tree], check=True)
            n, most = 0, WIKI_PAGES if package in WIKIS else PAGES
            for path in _shuffled(p for p in Path(tree).rglob("*.html") if p.is_file() and not p.is_symlink()):
                html = path.read_bytes().decode("utf-8", "replace")
                article = body(html) if n < most and len(html) < 400_000 else None
                if article:
                    n += 1
                    kind = "wiki" if package in WIKIS else "documentation"
                    yield {"kind": kind, "site": package, "held_out": held_out, "html": html, "article": article}


def _shuffled(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest())


def body(html: str) -> str | None:
    """Text of what the generator marks as the body; None where it marks none, or that is mostly links, as an index is,
    or holds fewer than LEAST_WORDS."""
    try:
        tree = lxml.html.document_fromstring(html.encode(), parser=lxml.html.HTMLParser(encoding="utf-8"))
    except lxml.etree.ParserError:
        return None
    marked = next((ones[0] for ones in map(tree.xpath, BODIES) if ones), None)
    if marked is None:
        return None
    for one in marked.xpath(f"{AROUND} | .//*[{NAVIGATION}]" if marked.tag == "body" else AROUND):
        if one.getparent() is not None:
            one.drop_tree()
    for one in marked.iter(*BLOCKS):
        one.text, one.tail = f"\n{one.text or ''}", f"\n{one.tail or ''}"
    text = marked.text_content()
    linked = sum(len(one.text_content()) for one in marked.iter("a") if one.get("href"))
    return text if len(text.split()) >= LEAST_WORDS and linked < len(text) / 2 else None


def prose(manual_pages: list[dict]) -> list[str]:
    """Paragraphs of manuals, for made pages."""
    lines = {line.strip() for page in manual_pages for line in page["article"].split("\n")}
    return sorted(line for line in lines if 80 < len(line) < 700 and line[0].isupper() and line.endswith("."))


def main() -> None:
    made, folder = [], Path(sys.argv[1], "packages")
    folder.mkdir(parents=True, exist_ok=True)
    for packages, held_out in ((FIT, False), (HELD_OUT, True)):
        ours = list(manuals(folder, packages, held_out))
        words = prose(ours)
        made += ours + [
            page
            for layout in LAYOUTS
            if layout.held_out == held_out
            for n in range(SEEDS)
            for page in pages(layout, n, words)
        ]
    data = "".join(json.dumps(page, ensure_ascii=False) + "\n" for page in made).encode("utf-8", "replace")
    Path(sys.argv[1], KINDS).write_bytes(zstandard.compress(data, 10))
    print(f"{len(made):,} pages")


if __name__ == "__main__":
    main()
