"""Which stage leaves the bound first, and which dtype each stage keeps up with.

Stages are looked at one by one, without trusting the later ones: norm, matmul and gates by comparing the target with
itself, a state against static parameters that must have the same logits; sigmoid and projection by static logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.catalogue.deviations import CATALOGUE
from properties.core.case import BranchSpec, map_tensors
from properties.core.deviant import redialected
from properties.core.estimate import ratio
from properties.core.family import dynamic_of
from properties.core.implementation import Implementation, Reference
from properties.core.reads import read_of
from properties.core.trial import wide
from properties.diagnosis.alone import alone
from properties.diagnosis.answers import Answer, Predictions, answer, roughly
from properties.diagnosis.explanation import Explanation, Search
from properties.diagnosis.judge import Judge, Unanswerable
from properties.diagnosis.standing import Standing, made_of_explanation
from properties.diagnosis.units import Unit
from properties.diagnosis.view import MAPPINGS, BadOutput, Frame, View
from properties.guards.faults import TargetFault

STAGES = ("norm", "matmul", "gates", "sigmoid", "projection", "pre", "branch", "post")
"""In the order in which a block computes; then the layers, expand, collapse, gradient and execution."""

PRECISIONS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16 or TensorFloat-32": 2.0**-11, "bfloat16": 2.0**-8}


ORDER = (*STAGES, "layers", "expand", "collapse", "precision", "gradient", "execution")

_OF_METHOD = {
    "project": "projection",
    "pre": "pre",
    "post": "post",
    "mappings": "gates",
    "block": "branch",
    "depth": "layers",
    "expand": "expand",
    "collapse": "collapse",
}


class _Joined(Implementation):
    """A target's parts, put together as they are declared to be: its mappings, pre and post, or its blocks."""

    def __init__(self, target: Implementation, methods: Sequence[str]) -> None:
        self.name, self.dialect = target.name, target.dialect
        vars(self).update({method: getattr(target, method) for method in methods})


def bad_stages(view: View, standing: Standing, search: Search) -> tuple[tuple[str, str], ...]:
    """Every stage that is wrong by itself and that an explanation leaves so, with the kind of failure there.

    A stage is looked at with its own inputs given, so that one that is wrong does not accuse a later one.
    """
    wrong = standing.wrong
    raised = [one for one in search.answers if one.error]
    if raised and len(raised) == len(search.answers):
        return ((f"none: every call {raised[0].told}", "exception"),)
    found: dict[tuple[str, str], None] = {}
    told: set[tuple[str, str]] = set()
    for unit in sorted(wrong, key=lambda one: ORDER.index(_of_method(one))):
        stage, circumstance = unit.given.probe.stage, _of_method(unit)
        if unit.kind == "exception":
            if unit.given.outcome not in told:  # one exception of many calls is one failure
                found[circumstance, "contract" if unit.given.error == BadOutput.__name__ else "exception"] = None
            told.add(unit.given.outcome)
        elif unit.kind == "value" and stage == "block" and unit.place == 1 and _follows(unit, standing, search):
            continue
        elif not standing.shadowed(unit) or (stage in ("block", "depth") and _by_itself(unit, view, search)):
            kind = "contract" if _of_wrong_dtype(unit, search) else unit.kind
            found |= {(one, kind): None for one in _stages_of(unit, standing, view)}
        elif not any(one == circumstance for one, _ in found) and (kind := alone(unit, view, search)):
            found[circumstance, kind] = None
    seen = {stage for stage, _ in found}
    if "execution" in seen and any(standing.shadowed(one) for one in wrong if _of_method(one) == "gradient"):
        found.pop(("gradient", "value"), None)  # what writes over its inputs has no right gradient
    return tuple(sorted(found, key=lambda pair: ORDER.index(pair[0])))


def _of_wrong_dtype(unit: Unit, search: Search) -> bool:
    """Whether it is the dtype of an answer that is wrong, whatever its numbers are."""
    admitted = search.sheet.predictions.admitted(unit.given) if unit.kind == "value" and not unit.given.error else []
    return 0 <= unit.place < len(admitted) and not admitted[unit.place]


