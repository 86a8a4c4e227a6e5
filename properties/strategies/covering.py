"""Covering sets of sizes: few sizes that meet every fault at an interval of sizes, or in a class modulo a power of two.

Random sizes from a short list never go where kernels branch. The set S(t) does, and docs/sizes.md proves what it meets:
every {v = r mod 2^j, lo <= v <= hi} with j <= t, its ends in the class and hi / lo >= 1 + 2^(j - t).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def covering(most: int, t: int, *, multiple: int = 1, also: Iterable[int] = ()) -> tuple[int, ...]:
    """The covering set S(t) of the sizes from 1 to `most`, in order; docs/sizes.md has the theorem.

    Every size below 4^t is a member. Of each octave from 4^t on, 2^t are, whose leading bits and last bits take every
    value; so are the powers of two, three times them, their neighbours, and `most`.

    Args:
        most: the largest size, at least 1.
        t: how fine the set is, at least 1: to 8192 S(3) has 154 members, S(4) has 360.
        multiple: sizes that are no multiple of it are not accepted; the set is then `multiple` times that of the
            quotients, to which the theorem applies.
        also: further members, such as the sizes of a model; they may lie above `most`.

    Raises:
        ValueError: `most` is less than `multiple`, or `t` or `multiple` less than 1.
    """
    if t < 1 or multiple < 1 or most < multiple:
        raise ValueError(f"there is no covering set S({t}) of the multiples of {multiple} up to {most}")
    largest = most // multiple
    found = {multiple * one for one in _members(largest, t) if 1 <= one <= largest}
    return tuple(sorted(found | set(also)))


def _members(most: int, t: int) -> Iterator[int]:
    """The members of S(t), some of them more than once, and a few outside 1 ... most."""
    yield from range(1, min(4**t, most + 1))
    yield most
    for k in range(most.bit_length() + 1):
        if k >= 2 * t:
            yield from (2**k + u * (2 ** (k - t) + 1) for u in range(2**t))
        for corner in (2**k, 3 * 2**k // 2):
            yield from (corner - 1, corner, corner + 1)
