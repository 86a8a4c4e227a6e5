"""Which laws a part of the run asks of which targets: the cells of a campaign of the kind `laws`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from properties.campaign.cells import Cell, Question
from properties.campaign.kinds import cell_of

FEW = 128
"""The multiple of which numbers of channels are drawn, so that few widths are compiled; TileKernels fills up to it."""
STREAMS = 4
"""The number of streams of every released model, and for some kernels the only one."""
EXAMPLES = 8
"""Of a law that draws: compilation was the cost, and after the first examples of a shape there is none."""
SWEEP = 12.0
"""Seconds of a sweep through sizes, each of which is compiled; it ends evenly and says what it left out."""

KERNELS = (
    "published:liger",
    "properties.targets.published.tile_kernels:TileKernelsWhole",
    "published:fla",
    "published:hyper-connections-triton",
    "published:liger-attn-res",
    "published:fla-attnres",
)
"""Published kernels, those first of which most laws were not reached."""

SAME_AS = {KERNELS[1]: "published:tile-kernels"}
"""A target -> the published one of whose known failures it has the same."""

SWEPT = (*KERNELS[:4], "ref:PAPER", "ref:DEEPSEEK_V4")
"""What the sweeps are made on: kernels, and the references that no sweep may accuse."""

WRONG: dict[str, tuple[str, ...]] = {
    "compiled-without-weight": ("device.compiled-blocks-are-the-same",),
    "bfloat16-for-tf32": ("coefficients.agrees-with-oracle", "block.agrees-with-oracle"),
    "log-domain-declared": ("manifold.starved-lines-lose-no-mass", "gradient.starved-lines-pull-back"),
    "offsets-in-32-bits": ("device.distant-tokens-are-read-where-they-lie",),
    "outputs-in-32-bits": ("device.distant-matrices-are-written-where-they-lie",),
    "launched-on-the-default-stream": ("device.work-is-queued-on-the-current-stream",),
    "gates-kept-on-host": ("device.graphs-replay-new-inputs",),
    "synchronises": ("device.graphs-replay-new-inputs",),
    "compiled-backward-halved": ("device.traced-blocks-pull-back-alike",),
}
"""Deviations that only a device shows, or that were never tried on one -> the laws of which one has to see each."""

RIGHT: dict[str, tuple[str, ...]] = {
    "linear": (
        "device.compiled-blocks-are-the-same",
        "device.work-is-queued-on-the-current-stream",
        "device.graphs-replay-new-inputs",
        "device.traced-blocks-pull-back-alike",
    ),
    "tf32": ("coefficients.agrees-with-oracle", "block.agrees-with-oracle"),
    "einsum": ("device.distant-tokens-are-read-where-they-lie",),
    "log-domain": ("device.distant-matrices-are-written-where-they-lie",),
    "potentials": ("manifold.starved-lines-lose-no-mass", "gradient.starved-lines-pull-back"),
}
"""Controls -> the laws of `WRONG` that must not accuse them."""

SHORT = {
    "kernels": ("block.agrees-with-oracle",),
    "sizes": ("sizes.streams-are-mixed",),
    "deviations": ("device.work-is-queued-on-the-current-stream",),
}
"""What a short run asks of a part."""


def asked(part: str, device: str, *, short: bool, giants: bool) -> tuple[list[Cell], dict[str, str]]:
    """The cells of a part, and the targets that are left out with the reason.

    `giants`: those laws alone that want the memory of the whole device, or all others.

    Raises:
        ValueError: no part of laws has that name.
    """
    if part not in SHORT:
        raise ValueError(f"{part!r} asks no laws; expected one of {', '.join(SHORT)}")
    questions: list[Question] = []
    absent: dict[str, str] = {}
    for one in _deviant(device) if part == "deviations" else _swept(part, device, short, absent):
        if one["law"].startswith("device.distant") != giants:
            continue
        if short and one["law"] not in SHORT[part]:
            continue
        if short:
            one = {**one, "narrowed": {"streams": [3], "devices": ["cpu", device]}, "seconds": 0.1}
            one |= {"examples": 2} if part == "kernels" else {}
        questions.append(one)
    return [cell_of("laws", one, {}) for one in questions], absent


def _swept(part: str, device: str, short: bool, absent: dict[str, str]) -> Iterator[Question]:
    from properties.core.implementation import dtype_names
    from properties.core.law import all_laws, scouts
    from properties.targets.target import TargetError, resolve

    laws = sorted(all_laws(), key=lambda law: law not in scouts())
    sweeps = part == "sizes"
    targets = SWEPT if sweeps else KERNELS
    for target in ("ref:PAPER", *targets[:1]) if short else targets:
        try:
            found = resolve(target)
        except TargetError as error:
            absent[target] = str(error)
            continue
        if device not in found.devices and not short:
            absent[target] = f"it computes on {', '.join(found.devices)} here"
            continue
        narrowed: dict[str, Any] = {}
        if not sweeps:
            narrowed["channel_multiple"] = math.lcm(FEW, found.channel_multiple)
            narrowed |= {"streams": [STREAMS]} if STREAMS in found.streams else {}
        for dtype in ("float32",) if short else dtype_names(found):
            if target.startswith("ref:") and dtype == "float64":
                continue
            for law in laws:
                if law.startswith("sizes.") == sweeps:
                    question = {"target": target, "law": law, "dtype": dtype, "device": device, **_SEARCH}
                    yield question | ({"seconds": SWEEP} if sweeps else {"narrowed": narrowed})


_SEARCH: Question = {"seed": 0, "profile": "ci", "examples": EXAMPLES, "shrink": False}
"""What fails is kept as it was found: a shape is compiled in seconds, and shrinking goes through many. Whoever has the
file shrinks it later, by `mhc-properties check` with the law that it names."""


def _deviant(device: str) -> Iterator[Question]:
    for catalogue, of in (("deviation", WRONG), ("control", RIGHT)):
        for name, laws in of.items():
            for law in laws:
                target = f"{catalogue}:{name}@PAPER"
                yield {"target": target, "law": law, "dtype": "float32", "device": device, **_SEARCH, "examples": 16}