def _of_method(unit: Unit) -> str:
    stage = unit.given.probe.stage
    return _OF_METHOD.get(stage, stage)


def _stages_of(unit: Unit, standing: Standing, view: View) -> Iterable[str]:
    """The stages that a unit accuses, which nothing else explains."""
    stage, frame = unit.given.probe.stage, view.frame
    if unit.kind == "nan" and stage == "mappings":
        zero = "zero state" in unit.given.probe.name
        return ["norm" if zero else "projection" if unit.place == 2 else "sigmoid"]
    if unit.kind == "value" and (stage == "mappings" or (stage == "block" and "mappings" not in frame.own)):
        return _coefficients(view, standing.explanation) or ["gates" if stage == "mappings" else _side(unit)]
    return [_side(unit) if stage == "block" else _of_method(unit)]


def _side(unit: Unit) -> str:
    """Where a block goes wrong whose coefficients are right."""
    if len(unit.given.values) != 2:
        return "branch"
    return "pre" if unit.place == 0 else "post"


def _follows(unit: Unit, standing: Standing, search: Search) -> bool:
    """Whether the next state is right for what the branch was given, which is wrong."""
    if len(unit.given.values) != 2 or not any(one.given is unit.given and one.place == 0 for one in standing.wrong):
        return False
    x, params, branch = unit.given.probe.inputs
    explanation = standing.explanation
    made = made_of_explanation(explanation) or Reference(explanation.dialect)
    h = made.mappings(wide(x), map_tensors(params, wide))
    after = made.post(wide(x), wide(branch(unit.given.values[0])), h.post, h.res)
    again = replace(unit.given, values=(unit.given.values[0], after.to(x.dtype)))
    return search.sheet.by_another(unit.given, again, search.sheet.base, _roughly_again)[unit] <= 1


def _roughly_again(found: Answer) -> list[Tensor]:
    return [roughly(value) for value in found.values]


def _coefficients(view: View, explanation: Explanation) -> list[str]:
    """The stages of the coefficients that are wrong, but for those that are wrong in an explanation too."""
    made = made_of_explanation(explanation)
    wrong = list(Stages(view, explanation.dialect).every())
    known = Stages(View(made, view.frame), explanation.dialect).every() if made is not None and wrong else ()
    return [one for one in wrong if one not in set(known)]


def _by_itself(unit: Unit, view: View, search: Search) -> bool:
    """Whether what a target has of its own for the whole differs from its own parts put together."""
    whole, parts = {"block": ("block", ("mappings", "pre", "post")), "depth": ("layers", ("block",))}[
        unit.given.probe.stage
    ]
    if whole not in view.frame.own or not set(parts) <= view.frame.offered:
        return False
    again = answer(unit.given.probe, View(_Joined(view.implementation, parts), view.frame))
    return search.sheet.by_another(unit.given, again, search.sheet.base, _roughly_again)[unit] > 1


@dataclass
class _Look:
    """What a target shows of its coefficients, and the bound of each part."""

    values: list[Tensor]
    expected: list[Approx]


