"""At which sizes the causes of an implementation show: the rules that sweeps find, each held to every failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from properties.core.case import Case
from properties.core.size import Size
from properties.diagnosis.rules import Rule
from properties.diagnosis.sizes import infer


@dataclass
class _Sweep:
    """What one law saw of one subject: where it failed, the rule for that, and whose failures they are."""

    seen: Mapping[Size, bool]
    rule: Rule | None
    causes: set[str] = field(default_factory=lambda: set[str]())


class Places:
    """The rules of one implementation.

    A cause that several sweeps see has one rule. No failure of the cause contradicts it, and of such rules it is the
    one for which the fewest sizes pass that it says are wrong, and the simplest. That a size passes in another law, or
    in a coarser dtype, refutes no rule: it may not see there what is wrong.
    """

    def __init__(self) -> None:
        self._sweeps: dict[tuple[str, str], _Sweep] = {}
        self._single: dict[str, list[Size]] = {}

    def swept(
        self, of: tuple[str, str], seen: Mapping[Size, bool], fails: Callable[[Size], bool | None]
    ) -> Rule | None:
        """The rule of a sweep: one that is known where it says all that was seen, else what is inferred.

        Args:
            of: the law and the subject.
            seen, fails: see `properties.diagnosis.sizes.infer`.
        """
        known = [one.rule for one in self._sweeps.values() if one.rule is not None]
        alike = (rule for rule in known if all(rule.holds(size) == failed for size, failed in seen.items()))
        rule = next(alike, None) or infer(seen, fails)
        self._sweeps[of] = _Sweep(dict(seen), rule)
        return rule

    def belongs(self, of: tuple[str, str], keys: Iterable[str]) -> None:
        """A failure of a law on a subject belongs to the causes of these keys."""
        if of in self._sweeps:
            self._sweeps[of].causes.update(keys)

    def failed(self, key: str, case: Case) -> None:
        """A failure at this case belongs to a cause."""
        if (size := size_of(case)) is not None:
            self._single.setdefault(key, []).append(size)

    def renamed(self, key: str, other: str) -> None:
        """A cause has another key from now on."""
        for one in self._sweeps.values():
            one.causes = {other if cause == key else cause for cause in one.causes}
        if key != other and key in self._single:
            self._single.setdefault(other, []).extend(self._single.pop(key))

    def where(self, key: str) -> str | None:
        """The rule of a cause, and how far it was tried; None where there is none, "" where there is none any more."""
        own = [one for one in self._sweeps.values() if key in one.causes]
        rules = [one.rule for one in own if one.rule is not None and len(one.causes) == 1]
        failing = [size for one in own for size, failed in one.seen.items() if failed]
        passing = [size for one in own for size, failed in one.seen.items() if not failed]
        left = [
            rule
            for rule in rules
            if all(map(rule.holds, failing)) and all(_may_hold(rule, size) for size in self._single.get(key, ()))
        ]
        if not left:
            return "" if own else None
        rule = min(left, key=lambda one: (sum(map(one.holds, passing)), one.cost, one.text))
        return f"{rule.text} ({rule.reach})" if rule.reach else rule.text


def size_of(case: Case) -> Size | None:
    """The size of a case with a state [..., n, C]; None for other cases. How it is called is not in it."""
    x = case.x if "x" in case else None
    if x is None or x.ndim < 2 or not x.numel():
        return None
    layers = len(case.branches) if "branches" in case else 1
    return Size(x[..., 0, 0].numel(), x.shape[-1], x.shape[-2], max(layers, 1))


def _may_hold(rule: Rule, size: Size) -> bool:
    """Whether a rule holds at a size in some mode."""
    modes = [(gradients, contiguous) for gradients in (False, True) for contiguous in (False, True)]
    return any(rule.holds(Size(size.tokens, size.channels, size.streams, size.layers, *mode)) for mode in modes)
