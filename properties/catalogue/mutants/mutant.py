"""The reference taken apart at its stages, wrong at one of them where a condition holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Branch, Dialect, Mappings, Params
from mhc_ref.block import check_params, normalise, squash
from mhc_ref.dialect import FIELDS
from mhc_ref.packing import logits_shape, residual_size
from mhc_ref.registry import formulas
from properties.catalogue.deviations import CATALOGUE
from properties.catalogue.mutants.drawing import FEW, Spec
from properties.catalogue.mutants.moments import History, Moment
from properties.core.implementation import Implementation, without_autocast

Watch = Callable[[Moment], None]
"""Is told of every stage before it is left."""


class Mutant(Implementation):
    """One of the adversary's mutants; without a spec the reference itself, taken apart at the same stages.

    Attributes:
        spec: what is wrong where.
        history, memory: of the calls before, and what the slip keeps of them.
        fired: how often the conditions held.
        watch: is told of every stage, if there is one.
    """

    tunable = frozenset(FIELDS)
    full_range = True
    autocast_safe = True

    def __init__(
        self,
        spec: Spec | None,
        dialect: Dialect | None = None,
        *,
        streams: tuple[int, ...] = FEW,
        dtype: torch.dtype = torch.float32,
        compilable: bool = False,
    ) -> None:
        self.spec = spec
        self.dialect = dialect or (mhc_ref.PRESETS.default if spec is None else spec.dialect)
        self.streams = streams if spec is None else spec.streams
        self.dtypes = (dtype if spec is None else spec.dtype,)
        self.compilable = compilable if spec is None else spec.compilable
        self.name = "mutant" if spec is None else spec.target
        self.history, self.memory = History(), dict[Any, Any]()
        self.fired = 0
        self.watch: Watch | None = None
        self._layer = (1, 0)
        self._whole: Implementation | None = None
        if spec is not None and spec.deviation:
            self._whole = CATALOGUE[spec.deviation].make(self.dialect)

    def tuned(self, **fields: Any) -> Mutant:
        other = Mutant(self.spec, self.dialect.with_(**fields), streams=tuple(self.streams), dtype=self.dtypes[0])
        other.compilable, other.name, other.watch = self.compilable, self.name, self.watch
        other.history, other.memory = self.history, self.memory
        return other

    # -- where it is wrong -------------------------------------------------------------------------------------------

    def _at(self, stage: str, value: Tensor, given: Tensor, state: Tensor | None, params: Params | None) -> Tensor:
        """What a stage gives: `value`, or what the slip makes of it."""
        if torch.compiler.is_compiling():
            return self._compiled(stage, value, given)
        moment = self._moment(stage, given, state, params)
        spec = self.spec
        if spec is not None and spec.stage == stage and self._held(moment):
            wrong = spec.slip.change(value, moment, self.memory)
            value = wrong if spec.position is None else spec.position.confined(value, wrong, stage)
        self._left(moment, value)
        return value

    def _instead(self, method: str, given: Tensor, arguments: tuple[Any, ...]) -> Any:
        """What the catalogue's slip gives for a method, where it is in the place of the reference; otherwise None."""
        if torch.compiler.is_compiling():
            here = self._whole is not None and self.spec is not None and self.spec.stage == method
            return getattr(self._whole, method)(*arguments) if here and len(self.spec.conditions) == 1 else None  # pyright: ignore[reportOptionalMemberAccess]
        params = next((one for one in arguments if isinstance(one, Params)), None)
        moment = self._moment(method, given, given if method != "project" else None, params)
        spec = self.spec
        wrong = None
        if self._whole is not None and spec is not None and spec.stage == method and self._held(moment):
            wrong = getattr(self._whole, method)(*arguments)
        self._left(moment, wrong if isinstance(wrong, Tensor) else None)
        return wrong

    def _held(self, moment: Moment) -> bool:
        assert self.spec is not None
        if not self.spec.meets(moment):
            return False
        self.fired += 1
        return True

    def _moment(self, stage: str, given: Tensor, state: Tensor | None, params: Params | None) -> Moment:
        kept = 1 if stage in ("h_pre", "h_post") else 2
        n = given.shape[-1] if stage in ("h_pre", "h_post", "h_res", "project") else given.shape[-2]
        return Moment(
            stage,
            given,
            state,
            None if params is None else params.phi,
            params is not None and params.norm_weight is not None,
            math.prod(given.shape[: given.ndim - kept]),
            0 if state is None else state.shape[-1],
            n,
            *self._layer,
            self.history,
        )

    def _left(self, moment: Moment, value: Tensor | None) -> None:
        if self.watch is not None:
            self.watch(moment)
        moment.history.note(moment.stage, moment.given.shape, torch.is_grad_enabled())
        if value is not None and value.requires_grad and not moment.history.pulled:
            value.register_hook(moment.history.after_backward)

    def _compiled(self, stage: str, value: Tensor, given: Tensor) -> Tensor:
        """Under a compiler: history and chance are not asked, sizes and the mode are."""
        spec = self.spec
        if spec is None or spec.stage != stage or not spec.compilable or len(spec.conditions) > 1:
            return value
        moment = Moment(stage, given, None, None, False, given.shape[0], 0, 0, 1, 0, self.history)
        wrong = spec.slip.change(value, moment, {})
        return wrong if spec.position is None else spec.position.confined(value, wrong, stage)

    # -- the mathematics, as in mhc_ref.block ------------------------------------------------------------------------

    def project(self, logits: Tensor) -> Tensor:
        return self._projected(logits, None, None)

    def _projected(self, logits: Tensor, state: Tensor | None, params: Params | None) -> Tensor:
        with without_autocast(logits):
            whole = self._instead("project", logits, (logits,))
            value = mhc_ref.project(logits, self.dialect) if whole is None else whole
            return self._at("h_res", value, logits, state, params)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        with without_autocast(x):
            return self._mappings(x, params)

    def _mappings(self, x: Tensor, params: Params) -> Mappings:
        if (whole := self._instead("mappings", x, (x, params))) is not None:
            return whole
        dialect, n = self.dialect, x.shape[-2]
        check_params(params, n, x.shape[-1], dialect)
        state = self._at("norm", normalise(x, params.norm_weight, dialect), x, x, params)
        if dialect.shared_projection:
            by_stream = state @ params.phi
            projected = torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)
        else:
            projected = state.flatten(-2) @ params.phi
        projected = self._at("products", projected, x, x, params)
        projected = formulas("dynamic", dialect.dynamic).activate(projected, dialect)
        sizes = (n, n, residual_size(n, dialect))
        gates = torch.cat([gate.expand(size) for gate, size in zip(params.alpha, sizes, strict=False)])
        logits = self._at("logits", gates * projected + params.bias, x, x, params)
        pre, post, res = logits.split(list(sizes), -1)
        h_pre = squash(pre, dialect.pre, dialect) + dialect.pre_eps
        h_post = dialect.post_scale * squash(post, dialect.post, dialect) + dialect.post_eps
        return Mappings(
            self._at("h_pre", h_pre, pre, x, params),
            self._at("h_post", h_post, post, x, params),
            self._projected(res.unflatten(-1, logits_shape(n, dialect)), x, params),
        )

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        with without_autocast(x):
            whole = self._instead("pre", x, (x, h_pre))
            return self._at("read", mhc_ref.pre(x, h_pre) if whole is None else whole, x, x, None)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        with without_autocast(x):
            whole = self._instead("post", x, (x, y, h_post, h_res))
            value = mhc_ref.post(x, y, h_post, h_res, self.dialect) if whole is None else whole
            return self._at("write", value, x, x, None)

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return self._derived_block(x, params, branch, None)[0]

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return self._derived_layers(x, params, branches)[0]

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        entered, before, last = x, self._layer, None
        try:
            for layer, (one, branch) in enumerate(zip(params, branches, strict=True)):
                self._layer = (len(params), layer)
                x, last = self._derived_block(x, one, branch, last)
            return self._at("layers", x, entered, entered, None), last
        finally:
            self._layer = before

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        with without_autocast(x):
            whole = self._instead("collapse", x, (x, params))
            return mhc_ref.collapse(x, self.dialect, params) if whole is None else whole
