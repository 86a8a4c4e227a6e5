"""The covering sets of sizes, and the theorem about them, by enumeration."""

from fractions import Fraction

import pytest

from properties.strategies.covering import covering


@pytest.mark.parametrize(("t", "members"), [(3, 154), (4, 360), (5, 1134)])
def test_a_covering_set_has_as_few_members_as_its_page_says(t: int, members: int) -> None:
    assert len(covering(8192, t)) == members


def test_sizes_that_are_no_multiple_are_not_members_and_those_of_a_model_are() -> None:
    found = covering(8192, 3, multiple=64, also=(7168, 16384))
    assert all(one % 64 == 0 for one in found)
    assert {7168, 16384, 64, 8192} <= set(found)
    assert [one // 64 for one in found if one <= 8192] == sorted({*covering(128, 3), 7168 // 64})


@pytest.mark.parametrize(("most", "t", "multiple"), [(0, 3, 1), (8, 0, 1), (8, 3, 16), (8, 3, 0)])
def test_a_set_without_members_is_refused(most: int, t: int, multiple: int) -> None:
    with pytest.raises(ValueError, match="no covering set"):
        covering(most, t, multiple=multiple)


def unmet(members: frozenset[int], most: int, modulus: int, residue: int) -> Fraction:
    """The largest hi / lo of an interval of a class, its ends in the class, that no member is in."""
    worst, lo = Fraction(0), 0
    for size in range(residue or modulus, most + 1, modulus):
        if size in members:
            lo = 0
        else:
            lo = lo or size
            worst = max(worst, Fraction(size, lo))
    return worst


@pytest.mark.parametrize("most", [1100, 8192])
@pytest.mark.parametrize("t", [1, 2, 3, 4, 5])
def test_every_class_modulo_a_power_of_two_is_met_from_the_ratio_of_the_theorem_on(t: int, most: int) -> None:
    members = frozenset(covering(most, t))
    for j in range(t + 1):
        worst = max(unmet(members, most, 2**j, r) for r in range(2**j))
        assert worst < 1 + Fraction(2**j, 2**t), f"mod {2**j}"


@pytest.mark.slow
def test_the_ratio_of_the_theorem_is_nearly_attained() -> None:
    """The figures of docs/sizes.md."""
    figures = {
        (3, 8192): (1.1245, 1.2494, 1.4976, 1.9917),
        (4, 8192): (1.0620, 1.1245, 1.2488, 1.4951, 1.9840),
        (4, 131072): (1.0625, 1.1250, 1.2499, 1.4997, 1.9990),
    }
    for (t, most), expected in figures.items():
        members = frozenset(covering(most, t))
        found = [max(unmet(members, most, 2**j, r) for r in range(2**j)) for j in range(t + 1)]
        assert [round(float(one), 4) for one in found] == list(expected)
        assert all(1 + 2.0 ** (j - t) - one <= 0.02 for j, one in enumerate(expected))


def test_every_congruence_without_ends_is_met() -> None:
    members = covering(8192, 4)
    for m in range(1, 256):
        assert {one % m for one in members} == set(range(m))


@pytest.mark.parametrize("j", [2, 4, 5, 7, 10])
@pytest.mark.parametrize("r", [0, 1, -1])
def test_0_and_1_and_minus_1_modulo_any_power_of_two_are_met_from_twice_it_on(j: int, r: int) -> None:
    """From a ratio of 1.5 on, at the corners; beyond the powers that the theorem speaks of."""
    found = [one for one in covering(8192, 4) if one % 2**j == r % 2**j]
    for lo in range(2 ** (j + 1) + r, 8193, 2**j):
        hi = -(-3 * lo // 2)
        hi += (r - hi) % 2**j  # the first of the class whose ratio is at least 1.5
        assert hi > 8192 or any(lo <= one <= hi for one in found)


def test_all_but_one_residue_of_an_even_modulus_is_met_and_an_odd_one_can_be_missed() -> None:
    members = covering(8192, 4)
    for m in (2, 4, 6, 10, 64, 96, 254):
        for r in range(m):
            parity = [one for one in members if one % 2 != r % 2]
            assert all(one % m != r for one in parity)
    inside = [one for one in members if 2049 < one < 3071]  # of the octave of 2^11, and 3 divides 2^7 + 1
    assert {one % 3 for one in inside} == {2048 % 3}
