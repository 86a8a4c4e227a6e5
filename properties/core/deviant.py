"""A correct implementation in the linear domain, cut into steps so small that a realistic slip changes one of them.

The steps of a block are here; those of a family (`properties.core.family`) are a subclass with the family, and are put
under every slip that is made for a dialect of it.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Tensor

from mhc_ref import PRESETS, Dialect, Mappings, Params
from mhc_ref.block import by_channel, check_params, squash
from mhc_ref.dialect import FIELDS, Axis
from mhc_ref.packing import logit_sizes, logits_shape
from mhc_ref.projection import compute_dtype
from mhc_ref.registry import formulas
from mhc_ref.stack import has_head
from properties.core.declaration import accepted
from properties.core.implementation import Implementation
from properties.core.norms import norm_of
from properties.core.shelves import steps_of

DIM: dict[Axis, int] = {"row": -1, "column": -2}


class Deviant(Implementation):
    """Every dialect by the literal formulas, one method a step.

    Unmodified it is correct (the control `linear`) wherever nothing underflows that a family takes the exponential of.
    A deviation overrides a step, or declares one dialect and computes another: `dialect` is what it claims, `computed`
    what it does. An instance is of the class asked for, and under it of the steps of the families that it computes.
    """

    tunable = frozenset(FIELDS)
    asked_for: type[Deviant] | None = None
    """Of a class with a family's steps put under it, the class alone."""

    def __new__(
        cls, dialect: Dialect = PRESETS.default, name: str = "", change: Callable[[Dialect], Dialect] | None = None
    ) -> Self:
        if cls.asked_for is not None:  # a copy
            return super().__new__(cls)
        computed = change(dialect) if change else dialect
        steps = tuple(one for one in steps_of(computed) if not issubclass(cls, one))
        return super().__new__(cast("type[Self]", _over(cls, steps)) if steps else cls)

    def __init__(
        self, dialect: Dialect = PRESETS.default, name: str = "", change: Callable[[Dialect], Dialect] | None = None
    ) -> None:
        self.dialect = dialect
        self.name = name
        self.computed = change(dialect) if change else dialect
        self._change = change
        self._states: torch.dtype | None = None
        if (streams := accepted(dialect)) != Deviant.streams:
            self.streams = streams
        self.prepare()

    def prepare(self) -> None:
        """What a stateful deviation remembers between calls begins here."""

    def __copy__(self) -> Self:
        made = object.__new__(type(self))
        vars(made).update(vars(self))
        return made

    def _for_states(self, dtype: torch.dtype) -> Self:
        """What is declared and what is computed, each for states of a dtype."""
        if self.dialect.at(dtype) is self.dialect and self.computed.at(dtype) is self.computed:
            return self
        made = copy.copy(self)
        made.dialect, made.computed, made._states = self.dialect.at(dtype), self.computed.at(dtype), dtype
        return made

    def tuned(self, **fields: Any) -> Implementation:
        made = self.slip(self.dialect.with_(**fields), self.name, self._change)
        return made if self._states is None else made._for_states(self._states)

    def change_after(self, change: Callable[[Dialect], Dialect]) -> None:
        """Whatever is tuned from here on computes a changed dialect, before the slip's own change of one."""
        own = self._change

        def both(dialect: Dialect) -> Dialect:
            changed = change(dialect)
            return own(changed) if own else changed

        self._change = both

    @property
    def _composed(self) -> Dialect:
        return self.computed

    @property
    def slip(self) -> type[Deviant]:
        """The class that was asked for, without the steps of a family; `Deviant` itself where no step is overridden."""
        return type(self).asked_for or type(self)

    # Logits to h_res

    def project(self, logits: Tensor) -> Tensor:
        """By the formula of the family, where it has no steps."""
        return formulas("mix", self.computed.residual).project(self.widened(logits), self.computed)

    def widened(self, values: Tensor) -> Tensor:
        """To the compute dtype: float64 stays, the rest becomes float32."""
        return values.to(compute_dtype(values.dtype))

    # State to mappings

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        check_params(params, x.shape[-2], x.shape[-1], self.dialect)
        params, here = params.widened(), self._for_states(x.dtype)
        pre, post, res = here.logits(self.widened(x), params)
        return Mappings(
            here.read_weights(pre, self.widened(x), params), self.h_post(post), self.h_res(res, x.shape[-2])
        )

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        """The logits of pre [..., n], post [..., n] and res [..., R] of a widened state."""
        n = x.shape[-2]
        dynamic = self.split(self.dynamic(self.projected(x, params)), n)
        static = self.split(params.bias, n)
        gates = params.alpha if len(params.alpha) == 3 else torch.cat([params.alpha, params.alpha.new_ones(1)])
        return [self.gated(*parts) for parts in zip(dynamic, gates, static, strict=True)]

    def projected(self, x: Tensor, params: Params) -> Tensor:
        return self.matmul(self.normed(x, params.norm_weight), params.phi)

    def normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """The normalised state of a widened one, with its weight."""
        return self.normalised(self.centred(x), weight)

    def centred(self, x: Tensor) -> Tensor:
        """A state less its mean, where the norm centres."""
        return x - self.mean(x) if self.computed.centred else x

    def mean(self, x: Tensor) -> Tensor:
        return x.mean(self.norm_axes(), keepdim=True)

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        norm = norm_of(self.computed)
        unit = norm.normalise(x, self.computed) if norm.OVER is None else x / self.divisor(x)
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))

    def divisor(self, x: Tensor) -> Tensor:
        """What a state is divided by, with size 1 in the dims that the mean is taken over."""
        root = self.rms(self.mean_square(x))
        if self.computed.rms_eps_by == "add" or not self.computed.rms_eps:
            return root
        return self.clamped_norm(root, math.prod(x.shape[k] for k in self.norm_axes()))

    def clamped_norm(self, root: Tensor, count: int) -> Tensor:
        """The root mean square of so many numbers, where their norm is raised to at least the eps."""
        return root.clamp_min(self.computed.rms_eps / math.sqrt(count))

    def mean_square(self, x: Tensor) -> Tensor:
        return x.square().mean(self.norm_axes(), keepdim=True)

    def norm_axes(self) -> tuple[int, ...]:
        """The dims of x [..., n, C] over which the mean square is taken."""
        return norm_of(self.computed).OVER or (-2, -1)

    def rms(self, mean_square: Tensor) -> Tensor:
        """The root with its eps, where that is added; 1 in place of an exact 0, since a zero state is normalised to 0,
        but where it is clamped."""
        zero = mean_square == 0
        if self.computed.rms_eps and self.computed.rms_eps_by == "clamp":
            return torch.where(zero, 0.0, torch.where(zero, 1.0, mean_square).sqrt())
        if self.computed.rms_eps and self.computed.rms_eps_inside:
            return (mean_square + self.computed.rms_eps).sqrt()
        root = torch.where(zero, 1.0, mean_square).sqrt()
        return torch.where(zero, self.computed.rms_eps or 1.0, root + self.computed.rms_eps)

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return unit * (self.computed.norm_offset + weight)

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        """[..., n, C] times phi, columns pre | post | res row-major."""
        if not self.computed.shared_projection:
            return state.flatten(-2) @ phi
        by_stream = state @ phi
        return torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)

    def dynamic(self, projected: Tensor) -> Tensor:
        return formulas("dynamic", self.computed.dynamic).activate(projected, self.computed)

    def split(self, packed: Tensor, n: int) -> list[Tensor]:
        """pre | post | res of the last axis."""
        return list(packed.split(logit_sizes(n, self.computed), -1))

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return gate * dynamic + static

    def read_weights(self, logits: Tensor, x: Tensor, params: Params) -> Tensor:
        """What a widened state is read with: its gates."""
        return self.h_pre(logits)

    def h_pre(self, logits: Tensor) -> Tensor:
        return self.squash(logits, self.computed.pre) + self.computed.pre_eps

    def h_post(self, logits: Tensor) -> Tensor:
        return self.computed.post_scale * self.squash(logits, self.computed.post) + self.computed.post_eps

    def squash(self, logits: Tensor, kind: str) -> Tensor:
        return squash(logits, kind, self.computed)

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        return self.project(logits.unflatten(-1, logits_shape(n, self.computed)))

    # Mappings to the next state; block, layers and stack are what Implementation derives from these

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self.gathered(self.widened(x), h_pre).to(x.dtype)

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return (by_channel(h_pre, x) * x).sum(-2)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return (self.mixed(self.widened(x), h_res) + self.spread(self.widened(y), h_post)).to(x.dtype)

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return self.operator(h_res).to(x.dtype) @ x

    def operator(self, h_res: Tensor) -> Tensor:
        return h_res.mT if self.computed.transposed else h_res

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return h_post.unsqueeze(-1) * y.unsqueeze(-2)

    # Streams begin and end

    def expand(self, h: Tensor, n: int) -> Tensor:
        return formulas("begin", self.computed.expand).expand(h, n, self.computed)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        h_pre = None
        if has_head(self.computed):
            if params is None:
                raise ValueError(f"collapse={self.computed.collapse!r} needs the parameters of the head")
            h_pre = self._for_states(x.dtype).head(self.widened(x), params.widened())
        return formulas("end", self.computed.collapse).collapse(self.widened(x), self.computed, h_pre).to(x.dtype)

    def head(self, x: Tensor, params: Params) -> Tensor:
        """The weights of the streams in the final gated sum."""
        n = x.shape[-2]
        state = self.normed(x, params.norm_weight)
        projected = (
            state @ params.phi[:, 0] if self.computed.shared_projection else state.flatten(-2) @ params.phi[:, :n]
        )
        return self.h_pre(self.gated(self.dynamic(projected), params.alpha[0], params.bias[:n]))


