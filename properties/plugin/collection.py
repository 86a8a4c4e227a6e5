"""The laws among the tests of a run: found in their files, chosen, put in order; what cannot be verified is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from properties.guards.printable import printable
from properties.plugin.item import LawItem
from properties.plugin.options import ADDED, option, refuse_unwritable
from properties.plugin.session import listen
from properties.plugin.subjects import known_failures, subjects

if TYPE_CHECKING:
    from properties.core.law import Law


LAWS = Path(__file__).parents[1] / "laws"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The files of laws, whatever `python_files` says."""
    if file_path.parent == LAWS and file_path.suffix == ".py" and not file_path.name.startswith("_"):
        return LawFile.from_parent(parent, path=file_path)
    return None


class LawFile(pytest.File):
    """One family of laws, or the file of a part of them."""

    def _laws(self) -> Iterable[Law]:
        """All laws of the family in the file that has its name. Another file of it has its own laws, where it was named
        and the family was not: in a whole run each law comes once, under the name of its family."""
        from properties.core.law import FAMILIES, all_laws, family_laws

        name, named = self.path.stem, self.session.isinitpath
        if name in FAMILIES:
            return family_laws(name)
        if not named(self.path) or any(map(named, self.path.parents)):
            return ()
        own = (law for law in all_laws().values() if law.module == f"properties.laws.{name}")
        return [law for law in own if not named(self.path.with_name(f"{law.family}.py"))]

    def collect(self) -> Iterable[pytest.Item]:
        """A test for every law and subject: `law-id[implementation-dtype-device]`."""
        prefixes: list[str] = option(self.config, "law") or []
        for law in self._laws():
            if prefixes and not any(law.id.startswith(prefix) for prefix in prefixes):
                continue
            for subject in subjects(self.config):
                yield LawItem.from_parent(self, name=f"{law.id}[{subject.id}]", law=law, subject=subject)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Refuse what cannot be verified once and in one sentence, before anything is collected.

    Raises:
        pytest.UsageError: a device that is not here, a target that cannot be used, a --law that no law answers to, a
            --known that cannot be read, a --report that
            cannot be written, or a Python without docstrings.
    """
    config = session.config
    if hasattr(config, "workerinput") or not config.stash.get(ADDED, False):
        return
    if sys.flags.optimize:  # asked before torch is imported for the answer
        from properties.core.law import stripped

        if (reason := stripped()) is not None:
            raise pytest.UsageError(reason)
    listen(session)
    if (place := option(config, "device") or "cpu") != "cpu":
        from properties.core.device import device_of

        if (missing := device_of(place).missing()) is not None:
            raise pytest.UsageError(f"--device {place}: there is {missing} here, so that no law can be exercised")
    known_failures(config)
    if option(config, "impl") or option(config, "dialect") or option(config, "dtype"):
        subjects(config)
    for prefix in option(config, "law") or []:
        from properties.core.law import all_laws

        if not any(one.startswith(prefix) for one in all_laws()):
            raise pytest.UsageError(
                f"--law {printable(prefix, 200)}: no law's id begins so; `mhc-properties laws` lists them"
            )
    given = option(config, "report")
    if given is not None and not config.option.collectonly:
        refuse_unwritable(given, "--report")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those laws first in which most mistakes show, in the places that laws have among the tests."""
    places = [place for place, item in enumerate(items) if isinstance(item, LawItem)]
    if not places:
        return
    from properties.core.law import scouts

    found = [item for item in items if isinstance(item, LawItem)]
    for place, item in zip(places, sorted(found, key=lambda item: item.law.id not in scouts()), strict=True):
        items[place] = item
