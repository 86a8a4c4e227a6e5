"""The implementations in a folder of adapters: each file is imported in another process, which may die of it.

Of every file of the folder whose name ends in .py and begins with a letter: what `TARGET` is, or the attributes that
`TARGETS` names; where it has neither, each public class of its own and each public object of its own that is an
`Implementation`. What a file imports from elsewhere is not its own.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from properties.guards.child import Forwarding, ended, program
from properties.guards.progress import progress
from properties.guards.stopping import PARENT, end_with

if TYPE_CHECKING:
    from types import ModuleType

    from properties.targets.target import TargetError


@dataclass(frozen=True)
class Unusable:
    """A file or a target of a folder that no law can be asked of, and why."""

    target: str
    why: str


@dataclass(frozen=True)
class Adapters:
    """What is in a folder.

    Attributes:
        targets: as for --impl, file by file.
        unusable: files that cannot be imported, and targets that cannot be made.
        empty: the files in which there is no implementation.
    """

    targets: tuple[str, ...]
    unusable: tuple[Unusable, ...]
    empty: tuple[str, ...]


def is_folder(target: str) -> bool:
    """Whether a folder is meant, and no other form of a target: one that ends in a slash, or no word of ours."""
    slash = target.endswith(tuple(one for one in (os.sep, os.altsep) if one))
    plain = ":" not in target and target not in ("", "ref")
    return (slash and plain) or (os.path.isdir(target) and (slash or plain))


def adapters(folder: str, dialect: str | None = None) -> Adapters:
    """What there is to check in a folder. `dialect` is for plain functions that a file names as its targets.

    Raises:
        OSError: the folder cannot be read.
        KeyboardInterrupt: a signal asked for the end.
    """
    names = sorted(name for name in os.listdir(folder) if name.endswith(".py") and name[0].isalpha())
    left = [str(Path(folder) / name) for name in names if (Path(folder) / name).is_file()]
    targets: list[str] = []
    unusable: list[Unusable] = []
    empty: list[str] = []
    with progress("check", total=len(left)) as line:
        number = 0
        while left:
            begun, death = "", ""
            for said in _asked(left, dialect):
                death = said.get("ended", "")
                if "begun" in said:
                    begun, number = said["begun"], number + 1
                    line.say(f"importing {begun}", done=number)
                elif "targets" in said:
                    targets += said["targets"]
                    unusable += [Unusable(*one) for one in said["unusable"]]
                    empty += [begun] * (not said["targets"] and not said["unusable"])
                    left.remove(begun)
            for died in [one for one in left if one == begun or not begun]:  # all of them, where none was begun
                unusable.append(Unusable(died, f"importing it ended the process, which {death}"))
                left.remove(died)
    return Adapters(tuple(targets), tuple(unusable), tuple(empty))


def _asked(files: Sequence[str], dialect: str | None) -> Iterator[dict[str, Any]]:
    """What another process says of some files, and in the end how it ended."""
    words = [json.dumps(dialect), *files]
    environment = {**os.environ, PARENT: str(os.getpid())}
    with Forwarding() as forwarding:
        command = program("properties.targets.folder", words)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            forwarding.to(process)
            assert process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(ValueError):  # the last line of a process that died
                    yield json.loads(line)
            status = process.wait()
    if forwarding.asked:
        raise KeyboardInterrupt
    yield {"ended": ended(status)}


# -- in the other process ---------------------------------------------------------------------------------------------


def main() -> None:
    """Say what is in the files that the command line names; what they print themselves goes to stderr."""
    dialect, *files = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if (parent := os.environ.pop(PARENT, "")).isdigit():
        end_with(int(parent))
    for file in files:
        print(json.dumps({"begun": file}), file=answers, flush=True)
        targets, unusable = _of(file, json.loads(dialect))
        print(json.dumps({"targets": targets, "unusable": unusable}), file=answers, flush=True)
    answers.close()
    os._exit(0)  # threads and handlers of the files have no say in how this ends


def _of(file: str, dialect: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """The targets of a file that can be used, and those that cannot, with the reason."""
    from properties.targets.target import TargetError, file_module, resolve

    usable: list[str] = []
    unusable: list[tuple[str, str]] = []
    try:
        names = _names(file_module(Path(file), file), file)
    except TargetError as error:
        return [], [(file, _in_a_line(error).removeprefix(f"{file}: "))]
    for name in names:
        target = f"{file}:{name}"
        try:
            resolve(target, dialect)
            usable.append(target)
        except TargetError as error:
            unusable.append((target, _in_a_line(error).removeprefix(f"{target}: ").removeprefix(f"{target} ")))
    return usable, unusable


def _in_a_line(error: TargetError) -> str:
    """The sentence with the place in brackets, instead of the lines of code below it: a folder may hold many."""
    from properties.guards.traces import place_of

    return f"{error.message} ({place_of(error.__cause__)})" if error.code and error.__cause__ else error.message


def _names(module: ModuleType, file: str) -> list[str]:
    from properties.targets.target import TargetError

    held = vars(module)
    if "TARGETS" in held:
        named: Any = held["TARGETS"]
        if type(named) not in (list, tuple) or not all(type(one) is str for one in named):
            raise TargetError(f"{file}: TARGETS is {type(named).__name__}; expected a list of names of attributes")
        return list(named)
    if "TARGET" in held:
        return ["TARGET"]
    theirs = _imported(file)
    return [name for name, value in held.items() if not name.startswith("_") and _own(name, value, module, theirs)]


def _own(name: str, value: Any, module: ModuleType, theirs: set[str]) -> bool:
    from properties.core.implementation import Implementation

    if issubclass(type(value), type):
        return issubclass(value, Implementation) and value.__module__ == module.__name__
    return issubclass(type(value), Implementation) and name not in theirs


def _imported(file: str) -> set[str]:
    """The names that the statements of a file import, those within its functions and classes apart."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(Path(file).read_bytes())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {one.asname or one.name.partition(".")[0] for one in node.names}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            todo += ast.iter_child_nodes(node)
    return found


if __name__ == "__main__":
    main()
