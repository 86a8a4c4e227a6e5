"""What branches may do: return what they like, work in place, hang hooks on themselves, and draw random numbers.

Judges of calls of blocks and of layers, as in `properties.laws.calls`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import Approx
from properties.bounds.stack import after as after_layers
from properties.core.case import BranchSpec, map_tensors
from properties.core.implementation import Implementation
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.core.truth import present, regrouped
from properties.laws import errors
from properties.laws.calls import Call, Place
from properties.laws.held import INFERENCE, MODES, lasting, modes, under, varied
from properties.laws.premises import mixes_in_compute_dtype
from properties.laws.surroundings import GENERATORS, restored, seeded

RETURNED: dict[str, Callable[[Tensor], Tensor]] = {
    "what it reads": lambda u: u,
    "a view of what it reads": lambda u: u.view(u.shape),
    "ones of one entry, expanded": lambda u: torch.ones_like(u[..., :1]).expand(u.shape),
    "a slice of something wider": lambda u: torch.cat([u, u - 1], -1)[..., : u.shape[-1]],
    "the end of something longer": lambda u: torch.cat([u.new_ones(1), u.flatten()])[1:].view(u.shape),
}
"""What branches return that has no storage of its own, or not from its start, or not in the order of its entries."""


def _writable(u: Tensor) -> Tensor:
    """What a branch reads; a copy of what torch lets nobody write to, as what was made in inference mode is outside of
    it: who serves may call a branch there."""
    return u.clone() if u.is_inference() and not torch.is_inference_mode_enabled() else u


WRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "what it reads, after it has written there": lambda u: _writable(u).mul_(-0.5).add_(1),
    "ones, after it has cleared what it reads": lambda u: _writable(u).zero_() + 1,
}
"""What branches return that work in place, where nothing is recorded: what they are handed is theirs."""


class _Hooked(torch.nn.Module):
    """A branch whose answer is what a hook makes of it, as those that adapters or quantisers are hung on."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Tensor] = []
        self.hooked: list[Tensor] = []
        self.register_forward_hook(_Hooked._changed)

    def forward(self, u: Tensor) -> Tensor:
        self.answers.append(u - 1)
        return self.answers[-1]

    def _changed(self, _: Any, answer: Tensor) -> Tensor:
        self.hooked.append(-0.5 * answer)
        return self.hooked[-1]


