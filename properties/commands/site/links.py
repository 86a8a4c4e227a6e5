"""Looks whether every link of a built site arrives: pages, anchors, pictures, scripts; nothing is fetched.

python -m properties.commands.site.links build/site
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Reading(HTMLParser):
    """The anchors of a page, and what it links."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.twice: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        for name in {given.get("id", ""), given.get("name", "") if tag == "a" else ""} - {""}:
            if name in self.anchors and "id" in given:
                self.twice.add(name)
            self.anchors.add(name)
        for name in ("href", "src"):
            if name in given:
                self.links.append(given[name])
                if name == "src" or (tag == "link" and given.get("rel") in ("stylesheet", "icon")):
                    self.loaded.append(given[name])


def read(path: Path) -> _Reading:
    """A page."""
    found = _Reading()
    found.feed(path.read_text("utf-8"))
    return found


def broken(site: Path) -> Iterator[str]:
    """Every link that does not arrive, every file that is loaded from elsewhere, every anchor that is there twice."""
    pages = {path.resolve(): read(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        shown = path.relative_to(site.resolve()).as_posix()
        if shown == "404.html":  # it is served at any depth, so its links begin at the root
            continue
        for name in sorted(page.twice - {"__toggle", "__drawer", "__search"}):
            yield f"{shown}: the anchor {name} is there twice"
        for given in page.loaded:
            if re.match(r"(https?:)?//", given):
                yield f"{shown}: loads {given} from elsewhere"
        for given in dict.fromkeys(page.links):
            parts = urlsplit(given)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                yield f"{shown}: links {given}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{shown}: links {given}, and there is no such place on that page"
    for style in sorted(site.rglob("*.css")):
        for given in re.findall(r"url\((?![\"']?data:)[\"']?([^)\"']+)", style.read_text("utf-8")):
            if re.match(r"(https?:)?//", given):
                yield f"{style.relative_to(site)}: loads {given} from elsewhere"


if __name__ == "__main__":
    found = list(broken(Path(sys.argv[1])))
    print("\n".join(found) or "every link arrives")
    sys.exit(1 if found else 0)
