"""Where in its own code a target raised: its frames, without ours, torch's, the test runner's and Python's."""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import cast

from properties.guards.faults import Lost, raised_at, traceback_of
from properties.guards.printable import printable

WIDE = 80
"""Columns of an excerpt."""
_BEFORE, _AFTER, _CALLERS = 3, 1, 2
"""Lines of code before and after the one that raised, and frames that led there: eight lines, with two headers."""
_DEEPEST = 4000
"""Frames that are looked at: what recurses without end has more, and says the same in all of them."""
_OURS = (Path(__file__).parents[1], Path(__file__).parents[2] / "mhc_ref")
_PYTHON = tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})
_PACKAGES = ("site-packages", "dist-packages")
_LIBRARIES = frozenset(
    (
        *("torch", "functorch", "triton", "numpy", "jax", "jaxlib", "mlx", "jaxtyping", "beartype"),
        *("pytest", "_pytest", "pluggy", "xdist", "execnet", "hypothesis"),
    )
)
"""Packages that somebody's code calls, or that call ours."""


class Elsewhere(Exception):
    """An exception of another process, which may have told where it was raised there.

    Attributes:
        place: as `place_of`.
        excerpt: as `excerpt`.
    """

    place = ""
    excerpt = ""


@dataclass(frozen=True)
class Frame:
    """A line of the target's own code through which an exception came, `code` as far as it can be read; its function
    begins at the line `begins`."""

    file: str
    line: int
    function: str
    code: str
    begins: int = 1

    @property
    def place(self) -> str:
        """``mixing.py:12``."""
        return printable(f"{Path(self.file).name}:{self.line}", 120)


def own_frames(error: BaseException) -> list[Frame]:
    """The frames of the target's own code, the innermost last; none where it only passed through code of others, or
    was raised in another process."""
    found: list[TracebackType] = []
    trace, looked = traceback_of(error), 0
    while trace is not None and looked < _DEEPEST:
        if own_file(trace.tb_frame.f_code.co_filename):
            found.append(trace)
        trace, looked = trace.tb_next, looked + 1
    return [_frame(one) for one in found[-20:]]


def place_of(error: BaseException) -> str:
    """``mixing.py:12``, the last line of the target's own code; of any code where there is none, and nothing where that
    is not known either."""
    if issubclass(type(error), Elsewhere):
        return cast("Elsewhere", error).place
    if issubclass(type(error), Lost):  # raised by us, of a process that said nothing
        return ""
    if own := own_frames(error):
        return own[-1].place
    last = raised_at(error)
    return "" if last is None else printable(f"{Path(last[0]).name}:{last[1]}", 120)


def met_in_ours(error: BaseException) -> bool:
    """Whether it was raised in code of ours, as by a call with arguments that the target does not take: then the line
    says nothing of the target."""
    last = None if issubclass(type(error), (Elsewhere, Lost)) or own_frames(error) else raised_at(error)
    return last is not None and any(Path(last[0]).is_relative_to(one) for one in _OURS)


def excerpt(error: BaseException) -> str:
    """The last lines of the target's own code that led to an exception, for a terminal; empty where there are none."""
    if issubclass(type(error), Elsewhere):
        return cast("Elsewhere", error).excerpt
    own = own_frames(error)
    return "\n".join(_cut(printable(one, 4 * WIDE).replace("\n", " ").replace("\t", "    ")) for one in _lines(own))


def _lines(own: Sequence[Frame]) -> list[str]:
    if not own:
        return []
    *callers, last = own
    told = [f"{one.place} in {one.function}" + f": {one.code}" * bool(one.code) for one in callers[-_CALLERS:]]
    told.append(f"{last.place} in {last.function}")
    around = range(max(last.begins, last.line - _BEFORE), last.line + _AFTER + 1)
    code = [(number, _read(last.file, number)) for number in around]
    code = [(number, text) for number, text in code if text.strip()]
    indent = min((len(text) - len(text.lstrip()) for _, text in code), default=0)
    return told + [
        f"{'>' if number == last.line else ' '} {number:>4}  {text[indent:].rstrip()}" for number, text in code
    ]


def _cut(line: str) -> str:
    return line if len(line) <= WIDE else line[: WIDE - 3] + "..."


def _frame(trace: TracebackType) -> Frame:
    code = trace.tb_frame.f_code
    line = trace.tb_lineno or code.co_firstlineno  # None where the bytecode was made by hand
    return Frame(code.co_filename, line, code.co_name, _read(code.co_filename, line).strip(), code.co_firstlineno)


def _read(file: str, line: int) -> str:
    try:
        return linecache.getline(file, line)
    except Exception:  # of a file that is none, or a loader of somebody's own
        return ""


def own_file(file: str) -> bool:
    """Whether a file is the target's own code: not ours, Python's, or that of a library that targets are made with."""
    path = Path(file)
    if file.startswith("<frozen") or any(path.is_relative_to(one) for one in _OURS):
        return False
    for name in _PACKAGES:
        if name in path.parts:
            inside = path.parts[path.parts.index(name) + 1 :]
            return not inside or inside[0].removesuffix(".py") not in _LIBRARIES
    return not any(path.is_relative_to(one) for one in _PYTHON)
