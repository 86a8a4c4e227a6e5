"""Sentences of docstrings and data files as HTML: words between back ticks are code, and what has a page is a link."""

from __future__ import annotations

import re
from collections.abc import Mapping

from markupsafe import Markup, escape

_SPANS = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|(?P<url>https://[^\s)>\]]+[^\s)>\].,;:])"
    r"|arXiv (?P<arxiv>\d{4}\.\d{4,5})"
    r"|docs/(?P<page>[\w-]+)\.md(?:, (?P<section>[A-Z][\w ]+?)(?=[);.:,]))?"
    r"|\*(?P<stressed>[A-Za-z]+)\*"
    r"|(?P<law>\b[a-z]+\.[a-z]+(?:-[a-z0-9]+)+\b)"
)


class Prose:
    """Turns text into HTML on a page at some depth below the root of the site.

    Args:
        pages: what has a page, by its name: a law, a deviation, a dialect, an implementation. Addresses are from the
            root.
        depth: how many folders lie between the root and the page.
    """

    def __init__(self, pages: Mapping[str, str], depth: int) -> None:
        self.pages, self.up = pages, "../" * depth

    def link(self, name: str, words: str | None = None) -> Markup:
        """The name as code, linked where it has a page."""
        said = escape(words) if words is not None else Markup("<code>{}</code>").format(name)
        address = self.pages.get(name)
        return Markup('<a href="{}">{}</a>').format(self.up + address, said) if address else Markup(said)

    def inline(self, text: str) -> Markup:
        """A sentence."""
        found, last = Markup(""), 0
        for one in _SPANS.finditer(text):
            found += escape(text[last : one.start()]) + self._span(one)
            last = one.end()
        return found + escape(text[last:])

    def paragraphs(self, text: str) -> Markup:
        """Paragraphs, which an empty line parts."""
        parts = [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
        return Markup("\n").join(Markup("<p>{}</p>").format(self.inline(" ".join(part.split()))) for part in parts)

    def _span(self, one: re.Match[str]) -> Markup:
        if code := one["code"]:
            return self.link(code)
        if url := one["url"]:
            return Markup('<a href="{}">{}</a>').format(url, url.removeprefix("https://"))
        if number := one["arxiv"]:
            return Markup('<a href="https://arxiv.org/abs/{}">arXiv {}</a>').format(number, number)
        if page := one["page"]:
            section = one["section"] or ""
            anchor = f"#{section.lower().replace(' ', '-')}" if section else ""
            return Markup('<a href="{}{}.html{}">{}</a>').format(self.up, page, anchor, section or page)
        if stressed := one["stressed"]:
            return Markup("<em>{}</em>").format(stressed)
        return self.link(one["law"]) if one["law"] in self.pages else escape(one[0])
