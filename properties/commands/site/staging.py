"""The folder that zensical reads: docs/ as it is written, files that it links, generated pages, and one mkdocs.yml.

A link that leaves docs/ leads to a page of the file that it names, so that the site is whole without the repository.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from properties.commands.site.facts import Facts
from properties.commands.site.pages import Page
from properties.report import badge as badges
from properties.report.page import render

_LINK = re.compile(
    r"(?<=\]\()(?P<to>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))|(?<=\]: )(?P<reference>[^\s#]+)(?=(?:#\S*)?$)", re.M
)
_FENCE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)\s*$)", re.M | re.S)
_LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".json": "json", ".sh": "bash", ".c": "c", ".mjs": "js"}
_MOST_SHOWN = 120_000
"""Bytes of a file that has a page; a larger one is there to be saved."""
_HERE = Path(__file__).parent


class Stage:
    """Copies what a site needs into a folder.

    Args:
        root: the checkout.
        out: an empty folder.
    """

    def __init__(self, root: Path, out: Path) -> None:
        self.root, self.out = root, out
        self._there: set[str] = set()

    def docs(self) -> None:
        """Everything below docs/: pages with their links mended, pictures and data as they are."""
        for path in sorted((self.root / "docs").rglob("*")):
            if path.is_file():
                at = path.relative_to(self.root / "docs").as_posix()
                if path.suffix == ".md":
                    # The page of a folder on GitHub is its README.md.
                    self._write(_index(at), self._mended(path, _index(at)))
                else:
                    self._copy(path, at)

    def pages(self, pages: Iterable[Page]) -> None:
        """Pages that are generated, and parts that go below a page of docs/."""
        for page in pages:
            text = page.text
            if page.below:  # whose rows need the width
                text = f"---\nhide: [toc]\n---\n{(self.out / page.path).read_text('utf-8')}\n{text}"
            self._write(page.path, text)

    def sources(self, names: Iterable[str]) -> None:
        """Pages of files of the checkout."""
        for name in names:
            self._file(self.root / name)

    def known(self, folder: Path) -> None:
        """The stored counterexamples, to be saved."""
        for path in sorted(folder.glob("*.safetensors")):
            self._copy(path, f"files/known/{path.name}")

    def badges(self, facts: Facts) -> None:
        """A badge for each entry of the table."""
        for entry in facts.entries:
            row = None if entry["elsewhere"] else facts.row_of(entry["name"])
            (self.out / "badges").mkdir(parents=True, exist_ok=True)
            badge = badges.of_entry(entry, (row or {}).get("dialect", ""))
            (self.out / "badges" / f"{entry['slug']}.svg").write_bytes(badge)

    def written(self, folder: Path) -> None:
        """Pages that are written by hand and belong to no folder of docs/; what docs/ has under the same name stays."""
        for path in sorted(folder.rglob("*.md")):
            at = path.relative_to(folder).as_posix()
            if at not in self._there:
                self._write(at, path.read_text("utf-8"))

    def style(self) -> None:
        """The style and the script of generated pages: the parts of a report, and what the theme lacks."""
        parts = (Path(render.__file__).parent / "parts.css").read_text("utf-8")
        self._write("assets/site.css", schemes(parts) + (_HERE / "site.css").read_text("utf-8"))
        self._copy(_HERE / "site.js", "assets/site.js")

    def _write(self, at: str, text: str) -> None:
        path = self.out / at
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        self._there.add(at)

    def _copy(self, path: Path, at: str) -> None:
        (self.out / at).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.out / at)
        self._there.add(at)

    def _mended(self, path: Path, at: str) -> str:
        """The text of a page with the links that leave docs/ leading to pages of files."""
        parts = _FENCE.split(path.read_text("utf-8"))
        return "".join(
            part if i % 2 else _LINK.sub(lambda one: self._to(one, path, at), part) for i, part in enumerate(parts)
        )

    def _to(self, one: re.Match[str], path: Path, at: str) -> str:
        """Where a link leads in the site."""
        given, anchor = one["to"] or one["reference"] or "", one["anchor"] or ""
        if re.match(r"[a-z]+:", given) or given.startswith("/"):
            return one[0]
        target = (path.parent / given).resolve()
        if not target.exists() or not target.is_relative_to(self.root.resolve()):
            return one[0]  # which the check of links tells
        inside = target.relative_to(self.root.resolve())
        if inside.parts and inside.parts[0] == "docs" and target.is_file():
            landing = _index(Path(*inside.parts[1:]).as_posix())
        else:
            landing = self._file(target)
        return posixpath.relpath(landing, posixpath.dirname(at) or ".") + anchor

    def _file(self, path: Path) -> str:
        """The page of a file or a folder of the checkout, which is made when it is first linked."""
        inside = path.resolve().relative_to(self.root.resolve()).as_posix()
        place = f"files/{inside.replace('.github', 'github')}"  # what begins with a dot is left out of a site
        if path.is_dir():
            at = f"{place}/index.md"
            if at not in self._there:
                self._there.add(at)
                names = [one for one in sorted(path.iterdir()) if one.is_file() and _shown(one)]
                lines = [
                    f"* [`{one.name}`]({posixpath.relpath(self._file(one), posixpath.dirname(at))})" for one in names
                ]
                self._write(at, "\n".join([f"# `{inside}`", "", *lines]) + "\n")
            return at
        if not _shown(path):
            at = place
            if at not in self._there:
                self._copy(path, at)
            return at
        at = place if path.suffix == ".md" else f"{place}.md"
        if at not in self._there:
            self._there.add(at)
            self._write(at, self._mended(path, at) if path.suffix == ".md" else self._listing(path, inside))
        return at

    @staticmethod
    def _listing(path: Path, inside: str) -> str:
        language = _LANGUAGES.get(path.suffix, "text")
        head = f"---\ntitle: {path.name}\nsearch:\n  exclude: true\n---\n# `{inside}`\n"
        return f"{head}\n~~~~{language}\n{path.read_text('utf-8')}\n~~~~\n"


def _index(at: str) -> str:
    return f"{at.removesuffix('README.md')}index.md" if at.endswith("/README.md") else at


def _shown(path: Path) -> bool:
    known = path.suffix in _LANGUAGES or path.suffix in (".md", ".txt", "")
    return known and path.stat().st_size <= _MOST_SHOWN


def schemes(parts: str) -> str:
    """The parts of a report, with the colours of the scheme that is chosen on the page in place of the system's."""
    light = re.search(r":root \{(.*?)\}", parts, re.S)
    dark = re.search(r"prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}\s*\}", parts, re.S)
    if not light or not dark:
        raise ValueError("parts.css has no colours for both schemes: expected :root {...}, also for the dark")
    rest = parts[dark.end() :]
    plain = light[1].replace("color-scheme: light dark;", "")
    return f':root, [data-md-color-scheme="default"] {{{plain}}}\n[data-md-color-scheme="slate"] {{{dark[1]}}}\n{rest}'


