"""Which hyper-connections an implementation computes, and what it does otherwise than it declares."""

from __future__ import annotations

import time
from collections.abc import Callable, Set

import torch

from mhc_ref import PRESETS, Dialect
from properties.catalogue.deviations import CATALOGUE, Deviant
from properties.core.deviant import redialected
from properties.core.family import mix_of
from properties.core.implementation import Implementation
from properties.diagnosis.answers import SINGLE, Answer, Predictions, answer
from properties.diagnosis.budget import Budget
from properties.diagnosis.circumstances import coarse, executions, gradients
from properties.diagnosis.composed import of_its_own
from properties.diagnosis.exam import forward
from properties.diagnosis.explanation import Explanation, Search
from properties.diagnosis.findings import Finding, Inference, choices, joined, value_of
from properties.diagnosis.identification import Identification, redialects, title
from properties.diagnosis.inference import examine, infer, measure
from properties.diagnosis.levels import Peeled, Peeling
from properties.diagnosis.limits import Limit
from properties.diagnosis.refusals import Narrower, refused, survived
from properties.diagnosis.stages import bad_stages, precisions
from properties.diagnosis.standing import made_of_explanation
from properties.diagnosis.ties import Tie, apart, breaker, decided
from properties.diagnosis.usage import used
from properties.diagnosis.view import Frame, Unanswered, View
from properties.guards.interruption import watched
from properties.guards.surroundings import told, usual
from properties.targets.process.client import Client


class NoVerdict(Exception):  # as a crash is neither the harness's error nor an answer
    """Nothing can be said about what the target computes: it crashed, hung or left while it was asked, or it has no
    formula, and claims guarantees only."""


