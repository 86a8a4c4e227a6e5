"""Comments of a file of known failures survive a rewrite, and go with the entry that they are about."""

from __future__ import annotations

import tomllib

import pytest

from properties.engine.known_file import PUBLISHED, _fields, load
from properties.engine.known_text import identity, renewed

BEFORE = '''\
# What our kernel does not do yet.
schema = 1

# -- float32 --

# Waits for the next release.
[[known]]  # seen on two machines
law = "a.one"
implementation = "mine"
dtype = "float32"  # the others hold
reason = """
# no comment
a sum"""
counterexample = "known/one.safetensors"
# It is the last iteration.

# -- elsewhere --

# Nobody knows.
[[known]]
law = "b.two"
implementation = "mine"
reason = 'a sign'
counterexample = "known/two.safetensors"

# The end.
'''
ONE, TWO = tomllib.loads(BEFORE)["known"]
THREE = {"law": "c.three", "implementation": "mine", "reason": "new", "counterexample": "known/three.safetensors"}


def kept(*entries: dict[str, str]) -> list[tuple[dict[str, str], tuple[str | None, ...] | None]]:
    return [(one, identity(one)) for one in entries]


def test_what_does_not_change_is_the_same_text() -> None:
    assert renewed(BEFORE, 1, kept(ONE, TWO)) == BEFORE


def test_a_changed_field_changes_alone() -> None:
    changed = {**ONE, "reason": "a product"}
    after = renewed(BEFORE, 1, [(changed, identity(ONE)), *kept(TWO)])
    assert after == BEFORE.replace('"""\n# no comment\na sum"""', '"a product"')
    narrower = {**TWO, "dtype": "float64"}
    after = renewed(BEFORE, 1, [*kept(ONE), (narrower, identity(TWO))])
    assert tomllib.loads(after)["known"] == [ONE, narrower]
    assert after.count("#") == BEFORE.count("#")


def test_an_entry_that_goes_takes_its_comments_and_no_others() -> None:
    after = renewed(BEFORE, 1, kept(TWO))
    assert tomllib.loads(after)["known"] == [TWO]
    for stays in ("# What our", "# -- float32 --", "# -- elsewhere --", "# Nobody knows.", "# The end."):
        assert stays in after
    for goes in ("# Waits", "# seen on", "# the others", "# It is"):
        assert goes not in after
    after = renewed(BEFORE, 1, kept(ONE))
    assert "# Nobody knows." not in after
    assert after.endswith("# It is the last iteration.\n\n# -- elsewhere --\n\n# The end.\n")


def test_a_new_entry_stands_where_it_is_put() -> None:
    after = renewed(BEFORE, 1, [*kept(ONE), (THREE, None), *kept(TWO)])
    assert tomllib.loads(after)["known"] == [ONE, THREE, TWO]
    assert after.index("# It is the last") < after.index("c.three") < after.index("# -- elsewhere --")


@pytest.mark.parametrize(
    "before",
    [
        "",
        "# head\n",
        "# head\n\n",
        '# head\n[[known]]\nlaw = "a.one"\nimplementation = "mine"\n',
        'known = [{ law = "a.one" }]',
        "no TOML",
    ],
)
def test_a_file_of_any_kind_becomes_one_with_a_number(before: str) -> None:
    after = renewed(before, 1, [(THREE, None)])
    assert tomllib.loads(after) == {"schema": 1, "known": [THREE]}
    assert after.startswith("# head") == before.startswith("# head")
    assert renewed(after, 1, kept(THREE)) == after


def test_a_file_of_a_release_is_written_as_it_is_read() -> None:
    entries = load(PUBLISHED)
    text = PUBLISHED.read_text()
    assert renewed(text, 1, [(_fields(one, PUBLISHED.parent), identity(vars(one))) for one in entries]) == text
    assert renewed("", 1, [(_fields(one, PUBLISHED.parent), None) for one in entries]) == text
