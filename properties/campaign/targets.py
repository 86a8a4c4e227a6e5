"""Targets of cells: what they run, so that another version of it is another question."""

from __future__ import annotations

from pathlib import Path


def packages_of(target: str) -> tuple[str, ...]:
    """The packages that `published:NAME` runs, by their names on PyPI; none of any other target."""
    from properties.commands.conformance_table import PACKAGES
    from properties.targets.published import ADAPTERS

    if not target.startswith("published:"):
        return ()
    name = target.removeprefix("published:").partition("@")[0]
    return PACKAGES.get(ADAPTERS[name][0].rpartition(".")[2], ()) if name in ADAPTERS else ()


def source_of(target: str) -> str | None:
    """The digest of a target that is a file; None of any other, whose version the cell has already.

    Raises:
        ValueError: the file is not there.
    """
    from properties.campaign.cells import of_file

    file, _, _ = target.rpartition(":")
    if not file.endswith(".py"):
        return None
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{target}: there is no file {file}")
    return of_file(path)
