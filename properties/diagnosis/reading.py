"""Mappings read off a target: emitted ones as they are, the others solved out of what a block did.

With streams that are orthogonal to each other and to what the branch returns, h_pre is the branch input taken along
the streams, h_post the next state taken along the branch output, and the applied operator the rest of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import BranchSpec
from properties.core.trial import wide
from properties.diagnosis.view import View


@dataclass(frozen=True)
class Reading:
    """One mapping of every token, in float64, and the error that reading it off added to the target's own."""

    value: Tensor
    error: Tensor

    @classmethod
    def direct(cls, value: Tensor) -> Reading:
        """As emitted."""
        return cls(wide(value), torch.zeros_like(wide(value)))


class Reader:
    """Reads mappings through `mappings` where they are emitted, otherwise through a recording branch."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.frame = view.frame
        n = self.frame.n
        self.n, self.channels = n, self.frame.width(n + 1)
        generator = torch.Generator().manual_seed(12)
        drawn = torch.randn(self.channels, self.channels, generator=generator, dtype=torch.float64)
        drawn[:, 0] = (
            1  # to which the others are orthogonal: a norm that subtracts a mean leaves the streams as they are
        )
        basis = torch.linalg.qr(drawn).Q.T * self.channels**0.5  # every stream has rms 1
        basis = basis.to(self.frame.dtype).contiguous()  # not every target takes views
        self.streams, self.output = basis[1 : n + 1], basis[0]

    @property
    def emitted(self) -> bool:
        """Whether `mappings` alone shows all three."""
        return "mappings" in self.frame.own and len(self.frame.emits) == 3

    @property
    def blocks(self) -> bool:
        """Whether a block can be watched."""
        return "block" in self.frame.offered

    def gates(self, scales: Tensor, params: Params) -> dict[str, Reading]:
        """h_pre and h_post, where they can be seen, of the streams times every one of `scales`."""
        x = (scales.view(-1, 1, 1) * wide(self.streams)).to(self.frame.dtype)
        found: dict[str, Reading] = {}
        if "mappings" in self.frame.own and (self.emitted or not self.blocks):
            for name, part in zip(("pre", "post"), self.view.mappings(x, params)[:2], strict=True):
                if part.numel():
                    found[name] = Reading.direct(part)
        elif self.blocks:
            u, out = (wide(part) for part in self._watched(x, params))
            inverse = torch.linalg.pinv(wide(x) / scales.view(-1, 1, 1)) / scales.view(-1, 1, 1)
            pre = (u.unsqueeze(-2) @ inverse).squeeze(-2)
            found["pre"] = Reading(pre, self._unit * (u.abs().unsqueeze(-2) @ inverse.abs()).squeeze(-2))
            found["post"] = self._post(out, x)
        return found

    def operator(self, params: Params) -> Reading:
        """The operator that a block applies, [n, n]."""
        x = self.streams.unsqueeze(0)
        _, out = (wide(part) for part in self._watched(x, params))
        post = self._post(out, x).value
        inverse = torch.linalg.pinv(wide(x))
        mixed = out - post.unsqueeze(-1) * wide(self.output)
        error = self._unit * (out.abs() + post.abs().unsqueeze(-1) * wide(self.output).abs()) @ inverse.abs()
        return Reading((mixed @ inverse)[0], error[0])

    def operators(self, logits: Tensor) -> Reading:
        """The applied operators of static logits [k, ...], one block call each."""
        found = [self.operator(self.view.static(self.n, self.channels, res=one)) for one in logits]
        return Reading(torch.stack([one.value for one in found]), torch.stack([one.error for one in found]))

    @property
    def _unit(self) -> float:
        return (self.n + 8) * torch.finfo(self.frame.dtype).eps

    def _watched(self, x: Tensor, params: Params) -> list[Tensor]:
        return self.view.block(x, params, BranchSpec("constant", self.output))

    def _post(self, out: Tensor, x: Tensor) -> Reading:
        spanned = torch.linalg.qr(wide(self.streams).T).Q
        along = wide(self.output) - spanned @ (spanned.T @ wide(self.output))  # what no stream has a part in
        reach = float((along * wide(self.output)).sum())
        value = out @ along / reach
        return Reading(value, self._unit * (out.abs() @ along.abs()) / abs(reach))
