"""Calls of a method as values, and the circumstances that must not matter to one.

A law about a circumstance is a row: it makes the calls of its method, and hands them to the judge of the circumstance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.bounds import Approx
from properties.bounds.stack import after as after_layers
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation, offers
from properties.core.trial import Trial, wide
from properties.laws import errors

Place = Callable[[Any], Any]
"""Moves tensors, and what has some, to the device where the implementation computes."""

FIXED = ("zero", "constant")
"""Branches whose output does not depend on roundings of their input."""


@dataclass(frozen=True)
class Call:
    """A method with what it is given.

    Attributes:
        method: its name.
        names: of its arguments.
        given: its arguments: tensors [tokens, ...], parameters and branches.
        gives: the names of what it gives, of all outputs that are read.
        errors: the bounds of these.
        parts: which outputs are read, where the method gives several.
        values: what its arguments are called together.
    """

    method: str
    names: tuple[str, ...]
    given: tuple[Any, ...]
    gives: tuple[str, ...]
    errors: Callable[[], tuple[Tensor, ...]]
    parts: tuple[int, ...] = ()
    values: str = "values"

    def on(self, target: Implementation, given: Sequence[Any]) -> tuple[Tensor, ...]:
        """The outputs of this method for other arguments."""
        found = getattr(target, self.method)(*given)
        return tuple(found[k] for k in self.parts) if self.parts else (found,)

    def tensors(self, given: Sequence[Any]) -> list[tuple[str, Tensor]]:
        """The states, matrices and parameters among arguments, by name."""
        found: list[tuple[str, Tensor]] = []
        for name, one in zip(self.names, given, strict=True):
            several: tuple[Any, ...] = one if isinstance(one, tuple) and not isinstance(one, Params) else (one,)
            for k, part in enumerate(several):
                where = f" of layer {k}" if len(several) > 1 else ""
                if isinstance(part, Params):
                    found += [(f"{field}{where}", t) for field, t in part._asdict().items() if t is not None]
                elif isinstance(part, Tensor):
                    found.append((name, part))
        return found


def projection(trial: Trial, logits: Tensor) -> Call:
    """`project`."""
    return Call("project", ("logits",), (logits,), ("h_res",), lambda: (errors.projected(trial, logits),), (), "logits")


def mappings(trial: Trial, x: Tensor, params: Params) -> Call:
    """`mappings`, of which those are read that are emitted."""
    emitted = tuple(k for k, name in enumerate(Mappings._fields) if name in trial.implementation.emits)

    def bound() -> tuple[Tensor, ...]:
        parts = errors.mappings(trial, x, params).parts()
        return tuple(parts[Mappings._fields[k]].error for k in emitted)

    return Call(
        "mappings", ("x", "params"), (x, params), tuple(f"h_{Mappings._fields[k]}" for k in emitted), bound, emitted
    )


def block(trial: Trial, x: Tensor, params: Params, branch: BranchSpec | Callable[[Tensor], Tensor]) -> Call:
    """A block whose branch is one of `FIXED`, or gives what does not depend on what it reads either."""
    y = branch(x[..., 0, :])
    return Call(
        "block",
        ("x", "params", "branch"),
        (x, params, branch),
        ("a block",),
        lambda: (errors.block(trial, x, params, y),),
    )


def layers(trial: Trial, case: Case, x: Tensor) -> Call:
    """Several blocks on x whose branches are of `FIXED`; `case` has params and branches."""

    def bound() -> tuple[Tensor, ...]:
        outputs = [branch(x[..., 0, :]) for branch in case.branches]
        return (after_layers(Approx.exact(x), case.params, outputs, trial.dialect, trial.rounding)[0].error,)

    return Call("layers", ("x", "params", "branches"), (x, case.params, case.branches), ("layers",), bound)


def stack(trial: Trial, case: Case, h: Tensor) -> Call:
    """A stack on h whose branches are of `FIXED`; `case` has n, params, head and branches."""
    outputs = [branch(h) for branch in case.branches]
    return Call(
        "stack",
        ("h", "params", "branches"),
        (h, (*case.params, *case.head), case.branches),
        ("a stack",),
        lambda: (errors.stack(trial, h, case.n, case.params, case.head, *outputs),),
    )


def mixtures(trial: Trial, case: Case) -> list[Call]:
    """The calls that mix x, y, h_post and h_res of a case: post, and pre where it is offered."""
    given = (case.x, case.y, case.h_post, case.h_res)
    names = ("the state", "the branch output", "h_post", "h_res")
    calls = [Call("post", names, given, ("post",), lambda: (mixture_bound(trial, case, "post").error,))]
    if "pre" in offers(trial.implementation):
        names = ("the state", "h_pre")
        bound = lambda: (mixture_bound(trial, case, "pre").error,)  # noqa: E731
        calls.append(Call("pre", names, (case.x, errors.h_pre(case, trial.dialect)), ("pre",), bound))
    return calls


def mixture_bound(trial: Trial, case: Case, method: str) -> Approx:
    """What `post` or `pre` of x, y, h_post and h_res of a case must give, with its bound."""
    if method == "pre":
        return errors.pre(trial, case.x, errors.h_pre(case, trial.dialect))
    return errors.post(trial, case.x, case.h_res, case.y, case.h_post)


def constant(x: Tensor) -> BranchSpec:
    """A branch that gives ones."""
    return BranchSpec("constant", torch.ones(x.shape[-1], dtype=x.dtype))


def flooded(tokens: Tensor, count: int) -> Tensor:
    """The tokens over and over on their device, `count` altogether."""
    return tokens[torch.arange(count, device=tokens.device) % tokens.shape[0]]


def kept(outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies without a graph."""
    return tuple(one.detach().clone() for one in outputs)


