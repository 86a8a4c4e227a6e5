"""A cell of a campaign: one question that anybody with the same versions answers in the same way, and its address."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Question = dict[str, Any]
"""What is asked, in the words of JSON: numbers, strings, lists, objects, null."""

PACKAGES = ("torch", "numpy", "hypothesis", "mpmath")
"""Of these an answer may depend on the version, whatever is asked."""


@dataclass(frozen=True)
class Cell:
    """One question.

    Attributes:
        kind: a name of `properties.campaign.kinds.KINDS`.
        question: what is asked, with every seed that the answer depends on.
        versions: of what the answer depends on, see `versions`.
        cost: seconds that it is expected to take; no part of the address.
    """

    kind: str
    question: Question
    versions: Mapping[str, str]
    cost: float = field(default=1.0, compare=False)

    @functools.cached_property
    def address(self) -> str:
        """40 hexadecimal digits, the same for equal kind, question and versions, whatever the order of their names."""
        return digest([self.kind, self.question, dict(self.versions)])

    def to_json(self) -> dict[str, Any]:
        """{address, kind, question, versions, cost}."""
        return {
            "address": self.address,
            "kind": self.kind,
            "question": self.question,
            "versions": dict(self.versions),
            "cost": self.cost,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """What `to_json` has written.

        Raises:
            ValueError: the address is not that of the question: the file was changed by hand or damaged.
        """
        cell = cls(data["kind"], data["question"], data["versions"], float(data["cost"]))
        if data["address"] != cell.address:
            raise ValueError(f"the cell {data['address']} asks something else than its address says")
        return cell


def digest(value: Any) -> str:
    """40 hexadecimal digits of a value in canonical JSON: keys sorted, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """The versions that an answer depends on: Python, what computes, this package with a digest of its sources, and
    `packages`, those that a target runs."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "mhc-properties": sources()}
    for name in (*PACKAGES, *packages):
        try:
            found[name] = version(name).partition("+")[0]  # +cpu: the same release
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@functools.cache
def sources() -> str:
    """The digest of everything that this package is made of, so that no answer outlives a change to the code."""
    import mhc_ref
    import properties

    parts = hashlib.sha256()
    for package in (mhc_ref, properties):
        root = Path(package.__file__ or "").parent
        for file in sorted(root.rglob("*.py")):
            parts.update(f"{root.name}/{file.relative_to(root).as_posix()}\0".encode())
            parts.update(file.read_bytes())
    return parts.hexdigest()[:16]


def of_file(path: Path) -> str:
    """The version of a target that is a file: the digest of what it holds."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
