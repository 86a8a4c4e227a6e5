"""Names of families stand in their own files, in the registry, the presets and docs: everybody else asks a family."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mhc_ref import registry

ROOT = Path(__file__).parents[1]
NAMES = {name for _, name in registry.BUILT_IN}
HOME = (
    "mhc_ref/families/",
    "mhc_ref/exact/",
    "mhc_ref/registry.py",
    "mhc_ref/presets.py",
    "properties/families/",
    "properties/targets/published/",
    "properties/targets/process/examples/",
)
"""Files of families, their list, dialects that people ship, and adapters of what they ship."""

UNMISTAKABLE = {"sinkhorn", "permutations", "unconstrained", "copies"}
"""Names that mean nothing else; "identity" is a kind of law and of branch, "softmax" a start, "streams" a word."""


def literals(node: ast.AST) -> set[str]:
    """The names of families among the strings of an expression."""
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)} & NAMES


def chooses(node: ast.AST) -> bool:
    """Whether an expression is a field of a dialect that names a family: `dialect.residual`, `fields["pre"]`, `pre`."""
    said = key(node.slice) if isinstance(node, ast.Subscript) else getattr(node, "attr", getattr(node, "id", None))
    return said in registry.SLOTS


def key(node: ast.AST | None) -> str | None:
    """The string that a dictionary is asked by."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a program tells families apart by name, or names one."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(chooses, [part for side in sides for part in ast.walk(side)])) and literals(node):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Match):
            if chooses(node.subject) and any(literals(case.pattern) for case in node.cases):
                yield node.lineno, f"match {ast.unparse(node.subject)}"
        elif isinstance(node, ast.keyword):
            if node.arg in registry.SLOTS and literals(node.value):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Dict):
            keys = set(map(key, node.keys))
            for slot in dict.fromkeys(registry.SLOTS.values()):
                if len(keys & {name for where, name in registry.BUILT_IN if where == slot}) > 1:
                    yield node.lineno, f"a table of {slot} families"
            for field, value in zip(map(key, node.keys), node.values, strict=True):
                if field in registry.SLOTS and literals(value):
                    yield value.lineno, f"{field}: {', '.join(sorted(literals(value)))}"
        elif isinstance(node, ast.Constant) and id(node) not in docs and node.value in UNMISTAKABLE:
            yield node.lineno, repr(node.value)


def elsewhere() -> dict[str, list[tuple[int, str]]]:
    """Every file that names a family and is no home of it."""
    found: dict[str, list[tuple[int, str]]] = {}
    for package in ("mhc_ref", "properties"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(HOME) and (said := sorted(set(names(ast.parse(path.read_text()))))):
                found[name] = said
    return found


@pytest.mark.slow
def test_everybody_else_asks_a_family() -> None:
    found = elsewhere()
    assert not found, "\n".join(f"{name}:{line}: {what}" for name, said in found.items() for line, what in said)


@pytest.mark.parametrize(
    "code",
    [
        'if dialect.residual == "identity": pass',
        'fields["collapse"] in ("sum", "mean")',
        'pre != "softmax"',
        'dialect.with_(residual="identity")',
        '{"norm_over": ("streams", "stream")}',
        '{"softmax": 1, "linear": 0}[kind]',
        'match dialect.dynamic:\n    case "tanh": pass',
        'family = "sinkhorn"',
    ],
)
def test_the_test_sees_a_name(code: str) -> None:
    assert list(names(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        '"""sinkhorn"""',
        'branch.kind == "identity"',
        'dialect.start == "softmax"',
        'law("id", "identity")',
        '{"streams": 3}',
        "dialect.residual == other.residual",
        "dialect.with_(iterations=3)",
    ],
)
def test_the_test_knows_other_meanings(code: str) -> None:
    assert not list(names(ast.parse(code)))
