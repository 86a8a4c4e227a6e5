"""The text of a file of known failures: its entries change, and the comments of whoever wrote it stay.

A comment right above an entry goes where the entry goes, and with it. One with an empty line below it, and one at the
very beginning of the file, stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Table

_IDENTITY = ("law", "implementation", "dtype", "device")

Identity = tuple[str | None, ...]
"""What an entry is about: law, implementation, dtype and device. No two of a file are about the same."""


def identity(fields: Mapping[str, Any]) -> Identity:
    """What an entry with these fields is about."""
    return tuple(fields.get(name) or None for name in _IDENTITY)


@dataclass
class _Entry:
    """An entry as it stands in the file, with the comments before it: those of the file, and its own."""

    of_file: str
    own: str
    table: Table
    behind: str = ""

    def text(self, fields: Mapping[str, str]) -> str:
        """The entry with these fields; what is said beside them stays."""
        for name in [name for name in self.table if name not in fields]:
            del self.table[name]
        for name, value in fields.items():
            if self.table.get(name) != value:
                self.table[name] = value
        header = f"[[known]]{self.table.trivia.comment_ws}{self.table.trivia.comment}"
        return "\n".join(filter(None, (self.own, header, self.table.as_string().strip("\n"), self.behind)))


def renewed(before: str, schema: int, entries: Sequence[tuple[Mapping[str, str], Identity | None]]) -> str:
    """The file with these entries and no others, in this order.

    Arguments:
        before: the text of the file so far, empty for a new one; what is no TOML is given up.
        entries: the fields of each, and which entry of `before` it takes the place of: it has its comments.
    """
    head, there, end = _read(before, schema)
    waiting = dict(there)
    parts = [head]
    for fields, place in entries:
        old = there.pop(place, None) if place is not None else None
        if old is None:
            parts.append(_Entry("", "", tomlkit.table()).text(fields))
            continue
        for passed in list(waiting):  # what the file says between entries stays between them, also of one that is gone
            parts.append(waiting.pop(passed).of_file)
            if passed == place:
                break
        parts.append(old.text(fields))
    parts += [*(one.of_file for one in waiting.values()), end]
    return "\n\n".join(filter(None, parts)) + "\n"


def _read(before: str, schema: int) -> tuple[str, dict[Identity, _Entry], str]:
    """The head of a file, its entries, and the comments at its end."""
    try:
        document = tomlkit.parse(before)
    except TOMLKitError:
        document = tomlkit.document()
    listed = document.pop("known", None)
    tables = list(listed.body) if isinstance(listed, AoT) else []  # a list of another form has no comments of entries
    comments = _taken(document.body)
    own = _own(comments) if tables else []
    if not document and not comments:  # it begins the file
        comments, own = own, []
    numbered, said = "schema" in document, "\n".join(comments).strip("\n")
    document["schema"] = schema
    head = [document.as_string().strip("\n"), said]
    entries: dict[Identity, _Entry] = {}
    of_file = ""
    for number, table in enumerate(tables, 1):
        entry = _Entry(of_file, "\n".join(own), table)
        entries[identity(table)] = entry
        comments = _taken(table.value.body)
        own = _own(comments) if number < len(tables) else []
        while comments and comments[0]:
            entry.behind = f"{entry.behind}\n{comments.pop(0)}".strip("\n")
        of_file = "\n".join(comments).strip("\n")
    return "\n\n".join(filter(None, head if numbered else reversed(head))), entries, of_file


def _taken(body: list[Any]) -> list[str]:
    """The lines of the comments at the end of a table, which lose their place in it; empty ones among them."""
    lines: list[str] = []
    while body and body[-1][0] is None:
        lines[:0] = body.pop()[1].as_string().splitlines()
    return lines


def _own(comments: list[str]) -> list[str]:
    """Those right above the next entry, which are taken from the others."""
    own: list[str] = []
    while comments and comments[-1].strip():
        own.insert(0, comments.pop())
    return own
