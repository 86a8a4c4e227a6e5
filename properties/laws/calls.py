"""Calls of a method as values, and the circumstances that must not matter to one.

A law about a circumstance is a row: it makes the calls of its method, and hands them to the judge of the circumstance.
"""

from __future__ import annotations

import contextlib
import math
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
from properties.core.trial import Trial, same_bits, wide
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


def block(trial: Trial, x: Tensor, params: Params, branch: BranchSpec) -> Call:
    """A block whose branch is one of `FIXED`."""
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


# -- purity, determinism, memory ---------------------------------------------------------------------------------------


MANY = 1031
"""Tokens of a large call, whose states are spared a second time perhaps, or lie in a buffer."""


def leaves_arguments_alone(trial: Trial, call: Call) -> None:
    """Nothing that a call is given is written to, nor in inference mode, where autograd would not know, nor where
    tokens are many."""
    counts = (0, min(MANY, trial.implementation.max_tokens))

    def run(target: Implementation, place: Place) -> Any:
        def after(count: int) -> tuple[bool, ...]:
            given = map_tensors(map_tensors(call.given, place), torch.clone)
            if count:
                given = tuple(flooded(one, count) if isinstance(one, Tensor) and len(one) else one for one in given)
            before = map_tensors(given, torch.clone)
            call.on(target, given)
            pairs = zip(call.tensors(given), call.tensors(before), strict=True)
            return tuple(torch.equal(one, other) for (_, one), (_, other) in pairs)

        found: list[Any] = []
        for count in counts:
            found.append(after(count))
            with torch.inference_mode():
                found.append(after(count))
        return tuple(found)

    modes = [f"{mode}{of}" for of in ("", f" of {counts[1]} tokens") for mode in ("", " in inference mode")]
    for mode, found in zip(modes, trial.observe(call.method, run), strict=True):
        for (name, _), same in zip(call.tensors(call.given), found, strict=True):
            trial.holds(f"{name} after the call{mode}", same, "changed", "as before", kind="memory")


def repeats_bits(trial: Trial, call: Call) -> None:
    """The same call on the same storage gives the same bits."""

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        return tuple(kept(call.on(target, given)) for _ in range(3))

    first, *others = trial.observe(call.method, run)
    for k, name in enumerate(call.gives):
        same = all(same_bits(first[k], other[k]) for other in others)
        trial.holds(f"{name} of the same call again", same, "other bits", "the same bits")


QUIET: tuple[tuple[str, Callable[[], AbstractContextManager[Any]]], ...] = (
    ("", nullcontext),
    (" under no_grad", torch.no_grad),
    (" in inference mode", torch.inference_mode),
)
"""The modes of autograd in which nothing is recorded: of tensors that ask for nothing, or, under no_grad, of those of a
model that is evaluated between two steps of its training, which ask still."""


def asking(given: Any, mode: str, trial: Trial) -> Any:
    """Copies that are the arguments of a call in that mode: under no_grad the parameters of whoever learns ask for
    gradients, the very tensors that are given."""
    if isinstance(given, Params):
        on = mode == QUIET[1][0] and trial.differentiable
        return map_tensors(given, Tensor.requires_grad_) if on else given
    if isinstance(given, tuple):
        return tuple(asking(one, mode, trial) for one in cast("tuple[Any, ...]", given))
    return given


def has_no_memory(trial: Trial, call: Call, other: Call, outputs: bool = False) -> tuple[Tensor, ...]:
    """Other values in the same storage, and the first ones again, are treated as if nothing had been called before, in
    any mode: what is folded, cast or tuned for weights that learn no more is kept where gradients are off.

    What was returned belongs to the caller, who writes to it before the first values come again. With `outputs`, it is
    looked at again after further calls, and the same call is made twice.

    Returns:
        what the call gave for the other values in the storage of the first.
    """

    def run(target: Implementation, place: Place) -> Any:
        def once(mode: str) -> Any:
            def copied(one: Call) -> Any:
                return asking(map_tensors(map_tensors(one.given, place), torch.clone), mode, trial)

            def fresh(one: Call) -> tuple[Tensor, ...]:
                return kept(call.on(target, copied(one)))

            storage = copied(call)

            def hold(one: Call) -> None:
                for (_, old), (_, new) in zip(call.tensors(storage), call.tensors(one.given), strict=True):
                    old.data.copy_(place(new))  # as loaders of weights do: no version of a tensor counts it

            returned = call.on(target, storage)
            first = kept(returned)
            twice = kept(call.on(target, storage)) if outputs else first
            hold(other)
            second, alone = kept(call.on(target, storage)), fresh(other)
            later = kept(returned) if outputs else first  # before the first values come again
            for one in returned:
                with contextlib.suppress(RuntimeError):  # an expanded one is not to be written to
                    one.fill_(math.nan)
            hold(call)
            return first, twice, later, second, alone, fresh(call), kept(call.on(target, storage))

        found: list[Any] = []
        for name, mode in QUIET:
            with mode():
                found.append(once(name))
        return tuple(found)

    found = trial.observe(call.method, run)
    one, two = call.errors(), other.errors()
    for (mode, _), (first, twice, later, second, alone, again, back) in zip(QUIET, found, strict=True):
        for k, name in enumerate(call.gives):
            if outputs:
                if trial.implementation.deterministic:
                    same, what = same_bits(first[k], twice[k]), f"{name} of the same call{mode}"
                    trial.holds(what, same, "other bits", "the same bits", kind="randomness")
                same, what = same_bits(first[k], later[k]), f"{name} after further calls{mode}"
                trial.holds(what, same, "changed", "as returned", kind="memory")
            what = f"{name} of new {call.values} in old storage{mode}"
            trial.near(what, second[k], wide(alone[k]), 2 * two[k], kind="memory")
            what = f"{name} of the first {call.values} again{mode}"
            trial.near(what, again[k], wide(first[k]), 2 * one[k], kind="memory")
            what = (
                f"{name} of the first {call.values} back in their storage{mode}, after the caller wrote to what it got"
            )
            trial.near(what, back[k], wide(first[k]), 2 * one[k], kind="memory")
    return found[0][3]


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
    """The same values give the same, in whatever way they are handed over."""

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        plain = call.on(target, tuple(one.clone() if isinstance(one, Tensor) else one for one in given))
        others = [call.on(target, way.arrange(given)) for way in ways]
        return plain, tuple(tuple(map(way.read, other)) for way, other in zip(ways, others, strict=True))

    plain, others = trial.observe(call.method, run)
    bounds = call.errors()
    for way, gave in zip(ways, others, strict=True):
        for name, one, other, error in zip(call.gives, gave, plain, bounds, strict=True):
            expected = way.expected(wide(other))
            shape = tuple(expected.shape)
            what = f"{name} of {way.what}"
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