class Stages:
    """The coefficients, stage by stage."""

    def __init__(self, view: View, dialect: Dialect) -> None:
        self.view, self.frame, self.dialect = view, view.frame, dialect
        self.n, self.channels = self.frame.n, self.frame.width(self.frame.n + 2)
        target = view.implementation
        stored = target.parameters, target.short_stages
        self.judge = Judge(dialect, self.frame.dtype, target.mixing, None, target.products, *stored)
        generator = torch.Generator().manual_seed(77)
        self.output = torch.randn(self.channels, generator=generator, dtype=torch.float64).to(self.frame.dtype)
        self.generator = generator

    def every(self) -> Iterator[str]:
        """Those that are wrong by themselves: what turns a state into logits, and what is made of static logits."""
        if "mappings" not in self.frame.own and "block" not in self.frame.offered:
            return
        if not read_of(self.frame.packing).plain:  # no static logits to ask by
            return
        try:
            if self._gates_alone():
                yield "gates"
                return  # no logits are what they seem
            if self._norm():
                yield "norm"
            elif self._matmul():
                yield "matmul"
            elif self._gates_together():
                yield "gates"
            yield from self._squashed()
        except TargetFault:  # it has raised in the exam too, which says where
            return

    # each returns whether the stage is wrong

    def _gates_alone(self) -> bool:
        """alpha acts on the projection, and on it alone; a bias acts at all."""
        n = self.n
        bias = self._normal(2 * n + self.frame.residual_size(n))
        still = self._static(bias)
        moved = still._replace(alpha=torch.tensor([0.5, 2.0, 3.0]).to(bias.dtype))
        if self._differ(self._look(self._one(), still), self._look(self._one(), moved)):
            return True
        if not self._differ(self._look(self._one(), still), self._look(self._one(), self._static(0 * bias))):
            return True
        if not dynamic_of(self.dialect).passes:
            return False
        x, phi = self._normal(3, n, self.channels).to(self.frame.dtype), self._phi()
        plain = self._static(0 * bias)
        one, two = plain._replace(phi=phi, alpha=2 * plain.alpha), plain._replace(phi=2 * phi)
        return self._differ(self._look(x, one), self._look(x, two))

    def _norm(self) -> bool:
        """With equal entries in phi neither rows nor columns can be mistaken for one another."""
        phi = torch.full_like(self._phi(), 0.25)
        x = self._normal(3, self.n, self.channels) * torch.tensor([1.0, 1e-3, 20.0]).view(-1, 1, 1)
        x = x * torch.linspace(0.5, 2, self.n).view(-1, 1) + 0.3
        weights: list[Tensor | None] = [None]
        if self.frame.norm_weight:
            weights.append((0.5 + self._normal(self.n * self.channels).square()).to(phi.dtype))
        plain = self._static(torch.zeros(2 * self.n + self.frame.residual_size(self.n)))
        small = 1e-10 * self._normal(3, self.n, self.channels)
        states = [x.to(self.frame.dtype), small.to(self.frame.dtype)]
        return any(self._unlike_static(x, plain._replace(phi=phi, norm_weight=w)) for w in weights for x in states)

    def _matmul(self) -> bool:
        plain = self._static(torch.zeros(2 * self.n + self.frame.residual_size(self.n)))
        x = self._normal(2, self.n, self.channels).to(self.frame.dtype)
        return self._unlike_static(x, plain._replace(phi=self._phi()))

    def _gates_together(self) -> bool:
        bias = self._normal(2 * self.n + self.frame.residual_size(self.n))
        params = self._static(bias)._replace(phi=self._phi(), alpha=torch.tensor([0.5, 2.0, 3.0]).to(self._phi().dtype))
        return self._unlike_static(self._normal(2, self.n, self.channels).to(self.frame.dtype), params)

    def _squashed(self) -> list[str]:
        """Static logits of every size against the dialect: the formulas of the gates, and the projection."""
        found: set[str] = set()
        for scale in (1.0, 4.0, 12.0):
            bias = scale * self._normal(2 * self.n + self.frame.residual_size(self.n))
            look = self._look(self._one(), self._static(bias))
            wrong = [ratio(v, e.value, e.error) > 1 for v, e in zip(look.values, look.expected, strict=True)]
            shown = [name for name in MAPPINGS if not self._emitted or name in self.frame.emits]
            found |= {"projection" if name == "res" else "sigmoid" for w, name in zip(wrong, shown, strict=False) if w}
        return sorted(found, reverse=True)

    def _unlike_static(self, x: Tensor, params: Params) -> bool:
        """Whether any token differs from static parameters with the logits that it should have."""
        rounding = self.judge.rounding
        logits = bounds.gated_logits(Approx.exact(x), params, self.dialect, rounding)
        for token in range(len(x)):
            still = self._static(logits.value[token])
            one, two = self._look(x[token : token + 1], params), self._look(self._one(), still)
            if self._differ(one, two):
                return True
        return False

    def _differ(self, one: _Look, two: _Look) -> bool:
        return any(
            ratio(a, wide(b), e.error + f.error) > 1
            for a, b, e, f in zip(one.values, two.values, one.expected, two.expected, strict=True)
        )

    def _look(self, x: Tensor, params: Params) -> _Look:
        if self._emitted:
            pairs = zip(self.view.mappings(x, params), self.judge.mappings(x, params), strict=True)
            shown = [(value, exact) for value, exact in pairs if value.numel()]
            return _Look([value for value, _ in shown], [exact for _, exact in shown])
        u, out = (wide(part) for part in self.view.block(x, params, BranchSpec("constant", self.output)))
        pre, post, _ = self.judge.mappings(x, params)
        inverse = torch.linalg.pinv(wide(x))
        _, sizes, directions = torch.linalg.svd(wide(x))
        beside = directions[..., -1, :]  # orthogonal to every stream
        reach = (beside * wide(self.output)).sum(-1, keepdim=True)
        unit = 16 * torch.finfo(self.frame.dtype).eps * (sizes[..., :1] / sizes[..., -1:])
        read = (u.unsqueeze(-2) @ inverse).squeeze(-2), (out @ beside.unsqueeze(-1)).squeeze(-1) / reach
        noise = (
            unit * (u.abs().unsqueeze(-2) @ inverse.abs()).squeeze(-2),
            unit * (out.abs() @ beside.abs().unsqueeze(-1)).squeeze(-1) / reach.abs(),
        )
        pairs = zip((pre, post), noise, strict=True)
        return _Look(list(read), [Approx(exact.value, exact.error + more) for exact, more in pairs])

    @property
    def _emitted(self) -> bool:
        """Whether `mappings` shows as much as can be seen; otherwise a watched block shows h_pre and h_post."""
        some = "mappings" in self.frame.own
        return some and (len(self.frame.emits) == len(MAPPINGS) or "block" not in self.frame.offered)

    def _one(self) -> Tensor:
        values = torch.randn(1, self.n, self.channels, generator=torch.Generator().manual_seed(79), dtype=torch.float64)
        return values.to(self.frame.dtype)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def _phi(self) -> Tensor:
        shape = self.frame.phi_shape(self.n, self.channels)
        values = torch.randn(shape, generator=torch.Generator().manual_seed(78), dtype=torch.float64)
        return self.frame.kept(values / math.sqrt(shape[0]))

    def _static(self, bias: Tensor) -> Params:
        n = self.n
        pre, post, res = bias.split([n, n, len(bias) - 2 * n])
        return self.view.static(n, self.channels, pre, post, res)