MANY = 1031
"""Tokens of a large call, whose states are spared a second time perhaps, or lie in a buffer."""


# -- modes of autograd -------------------------------------------------------------------------------------------------


QUIET: tuple[tuple[str, Callable[[], AbstractContextManager[Any]]], ...] = (
    ("", nullcontext),
    (" under no_grad", torch.no_grad),
    (" in inference mode", torch.inference_mode),
)
"""The modes of autograd in which nothing is recorded: of tensors that ask for nothing, or, under no_grad, of those of a
model that is evaluated between two steps of its training, which ask still."""


def asking(given: Any, mode: str, trial: Trial) -> Any:
    """Copies that are the arguments of a call in that mode: under no_grad, and with gradients recorded, the parameters
    of whoever learns ask for gradients, the very tensors that are given."""
    if isinstance(given, Params):
        on = mode in (QUIET[1][0], RECORDED) and trial.differentiable
        return map_tensors(given, Tensor.requires_grad_) if on else given
    if isinstance(given, tuple):
        return tuple(asking(one, mode, trial) for one in cast("tuple[Any, ...]", given))
    return given


RECORDED = " with gradients recorded"
EVERY = (*QUIET, (RECORDED, nullcontext))
"""And that of training, in which everything asks."""


def every_mode(trial: Trial) -> tuple[tuple[str, Callable[[], AbstractContextManager[Any]]], ...]:
    """The modes of autograd in which an implementation is called."""
    return EVERY if trial.implementation.differentiable else QUIET


def of_a_model(given: Sequence[Any], mode: str, trial: Trial) -> tuple[Any, ...]:
    """Copies that are the arguments of a call in that mode. Parameters are those of a model, which was not made where
    it serves: in inference mode, too, they are ordinary tensors that ask. With gradients recorded so do states, which
    are of a graph as those of a training step are."""

    def copied(one: Any) -> Any:
        if isinstance(one, Params):
            with torch.inference_mode(False):
                own = map_tensors(one, torch.clone)
                asks = mode != QUIET[0][0] and trial.implementation.differentiable
                return map_tensors(own, Tensor.requires_grad_) if asks else own
        if isinstance(one, tuple):
            return tuple(map(copied, cast("tuple[Any, ...]", one)))
        if isinstance(one, Tensor):
            return one.clone().requires_grad_().clone() if mode == RECORDED else one.clone()
        return map_tensors(one, torch.clone)

    return tuple(map(copied, given))


def does_not_see_autograd(trial: Trial, call: Call) -> None:
    """Values are the same with gradients recorded, of parameters of modules, under no_grad, and in inference mode."""

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        recorded = call.on(target, map_tensors(given, lambda one: torch.nn.Parameter(one.clone())))
        with torch.no_grad():
            quiet = call.on(target, asking(map_tensors(given, torch.clone), QUIET[1][0], trial))
        with torch.inference_mode():
            own = tuple(one.clone() if isinstance(one, Tensor) else one for one in given)
            fast = tuple(one.clone() for one in call.on(target, own))
        return kept(recorded), kept(quiet), kept(fast)

    recorded, quiet, fast = trial.observe(call.method, run)
    for k, (name, error) in enumerate(zip(call.gives, call.errors(), strict=True)):
        trial.near(f"{name} under no_grad", quiet[k], wide(recorded[k]), 2 * error)
        trial.near(f"{name} in inference mode", fast[k], wide(recorded[k]), 2 * error)


