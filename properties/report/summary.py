"""What a run says in the end: its causes, the laws that fail for each, and the denominator, on one screen."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from properties.guards.printable import printable
from properties.report.cause import Cause, numbered, of_cause, tally, wrong
from properties.report.offering import in_words, told
from properties.report.report import WIDTH, Line, sentence

SCREEN = 50
"""Lines of a screen, on which the output of a run with one cause has room."""
_LEAST = 6
"""Lines that the failed laws of a cause have at least, however many causes there are."""


def paragraph(cause: Cause, number: str, failed: Sequence[Line], known: bool = False) -> list[str]:
    """What is wrong, where, how far it is shown, the most readable counterexample and how to replay it.

    Args:
        number: the id of the cause, as in "c1".
        failed: the failures that belong to it, the most readable first; none yet, where it was found a moment ago.
        known: the run goes on, so that nothing is counted yet.
    """
    text = _filled(f"cause {number} of {cause.implementation}: {cause.summary}", 0)
    stage = [f"acts first in {cause.stage}"] if cause.stage else []
    kind = [f"kind: {cause.kind}"] if cause.kind != "value" else []
    where = [wrong(cause.where)] if cause.where else []
    if place := ", ".join((*where, *stage, *kind)):
        text += _filled(place)
    if computed := _computed(cause, failed):
        text += _filled(computed)
    text += [line for note in cause.notes for line in _kept(note)]
    if not known and failed:
        text += _filled(counted(cause, failed))
    if failed:
        best = failed[0]
        text.append(f"    {'simplest: ' if len(failed) > 1 else ''}{best.law} in {best.dtype}")
        text += [f"    {'' if line.startswith(_REPLAY) else '  '}{_line(line)}" for line in best.example]
    elif cause.first:
        text.append(f"    first seen by {_shown(cause.first)}")
    return text


def _computed(cause: Cause, failed: Sequence[Line]) -> str:
    """The fields and numbers of the explanation, with what is declared."""
    explained = cause.explanation or {}
    fields = {**(explained.get("fields") or {}), **(explained.get("measured") or {})}
    declared = failed[0].dialect if failed else {}
    there = {name: f" (declared {_number(declared[name])})" for name in fields if name in declared}
    named = [f"{name} = {_number(value)}{there.get(name, '')}" for name, value in fields.items()]
    return f"computes with {', '.join(named)}" if named else ""


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


_REPLAY = ("replay: ", "no replay: ")


def counted(cause: Cause, failed: Sequence[Line]) -> str:
    """How many laws fail for a cause, in which dtypes, and how that is known."""
    laws = len({line.law for line in failed})
    dtypes = ", ".join(dict.fromkeys(line.dtype for line in failed))
    times = f", {len(failed)} times" if len(failed) > laws else ""
    shown, untold = tally(cause, failed)
    rest = len(failed) - shown - untold
    parts = [f"{shown} shown to belong", f"{untold} not told apart" if untold else "", f"{rest} alike" if rest else ""]
    told = f": {', '.join(filter(None, parts))}" if len(failed) > 1 or failed[0].how(cause.key) != "first" else ""
    return f"{laws} law{'s' * (laws > 1)} fail{'s' * (laws == 1)}{times} in {dtypes}{told}"


def ending(
    causes: Sequence[Cause], lines: Sequence[Line], total: dict[str, Any], before: int = 0, also: Sequence[str] = ()
) -> list[str]:
    """The end of a run: every cause with its failed laws, failures without one, and the denominator.

    Args:
        before: how many lines the run has written already, which are on the same screen.
        also: what else there is to say, right before the denominator.
    """
    ids = numbered(causes)
    of = [of_cause(one, lines) for one in causes]
    blocks = [paragraph(one, ids[one.key], failed) for one, failed in zip(causes, of, strict=True)]
    alone = [line for line in lines if line.status == "failed" and not set(line.causes) & set(ids)]
    errors = [line for line in lines if line.status == "error"]
    last = [*also, *denominator(lines, total)]
    room = SCREEN - before - len(last) - 2 - sum(len(block) + 1 for block in blocks)
    share = max(_LEAST, room // max(1, len(blocks) + bool(alone)))
    text: list[str] = []
    for block, failed in zip(blocks, of, strict=True):
        text += [*block, *_laws(failed, share), ""]
    if alone:
        text += ["failed, and no cause was looked for:", *_reasons(alone, share), ""]
    if len(errors) > 1:
        text += ["errors of the harness, no verdicts:", *_reasons(errors, share), ""]
    return [*text, *last]


def _laws(failed: Sequence[Line], most: int) -> list[str]:
    """The failed laws of a cause, a line each; several to a line where they are more than `most`."""
    dtypes: dict[str, list[str]] = {}
    for line in sorted(failed, key=lambda line: line.law):
        dtypes.setdefault(line.law, []).append(line.dtype)
    if len(dtypes) <= most:
        wide = max(map(len, dtypes), default=0)
        each = [f"{law:<{wide}}  {' '.join(dict.fromkeys(those))}" for law, those in dtypes.items()]
        if len({line.dtype for line in failed}) == 1:  # which stands above
            each = list(dtypes)
        if all(len(one) + 4 <= WIDTH for one in each):
            return [f"    {one}" for one in each]
    families: dict[str, list[str]] = {}
    for law in dtypes:
        family, _, name = law.partition(".")
        families.setdefault(family, []).append(name)
    folded = [
        _filled(f"{family} ({len(names)}): {', '.join(names)}", most=max(1, most // len(families)))
        for family, names in families.items()
    ]
    if sum(map(len, folded)) <= most:
        return [line for lines in folded for line in lines]
    counts = ", ".join(f"{family} {len(names)}" for family, names in families.items())
    return _filled(f"laws by family: {counts} (all of them: --verbose, or report.json)", most=3)


def _reasons(failed: Sequence[Line], most: int) -> list[str]:
    """Failures that have no cause, a line each with what was found, and how many there are beyond `most`."""
    each = [_cut(f"{one.law} of {one.implementation} in {one.dtype}: {_shown(one.reason)}") for one in failed[:most]]
    more = [f"... and {len(failed) - most} more in report.json"] if len(failed) > most else []
    return [f"    {one}" for one in (*each, *more)]


def declared(lines: Sequence[Line]) -> list[str]:
    """Of which implementations a bound is declared by a family, not derived; and what looks like a slip in what is
    declared, those that have the same one in one line."""
    text: list[str] = []
    alike: dict[str, dict[str, None]] = {}
    bounds = {line.implementation: line.declared_bounds for line in lines if line.declared_bounds}
    for name, families in bounds.items():
        text += _filled(f"{name}: the bound of {', '.join(families)} is declared, not derived", 0)
    for line in lines:
        for doubt in line.doubts:
            alike.setdefault(doubt, {})[line.implementation] = None
    for doubt, names in alike.items():
        first, more = list(names)[:_ALIKE_NAMED], len(names) - _ALIKE_NAMED
        text += _filled(f"{', '.join(first)}{f' and {more} more' if more > 0 else ''}: {doubt}", 0)
    return text


_ALIKE_NAMED = 3
"""How many implementations are named that have the same slip: a run may be of many."""


def _cut(text: str) -> str:
    return textwrap.shorten(text, WIDTH - 4, placeholder=" ...")


def denominator(lines: Sequence[Line], total: dict[str, Any]) -> list[str]:
    """How many laws were exercised and why the others were not, and the worst ratio of a law that holds."""
    said = [*_not_applicable(lines), *_left_out(lines), *_worst(lines), *_nowhere(lines)]
    return [*_filled(sentence(total), 0), *said, *_next(total)]


_PASSED = re.compile(r"left out as (\S+) s had passed")
"""In what a sweep says of itself, see `properties.engine.sweeping`."""


def _left_out(lines: Iterable[Line]) -> list[str]:
    """That sweeps of sizes ended before their last point, which is the profile's doing, and not that of --time."""
    ended = {line.law: found[1] for line in lines if (found := _PASSED.search(line.sizes))}
    if not ended:
        return []
    budgets = set(ended.values())
    budget = f"{budgets.pop()} s" if len(budgets) == 1 else "limited time"
    what = f"{len(ended)} law{'s' * (len(ended) > 1)} of sizes left out points, as the profile gives each of them"
    every = "`--hypothesis-profile thorough` leaves out none; `sizes` in report.json has their number"
    return _filled(f"{what} {budget} in a dtype: {every}", 2)