@told()
@usual()
def identify(
    implementation: Implementation,
    *,
    declared: bool = True,
    against: Dialect | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    seconds: float = 20.0,
    hidden: int = 3,
    brief: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Identification:
    """Infer the dialect of an implementation from its behaviour, and name the slip that explains what is left.

    Arguments:
        declared: compare with the dialect that it declares; else with the nearest preset, as for a plain function.
        against: compare with this dialect instead.
        dtype: of the states; its finest if not given.
        device: where it computes.
        hidden: how many slips to look for that would not show next to the explanation, half a second for each.
        brief: only what is wrong. Fields that act in nothing that is wrong are not measured then.
        seconds: of computing, after which the search for slips ends; whatever was found until then is reported.
        progress: called very often with what is being done, in a few words.

    Raises:
        NoVerdict: its dialect claims guarantees only, so that there is no formula to look for; or a call did not come
            back, because the target's process died or hung, or the target tried to leave.
        HarnessError: a branch of ours or an adapter failed. Any other exception is a fault of this code as well:
            whatever the target raises is one of its answers.
    """
    begun, budget = time.monotonic(), Budget(seconds, isinstance(implementation, Client))
    if reason := _formulaless(against or implementation.dialect):
        raise NoVerdict(f"{implementation.name}: no verdict: {reason}")
    stated = against or (implementation.dialect if declared else None)

    def within(frame: Frame, limits: tuple[Limit, ...] | None = None, calls: int = 0) -> Identification:
        view = View(implementation, frame, progress)
        view.calls = calls
        try:
            view.frame = of_its_own(view)
            inference = examine(view, stated) if brief and stated else infer(view, stated)
            near = [stated] if stated else _nearest(inference)
            found = None if brief and stated else inference.dialect(near[0]) if stated else inference.sure(near[0])
            return _Diagnosis(view, inference, near, found, begun, budget, hidden, frame, limits).result()
        except Narrower as met:
            return within(met.frame, met.limits, met.calls)
        except Unanswered as failure:
            verdict = f"{implementation.name}: no verdict: call {view.calls}, {failure}"
            if limits is None and (met := survived(view, frame, failure)):
                return within(met.frame, met.limits, met.calls)
            raise NoVerdict(verdict) from failure

    with watched():
        return within(Frame.of(implementation, dtype, device))


def _formulaless(dialect: Dialect) -> str:
    """Why there is nothing to look for in a dialect; empty where there is."""
    if mix_of(dialect).known:
        return ""
    return "it claims guarantees of h_res only, and there is no formula to compare with"


def _nearest(inference: Inference) -> list[Dialect]:
    """The presets with which the fewest certain findings disagree."""
    certain = {name: one.value for name, one in inference.findings.items() if one.certain}

    def disagreement(dialect: Dialect) -> int:
        return sum(value_of(dialect, name) != value for name, value in certain.items())

    least = min(disagreement(dialect) for dialect in PRESETS.values())
    return [dialect for dialect in PRESETS.values() if disagreement(dialect) == least]


class _Diagnosis:
    """One run of `identify`, after the fields have been inferred."""

    def __init__(
        self,
        view: View,
        inference: Inference,
        near: list[Dialect],
        found: Dialect | None,
        begun: float,
        budget: Budget,
        hidden: int,
        frame: Frame,
        limits: tuple[Limit, ...] | None,
    ) -> None:
        """`found`: the dialect that was inferred; None where that waits until something is wrong. `frame`: what is
        declared, or what is left of it within the `limits` that have been found out."""
        self.declared, self.limits = frame, limits
        self.view, self.inference, self.base, self.near, self.found = view, inference, near[0], near[1:], found
        self.brief = found is None
        self.begun, self.budget, self.hidden = begun, budget, hidden
        self.frame = view.frame
        self.predictions = inference.predictions

    def result(self) -> Identification:
        """The dialect, with what explains the most of what it leaves, level by level."""
        answers = list(self.inference.answers)
        for probe in (*executions(self.frame, 1), *gradients(self.frame, 1), *coarse(self.frame, 1)):
            answers.append(answer(probe, self.view))
        search = Search(self.view, answers, self.inference.begin, self.predictions, self._fresh, self.base)
        bases = [self.found or self.base, *([self.base] if self.found != self.base else [])]
        self.raised = refused(search, self.declared, bases, narrowly=self.limits is not None)
        peeling = Peeling(search, self.base, self._measured, lambda base: self._single(search, base), self.budget)
        return self._told(search, peeling, peeling.result())

    def _measured(self, wrong: Set[str]) -> Dialect:
        """The dialect that was inferred, as far as what is wrong can show it."""
        if self.found is None:
            measure(self.inference, self.base, wrong)
            self.found = self.inference.dialect(self.base)
        return self.found

    def _fresh(self) -> list[Answer]:
        probes = [*forward(self.frame, 2), *gradients(self.frame, 2), *coarse(self.frame, 2)]
        return [answer(probe, self.view) for probe in probes]

    def _single(self, search: Search, base: Dialect) -> bool:
        """Whether every coefficient is a float32 number though the states are not, within the bounds of such."""
        coefficients = [one for one in search.answers if one.probe.stage in ("project", "mappings")]
        values = [value for one in coefficients for value in one.values if value.dtype == torch.float64]
        if not values or not all(bool(((v == v.float().double()) | ~v.isfinite()).all()) for v in values):
            return False
        target = self.view.implementation
        single = Predictions(target.mixing, SINGLE, target.products, target.parameters, target.short_stages)
        everything = (*search.answers, *search.fresh)
        return CATALOGUE["float32-inside"].applies(base) and all(single.ratio(one, base) <= 1 for one in everything)

    def _told(self, search: Search, peeling: Peeling, peeled: Peeled) -> Identification:
        explained = not peeled.standing.wrong
        chosen, equals = self._settled(peeled.standing.explanation, peeled.ties)
        if explained and not chosen.names and not chosen.measured:
            chosen, equals = self._rounded(search, chosen, equals)
        dialect = chosen.dialect
        differs = {name: (a, b) for name, (b, a) in dialect.difference(self.base).items()}
        names, measured = chosen.names, chosen.measured
        ties = [self._tie(chosen, other) for other in equals]
        if not names and not measured and differs:
            same = redialects(self.base, differs)
            names = tuple(same[:1])
            ties += [Tie(f"deviation {name}", "the same change of fields") for name in same[1:]]
            if explained:
                named = [Explanation(self.base, (name,), 0.0) for name in self._others(search, same)]
                ties += [self._tie(chosen, one) for one in self._settled(chosen, named)[1]]
        hidden: list[str] = []
        if explained and not measured and (names or differs):
            # a change of fields that has a name is one slip, which another may come before
            one = chosen if chosen.names or not names else Explanation(self.base, names, chosen.ratio)
            hidden = search.hidden(one, self.hidden, Budget(self.hidden / 2))
            told = {*names, *(one.words.removeprefix("deviation ") for one in ties)}
            hidden = [name for name in hidden if name not in told]
        slipped = bool(chosen.names or chosen.measured)
        bad = () if explained else bad_stages(self.view, peeled.standing, search)
        return Identification(
            target=self.view.implementation.name,
            findings=self._findings(search, dialect, explained, slipped),
            compared=title(self.base),
            differs=differs,
            deviations=names,
            measured=measured,
            ties=tuple(ties),
            hidden=tuple(hidden),
            as_near=tuple(title(one) for one in self.near) if explained and not differs else (),
            explained=explained,
            exhausted=peeled.exhausted,
            residual_ratio=chosen.ratio if explained else self._worst(search, dialect),
            nearest=peeled.nearest,
            stage=bad[0][0] if bad else "",
            bad=bad,
            precision=precisions(self.frame, dialect, names, search.answers, self.predictions)
            if explained and not self.brief
            else {},
            single_pass=None if self.brief else self._single_pass(search, dialect),
            used={} if self.brief else used(self.view),
            calls=self.view.calls,
            seconds=time.monotonic() - self.begun,
            dialect=self.base,
            limits=self.limits or (),
            raised=self.raised,
        )

    def _settled(self, chosen: Explanation, equals: list[Explanation]) -> tuple[Explanation, list[Explanation]]:
        """What is left of equals when the target has been asked whatever it accepts that tells two of them apart."""
        kept: list[Explanation] = []
        for other in equals:
            one, two = self._made(chosen), self._made(other)
            probe = apart(one, two, self.frame, self.base, seed=4) if one and two else None
            stands = (True, True)
            if one and two and probe is not None:
                stands = decided(self.view, one, two, probe, self.base)
            if stands == (False, True):
                chosen, kept = other, []
            elif stands[0] == stands[1]:
                kept.append(other)
        return chosen, kept

    def _rounded(
        self, search: Search, chosen: Explanation, equals: list[Explanation]
    ) -> tuple[Explanation, list[Explanation]]:
        """Several fields as a named slip has all of them, where that gives every answer too: one slip, whose numbers
        could only be measured with an error."""
        changes = chosen.dialect.difference(self.base)
        if len(changes) > 1 and not redialects(self.base, {k: (a, b) for k, (b, a) in changes.items()}):
            for name in self._others(search, []):
                made = CATALOGUE[name].make(self.base)
                if isinstance(made, Deviant) and made.computed.difference(self.base).keys() == changes.keys():
                    return Explanation(made.computed, (), chosen.ratio), [one for one in equals if one.names != (name,)]
        return chosen, equals

    def _tie(self, chosen: Explanation, other: Explanation) -> Tie:
        one, two = self._made(chosen), self._made(other)
        return Tie(self._words(other), breaker(one, two, self.frame, self.base) if one and two else "")

    def _made(self, one: Explanation) -> Deviant | None:
        """An implementation of an explanation."""
        return made_of_explanation(one) if one.names or one.measured else Deviant(one.dialect, "dialect")

    def _findings(self, search: Search, dialect: Dialect, explained: bool, slipped: bool) -> dict[str, Finding]:
        found = dict(self.inference.findings)
        if self.brief:
            as_found = {name: Finding(value, "undetermined") for name, value in dialect.fields().items()}
            return {name: found.get(name, one) for name, one in as_found.items()}
        for name, value in dialect.fields().items():
            one = found.get(name)
            hidden = explained and one is not None and one.status == "contradictory"
            if one is None or one.value != value or hidden:
                found[name] = self._unmeasured(search, dialect, name, slipped)
        return {name: found[name] for name in dialect.fields()}

    def _others(self, search: Search, same: list[str]) -> list[str]:
        """Named changes of other fields that reproduce everything as well."""
        found: list[str] = []
        for name, deviation in CATALOGUE.items():
            if name in same or not deviation.applies(self.base):
                continue
            made = deviation.make(self.base)
            if isinstance(made, Deviant) and redialected(made) and made.computed != self.base:
                everything = (*search.answers, *search.fresh)
                if all(self.predictions.ratio(one, made.computed) <= 1 for one in everything):
                    found.append(name)
        return found

    def _unmeasured(self, search: Search, dialect: Dialect, name: str, slipped: bool) -> Finding:
        """A field that was not measured: where it has few values, those that reproduce everything as well are told."""
        value = value_of(dialect, name)
        if slipped:
            return Finding(value, "undetermined", "as declared: what was measured belongs to the slip")
        if not (few := choices(dialect, name)):
            return Finding(value, "undetermined", "it could not be measured; with this value everything is reproduced")
        others = [joined(dialect, {name: other}) for other in few if other != value]
        fitting = [value_of(one, name) for one in others if one != dialect and not search.failing(one)]
        if fitting:
            return Finding(value, "undetermined", f"{' or '.join(map(repr, fitting))} does as well")
        return Finding(value, "certain")

    def _words(self, one: Explanation) -> str:
        fields = one.dialect.difference(self.base)
        named = [f"deviation {name}" for name in one.names] + [str(number) for number in one.measured]
        return ", ".join([*named, *(f"{name} = {value!r}" for name, (value, _) in fields.items())])

    def _worst(self, search: Search, dialect: Dialect) -> float:
        return max((self.predictions.ratio(one, dialect) for one in search.answers), default=0.0)

    def _single_pass(self, search: Search, dialect: Dialect) -> bool | None:
        deep = [one for one in search.answers if one.probe.name.endswith("layers")]
        if not deep:
            return None
        return dialect.read_from == "previous" if self.predictions.ratio(deep[0], dialect) <= 1 else None