def precisions(
    frame: Frame, dialect: Dialect, names: tuple[str, ...], answers: list[Answer], predictions: Predictions
) -> dict[str, str]:
    """stage -> the finest dtype whose rounding explains it, where the dialect explains the rest."""
    if any(CATALOGUE[name].kind != "dtype" and not redialected(CATALOGUE[name].make(dialect)) for name in names):
        return {}
    own = str(frame.dtype).removeprefix("torch.")
    words = {"project": "projection", "mappings": "mappings", "pre": "branch input", "post": "mixing"}
    found: dict[str, str] = {}
    for stage, word in words.items():
        asked = [
            one for one in answers if one.probe.stage == stage and one.probe.dtype == frame.dtype and not one.error
        ]
        if not asked:
            continue
        if all(predictions.ratio(one, dialect) <= 1 for one in asked):
            found[word] = own if own in ("float64", "float32") else "float32"
            continue
        for name, unit in PRECISIONS.items():
            if unit > Rounding.of(frame.dtype).unit and _keeps_up(asked, dialect, frame, unit):
                found[word] = name
                break
    return found


def _keeps_up(asked: list[Answer], dialect: Dialect, frame: Frame, unit: float) -> bool:
    tiny = torch.finfo(torch.float32).tiny
    judge = Judge(dialect, frame.dtype, rounding=Rounding(unit, tiny, unit, tiny))
    for given in asked:
        try:
            expected = given.probe.expect(judge, *given.probe.inputs)
        except Unanswerable:
            return False
        if any(ratio(v, e.value, e.error) > 1 for v, e in zip(given.values, expected, strict=True)):
            return False
    return True
