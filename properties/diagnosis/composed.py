"""Whether what we put together of a target's parts reads as the whole that it has of its own; else it is left out.

A block and layers that are derived read as the dialect declares. Where the target's own layers, or its own stack, read
otherwise, no dialect has both, and how it reads is asked of its own alone.
"""

from __future__ import annotations

from torch import Tensor

from properties.core.truth import wide
from properties.diagnosis.answers import roughly
from properties.diagnosis.exam import Source
from properties.diagnosis.view import Frame, View
from properties.guards.faults import TargetFault


def of_its_own(view: View) -> Frame:
    """The frame of a view, without what is derived of parts and reads otherwise than the target's own whole."""
    frame, target = view.frame, view.implementation
    if not {"block", "layers"} <= frame.offered or "block" in frame.own or "mappings" not in frame.own:
        return frame
    source, n = Source(frame, 11, frame.dtype), frame.n
    params = [source.params(n, 4, seed=300 + 10 * k) for k in range(2)]
    head = [source.params(n, 4, seed=330)] if frame.head else []
    branches = [source.branch(4, seed=340 + k) for k in range(2)]
    x, h = source.state((source.few(3),), n, 4, seed=350, tame=True), source.outputs(source.few(3), 4, seed=360)
    try:
        if "layers" in frame.own:
            pairs = [(view.block(x, params[0], branches[0])[0], view.layers(x, params[:1], branches[:1])[0])]
            composed = {"block"}
        elif "stack" in frame.own:
            apart = view.layers(target.expand(h, n), params, branches)[:2]
            pairs = list(zip(apart, view.stack(h, [*params, *head], branches)[:2], strict=True))
            composed = {"block", "layers"}
        else:
            return frame
    except TargetFault:  # the exam meets it as well, and says where
        return frame
    same = all(_alike(mine, theirs) for mine, theirs in pairs)
    return frame if same else frame.with_(offered=frame.offered - composed)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((wide(one) - wide(other)).abs() <= 64 * roughly(other)).all())
