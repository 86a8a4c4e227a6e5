"""The end of a run of several targets: one line for each, and one for all of them."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

from properties.guards.printable import printable
from properties.report.report import WIDTH, Line

_WORDS = {
    "failed": "failed",
    "error": "in error",
    "known": "failed as known",
    "passed": "held",
    "not-applicable": "not applicable",
}
"""Of a law over the dtypes of a target, and of a target over its laws, the first of these that there was."""
_RANK = tuple(_WORDS)


def across(lines: Iterable[Line], unusable: Sequence[tuple[str, str]] = ()) -> list[str]:
    """How many laws failed and held on each implementation, with the ids of its causes; then what could not be tried.

    Args:
        lines: as a report has them, where causes have ids.
        unusable: targets that could not be used, with the reasons.
    """
    of: dict[str, list[Line]] = {}
    for line in lines:
        of.setdefault(line.implementation, []).append(line)
    names = {name: printable(name, 200) for name in of}
    wide = min(max(map(len, names.values()), default=0), WIDTH // 2)
    text = [one for name, those in of.items() for one in _filled(f"{names[name]:<{wide}}  {_counted(those)}")]
    text += [
        textwrap.shorten(f"{target}: not tried: {_plain(why)}", WIDTH, placeholder=" ...") for target, why in unusable
    ]
    worst = Counter(min((line.status for line in those), key=_RANK.index) for those in of.values())
    counts = [f"{worst[status]} {words}" for status, words in _WORDS.items() if worst[status]]
    counts += [f"{len(unusable)} not tried"] if unusable else []
    number = len(of) + len(unusable)
    return [*text, f"{number} target{'s' * (number != 1)}: {', '.join(counts)}"]


def _counted(lines: Sequence[Line]) -> str:
    """As in: 3 laws failed (c1, c2), 96 held, 30 not applicable."""
    laws: dict[str, str] = {}
    for line in lines:
        laws[line.law] = min(laws.get(line.law, "not-applicable"), line.status, key=_RANK.index)
    counts = Counter(laws.values())
    causes = dict.fromkeys(one for line in lines for one in line.causes)
    why = {"failed": f" ({', '.join(causes)})"} if causes else {}
    return ", ".join(f"{counts[one]} {words}{why.get(one, '')}" for one, words in _WORDS.items() if counts[one])


def _plain(text: str) -> str:
    return " ".join(printable(text, 2000).split())


def _filled(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
