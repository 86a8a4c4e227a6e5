"""How tight the bounds are: `docs/sharpness.md`, made anew.

mhc-properties sharpness --out docs        (a minute or two on one core)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from properties.engine.sharpness import Row

BY_HAND = (
    ("vLLM", "`test_mhc_pre_tilelang`", "gates, h_res and what the branch reads, bfloat16", "atol 5e-2, rtol 1e-2"),
    ("TileKernels", "`test_norm_fn`", "x^ phi forwards, bfloat16 states", "atol 1e-3, rtol 1e-3"),
    ("Megatron-LM", "fused kernels against their references", "forwards; backwards, bfloat16", "2e-2; 5e-2"),
    ("Liger", "tests of mHC", "forwards, float32; bfloat16", "5e-4 and 1e-3; 1.5e-2 and 2.5e-2"),
    ("MaxText", "`mhc_test.py`", "Sinkhorn sums; mHC-lite sums; pullback", "1e-3; 1e-2; 5e-2"),
    ("aiter", "Triton kernels", "forwards, of which 5 % of the entries may fail", "5e-2"),
    ("mHC.cu", "parity with a naive version, C = 16", "forwards, float32", "rtol 5e-2, atol 1e-1"),
    ("TileOPs", "kernels against a reference", "forwards, bfloat16", "cosine similarity above 0.99"),
)
"""Project, test, what is compared, and the tolerance, as their repositories had them in August 2026."""

INTRODUCTION = """# How sharp the bounds are

A bound may be sound and say nothing. This page says how tight the bounds of this project are, and where they claim
nothing. `mhc-properties sharpness --out docs` makes it; it takes the reference and every control (a correct
implementation that computes otherwise) through every stage for n = 4 in three dialects.

* *bound*: the largest bound beside the largest number of its stage (beside 1 for gates and h_res). A wrong answer that
  is off by more is refused.
* *worst control*: the largest error / bound over the controls. 1 would be a bound that a correct implementation
  reaches. One that declares TensorFloat-32 products is held to the wider bound of these, and comes nearest to it.
* *at random*, *worst sample*: the same for the reference with every operation rounded up or down, sums term by term:
  by a coin, and in the worst of four ways (by a coin, all up, all down, all up but the norm). Such a rounding errs by
  two units of roundoff, and is held to the bound for two.
* *empty*: the part of the numbers of which nothing is claimed, since their bound is infinite or as large as they are.

A worst-case bound holds for every order of a sum, so it grows like K = n C, where the error of the order that is taken
grows like the root of K, or slower. No probabilistic bound is used: none holds for every order.
"""

CANCELLING = """
## Sums that cancel

The same stages for phi ~ N(0, 1/K) and a normal state. A logit of order 1 is then the sum of terms whose sizes add up
to the root of K: its bound is wider by that, h_res can lose all of it, and most laws on the widths of real models would
claim nothing of h_res in a block. Inputs for widths and depths have terms of one sign instead
(`properties/strategies/agreeing.py`), or are judged stage by stage.
"""

TOLERANCES = """
## Beside tolerances by hand

What tests of kernel libraries allow, absolute and relative to a number of the stage. A derived bound is refused by
nothing correct, and is narrower where a kernel's numbers are accurate; at the largest widths the worst case of a sum is
what it allows.
"""


def main(
    out: Annotated[Path, typer.Option(metavar="DIR", help="where sharpness.md is written")] = Path("docs"),
) -> None:
    """Tabulate how tight every bound is, and of what it claims nothing."""
    from properties.commands.refusals import refuse_lost
    from properties.engine.sharpness import measured

    refuse_lost(out, "--out")
    rows = measured(lambda text: typer.echo(text, err=True))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "sharpness.md"
    path.write_text(page(rows))
    typer.echo(f"{len(rows)} rows: {path}")


def page(rows: list[Row]) -> str:
    """The page for these rows."""
    head = ("stage", "dtype", "size", "bound", "worst control", "at random", "worst sample", "empty")
    agreeing = [_row(line) for line in rows if not line.cancelling]
    short = ("stage", "dtype", "size", "bound", "worst control", "empty")
    cancelling = [(*_row(line)[:5], _row(line)[7]) for line in rows if line.cancelling]
    by_hand = [("project", "test", "what", "tolerance"), *BY_HAND]
    parts = [INTRODUCTION, "\n## Terms of one sign\n\n", _table([head, *agreeing]), CANCELLING, "\n"]
    return "".join([*parts, _table([short, *cancelling]), TOLERANCES, "\n", _table(by_hand)])


def _row(line: Row) -> tuple[str, ...]:
    empty = line.abstentions / max(1, line.claims + line.abstentions)
    return (
        line.stage,
        line.dtype,
        line.size,
        _number(line.relative),
        f"{_number(line.ratio)} ({line.by})" if line.ratio else "0",
        _number(line.sampled),
        _number(line.worst),
        f"{empty:.0%}",
    )


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.2g}"


def _table(rows: list[tuple[str, ...]]) -> str:
    first, *rest = rows
    lines = [first, ("---",) * len(first), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
