"""Which hyper-connections an implementation computes, and what it does otherwise than it declares."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from mhc_ref import PAPER, PRESETS, Dialect
from properties.deviations import CATALOGUE, Deviant
from properties.diagnosis.answers import SINGLE, Answer, Predictions, answer
from properties.diagnosis.circumstances import coarse, executions, gradients
from properties.diagnosis.exam import forward
from properties.diagnosis.explanation import Explanation, Outcome, Search
from properties.diagnosis.inference import CHOICES, FIELDS, Finding, Inference, infer, joined
from properties.diagnosis.stages import first_bad_stage, precisions
from properties.diagnosis.view import Frame, View
from properties.diagnosis.words import difference_in_words
from properties.implementation import Implementation


@dataclass(frozen=True)
class Identification:
    """What was found out about one implementation.

    Attributes:
        target: its name.
        findings: every field of the dialect.
        compared: the name of the dialect that it is compared with, the declared one or else the nearest preset.
        differs: field -> (there, found), for fields whose value is certain or without which nothing fits.
        deviations: the named slips that reproduce its answers; empty where the dialect alone does, or nothing does.
        ties: other explanations that reproduce everything as well.
        explained: whether something does.
        residual_ratio: error / bound of the explanation on fresh questions; of the dialect where there is none.
        nearest: the best explanation that was refused, with its ratio.
        stage: where nothing explains it, the first stage at which it leaves the bound.
        precision: the dtype that each stage keeps up with.
        single_pass: branches read with the mapping of the block before; None where that cannot be seen.
        calls: how often the target was called.
        seconds: how long it took.
    """

    target: str
    findings: dict[str, Finding]
    compared: str
    differs: dict[str, tuple[Any, Any]]
    deviations: tuple[str, ...]
    ties: tuple[str, ...]
    explained: bool
    residual_ratio: float
    nearest: tuple[str, float]
    stage: str
    precision: dict[str, str]
    single_pass: bool | None
    calls: int
    seconds: float = field(compare=False)
    dialect: Dialect = PAPER

    @property
    def deviation(self) -> str | None:
        """The named slips in one string; None where there is none."""
        return "+".join(self.deviations) or None

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
        }

    def headline(self) -> str:
        """One sentence: what it is like, and but for what."""
        changes = difference_in_words(self.differs)
        changes += [_slip(name) for name in self.deviations if not _is_difference(name, self)]
        like = f"like {self.compared}"
        if not self.explained:
            changes.append("something that nothing here explains")
        if not changes:
            return like
        return f"{like}, but {' and '.join(changes) if len(changes) < 3 else ', '.join(changes)}"

    def to_text(self) -> str:
        """For people."""
        lines = [f"{self.target}: {self.headline()}"]
        if self.explained:
            lines.append(f"  residual ratio {self.residual_ratio:.2g} on fresh inputs (error / bound; at most 1)")
        else:
            lines.append(f"  nothing explains it: the dialect's residual ratio is {self.residual_ratio:.3g}")
            lines.append(f"  first stage that leaves the bound: {self.stage or 'none that can be looked at by itself'}")
        for name in self.deviations:
            lines.append(f"  deviation {name}: {CATALOGUE[name].slip} ({CATALOGUE[name].source})")
        if self.ties:
            lines.append(f"  as well explained by {'; '.join(self.ties)}: no question here tells them apart")
        if self.nearest[0] and math.isfinite(self.nearest[1]):
            lines.append(f"  next best: {self.nearest[0]} (ratio {self.nearest[1]:.3g})")
        width = max(len(name) for name in self.findings)
        for name, one in self.findings.items():
            value = f"{one.estimate}" if one.estimate is not None and one.certain else f"{one.value}"
            open_ = "" if one.certain else f"   {one.status}" + (f": {one.why}" if one.why else "")
            lines.append(f"  {name:<{width}}  {value}{open_}")
        for stage, dtype in self.precision.items():
            lines.append(f"  {stage} computed in {dtype}")
        if self.single_pass is not None:
            lines.append(
                f"  single-pass (reads with the h_pre of the block before): {'yes' if self.single_pass else 'no'}"
            )
        lines.append(f"  {self.calls} calls, {self.seconds:.1f} s")
        return "\n".join(lines)


def _slip(name: str) -> str:
    slip = CATALOGUE[name].slip.rstrip(".")
    return slip[:1].lower() + slip[1:] if not slip.startswith(("H_", "SK")) else slip


def _is_difference(name: str, one: Identification) -> bool:
    """Whether a named slip is nothing but the difference in fields that is told anyway."""
    return bool(one.differs) and name in redialects(one.dialect, one.differs)


def redialects(declared: Dialect, differs: dict[str, tuple[Any, Any]]) -> list[str]:
    """The named slips that are this very change of a declared dialect, and nothing else."""
    found = joined(declared, {name: value for name, (_, value) in differs.items()})
    names: list[str] = []
    for name, deviation in CATALOGUE.items():
        if not deviation.applies(declared):
            continue
        made = deviation.make(declared)
        if type(made) is Deviant and made.computed == found:
            names.append(name)
    return names


def nearest_preset(dialect: Dialect) -> str:
    """The name of the preset that differs in the fewest fields."""
    return min(PRESETS, key=lambda name: len(dialect.difference(PRESETS[name])))


def title(dialect: Dialect) -> str:
    """A dialect as a preset, with the fields in which it differs from it."""
    name = nearest_preset(dialect)
    changed = dialect.difference(PRESETS[name])
    return name + (" with " + ", ".join(f"{f}={mine!r}" for f, (mine, _) in changed.items()) if changed else "")


def identify(
    implementation: Implementation,
    *,
    declared: bool = True,
    against: Dialect | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    seconds: float = 20.0,
) -> Identification:
    """Infer the dialect of an implementation from its behaviour, and name the slip that explains what is left.

    Arguments:
        declared: compare with the dialect that it declares; else with the nearest preset, as for a plain function.
        against: compare with this dialect instead.
        dtype: of the states; its finest if not given.
        device: where it computes.
        seconds: after which the search for slips ends; whatever was found until then is reported.
    """
    begun = time.monotonic()
    view = View(implementation, Frame.of(implementation, dtype, device))
    stated = against or (implementation.dialect if declared else None)
    inference = infer(view, stated)
    base = stated or _nearest(inference)
    found = inference.dialect(base) if stated else inference.sure(base)
    return _Diagnosis(view, inference, base, found, begun, begun + seconds).result()


def _nearest(inference: Inference) -> Dialect:
    """The preset with which the fewest certain findings disagree."""
    certain = {name: one.value for name, one in inference.findings.items() if one.certain}

    def disagreement(dialect: Dialect) -> int:
        return sum(getattr(dialect, name) != value for name, value in certain.items())

    return min(PRESETS.values(), key=disagreement)


class _Diagnosis:
    """One run of `identify`, after the fields have been inferred."""

    def __init__(
        self, view: View, inference: Inference, base: Dialect, found: Dialect, begun: float, deadline: float
    ) -> None:
        self.view, self.inference, self.base, self.found = view, inference, base, found
        self.begun, self.deadline = begun, deadline
        self.frame = view.frame
        self.predictions = inference.predictions

    def result(self) -> Identification:
        """The dialect if it explains everything, else the plainest of the explanations, else the first bad stage."""
        begin = self.inference.begin
        answers = list(self.inference.answers)
        for probe in (*executions(self.frame, 1), *gradients(self.frame, 1), *coarse(self.frame, 1)):
            answers.append(answer(probe, self.view))
        search = Search(self.view, answers, begin, self.predictions, self._fresh)
        bases = [self.found] + [self.base] * (self.base != self.found)
        plain = self._plain(search, bases)
        outcome = Outcome()
        if plain is None:
            outcome = search.singles(bases, self.deadline)
            if not outcome.explanations:
                outcome.explanations += self._in_single_precision(search, bases)
            if not outcome.explanations:
                for base in sorted(bases, key=lambda one: len(search.failing(one))):
                    paired = search.pairs(base, self.deadline)
                    outcome.explanations += paired.explanations
                    outcome.nearest = min(outcome.nearest, paired.nearest, key=lambda pair: pair[1])
                    if outcome.explanations:
                        break
        return self._told(search, plain, outcome)

    def _fresh(self) -> list[Answer]:
        probes = [*forward(self.frame, 2), *gradients(self.frame, 2), *coarse(self.frame, 2)]
        return [answer(probe, self.view) for probe in probes]

    def _plain(self, search: Search, bases: list[Dialect]) -> Explanation | None:
        """A dialect that explains everything without any slip."""
        for base in bases:
            if search.failing(base):
                continue
            worst = max((self.predictions.ratio(one, base) for one in search.fresh), default=0.0)
            if worst <= 1:
                return Explanation(base, (), worst)
        return None

    def _in_single_precision(self, search: Search, bases: list[Dialect]) -> list[Explanation]:
        """A dialect in float32 throughout: within its bounds, and every coefficient a float32 number."""
        coefficients = [one for one in search.answers if one.probe.stage in ("project", "mappings")]
        values = [value for one in coefficients for value in one.values if value.dtype == torch.float64]
        if not values or not all(bool(((v == v.float().double()) | ~v.isfinite()).all()) for v in values):
            return []
        single = Predictions(self.view.implementation.mixing, SINGLE)
        for base in bases:
            everything = (*search.answers, *search.fresh)
            if CATALOGUE["float32-inside"].applies(base) and all(single.ratio(one, base) <= 1 for one in everything):
                worst = max(single.ratio(one, base) for one in search.fresh)
                return [Explanation(base, ("float32-inside",), worst)]
        return []

    def _told(self, search: Search, plain: Explanation | None, outcome: Outcome) -> Identification:
        chosen = plain
        ties: list[Explanation] = []
        if chosen is None and outcome.explanations:
            simplicity = [(self._changes(one) + len(one.names), one.ratio) for one in outcome.explanations]
            order = sorted(range(len(simplicity)), key=lambda k: simplicity[k])
            chosen = outcome.explanations[order[0]]
            least = simplicity[order[0]][0]
            ties = [outcome.explanations[k] for k in order[1:] if simplicity[k][0] == least]
        dialect = chosen.dialect if chosen is not None else self._least_wrong(search)
        differs = {name: (a, b) for name, (b, a) in dialect.difference(self.base).items()}
        names = chosen.names if chosen is not None else ()
        if chosen is not None and not names and differs:
            same = redialects(self.base, differs)
            names, ties_of = tuple(same[:1]), [*same[1:], *self._others(search, same)]
        else:
            ties_of: list[str] = []
        stage = ""
        worst = chosen.ratio if chosen is not None else self._worst(search, dialect)
        if chosen is None:
            stage = first_bad_stage(self.view, self.base, self.predictions, search.answers)
        findings = dict(self.inference.findings)
        for name in FIELDS:
            value = getattr(dialect, name)
            hidden = chosen is not None and findings[name].status == "contradictory"
            if findings[name].value != value or hidden:
                findings[name] = self._unmeasured(search, dialect, name, bool(chosen and chosen.names))
        return Identification(
            target=self.view.implementation.name,
            findings={name: findings[name] for name in FIELDS},
            compared=title(self.base),
            differs=differs,
            deviations=names,
            ties=tuple([*(self._words(one) for one in ties), *ties_of]),
            explained=chosen is not None,
            residual_ratio=worst,
            nearest=outcome.nearest,
            stage=stage,
            precision=precisions(self.frame, dialect, names, search.answers, self.predictions),
            single_pass=self._single_pass(search, dialect, names),
            calls=self.view.calls,
            seconds=time.monotonic() - self.begun,
            dialect=self.base,
        )

    def _others(self, search: Search, same: list[str]) -> list[str]:
        """Named changes of other fields that reproduce everything as well."""
        found: list[str] = []
        for name, deviation in CATALOGUE.items():
            if name in same or not deviation.applies(self.base):
                continue
            made = deviation.make(self.base)
            if type(made) is Deviant and made.computed != self.base:
                everything = (*search.answers, *search.fresh)
                if all(self.predictions.ratio(one, made.computed) <= 1 for one in everything):
                    found.append(name)
        return found

    def _least_wrong(self, search: Search) -> Dialect:
        """Where nothing explains everything, what was measured counts if it explains more than what was declared."""
        better = len(search.failing(self.found)) < len(search.failing(self.base))
        return self.found if better else self.base

    def _unmeasured(self, search: Search, dialect: Dialect, name: str, slipped: bool) -> Finding:
        """A field that was not measured: where it has few values, those that reproduce everything as well are told."""
        value = getattr(dialect, name)
        if slipped:
            return Finding(value, "undetermined", "as declared: what was measured belongs to the slip")
        if name not in CHOICES:
            return Finding(value, "undetermined", "it could not be measured; with this value everything is reproduced")
        others = [joined(dialect, {name: other}) for other in CHOICES[name] if other != value]
        fitting = [getattr(one, name) for one in others if one != dialect and not search.failing(one)]
        if fitting:
            return Finding(value, "undetermined", f"{' or '.join(map(repr, fitting))} does as well")
        return Finding(value, "certain")

    def _changes(self, one: Explanation) -> int:
        return len(one.dialect.difference(self.base))

    def _words(self, one: Explanation) -> str:
        fields = one.dialect.difference(self.base)
        return ", ".join([*one.names, *(f"{name} = {value!r}" for name, (value, _) in fields.items())])

    def _worst(self, search: Search, dialect: Dialect) -> float:
        return max((self.predictions.ratio(one, dialect) for one in search.answers), default=0.0)

    def _single_pass(self, search: Search, dialect: Dialect, names: tuple[str, ...]) -> bool | None:
        if "pre-delayed" in names:
            return True
        deep = [one for one in search.answers if one.probe.name.endswith("layers")]
        if not deep:
            return None
        return False if self.predictions.ratio(deep[0], dialect) <= 1 else None
