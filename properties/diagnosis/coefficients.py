"""From h_pre and h_post to their formulas, and through them to the norm.

pre_eps is what is left of h_pre at a very negative logit, post_eps what is left of h_post there, and post_scale by how
much more h_post is at a very large one. With the formulas known, logits can be read; a state of rms c has its logits
scaled by c / sqrt(c^2 + eps), or by c / (c + eps), so that the size at which they fade gives rms_eps, and the way in
which they fade its place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect, Params, registry
from mhc_ref.block import squash
from properties import bounds
from properties.core.estimate import Candidate, Estimate, ratio
from properties.core.family import dynamic_of, gate_of
from properties.core.norms import norm_of
from properties.core.rounding import Approx, Rounding
from properties.diagnosis.findings import joined
from properties.diagnosis.own_fields import Values, declared_values, fitted
from properties.diagnosis.reading import Reader, Reading


class Gates:
    """h_pre and h_post of five vectors of static logits."""

    def __init__(self, reader: Reader, rounding: Rounding) -> None:
        n, far = reader.n, reader.frame.depth
        self.rounding = rounding
        generic = torch.randn(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        generic = reader.frame.kept(generic).double()
        peak = far * torch.eye(n, dtype=torch.float64)[0]
        self.logits = [torch.zeros(n, dtype=torch.float64), -far * torch.ones(n), far * torch.ones(n), peak, generic]
        self.logits = [one.double() for one in self.logits]
        one = torch.ones(1, dtype=torch.float64)
        seen = [reader.gates(one, reader.view.static(n, reader.channels, pre=z, post=-z)) for z in self.logits]
        # h_post is asked for the negated logits: an exchange of the two then shows
        self.read = {
            name: Reading(
                torch.stack([each[name].value.reshape(n) for each in seen]),
                torch.stack([each[name].error.reshape(n) for each in seen]),
            )
            for name in ("pre", "post")
            if all(name in each for each in seen)
        }

    def formulas(self, name: str, base: Dialect) -> list[Candidate] | None:
        """The gates that reproduce h_pre or h_post; None where it is not seen."""
        if name not in self.read:
            return None
        found: list[Candidate] = []
        for kind in registry.names("gate"):
            own = gate_of(kind).FIELDS
            plain = joined(base, {name: kind})
            of = partial(self._made, name, kind, plain)
            if not own:
                found += [one for one in [of({})] if one is not None and one.ratio <= 1]
                continue

            def ratio_of(values: Values, of: Callable[[Values], Candidate | None] = of) -> float:
                made = of(values)
                return math.inf if made is None else made.ratio

            def residual(values: Values, of: Callable[[Values], float] = ratio_of) -> Tensor:
                return torch.tensor([of(values)], dtype=torch.float64)

            for one in fitted(own, declared_values(own, base), residual, ratio_of):
                made = of(one.fields)
                if made is not None:
                    fields, estimates = made.fields | one.fields, made.estimates | one.estimates
                    found.append(Candidate(fields, estimates, made.ratio))
        return found

    def _made(self, name: str, kind: str, base: Dialect, values: Values) -> Candidate | None:
        """A gate with the eps or the scale that is read off where it is least or largest; None where there is none."""
        try:
            dialect = base.with_(**{name: kind}, **values)
        except (ValueError, TypeError):
            return None
        read, z = self.read[name], (1.0 if name == "pre" else -1.0) * torch.stack(self.logits)
        value, shares = read.value, squash(z, kind, dialect)
        sizes = shares.abs().flatten().tolist()
        unit = 2 * self.rounding.unit
        least, most = (divmod(sizes.index(end(sizes)), z.shape[-1]) for end in (min, max))
        scale, scaling, estimates = 1.0, Estimate(1.0, 1.0, 1.0), dict[str, Estimate]()
        fields: dict[str, Any] = {name: kind}
        if name == "post":
            reach = float(shares[most] - shares[least])
            size = float(value[most] - value[least]) / reach if reach else float(value[most]) / (sizes[0] or math.inf)
            if size <= 0 or not math.isfinite(size):
                return None
            unsure = float(read.error[most] + read.error[least]) / abs(reach or sizes[0])
            scaling = Estimate.around(size, 8 * self.rounding.unit * size + unsure)
            scale = scaling.shortest() or size  # a bar that reaches 0 admits what is no scale
            fields["post_scale"], estimates["post_scale"] = scale, scaling
        offset = float(value[least] - scale * shares[least])
        unsure = unit * (scale + abs(offset)) + float(read.error[least]) + (scaling.high - scaling.low) * min(sizes)
        shift = Estimate.around(offset, unsure)
        if shift.high < 0 or offset < -unsure:
            return None
        fields[f"{name}_eps"], estimates[f"{name}_eps"] = shift.shortest(), shift
        exact = bounds.squashed(Approx.exact(z), kind, dialect, self.rounding)
        exact = bounds.affine(exact, scale, shift.shortest(), self.rounding)
        return Candidate(fields, estimates, ratio(value, exact.value, exact.error + read.error))


PLACES = (("add", True), ("add", False), ("clamp", True))
"""How an eps acts on a norm: `rms_eps_by` and `rms_eps_inside`, which a clamp does not know."""


class Norm:
    """The logits of one state at sizes from 1 down to where its squares underflow."""

    def __init__(self, reader: Reader, rounding: Rounding, gates: Dialect, window: str) -> None:
        self.rounding = rounding
        n, frame = reader.n, reader.frame
        far = 150 if frame.dtype == torch.float64 else 17
        count = (2 * far + 1 if far < 20 else far + 1) if frame.max_tokens >= 64 else far + 1
        self.sizes = torch.logspace(0, -far, count, dtype=torch.float64)
        generator = torch.Generator().manual_seed(8)
        shape = frame.phi_shape(n, reader.channels)
        self.shape = (n, reader.channels)
        phi = torch.randn(shape, generator=generator, dtype=torch.float64) / shape[0]
        phi = frame.kept(phi)
        params: Params = reader.view.static(n, reader.channels)._replace(phi=phi)
        by_stream = reader.streams.double() @ phi.double() if frame.shared else None
        column = 0 if window == "pre" else 1
        if by_stream is not None:
            self.full = by_stream[:, column]
        else:
            self.full = reader.streams.double().flatten() @ phi.double()[:, column * n : (column + 1) * n]
        parts = [reader.gates(sizes, params)[window] for sizes in self.sizes.split(frame.max_tokens)]
        read = Reading(torch.cat([one.value for one in parts]), torch.cat([one.error for one in parts]))
        kind, scale, shift = (
            (gates.pre, 1.0, gates.pre_eps) if window == "pre" else (gates.post, gates.post_scale, gates.post_eps)
        )
        self.gate, self.base = gate_of(kind), gates
        shares = (read.value - shift) / scale
        self.logits = self.gate.inverse(shares, gates)
        if self.logits is None:
            return
        slope = self.gate.slope(self.logits, shares, gates)
        if self.gate.relative:
            self.full = self.full - self.full.mean(-1, keepdim=True)
        self.error = (read.error + 8 * rounding.unit * (1 + read.value.abs())) / scale / slope

    def candidates(self) -> list[Candidate]:
        """dynamic, rms_eps and its place, as far as logits of one state at many sizes show them."""
        if self.logits is None or not bool(torch.isfinite(self.logits).all()):
            return []
        found: list[Candidate] = []
        for dynamic, (by, inside) in itertools.product(registry.names("dynamic"), PLACES):
            one = self._candidate(dynamic, by, inside, self.logits)
            if one is not None:
                found.append(one)
        return found

    def _candidate(self, dynamic: str, by: str, inside: bool, activated: Tensor) -> Candidate | None:
        chosen = joined(self.base, {"dynamic": dynamic})
        family = dynamic_of(chosen)
        if family.constant:
            return self._without_dynamic_part(dynamic, activated) if inside and by == "add" else None
        if self.gate.relative and not family.passes:
            return None  # it acts on logits of which only differences are seen
        full, logits = self.full, family.inverse(activated, chosen)
        if logits is None:
            return None
        error = (self.error + 40 * self.rounding.unit) / family.slope(activated, chosen)
        weight = full.abs() / full.abs().sum()
        share = (logits / full * weight).sum(-1)  # c / rms of a state of rms c
        noise = (error / full.abs() * weight).sum(-1)
        # the squares of the smallest sizes lose digits when they underflow
        root = math.sqrt(math.prod(self.shape[d] for d in norm_of(chosen).OVER or (-2, -1)))  # |x|_2 over the rms
        power = 2 if inside and by == "add" else 1
        if by == "clamp":
            eps, noise = root * self.sizes / share, root * noise
        elif inside:
            eps = self.sizes.square() * (share.square().reciprocal() - 1)
        else:
            eps = self.sizes * (share.reciprocal() - 1)
        spread = power * noise / share.abs().pow(power) * self.sizes.pow(power)
        usable = (share > 0.02) & (share < 0.98)
        fields: dict[str, Any] = {"dynamic": dynamic, "rms_eps_inside": inside, "rms_eps_by": by}
        if by == "clamp":
            del fields["rms_eps_inside"]
        if not bool(usable.any()):
            limit = float((spread + eps.abs()).min())
            estimate = Estimate.below(limit)
        else:
            relative = torch.where(usable, spread / eps.abs(), math.inf)
            best = int(relative.argmin())
            estimate = Estimate.around(float(eps[best]), 2 * float(spread[best]))
        value = estimate.shortest()
        squares = self.sizes.square()
        model = self.sizes / ((squares + value).sqrt() if inside else self.sizes + value)
        if by == "clamp":
            model, noise = (root * self.sizes / (value or 1.0)).clamp(max=1.0), noise / root
        if value == 0:
            model = torch.ones_like(self.sizes)
        room = noise + model * (self.rounding.tiny / squares).clamp(max=1.0)
        worst = float(((share - model).abs() / (2 * room)).max())
        if not worst <= 1:
            return None
        return Candidate(fields | {"rms_eps": value}, {"rms_eps": estimate}, worst)

    def _without_dynamic_part(self, dynamic: str, activated: Tensor) -> Candidate | None:
        """Logits in which neither a state nor phi shows, at any size; of the norm nothing is said then."""
        worst = float((activated.abs() / (self.error + 40 * self.rounding.unit)).max())
        return Candidate({"dynamic": dynamic}, {}, worst) if worst <= 1 else None
