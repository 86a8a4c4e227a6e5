"""Plain residual blocks, x' = x + f(x): which modules of a model are, and the state at their doors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from properties.explosion.monitor.emissions import Chooser, chosen
from properties.explosion.monitor.known import carried, known

_TORCH = ("torch", "builtins", "typing")


def blocks_of(model: nn.Module, given: Chooser | None) -> list[tuple[str, nn.Module]]:
    """The residual blocks of a model: those that are named, or else those of a known class, or else the members of its
    longest list of like modules; [] where there is none.

    Raises:
        TypeError, ValueError: see `chosen`.
    """
    if given is not None:
        return chosen(model, given, "residual blocks", "blocks")
    known = [(name, one) for name, one in model.named_modules() if name and carried(one) is not None]
    # A block within a block is a part of it.
    outer = [(name, one) for name, one in known if not any(name.startswith(f"{other}.") for other, _ in known)]
    if outer:
        return outer
    lists: list[list[tuple[str, nn.Module]]] = []
    for name, one in model.named_modules():
        if isinstance(one, nn.ModuleList | nn.Sequential):
            members = list(one.named_children())
            kinds = [type(member) for _, member in members]
            like = max(set(kinds), key=kinds.count) if kinds else None
            # Not a layer of torch's own: a list of nn.Linear is no stack of blocks. (Sharding derives its own.)
            if like is not None and any(kind.__module__.split(".")[0] not in _TORCH for kind in like.__mro__):
                prefix = f"{name}." if name else ""
                lists.append([(prefix + member, at) for member, at in members if type(at) is like])
    longest = max(lists, key=len, default=[])
    return longest if len(longest) > 1 else []


def state_of(module: nn.Module, arguments: Sequence[Any], options: Mapping[str, Any]) -> Tensor | None:
    """What enters a residual block as its state."""
    known = carried(module)
    place = known.argument if known is not None else 0
    names = list(inspect.signature(module.forward).parameters) if options else []
    if isinstance(place, int) and place < len(arguments):
        one = arguments[place]
    else:
        name = place if isinstance(place, str) else names[place] if place < len(names) else None
        one = options.get(name) if name is not None else None
    return one if isinstance(one, Tensor) else None


def channels_of(module: nn.Module, x: Tensor) -> int:
    """The axis of a state along which the numbers of one token lie: the last, or the second in front of pixels.

    A block of convolutions carries [B, C, pixels ...], and what belongs together is the channels of a pixel.
    """
    for one in module.modules():
        if isinstance(one, nn.modules.conv._ConvNd):  # pyright: ignore[reportPrivateUsage]
            width, axes = one.in_channels, len(one.kernel_size)
            first = x.ndim == axes + 2 and x.shape[1] == width
            # In one dimension [B, T, C] is as usual, of which a module makes [B, C, T] by itself.
            return 1 if first and (axes > 1 or x.shape[-1] != width) else -1
    return -1


def leaving(output: Any, entered: tuple[int, ...] | None) -> Tensor | None:
    """What leaves a residual block: the tensor itself, or the first of the shape that entered among its parts."""
    if isinstance(output, Tensor):
        return output if entered is None or tuple(output.shape) == entered else None
    parts = list(output.values()) if isinstance(output, dict) else output
    if not isinstance(parts, list | tuple):
        return None
    return next((one for one in parts if isinstance(one, Tensor) and tuple(one.shape) == entered), None)


def layers_of(
    model: nn.Module | None, modules: Chooser | None, blocks: Chooser | None
) -> tuple[list[tuple[str, nn.Module]], list[tuple[str, nn.Module]]]:
    """The hyper-connections of a model, and its plain blocks.

    Raises:
        TypeError, ValueError: see `chosen`.
    """
    if model is None:
        return [], []
    plain = blocks_of(model, blocks) if blocks is not None else []
    if modules is not None:
        return chosen(model, modules), plain
    if any(known(one) is not None for one in model.modules()):
        return chosen(model, None), plain
    plain = plain or blocks_of(model, None)
    return ([], plain) if plain else (chosen(model, None), [])
