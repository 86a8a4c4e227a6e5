"""Which mappings use their gate and their bias."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.reads import read_of
from properties.core.trial import wide
from properties.diagnosis.reading import Reader
from properties.diagnosis.view import MAPPINGS, View
from properties.guards.faults import TargetFault


def used(view: View) -> dict[str, tuple[str, ...]]:
    """{"gate", "bias"} -> the mappings that change with it; empty where parameters are not taken or nothing is seen."""
    reader, frame = Reader(view), view.frame
    if ("mappings" not in frame.own and not reader.blocks) or not read_of(frame.packing).plain:
        return {}
    generator = torch.Generator().manual_seed(15)
    rows, columns = frame.phi_shape(reader.n, reader.channels)
    size = 2 * reader.n + frame.residual_size(reader.n)
    phi = torch.randn(rows, columns, generator=generator, dtype=torch.float64) / rows**0.5
    bias = torch.randn(size, generator=generator, dtype=torch.float64)
    dtype = frame.parameter_dtype
    still = view.static(reader.n, reader.channels)._replace(phi=frame.kept(phi))
    try:
        plain = _read(reader, still)
        gated = _read(reader, still._replace(alpha=frame.kept(torch.tensor([0.3, 2.5, 2.0]))))
        biased = _read(reader, still._replace(bias=frame.kept(bias)))
    except TargetFault:  # it has raised before, which is said elsewhere
        return {}

    unit = 64 * torch.finfo(dtype).eps

    def changed(other: dict[str, Tensor]) -> tuple[str, ...]:
        return tuple(name for name, value in plain.items() if not torch.allclose(value, other[name], unit, unit))

    return {"gate": changed(gated), "bias": changed(biased)}


def _read(reader: Reader, params: Params) -> dict[str, Tensor]:
    frame, view = reader.frame, reader.view
    x = reader.streams.unsqueeze(0)
    if "mappings" in frame.own:
        shown = zip(MAPPINGS, view.mappings(x, params), strict=True)
        found = {name: wide(part) for name, part in shown if part.numel()}
        if len(found) == len(MAPPINGS) or not reader.blocks:
            return found
    found = {name: one.value for name, one in reader.gates(torch.ones(1, dtype=torch.float64), params).items()}
    return found | {"res": reader.operator(params).value}
