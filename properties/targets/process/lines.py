"""A line from another process, read as strictly as the protocol says: one JSON object, within limits."""

from __future__ import annotations

import json
from typing import Any, NoReturn, cast

from properties.targets.process.protocol import MOST_DEPTH, MOST_DIGITS, MOST_MEMBERS, BadAnswer, shortened


def read_line(line: bytes, what: str, constants: bool = False) -> dict[str, Any]:
    """The object in a line that `what` wrote to its stdout; `constants`: NaN and Infinity, which JSON lacks, may stand.

    Raises:
        BadAnswer: it is no UTF-8, no JSON, no object; too deep, too many members, a key twice, a number too long.
    """

    def wrong(found: str) -> NoReturn:
        raise BadAnswer(f"{what} wrote {shortened(line.decode(errors='replace').strip())} to stdout, {found}")

    if line.count(b",") > MOST_MEMBERS:
        wrong(f"with {line.count(b',')} commas; expected at most {MOST_MEMBERS}")
    try:
        message: Any = json.loads(
            line.decode(),
            parse_int=_integer,
            parse_constant=float if constants else _constant,
            object_pairs_hook=_object,
        )
    except RecursionError:
        wrong(f"nested more than {MOST_DEPTH} deep")
    except _Refused as error:
        wrong(str(error))
    except UnicodeDecodeError as error:
        wrong(f"which is not UTF-8 (byte {error.start})")
    except ValueError as error:
        wrong("which is not JSON" + (f" ({error})" if line[:1] in b"{[" else "; print to stderr"))
    if not isinstance(message, dict):
        raise BadAnswer(f"{what} wrote {shortened(message)} to stdout; expected a JSON object")
    if _deeper_than(message, MOST_DEPTH):
        wrong(f"nested more than {MOST_DEPTH} deep")
    return cast("dict[str, Any]", message)


class _Refused(Exception):
    """JSON to Python, and none of the protocol."""


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _Refused(f"with an integer of {len(digits)} digits; expected at most {MOST_DIGITS}")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise _Refused(f"with {name}, which is no JSON; numbers are finite, those of arrays apart")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Refused(f"with the key {shortened(twice)} more than once in an object")
    return found


def _deeper_than(value: Any, most: int) -> bool:
    front: list[Any] = [value]
    for _ in range(most):
        inner: list[Any] = []
        for one in front:
            if isinstance(one, dict):
                inner += cast("dict[str, Any]", one).values()
            elif isinstance(one, list):
                inner += cast("list[Any]", one)
        front = [one for one in inner if isinstance(one, (dict, list))]
        if not front:
            return False
    return True