def configuration(text: str, stage: Path, site: Path, others: Iterable[str] = ()) -> str:
    """mkdocs.yml for a staged folder: entries of its navigation whose page is not there are left out.

    Args:
        text: mkdocs.yml as it is written.
        stage: the folder with the pages; site: where the site goes; both in the folder of the configuration.
        others: pages that are to be found, too; those that the navigation does not name come last.
    """
    import yaml

    # Only the last part is read: what stands before it names objects that a safe reader refuses.
    head, _, nav = text.partition("\nnav:\n")
    entries = navigation(yaml.safe_load(nav), stage)
    there = set(named(entries))
    more = [name for name in others if name not in there and (stage / name).is_file()]
    last = {"docs_dir": stage.name, "site_dir": site.name, "nav": [*entries, *([{"More": more}] if more else [])]}
    return f"{head}\n{yaml.safe_dump(last, sort_keys=False)}"


def navigation(entries: list[Any], stage: Path) -> list[Any]:
    """The entries whose page is there; a group without pages goes too."""
    kept: list[Any] = []
    for entry in entries:
        name, what = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(what, list):
            if below := navigation(what, stage):
                kept.append({name: below})
        elif re.match(r"https?:", what) or (stage / what).is_file():
            kept.append(entry)
    return kept


def named(entries: list[Any]) -> list[str]:
    """The pages of a navigation."""
    found: list[str] = []
    for entry in entries:
        what = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += named(what) if isinstance(what, list) else [what]
    return found