def _next(total: dict[str, Any]) -> list[str]:
    texts = [*in_words(total.get("offer_next")), *told(total.get("never_tuned"))]
    return [line for text in texts for line in _filled(text, 0)]


def _not_applicable(lines: Iterable[Line]) -> list[str]:
    """Why laws were exercised nowhere, the most frequent reasons first, in one line."""
    found = list(lines)
    tried = {line.law for line in found if line.status != "not-applicable"}
    reasons: dict[str, str] = {line.law: _shown(line.reason) for line in found if line.law not in tried}
    counts = _grouped(Counter(reasons.values()))
    if not counts:
        return []
    told = [f"{reason} ({count})" for reason, count in counts]
    for shown in range(len(told), 0, -1):
        more = _more(len(told) - shown)
        line = f"  not applicable: {'; '.join(told[:shown])}{more}"
        if len(line) <= WIDTH:
            return [line]
    return _filled(f"not applicable: {told[0]}{_more(len(told) - 1)}", 2, most=2)


_LISTS = ("does not offer ", "")
_ALIKE = (_LISTS, ("", " is not declared"), ("needs ", ""))
"""How reasons begin and end that are one but for a name; between the first there may be several names."""


def _grouped(reasons: Counter[str]) -> list[tuple[str, int]]:
    """Reasons that differ in names only as one, and how often it is given; the most frequent first, and of the names
    those that most reasons have."""
    names: dict[tuple[str, str], Counter[str]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for reason, count in reasons.most_common():
        ends = next((ends for ends in _ALIKE if reason.startswith(ends[0]) and reason.endswith(ends[1])), (reason, ""))
        between = reason.removeprefix(ends[0]).removesuffix(ends[1])
        for name in between.split(", ") if ends == _LISTS else [between]:
            names.setdefault(ends, Counter())[name] += count
        counts[ends] += count
    told = {ends: f"{ends[0]}{', '.join(name for name, _ in names[ends].most_common())}{ends[1]}" for ends in counts}
    return [(told[ends], count) for ends, count in counts.most_common()]


def _more(count: int) -> str:
    return f"; and {count} more reason{'s' * (count > 1)}" if count else ""


def _worst(lines: Iterable[Line]) -> list[str]:
    held = [line for line in lines if line.status == "passed" and line.worst_ratio is not None]
    if not held:
        return []
    worst = max(held, key=lambda line: line.worst_ratio or 0.0)
    several = len({line.dtype for line in held}) > 1
    place = f"{worst.law} in {worst.dtype}" if several else worst.law
    return _filled(f"worst ratio where laws hold: {worst.worst_ratio:.3g} ({place})", 0)


def _nowhere(lines: Iterable[Line]) -> list[str]:
    """The subjects on which nothing was exercised, where something was on others."""
    exercised: dict[str, bool] = {}
    for line in lines:
        name = f"{line.implementation} {line.dtype} {line.device}"
        exercised[name] = exercised.get(name, False) or line.status in ("passed", "failed", "known")
    idle = [name for name, some in exercised.items() if not some]
    return _filled(f"nothing exercised: {', '.join(idle)}", 0, most=3) if idle and len(idle) < len(exercised) else []


def _kept(note: str) -> list[str]:
    """A note in lines of a terminal; one of code as it is, as far as there is room."""
    plain = _line(note.expandtabs(4))
    if _CODE.match(plain) or len(plain) + 4 <= WIDTH:
        return [f"    {plain if len(plain) + 4 <= WIDTH else f'{plain[: WIDTH - 7]}...'}"]
    return _filled(plain)


_CODE = re.compile(r"[> ] +\d+  ")
"""A line of code in `properties.guards.traces.excerpt`."""


def _line(text: str) -> str:
    """One line, which keeps its indent."""
    return printable(text, 2000).replace("\n", " ").replace("\t", " ")


def _shown(text: str) -> str:
    return " ".join(printable(text, 2000).split())


def _filled(text: str, indent: int = 4, most: int | None = None) -> list[str]:
    """The text in lines of a terminal: `indent` spaces before each, and four more before all but the first."""
    return textwrap.wrap(
        _shown(text),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        max_lines=most,
        placeholder=" ...",
        break_long_words=False,
        break_on_hyphens=False,
    )
