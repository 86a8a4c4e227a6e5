"""How a model is made: what a target names is called where it is a builder, its weights are read, its dtype is set."""

from __future__ import annotations

import copy
import inspect
import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.parameter import is_lazy

from properties.guards.printable import message_of, printable
from properties.guards.surroundings import told, usual
from properties.targets.target import KINDS, TargetError, asked, attribute_of

_SHOWN = 4


@dataclass(frozen=True)
class Recipe:
    """What a model is made of.

    Attributes:
        target: path/to/file.py:attr or package.module:attr, a `torch.nn.Module`, its class, or a function that builds
            one. What is called gets `seed` where it takes one, and nothing else.
        seed: of torch and of `random` while it is called.
        checkpoint: a file of safetensors with its weights; "" for those that it is built with.
    """

    target: str
    seed: int
    checkpoint: str = ""

    def build(self, dtype: str = "") -> nn.Module:
        """The model on the CPU, in evaluation, in a dtype ("": its own).

        Raises:
            TargetError: nothing usable is there, or it raised when it was called.
            ValueError: the checkpoint cannot be read, or does not fit.
        """
        if self.target.partition(":")[0] in KINDS:
            raise TargetError(
                f"{self.target} is no model; expected path/to/file.py:attr or package.module:attr, a torch.nn.Module "
                "or a function that builds one"
            )
        with told(), usual():
            found = attribute_of(self.target)
            model = asked(f"{self.target}: making the model", lambda: _made(found, self.target, self.seed))
            if self.checkpoint:
                _load(model, self.checkpoint)
            weights = [*model.parameters(), *model.buffers()]
            if any(is_lazy(one) for one in weights):
                raise TargetError(f"{self.target} has weights without a shape; expected a model that was called once")
            if dtype and any(one.is_complex() for one in weights):
                raise TargetError(f"{self.target} has complex weights, which {dtype} does not hold; expected real ones")
            kind: torch.dtype | None = getattr(torch, dtype) if dtype else None
            return asked(
                f"{self.target}: putting the model on the CPU",
                lambda: model.to("cpu", kind).eval().requires_grad_(False),
            )

    @property
    def seeded(self) -> bool:
        """Whether other seeds may give other models; TargetError as for `build`."""
        return not isinstance(attribute_of(self.target), nn.Module) and not self.checkpoint


def _made(found: Any, target: str, seed: int) -> nn.Module:
    if isinstance(found, nn.Module):
        return copy.deepcopy(found)  # it is somebody's, and its dtype and mode are about to change
    if not callable(found):
        raise TargetError(
            f"{target} is {type(found).__name__}; expected a torch.nn.Module, its class, or a function that builds one"
        )
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    named = {one.name: one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    needed = [
        one.name
        for one in parameters
        if one.default is one.empty and one.name != "seed" and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if needed:
        raise TargetError(
            f"{target} needs {', '.join(needed)} to be called; expected a function that builds the model from nothing, "
            "or from `seed`: write one that gives the rest"
        )
    before = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            if "seed" not in named:
                made = found()
            elif named["seed"].kind is not inspect.Parameter.POSITIONAL_ONLY:
                made = found(seed=seed)
            else:  # what stands before it is by position too, and has a default
                before_it = [*itertools.takewhile(lambda one: one.name != "seed", named.values())]
                made = found(*(one.default for one in before_it), seed)
    finally:
        random.setstate(before)
    if not isinstance(made, nn.Module):
        raise TargetError(f"{target}: calling it gave {type(made).__name__}; expected a torch.nn.Module")
    return made


def _load(model: nn.Module, checkpoint: str) -> None:
    shown = printable(checkpoint)
    if not Path(checkpoint).is_file():
        raise ValueError(f"checkpoint is {shown}, and there is no such file; expected a file of safetensors")
    try:
        weights = safetensors.torch.load_file(checkpoint)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"checkpoint is {shown}, which is no safetensors: {message_of(error)}") from error
    try:
        found = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # torch's words for shapes that do not fit
        raise ValueError(f"checkpoint {shown} does not fit the model: {message_of(error, 400)}") from error
    for what, names in (("lacks", found.missing_keys), ("has, and the model does not,", found.unexpected_keys)):
        # What is tied to another weight is not in a file of safetensors.
        names = [one for one in names if what != "lacks" or not _tied(model, one, weights)]
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise ValueError(
                f"checkpoint {shown} {what} {printable(', '.join(names[:_SHOWN]), 400)}{more}; expected the names of "
                f"{type(model).__name__}.state_dict()"
            )


def _tied(model: nn.Module, name: str, weights: dict[str, torch.Tensor]) -> bool:
    """Whether a weight is the same storage as one that was read."""
    state = model.state_dict(keep_vars=True)
    return any(state[name] is state[one] for one in weights if one in state)
