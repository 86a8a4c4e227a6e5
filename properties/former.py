"""The names that modules had before the rooms: each still imports what is there now, and says so.

They go with version 1.0. What README and docs document as Python (`properties.modules`, `properties.arrays`,
`properties.conformance`, `properties.strategies`, `properties.explosion`) is no former name and stays.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

_MOVED = {
    "properties": {
        "guards": "printable interruption faults plain whole surroundings sealed stopping answer one_object",
        "core": "case implementation device law trial truth",
        "targets": "target naming rehearsal tokens isolation trust process published",
        "catalogue": "deviations controls",
        "engine": "runner counterexample fitting known known_file names apart",
        "plugin": "gathering launch",
        "commands": "bench ratios verify replay",
        "campaign": "kill seeds",
    },
    "properties.explosion": {
        "proofs": "closed_form manifold storage overflow learning",
        "searches": "architecture ascent entries foreign hypothesise logits dynamic blocks",
        "monitor": "emissions gains_file limits measures",
    },
}
"""Package -> the part of it in which these modules lie now, under the same name."""

_RENAMED = {
    "bounds.rounding": "core.rounding",
    "bounds.scaling": "families.sinkhorn.forwards",
    "declarations": "core.settling",
    "deviations.deviant": "core.deviant",
    "deviations.iterations": "families.deviations.sinkhorn.fields",
    "diagnosis.estimate": "core.estimate",
    "diagnosis.failure": "causes",
    "diagnosis.projection": "families.fits.sinkhorn.seen",
    "diagnosis.temperature": "families.fits.sinkhorn.temperature",
    "explosion.atlas_picture": "explosion.pictures.atlas",
    "explosion.constrained": "explosion.searches.divided",
    "explosion.header": "explosion.stored",
    "explosion.monitor_arguments": "explosion.monitor.arguments",
    "explosion.picture": "explosion.pictures.explosion",
    "explosion.request": "explosion.questions.families",
    "explosion.watching": "explosion.monitor.hooks",
    "process.__main__": "commands.process",
    "published.__main__": "campaign.conformance",
    "published.table": "commands.conformance_table",
}
"""What has another name now, both within `properties`."""

COMMANDS = {
    "properties.kill": "kill",
    "properties.seeds": "seeds",
    "properties.bench": "bench",
    "properties.ratios": "ratios",
    "properties.published.__main__": "conformance",
    "properties.process.__main__": "process",
}
"""What was a program, ``python -m NAME``, is a command of `mhc-properties` now."""

_NOW = {
    **{
        f"{package}.{name}": f"{package}.{part}.{name}"
        for package, parts in _MOVED.items()
        for part, names in parts.items()
        for name in names.split()
    },
    **{f"properties.{name}": f"properties.{present}" for name, present in _RENAMED.items()},
}


def now(name: str) -> str | None:
    """What a module of a former name is called now; None for every other name."""
    if name in _NOW:
        return _NOW[name]
    parent, _, rest = name.rpartition(".")
    above = now(parent) if parent.startswith("properties.") else None
    return None if above is None else f"{above}.{rest}"


class FormerNames(MetaPathFinder):
    """Finds a module under its former name, and warns once a place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module that has the name now, or None for every name that is not a former one."""
        present = now(fullname) if fullname.startswith("properties.") else None
        if present is None:
            return None
        warnings.warn(
            f"{fullname} is {present} now; the former name goes with version 1.0", DeprecationWarning, stacklevel=2
        )
        spec = importlib.util.find_spec(present)
        if spec is None or spec.loader is None:
            return None
        former = ModuleSpec(fullname, _Former(present, spec.loader), origin=spec.origin)
        former.submodule_search_locations = spec.submodule_search_locations
        return former


class _Former(Loader):
    """Hands out the very module of the present name; as a program (``python -m``) its code."""

    def __init__(self, present: str, loader: Any) -> None:
        self.present, self.loader = present, loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None  # a blank one, which exec_module puts aside

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self.present)

    def get_code(self, fullname: str) -> CodeType | None:
        """For runpy: the command line with the command that the program is now, or the code of the present name."""
        if fullname not in COMMANDS:
            return self.loader.get_code(self.present)
        program = (
            f"import sys; from properties.cli import main\n"
            f"if __name__ == '__main__': sys.argv[1:1] = [{COMMANDS[fullname]!r}]; main()"
        )
        return compile(program, f"<{fullname}>", "exec")


def install() -> None:
    """Let the former names be found; before anything else looks for a submodule of theirs on the disk."""
    if not any(isinstance(finder, FormerNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerNames())