def takes_what_a_branch_returns(trial: Trial, call: Call) -> None:
    """A block is what it is for what its branch returned, be that its own input, or what a hook of it returned, in any
    mode."""
    every = [one for k, one in enumerate(RETURNED) if k < 2 or trial.implementation.strided]
    turns = [(mode, one) for mode in modes(trial) for one in every]
    turns += [(mode, one) for mode in (MODES[1], INFERENCE) for one in WRITTEN]

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)

        def passed(mode: str, branch: Callable[[Tensor], Tensor]) -> Tensor:
            with under(mode):
                state, params, _ = varied(call, lasting(given), mode)
                return target.block(state, params, branch).detach().clone()

        def called(mode: str, returned: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
            """The state after the block, and what the branch gave back."""
            seen: list[Tensor] = []

            def branch(u: Tensor) -> Tensor:
                y = returned(u)
                seen.append(y.detach().clone())
                return y

            out = passed(mode, branch)
            return out, seen[0]

        def through_a_module(mode: str) -> tuple[Tensor, Tensor, bool]:
            branch = _Hooked()
            out = passed(mode, branch)
            whole = len(branch.hooked) == len(branch.answers)
            return out, (branch.hooked if whole else branch.answers)[0].detach().clone(), whole

        plain = tuple(called(mode, (RETURNED | WRITTEN)[one]) for mode, one in turns)
        return plain, through_a_module(modes(trial)[-1])

    x, params, _ = call.given
    plain, (*hooked, whole) = trial.observe(call.method, run)
    named = [(f"returns {one}{mode}", *found) for (mode, one), found in zip(turns, plain, strict=True)]
    named.append(("is a module with a hook", *hooked))
    for what, out, y in named:
        exact = trial.truth.block(x, params, y)[1]
        trial.within(f"a block whose branch {what}", out, exact, errors.block(trial, x, params, y))
    what = "the hook of a module that is the branch of a block"
    trial.holds(what, whole, "passed over", "called whenever the module is", kind="contract")


def are_handed_the_axes_of_tokens(trial: Trial, call: Call) -> None:
    """What branches are handed of a state [B, S, n, C] is [B, S, C], and so it is where they are called again for a
    backward pass: a branch that mixes tokens, as attention does, would mix those of several sequences otherwise, or
    those of a part of one."""
    recorded = (False, True) if trial.differentiable else (False,)
    few = max(1, trial.implementation.max_tokens // 2)
    several = 2 if trial.implementation.max_tokens > 1 else 1

    def run(target: Implementation, place: Place) -> Any:
        x, params, branch = map_tensors(call.given, place)
        state = torch.stack([x[:few], x[:few].flip(0)][:several])

        def once(on: bool) -> tuple[tuple[int, ...], ...]:
            shapes: list[tuple[int, ...]] = []

            def halved(u: Tensor) -> Tensor:
                shapes.append(tuple(u.shape))
                return 0.5 * u

            with torch.set_grad_enabled(on):
                own = state.clone().requires_grad_(on)
                every = (halved,) * len(branch) if isinstance(branch, tuple) else halved
                out = getattr(target, call.method)(own, params, every)
                if on:
                    pulled_back([out], [own], [torch.ones_like(out)])
            return tuple(dict.fromkeys(shapes))

        return tuple(once(on) for on in recorded)

    x = call.given[0]
    handed = (several, min(few, x.shape[0]), x.shape[-1])
    for on, shapes in zip(recorded, trial.observe(call.method, run), strict=True):
        mode = " with gradients recorded" if on else ""
        wrong = [one for one in shapes if one != handed]
        what = f"the shape of what branches of {call.method} read of {several} sequences{mode}"
        trial.contract(what, not wrong, str(wrong[0] if wrong else handed), str(handed))


# -- in place, with gradients recorded ---------------------------------------------------------------------------------


_REFUSED = re.compile("in-?place", re.IGNORECASE)


def may_work_in_place(trial: Trial, call: Call) -> None:
    """A block, or layers, whose branches write their tanh in the place of what they read while gradients are recorded,
    are those whose branches do not, and so are the gradients, unless autograd refuses.

    What is handed to a branch is no leaf, and autograd lets a branch write there. Where the implementation still needs
    it, and has it saved by autograd, autograd says so, by a RuntimeError forwards or backwards: nothing is asked then.
    """
    if not trial.differentiable:
        return
    x, params, given = call.given
    each: tuple[Params, ...] = (params,) if isinstance(params, Params) else params
    leaves = [x, *(part for one in each for part in present(one))]
    tanh, bar = BranchSpec("tanh", torch.ones(x.shape[-1], dtype=x.dtype)), x.flip(-1)

    def run(target: Implementation, place: Place) -> Any:
        def once(branch: Any) -> tuple[Tensor, ...]:
            own = [place(one).clone().requires_grad_() for one in leaves]
            parts, method = regrouped(own[1:], each), getattr(target, call.method)
            several = isinstance(given, tuple)
            out = method(own[0], parts if several else parts[0], (branch,) * len(each) if several else branch)
            return out.detach().clone(), *pulled_back([out], own, [place(bar).clone()])

        def attempted(branch: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
            try:
                return once(branch)
            except RuntimeError as error:
                if _REFUSED.search(str(error)):
                    return ()
                raise

        return once(place(tanh)), attempted(torch.Tensor.tanh_)

    plain, written = trial.observe(call.method, run)
    if not written:
        return
    called = f"of {call.method} whose branch writes in the place of what it reads"
    state, branches, r = Approx.exact(x), [tanh] * len(each), trial.rounding
    ways = bounds.stack.passages(state, each, branches, trial.dialect, r)
    trial.near(f"the state {called}", written[0], wide(plain[0]), 2 * ways[-1].after.error)
    if mixes_in_compute_dtype(trial.implementation, trial.dtype):
        return
    found = bounds.pullback.layers(state, each, branches, Approx.exact(bar), trial.dialect, r, ways)
    slack = [("x", found[0].x)]
    for k, (one, own) in enumerate(zip(found, each, strict=True)):
        slack += [
            (f"{name} of layer {k}", getattr(one, name)) for name, part in own._asdict().items() if part is not None
        ]
    for (name, error), one, other in zip(slack, written[1:], plain[1:], strict=True):
        trial.near(f"the gradient by {name} {called}", one, wide(other), 2 * error.error.reshape(one.shape))


# -- random numbers ----------------------------------------------------------------------------------------------------


def draw_anew(trial: Trial, call: Call) -> None:
    """Branches that draw from the global generators draw other numbers in every call, and a block or layers are those
    of what they drew. That nothing else draws is not asked: a module that is made for a call draws its first
    weights."""
    x, params, given = call.given
    depth = len(given) if isinstance(given, tuple) else 1

    def run(target: Implementation, place: Place) -> Any:
        placed = map_tensors(call.given, place)

        def after(mode: str) -> Any:
            drawn: list[tuple[float, ...]] = []
            masks: list[Tensor] = []

            def draws(u: Tensor) -> Tensor:
                """As dropout does: a multiple of 1/16 for every channel."""
                drawn.append((float(torch.rand(())), random.random(), float(np.random.random())))
                masks.append((torch.randint(8, 25, u.shape[-1:]) / 16).to(u))
                return masks[-1].expand(u.shape).clone()

            def passed(*branches: Any) -> Tensor:
                state, parts, _ = varied(call, lasting(placed), mode)
                one = branches if isinstance(given, tuple) else branches[0]
                return getattr(target, call.method)(state, parts, one).detach().clone()

            with under(mode), restored():
                seeded(1)
                passed(*[draws] * depth)
                so_far = len(drawn)
                masks.clear()
                out = passed(*[draws] * depth)
                once = len(masks) == depth
                plain = passed(*(BranchSpec("constant", one) for one in masks)) if once else out
            apart = [one != other for one, other in zip(drawn[0], drawn[so_far], strict=True)]
            return out, plain, tuple(apart), tuple(one.cpu() for one in masks)

        return tuple(after(mode) for mode in (*modes(trial), INFERENCE))

    def slack(masks: tuple[Tensor, ...]) -> Tensor:
        """The bound of what was drawn, in every mode the same as a rule."""
        if not known or any(not torch.equal(*pair) for pair in zip(masks, known[0][0], strict=True)):
            each: tuple[Params, ...] = (params,) if isinstance(params, Params) else params
            outputs = [one.expand(x[..., 0, :].shape) for one in masks]
            error = after_layers(Approx.exact(x), each, outputs, trial.dialect, trial.rounding)[0].error
            known.insert(0, (masks, 2 * error))
        return known[0][1]

    known: list[tuple[tuple[Tensor, ...], Tensor]] = []
    every = (*modes(trial), INFERENCE)
    for mode, (out, plain, apart, masks) in zip(every, trial.observe(call.method, run), strict=True):
        for name, anew in zip(GENERATORS, apart, strict=True):
            what = f"what branches draw from the global generator of {name} in {call.method}{mode}"
            trial.holds(what, anew, "the same in every call", "drawn anew", kind="randomness")
        if len(masks) == depth:
            trial.near(f"{call.gives[0]} whose branches draw{mode}", out, wide(plain), slack(masks))