# -- other ways to hand over the same values ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """Another way to hand over the same values.

    Attributes:
        what: in words.
        arrange: arguments -> the arguments in this way.
        expected: what the plain call gave, or its bound -> what this one must give.
        read: what this one gave -> what is held to that.
    """

    what: str
    arrange: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    expected: Callable[[Tensor], Tensor] = lambda one: one
    read: Callable[[Tensor], Tensor] = lambda one: one


def by_token(what: str, arrange: Callable[[Tensor], Tensor]) -> Way:
    """Tokens arranged otherwise, what is given and what is expected of it alike; parameters and branches stay."""
    return Way(what, lambda given: tuple(arrange(one) if isinstance(one, Tensor) else one for one in given), arrange)


def does_not_see(trial: Trial, call: Call, ways: Sequence[Way]) -> None:
    """The same values give the same, in whatever way they are handed over, and so they do under no_grad, where kernels
    that train nothing are chosen."""

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        plain = call.on(target, tuple(one.clone() if isinstance(one, Tensor) else one for one in given))

        def handed(way: Way) -> tuple[Tensor, ...]:
            return tuple(map(way.read, call.on(target, way.arrange(given))))

        others = [handed(way) for way in ways]
        with torch.no_grad():
            return plain, (*others, *map(handed, ways))

    plain, others = trial.observe(call.method, run)
    bounds = call.errors()
    for k, gave in enumerate(others):
        way, mode = ways[k % len(ways)], " under no_grad" if k >= len(ways) else ""
        for name, one, other, error in zip(call.gives, gave, plain, bounds, strict=True):
            expected = way.expected(wide(other))
            shape = tuple(expected.shape)
            what = f"{name} of {way.what}{mode}"
            trial.contract(f"the shape of {what}", tuple(one.shape) == shape, str(tuple(one.shape)), str(shape))
            trial.near(what, one, expected, 2 * way.expected(error))


def is_computed_in_a_flood(trial: Trial, call: Call, exact: Sequence[Tensor], count: int) -> None:
    """Each of `count` tokens, made of those of the call on the device, is computed as the truth has those."""

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        return call.on(target, tuple(flooded(one, count) if isinstance(one, Tensor) else one for one in given))

    gave = trial.observe(call.method, run)
    for name, one, value, error in zip(call.gives, gave, exact, call.errors(), strict=True):
        shape = (count, *value.shape[1:])
        trial.contract(f"the shape of {name}", tuple(one.shape) == shape, str(tuple(one.shape)), str(shape))
        trial.within(name, one, flooded(value, count), flooded(error, count))


# -- the place ------------------------------------------------------------------------------------------------------


def is_written_throughout(trial: Trial, call: Call, *scratch: int) -> None:
    """With all free memory full of NaN, in blocks of the sizes of inputs, outputs and `scratch` above all, a
    call gives what it gave before."""

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        plain = kept(call.on(target, given))
        sizes = [one.nbytes for one in (*given, *plain) if isinstance(one, Tensor)]
        with trial.here.poisoned(plain[0].device, [*sizes, *scratch]):
            return plain, kept(call.on(target, given))

    plain, poisoned = trial.observe(call.method, run)
    for name, one, other, error in zip(call.gives, poisoned, plain, call.errors(), strict=True):
        trial.near(f"{name} in poisoned memory", one, wide(other), 2 * error, kind="memory")


def is_the_same_on_the_cpu(trial: Trial, call: Call) -> None:
    """The device and the CPU differ by what the bounds of the two allow together."""

    def run(target: Implementation, place: Place) -> Any:
        here, there = (call.on(target, map_tensors(call.given, put)) for put in (place, torch.clone))
        return kept(here), kept(there)

    here, there = trial.observe(call.method, run)
    for name, one, other, error in zip(call.gives, here, there, call.errors(), strict=True):
        trial.near(f"{name} here and on the CPU", one, wide(other), 2 * error)