@functools.cache
def _over(slip: type[Deviant], steps: tuple[type[Deviant], ...]) -> type[Deviant]:
    """A slip over the steps of families."""
    bases = steps if slip is Deviant else (slip, *steps)
    return type(slip.__name__, bases, {"asked_for": slip.asked_for or slip, "__doc__": slip.__doc__})


def redialected(made: Implementation) -> bool:
    """Whether it is a deviant of which no step is overridden: all that may be wrong is the dialect that it computes."""
    return isinstance(made, Deviant) and made.slip is Deviant


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Exactly `value`, differentiated as if it were `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())


class _Valued(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return None, cotangents[0]


def valued(value: Tensor, surrogate: Tensor) -> Tensor:
    """Exactly `value`, with the gradient of `surrogate`, which may be no number there."""
    found: Any = _Valued.apply(value.detach(), surrogate)
    return found


def through(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to another dtype and back."""
    return values.to(dtype).to(values.dtype)


def through_tf32(values: Tensor) -> Tensor:
    """Truncated to the 10 bits of mantissa that a TensorFloat-32 matmul reads; differentiated as the identity."""
    truncated = (values.detach().float().view(torch.int32) & ~0x1FFF).view(torch.float32)
    return with_gradient_of(truncated.to(values.dtype), values)


def nearest_tf32(values: Tensor) -> Tensor:
    """Rounded to the 10 bits of mantissa of TensorFloat-32, ties away from zero as cvt.rna does; differentiated as the
    identity."""
    bits = values.detach().float().view(torch.int32) + 0x1000
    rounded = (bits & ~0x1FFF).view(torch.float32)
    return with_gradient_of(torch.where(values.detach().isfinite(), rounded.to(values.dtype), values), values)
