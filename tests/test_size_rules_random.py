"""How often the rule of sizes is right: a hundred random rules, of a grammar wider than what can be inferred."""

import dataclasses
import math
import random
from collections.abc import Callable

import pytest

from properties.core.size import Size
from properties.diagnosis.rules import NUMBERS
from properties.diagnosis.sizes import infer
from tests.test_size_rules import SWEPT

Truth = Callable[[Size], bool]
MOST = {"T": 8192, "C": 8192, "n": 8, "L": 64, "K": 32768}
DEAREST = max(size.numbers for size in SWEPT)


def between(chance: random.Random, low: int, high: int) -> int:
    return int(math.exp(chance.uniform(math.log(low), math.log(high + 0.999))))


def condition(chance: random.Random, axis: str) -> Truth:
    """A threshold, an interval, a number, a class of any modulus, all but one, or the powers of two."""
    of, most = NUMBERS[axis], MOST[axis]
    kinds = ["from", "to", "between"] * 5 + ["class"] * 5 + ["all but"] * 2 + ["odd", "power"]
    kind = chance.choice(kinds[:15] if axis == "n" else kinds)
    if axis == "n":
        a = chance.randint(1, 7)
        return {"from": lambda s: of(s) > a, "to": lambda s: of(s) <= a, "between": lambda s: of(s) == a}[kind]
    if kind == "from":
        low = between(chance, 4, most // 2)
        return lambda size: of(size) >= low
    if kind == "to":
        high = between(chance, 8, most // 4)
        return lambda size: of(size) <= high
    if kind == "between":
        low = between(chance, 2, most // 2)
        high = int(low * chance.uniform(1.1, 4))
        return lambda size: low <= of(size) <= high
    if kind == "power":
        return lambda size: of(size).bit_count() == 1
    modulus = chance.choice([3, 5, 6, 7, 9, 10, 12, 24, 48, 96] if kind == "odd" else [2, 4, 8, 16, 32, 64, 128, 256])
    modulus = min(modulus, 16) if axis == "L" else modulus
    residue = chance.choice([0, 0, 0, 1 % modulus, modulus - 1, chance.randrange(modulus)])
    return lambda size: (of(size) % modulus == residue) != (kind == "all but")


def random_truth(chance: random.Random) -> Truth:
    """Up to three conditions and a mode; a union of two; or a threshold of T C."""
    kind = chance.choices(["all", "any", "product"], [90, 6, 4])[0]
    if kind == "product":
        most = between(chance, 64, 8192)
        return lambda size: size.tokens * size.channels >= most
    number = 2 if kind == "any" else chance.choices([1, 2, 3], [50, 32, 8])[0]
    parts = [condition(chance, axis) for axis in chance.sample("TCnLK", number)]
    if kind == "any":
        return lambda size: any(part(size) for part in parts)
    modes: list[Truth] = [lambda s: s.gradients, lambda s: not s.gradients, lambda s: s.contiguous]
    parts += [chance.choice(modes)] if chance.random() < 0.2 else []
    return lambda size: all(part(size) for part in parts)


def elsewhere(chance: random.Random, truth: Truth) -> list[Size]:
    """Sizes of every kind, and those on either side of the ends of the truth."""
    found = chance.sample(SWEPT, 200)
    while len(found) < 500:
        layers = chance.choice([1, 1, chance.randint(1, 64)])
        tokens, channels, n = between(chance, 1, 8192), between(chance, 1, 8192), chance.randint(1, 8)
        size = Size(tokens, channels, n, layers, chance.random() < 0.5, chance.random() < 0.9)
        found += [size] if size.numbers <= DEAREST else []
    for size in tuple(found):
        name, most = chance.choice([("tokens", 8192), ("channels", 8192), ("streams", 8), ("layers", 64)])
        one, other, here = getattr(size, name), chance.randint(1, most), truth(size)
        if truth(dataclasses.replace(size, **{name: other})) == here:
            continue
        while abs(one - other) > 1:
            middle = (one + other) // 2
            alike = truth(dataclasses.replace(size, **{name: middle})) == here
            one, other = (middle, other) if alike else (one, middle)
        edge = [dataclasses.replace(size, **{name: value}) for value in (one, other)]
        found += [one for one in edge if one.numbers <= DEAREST]
    return found


@pytest.mark.slow
def test_the_rule_is_right_for_85_of_100_random_rules_and_no_call_contradicts_any() -> None:
    """Of rules that the sweeps meet: the others no law has failed for."""
    chance, right, met, asked = random.Random(2), 0, 0, list[int]()
    while met < 100:
        truth = random_truth(chance)
        seen = {size: truth(size) for size in SWEPT}
        if len(set(seen.values())) < 2:
            continue
        met += 1
        calls: dict[Size, bool] = {}

        def fails(size: Size, calls: dict[Size, bool] = calls, truth: Truth = truth) -> bool:
            return calls.setdefault(size, truth(size))

        rule = infer(seen, fails)
        asked.append(len(calls))
        if rule is not None:
            assert all(rule.holds(size) == failed for size, failed in (seen | calls).items())
            right += all(rule.holds(size) == truth(size) for size in elsewhere(chance, truth))
    assert right >= 85
    assert sorted(asked)[50] <= 75
    assert max(asked) <= 150
