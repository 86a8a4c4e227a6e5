"""What was found out about an implementation, for people and for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mhc_ref import PRESETS, Dialect
from properties.catalogue.deviations import CATALOGUE, Deviant
from properties.core.deviant import redialected
from properties.diagnosis.findings import Finding, grouped, joined
from properties.diagnosis.limits import Limit
from properties.diagnosis.measured import Measured
from properties.diagnosis.summation import Summed
from properties.diagnosis.ties import Tie
from properties.diagnosis.words import difference_in_words


@dataclass(frozen=True)
class Identification:
    """What was found out about one implementation.

    Attributes:
        target: its name.
        findings: every field of the dialect.
        compared: the name of the dialect that it is compared with, the declared one or else the nearest preset.
        differs: field -> (there, found), for fields whose value is certain or without which nothing fits.
        deviations: the named slips that reproduce its answers; empty where the dialect alone does, or nothing does.
        measured: slips with a number in them that was measured, which with the named ones reproduce its answers.
        ties: other explanations that reproduce everything as well.
        hidden: slips that would not show next to the explanation, should the target have them too.
        as_near: where no dialect is declared, other presets that differ from it no more than the one compared with.
        explained: whether something does.
        exhausted: whether the search for slips was finished within its time.
        residual_ratio: error / bound of the explanation on fresh questions; of the dialect where there is none.
        nearest: the best explanation that was refused, with its ratio.
        stage: where something is left that nothing explains, the first stage at which it leaves the bound.
        bad: every stage that leaves the bound by itself and that nothing explains, with the kind of failure there.
        precision: the dtype that each stage keeps up with.
        single_pass: branches read with the mapping of the block before; None where that cannot be seen.
        used: "gate" and "bias" -> the mappings that change with it; empty where that cannot be seen.
        calls: how often the target was called.
        seconds: how long it took.
        limits: what it refuses though its declaration accepts it; nothing of that was asked for the rest.
        raised: at what else it raised, where no slip does; that was left out for the rest.
        sums: in which order it sums, where that was asked; a fact, and no finding against it.
    """

    target: str
    findings: dict[str, Finding]
    compared: str
    differs: dict[str, tuple[Any, Any]]
    deviations: tuple[str, ...]
    measured: tuple[Measured, ...]
    ties: tuple[Tie, ...]
    hidden: tuple[str, ...]
    as_near: tuple[str, ...]
    explained: bool
    exhausted: bool
    residual_ratio: float
    nearest: tuple[str, float]
    stage: str
    precision: dict[str, str]
    single_pass: bool | None
    used: dict[str, tuple[str, ...]]
    calls: int
    seconds: float = field(compare=False)
    dialect: Dialect = PRESETS.default
    bad: tuple[tuple[str, str], ...] = ()
    limits: tuple[Limit, ...] = ()
    raised: tuple[Limit, ...] = ()
    sums: tuple[Summed, ...] = ()

    @property
    def deviation(self) -> str | None:
        """The slips in one string; None where there is none."""
        return "+".join([*self.deviations, *map(str, self.measured)]) or None

    @property
    def silent(self) -> bool:
        """Whether every call of the exam raised."""
        return self.stage.startswith("none: every call ")

    @property
    def gated(self) -> Dialect:
        """The dialect that it was compared with, with the gates of h_pre that were found."""
        known = {name: one.value for name, one in self.findings.items() if name in ("pre", "pre_eps") and one.certain}
        return joined(self.dialect, known)

    def to_json(self) -> dict[str, Any]:
        """For machines; numbers that are not finite are null."""
        return {
            "dialect": {
                name: {"value": finding.value, "certain": finding.certain} for name, finding in self.findings.items()
            },
            "differs_from": {
                "preset": self.compared,
                "fields": {name: {"expected": there, "found": found} for name, (there, found) in self.differs.items()},
            },
            "deviation": self.deviation,
            "residual_ratio": self.residual_ratio if math.isfinite(self.residual_ratio) else None,
            "calls": self.calls,
        } | ({"sums": [one.to_json() for one in self.sums]} if self.sums else {})

    def headline(self) -> str:
        """One sentence: what it is like, and but for what."""
        if self.silent:
            return "it answers nothing"
        changes = difference_in_words(self.differs)
        changes += [_slip(name) for name in self.deviations if not _is_difference(name, self)]
        changes += [one.words() for one in self.measured]
        like = " or ".join(["like " + self.compared, *self.as_near])
        if not self.explained:
            stages = list(dict.fromkeys(stage for stage, _ in self.bad)) or [self.stage]
            named = [f"for something in its {stage}" if stage else "for something" for stage in stages]
            changes.append(" and ".join(named) + " that nothing here explains")
        if self.raised:  # of which the comparison does not speak
            like = f"what it answers is {like}"
            changes += dict.fromkeys(
                f"{one.method} {f'raises {one.error}' if one.error else 'gives the wrong form'}" for one in self.raised
            )
        if not changes:
            return like
        return f"{like}, but {' and '.join(changes) if len(changes) < 3 else ', '.join(changes)}"

    def to_text(self) -> str:
        """For people."""
        lines = [f"{self.target}: {self.headline()}", *self._verdict()]
        for declare, several in _by_line(self.limits).items():
            lines.append(f"  {several[0].described}: if that is meant, declare `{declare}`")
        lines += [f"  {one.described}" for one in self.raised]
        for name in self.as_near:
            fields = ", ".join(self.dialect.difference(PRESETS[name]))
            lines.append(f"  {name} is as near: it differs in what is undetermined here, {fields}")
        for name in self.deviations:
            lines.append(f"  deviation {name}: {CATALOGUE[name].slip} ({CATALOGUE[name].source})")
        lines += [f"  as well explained by {one}" for one in self.ties]
        if self.hidden:
            more = ", ".join(self.hidden)
            lines.append(f"  next to it these might not show, so it may have them too: {more}; mend it and ask again")
        if self.next_best():
            lines.append(f"  {self.next_best()}")
        lines += [
            *self._fields(),
            *(f"  sums: {one}" for one in self.sums),
            f"  {self.calls} calls, {self.seconds:.1f} s",
        ]
        return "\n".join(line.replace("\n", " ") for line in lines)  # in what a target raised there may be several

    def next_best(self) -> str:
        """What comes close without being it; empty where nothing does."""
        name, ratio = self.nearest
        return f"next best: {name} (ratio {ratio:.3g})" if name and math.isfinite(ratio) else ""

    def _verdict(self) -> list[str]:
        if self.explained:
            return [f"  residual ratio {self.residual_ratio:.2g} on fresh inputs (error / bound; at most 1)"]
        told = f"  nothing explains it: the dialect's residual ratio is {self.residual_ratio:.3g}"
        if not self.exhausted:
            told += "; the search for slips ran out of time, of which --seconds gives it more"
        return [told, f"  first stage that leaves the bound: {self.stage or 'none that can be looked at by itself'}"]

    def _fields(self) -> list[str]:
        lines: list[str] = []
        width = max(len(name) for name in self.findings)
        for name, one in self.findings.items():
            if one.certain:
                lines.append(f"  {name:<{width}}  {one.value if one.estimate is None else one.estimate}")
        lines += [f"  {one.name:<{width}}  {one.form or one.estimate}" for one in self.measured]
        for status in ("undetermined", "contradictory"):
            reasons: dict[str, list[str]] = {}
            for name, one in self.findings.items():
                if one.status == status:
                    reasons.setdefault(one.why, []).append(f"{name} ({one.value})")
            lines += [f"  {status}: {', '.join(names)}" + f": {why}" * bool(why) for why, names in reasons.items()]
        lines += [f"  {stage} computed in {dtype}" for stage, dtype in self.precision.items()]
        for what, names in self.used.items():
            lines.append(f"  {what} used by {', '.join(names) or 'none of the mappings'}")
        if self.single_pass is not None:
            lines.append(
                f"  single-pass (reads with the h_pre of the block before): {'yes' if self.single_pass else 'no'}"
            )
        return lines


def _by_line(limits: Sequence[Limit]) -> dict[str, list[Limit]]:
    """Limits by what declares them."""
    found: dict[str, list[Limit]] = {}
    for one in limits:
        found.setdefault(one.declare, []).append(one)
    return found


def _slip(name: str) -> str:
    slip = CATALOGUE[name].slip.rstrip(".")
    word = slip.partition(" ")[0]
    return slip[:1].lower() + slip[1:] if word == word.capitalize() and "_" not in word else slip  # not NaN, H_res


def _is_difference(name: str, one: Identification) -> bool:
    """Whether a named slip is nothing but the difference in fields that is told anyway."""
    return bool(one.differs) and name in redialects(one.dialect, one.differs)


def named_changes(declared: Dialect, differs: dict[str, tuple[Any, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
    """The independent changes among the fields that differ: their values, and the named slips that are this change.

    Fields that one named slip changes together are one change, and so are those of one choice.
    """
    found = joined(declared, {name: value for name, (_, value) in differs.items()})
    left = dict(differs)
    changes: list[tuple[dict[str, Any], list[str]]] = []
    named = sorted(_redialected(declared), key=lambda one: -len(one[1].difference(declared)))
    for _, computed in named:
        fields = {name: value for name, (value, _) in computed.difference(declared).items()}
        if len(fields) > 1 and all(name in left and left[name][1] == value for name, value in fields.items()):
            changes.append((fields, [name for name, other in named if other == computed]))
            left = {name: pair for name, pair in left.items() if name not in fields}
    rest = joined(declared, {name: value for name, (_, value) in left.items()})
    for group in grouped(declared, rest if left else declared):
        alone = joined(declared, group)
        changes.append((group, [name for name, other in named if other == alone]))
    return (
        changes
        if joined(declared, {k: v for group, _ in changes for k, v in group.items()}) == found
        else [({name: value for name, (_, value) in differs.items()}, [])]
    )


def _redialected(declared: Dialect) -> list[tuple[str, Dialect]]:
    """The named slips that only change fields, each with the dialect that it computes."""
    made = [(name, one.make(declared)) for name, one in CATALOGUE.items() if one.applies(declared)]
    return [(name, one.computed) for name, one in made if isinstance(one, Deviant) and redialected(one)]


def redialects(declared: Dialect, differs: dict[str, tuple[Any, Any]]) -> list[str]:
    """The named slips that are this very change of a declared dialect, and nothing else."""
    found = joined(declared, {name: value for name, (_, value) in differs.items()})
    return [name for name, computed in _redialected(declared) if computed == found]


def nearest_preset(dialect: Dialect) -> str:
    """The name of the preset that differs in the fewest fields."""
    return min(PRESETS, key=lambda name: len(dialect.difference(PRESETS[name])))


def title(dialect: Dialect) -> str:
    """A dialect as a preset, with the fields in which it differs from it."""
    name = nearest_preset(dialect)
    changed = dialect.difference(PRESETS[name])
    return name + (" with " + ", ".join(f"{f}={mine!r}" for f, (mine, _) in changed.items()) if changed else "")
