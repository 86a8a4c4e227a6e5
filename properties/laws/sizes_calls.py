"""What is called at every size, what is expected there, and what mpmath says of the token that is off.

A stage is judged against float64 with a bound that has the roundings of both sides in it, for every token. Where one is
off, that token alone is put to the truth: mpmath can judge one of thousands, and not all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import mhc_ref
from mhc_ref import Params
from mhc_ref.block import gates_read
from properties import bounds
from properties.bounds import INF, Approx
from properties.core.case import Case, map_tensors
from properties.core.family import end_of
from properties.core.implementation import Implementation
from properties.core.law import Draw
from properties.core.sweep import At, Kept, Part, Point, Reach, Sweep, Values, count_of, take
from properties.core.trial import FloatTruth, LawBroken, Trial, wide
from properties.core.truth import Truth
from properties.laws import errors
from properties.laws.block import one_call, what_was_read_stays
from properties.laws.sizes_layouts import (
    arranged,
    axes_of,
    in_order,
    layout_of,
    lying,
    memory_of,
    returning,
)
from properties.strategies.layouts import INFERENCE, REWRITTEN, parts_of
from properties.strategies.setting import Setting
from properties.strategies.sweeps import Run, declared_runs, points_of

Named = dict[str, Tensor]
Runs = Callable[[Setting, Reach], Iterable[Run]]

RECORDED = 256
"""Up to so many tokens the sweeps forwards record gradients at as many sizes as those backwards."""


@dataclass(frozen=True)
class Stage:
    """One method at many sizes.

    Attributes:
        kind: which inputs, see `properties.strategies.sweeps`.
        call: what the implementation gives, by what it is called.
        expect: what is expected, by the same names.
        exact: what the truth says of a case, of few tokens.
        summed: the names of what is summed over tokens.
        forth: of a backward pass, the stage forwards, to which its outputs are held for more than `recorded` tokens.
        recorded: see `forth`.
    """

    kind: str
    call: Callable[[Trial, Case], Named]
    expect: Callable[[Trial, Case], At]
    exact: Callable[[Truth, Case], Named]
    summed: frozenset[str] = frozenset()
    forth: Stage | None = None
    recorded: int = RECORDED

    def hold(self, trial: Trial, case: Case) -> None:
        """Hold what the implementation gives to what is expected.

        Raises:
            LawBroken: it is not so.
        """
        got = self.call(trial, case)
        expected = self.expected(trial, case)
        for what, one in got.items():
            if one.numel() and (self.forth is None or what in expected):  # what is not emitted is empty
                self._within(trial, case, what, one, expected[what])
            elif one.numel() and self.forth and count_of(case)[0] > self.recorded:
                self.forth._within(trial, case, what, one, self.forth.expected(trial, case)[what])

    def expected(self, trial: Trial, case: Case) -> Values:
        """What is expected of a case; for a part of a whole that was made before, with the whole."""
        if isinstance(case, Part):
            owner = (self.call, trial.rounding)
            return case.expected(owner, lambda whole: self.expect(trial, whole))
        tokens, layers = count_of(case)
        found = self.expect(trial, case)
        return (found.over(tokens, (tokens,)) if isinstance(found, Kept) else found)(tokens, layers)

    def _within(self, trial: Trial, case: Case, what: str, got: Tensor, one: Approx) -> None:
        shape = got.shape
        if trial.clearly_within(got, one):
            return
        try:
            trial.within(what, got, one.value.reshape(shape), one.error.reshape(shape))
        except LawBroken:
            if not trial.replaying:
                raise
            if what in self.summed:
                exact, chosen, where = self._exact_sum(trial, case)[what].reshape(shape), slice(None), what
            else:
                token = _worst_token(got, one.value.reshape(shape), one.error.reshape(shape))
                chosen, where = slice(token, token + 1), f"{what} of token {token}"
                exact = self.exact(trial.truth, take(case, chosen))[what].reshape(got[chosen].shape)
            trial.within(where, got[chosen], exact, one.error.reshape(shape)[chosen])

    def _exact_sum(self, trial: Trial, case: Case) -> Named:
        """A sum over tokens, of which the truth judges the first, the last and one between, and float64 the others: its
        roundings are in the bound."""
        tokens, _ = count_of(case)
        some = sorted({0, tokens // 2, tokens - 1})
        rest = [token for token in range(tokens) if token not in some]
        found = self.exact(trial.truth, take(case, torch.tensor(some)))
        if not rest:
            return found
        others = self.exact(FloatTruth(trial.dialect), take(case, torch.tensor(rest)))
        return {what: one + others[what] if what in self.summed else one for what, one in found.items()}


def _worst_token(got: Tensor, value: Tensor, error: Tensor) -> int:
    """The token at which an output is farthest beyond its bound."""
    beyond = ((wide(got) - value).abs() / error.clamp_min(1e-300)).nan_to_num(nan=INF)
    return int(torch.where(torch.isfinite(error), beyond, 0.0).flatten(1).amax(1).argmax())


# -- how a method is called ------------------------------------------------------------------------------------------


def called(trial: Trial, case: Case, method: str, *given: Any, branches: Sequence[Any] = ()) -> Any:
    """What a method gives for these arguments, with or without gradients, on any axes, and wherever they lie in
    memory."""
    last = branches if method in ("layers", "stack") else tuple(branches)
    extra = ((last,) if method in ("layers", "stack") else last) if branches else ()
    gradients, layout = "gradients" in case and case.gradients, layout_of(case)
    axes = axes_of(layout)
    with torch.inference_mode(INFERENCE in parts_of(layout)), torch.set_grad_enabled(bool(gradients)):
        if not memory_of(layout):
            asked = map_tensors(given, _asking) if gradients else given
            found = getattr(trial, method)(*(arranged(one, axes) for one in asked), *extra)
            first, *rest = found if branches else (found,)
            ordered = map_tensors(first, lambda one: in_order(one, axes))
            return (ordered, *rest) if branches else ordered

        def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
            ends = returning(map_tensors(tuple(branches), place), layout)
            own = ((ends,) if method in ("layers", "stack") else ends) if branches else ()
            handed = [lying(place(one), layout) for one in given]
            if REWRITTEN in parts_of(layout):
                handed[1:] = map_tensors(tuple(handed[1:]), torch.clone)  # the case keeps its own
                _called_with_others(handed[1:], lambda: getattr(target, method)(*handed, *own))
            return getattr(target, method)(*handed, *own)

        found = map_tensors(trial.observe(method, run), lambda one: in_order(one, axes))
        return (found, []) if branches else found


def _called_with_others(given: Sequence[Any], call: Callable[[], Any]) -> None:
    """Call with other parameters in the very tensors, whose values are loaded then."""
    parameters: list[Tensor] = []
    map_tensors(tuple(given), lambda one: (parameters.append(one), one)[1])
    values = [one.clone() for one in parameters]
    for one, value in zip(parameters, values, strict=True):
        one.data.copy_(0.75 * value)
    call()
    for one, value in zip(parameters, values, strict=True):
        one.data.copy_(value)


def _asking(one: Tensor) -> Tensor:
    return one.detach().requires_grad_()


# -- sweeps ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Swept:
    """A sweep, and the strategy of a few of its smallest points."""

    sweep: Sweep
    draw: Draw


def swept(kind: str, *runs: Runs, layered: bool = False) -> Swept:
    """The sweep of a law over such runs, with what is declared."""

    def points(setting: Setting, reach: Reach, seed: int) -> Sequence[Point]:
        found = [run for one in runs for run in one(setting, reach)]
        return points_of([*declared_runs(setting, layered), *found], setting, kind, seed)

    def at(setting: Setting, size: Any, seed: int) -> Point | None:
        accepted = (
            size.streams in setting.streams
            and size.tokens <= setting.max_tokens
            and size.channels % setting.channel_multiple == 0
            and (setting.differentiable or not size.gradients)
            and (setting.strided or size.contiguous)
        )
        if not accepted or min(size.tokens, size.channels, size.layers) < 1 or (size.layers > 1 and not layered):
            return None
        layout = "" if size.contiguous else "slice"
        run = Run(size.channels, size.streams, (size.tokens,), (size.layers,), size.gradients, layout)
        return next(iter(run.points(setting, kind, seed)))

    def draw(setting: Setting) -> st.SearchStrategy[Case]:
        few = points(setting, Reach(1, 9, 9, 3, gradients=setting.differentiable), 0)
        return st.sampled_from([one for one in few if one.size.numbers <= 4000] or few[:1]).map(plain)

    return Swept(Sweep(points, at), draw)


def plain(point: Point) -> Case:
    """The inputs of a point by themselves."""
    return Case(**{name: map_tensors(value, torch.clone) for name, value in point.case().items()})


# -- forwards --------------------------------------------------------------------------------------------------------


def _project(trial: Trial, case: Case) -> Named:
    return {"h_res": called(trial, case, "project", case.logits)}


def _projected(trial: Trial, case: Case) -> At:
    found = errors.projection(trial, case.logits)
    return Kept({"h_res": Approx(found.value, found.error)})


PROJECT = Stage("project", _project, _projected, lambda truth, case: {"h_res": truth.project(case.logits)})


def _map(trial: Trial, case: Case) -> Named:
    got = called(trial, case, "mappings", case.x, case.params)
    return {f"h_{name}": part for name, part in zip(("pre", "post", "res"), got, strict=True) if part is not None}


def _mapped(trial: Trial, case: Case) -> At:
    found = errors.mappings(trial, case.x, case.params)
    return Kept({f"h_{name}": part for name, part in found.parts().items()})


def _map_exactly(truth: Truth, case: Case) -> Named:
    return {f"h_{name}": part for name, part in truth.mappings(case.x, case.params)._asdict().items()}


MAPPINGS = Stage("mappings", _map, _mapped, _map_exactly)


def _read(trial: Trial, case: Case) -> Named:
    return {"h_pre x": called(trial, case, "pre", case.x, errors.h_pre(case, trial.dialect))}


PRE = Stage(
    "mixture",
    _read,
    lambda trial, case: Kept({"h_pre x": errors.pre(trial, case.x, errors.h_pre(case, trial.dialect))}),
    lambda truth, case: {"h_pre x": truth.pre(case.x, errors.h_pre(case, truth.dialect))},
)


def _mix(trial: Trial, case: Case) -> Named:
    return {"A x + h_post^T y": called(trial, case, "post", case.x, case.y, case.h_post, case.h_res)}


def _mix_exactly(truth: Truth, case: Case) -> Named:
    return {"A x + h_post^T y": truth.post(case.x, case.y, case.h_post, case.h_res)}


POST = Stage(
    "mixture",
    _mix,
    lambda trial, case: Kept({"A x + h_post^T y": errors.post(trial, case.x, case.h_res, case.y, case.h_post)}),
    _mix_exactly,
)


def _pass(trial: Trial, case: Case) -> Named:
    out, seen = called(trial, case, "block", case.x, case.params, branches=[case.branch])
    if "layout" in case:
        return {"the block": out}
    one_call(trial, seen)
    what_was_read_stays(trial, seen)
    return {"the branch input": seen[0].u, "the block": out}


def _passed(trial: Trial, case: Case) -> At:
    way = bounds.block.passed(Approx.exact(case.x), case.params, case.branch, trial.dialect, trial.rounding)
    return Kept({"the branch input": way.u, "the block": way.after})


def _pass_exactly(truth: Truth, case: Case) -> Named:
    u, after, _ = _exact_block(truth, case.x, case.params, case.branch)
    return {"the branch input": u, "the block": after}


def _exact_block(truth: Truth, x: Tensor, params: Params, branch: Any, before: Tensor | None = None) -> list[Tensor]:
    """The branch input, the next state, and h_pre; `before` is that of the block before, if there is one."""
    h = truth.mappings(x, params)
    u = truth.pre(x, gates_read(h.pre, before, truth.dialect))
    return [u, truth.post(x, branch(u), h.post, h.res), h.pre]


BLOCK = Stage("block", _pass, _passed, _pass_exactly)


def _collapse(trial: Trial, case: Case) -> Named:
    return {"the collapsed state": called(trial, case, "collapse", case.x, *_head(case))}


def _head(case: Case) -> tuple[Params, ...]:
    return (case.params,) if "params" in case else ()


COLLAPSE = Stage(
    "collapse",
    _collapse,
    lambda trial, case: Kept({"the collapsed state": errors.collapse(trial, case.x, *(_head(case) or (None,)))}),
    lambda truth, case: {"the collapsed state": truth.collapse(case.x, *(_head(case) or (None,)))},
)


def _expand(trial: Trial, case: Case) -> Named:
    return {"the expanded streams": called(trial, case, "expand", case.h, case.n)}


EXPAND = Stage(
    "expand",
    _expand,
    lambda trial, case: Kept(
        {"the expanded streams": bounds.stack.begun(case.h, case.n, trial.dialect, trial.rounding)}
    ),
    lambda truth, case: {"the expanded streams": mhc_ref.expand(wide(case.h), case.n, truth.dialect)},
)


def _layers(trial: Trial, case: Case) -> Named:
    out, seen = called(trial, case, "layers", case.x, case.params, branches=case.branches)
    if "layout" not in case:
        one_call(trial, seen, len(case.branches))
        what_was_read_stays(trial, seen)
    return {"the streams after the last layer": out}


def _piled(parts: Sequence[Approx]) -> Approx:
    return Approx(torch.stack([one.value for one in parts]), torch.stack([one.error for one in parts]))


def _layered(trial: Trial, case: Case) -> At:
    _, *after = bounds.stack.states(Approx.exact(case.x), case.params, case.branches, trial.dialect, trial.rounding)
    return Kept(by_layer={"the streams after the last layer": _piled(after)})


def _layers_exactly(truth: Truth, case: Case) -> Named:
    return {"the streams after the last layer": _through(truth, wide(case.x), case)[0]}


def _through(truth: Truth, x: Tensor, case: Case) -> tuple[Tensor, Tensor | None]:
    last = None
    for one, branch in zip(case.params, case.branches, strict=True):
        _, x, last = _exact_block(truth, x, one, branch, last)
    return x, last


LAYERS = Stage("layers", _layers, _layered, _layers_exactly)


def _stack(trial: Trial, case: Case) -> Named:
    out, seen = called(trial, case, "stack", case.h, (*case.params, *case.head), branches=case.branches)
    if "layout" not in case:
        one_call(trial, seen, len(case.branches))
        what_was_read_stays(trial, seen)
    return {"the stack": out}


def _stacked(trial: Trial, case: Case) -> At:
    begun = bounds.stack.begun(case.h, case.n, trial.dialect, trial.rounding)
    ways = bounds.stack.passages(begun, case.params, case.branches, trial.dialect, trial.rounding)
    ends = [errors.collapse(trial, way.after, *case.head, last=way.h.pre) for way in ways]
    return Kept(by_layer={"the stack": _piled(ends)})


def _stack_exactly(truth: Truth, case: Case) -> Named:
    begun = mhc_ref.expand(wide(case.h), case.n, truth.dialect)  # copies, or such that a weight was applied to
    after, last = _through(truth, begun, case)
    if end_of(truth.dialect).LAST and last is not None:
        return {"the stack": truth.pre(after, last)}
    return {"the stack": truth.collapse(after, *(case.head or (None,)))}


STACK = Stage("stack", _stack, _stacked, _stack_exactly)
