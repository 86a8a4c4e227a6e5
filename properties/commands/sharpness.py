"""How tight the bounds are: `docs/sharpness.json` and the page `docs/sharpness.md`, made anew.

mhc-properties sharpness --out docs        (a minute or two on one core)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from properties.guards.whole import write_whole

if TYPE_CHECKING:
    from properties.engine.sharpness import Row

NEAR = "C = 64"
"""The size at which the page says how near correct code comes."""

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

SCHEMA = 1
"""The number of the form of sharpness.json: {schema, rows}."""

INTRODUCTION = """# How sharp the bounds are

A bound may be sound and say nothing. This page says how tight the bounds of this project are, and where they claim
nothing. `mhc-properties sharpness --out docs` makes it. The command takes the reference and every control (a correct
implementation that computes otherwise) through every stage for n = 4 in three dialects. Its rows are in
[sharpness.json](sharpness.json), and `make site` draws them below this page.

A worst-case bound holds for every order of a sum, so it grows like K = n C, where the error of the order that is taken
grows like the root of K, or slower. No probabilistic bound is used: none holds for every order.

## The nearest that correct code comes

A number is the largest error / bound over the controls at C = 64, where terms have one sign; 1 would be a bound that a
correct implementation reaches. A control that declares TensorFloat-32 products is held to the wider bound of these, and
comes nearest to it.

"""

WHERE = """
Over all {count} rows, correct code comes to {most} of its bound at most: {stage} in {dtype} at {size}. In {empty} rows
bounds claim nothing of some numbers, where they are as large as what they bound.

## What a row says

* *bound*: the largest bound beside the largest number of its stage (beside 1 for gates and h_res). A wrong answer that
  is off by more is refused.
* *worst control*: the largest error / bound over the controls.
* *at random*, *worst sample*: the same for the reference with every operation rounded up or down, sums term by term:
  by a coin, and in the worst of four ways (by a coin, all up, all down, all up but the norm). Such a rounding errs by
  two units of roundoff, and is held to the bound for two.
* *empty*: the part of the numbers of which nothing is claimed, since their bound is infinite or as large as they are.
* *terms*: "cancelling" are the same stages for phi ~ N(0, 1/K) and a normal state. A logit of order 1 is then the sum
  of terms whose sizes add up to the root of K. Its bound is wider by that, h_res can lose all of it, and most laws on
  the widths of real models would claim nothing of h_res in a block. Inputs for widths and depths have terms of one sign
  instead (`properties/strategies/agreeing.py`), or are judged stage by stage.
"""

TOLERANCES = """
## Beside tolerances by hand

What tests of kernel libraries allow, absolute and relative to a number of the stage. A derived bound is refused by
nothing correct, and is narrower where a kernel's numbers are accurate; at the largest widths the worst case of a sum is
what it allows.
"""


def main(
    out: Annotated[Path, typer.Option(metavar="DIR", help="where sharpness.json and its page are written")] = Path(
        "docs"
    ),
) -> None:
    """Tabulate how tight every bound is, and of what it claims nothing."""
    from properties.commands.refusals import refuse_lost
    from properties.engine.sharpness import measured

    refuse_lost(out, "--out")
    rows = measured(lambda text: typer.echo(text, err=True))
    out.mkdir(parents=True, exist_ok=True)
    kept = data(rows)
    write_whole(out / "sharpness.json", (json.dumps(kept, indent=1) + "\n").encode())
    write_whole(out / "sharpness.md", page(kept["rows"]).encode())
    typer.echo(f"{len(rows)} rows: {out / 'sharpness.json'}, {out / 'sharpness.md'}")


def data(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows as they are kept.

    `bound` is null where it is infinite, `sampled` and `worst` where nothing was sampled; `empty` is the part of the
    numbers of which nothing is claimed, from 0 to 1.
    """
    return {
        "schema": SCHEMA,
        "rows": [
            {
                "stage": one.stage,
                "dtype": one.dtype,
                "size": one.size,
                "cancelling": one.cancelling,
                "bound": _kept(one.relative),
                "ratio": _kept(one.ratio),
                "by": one.by,
                "sampled": _kept(one.sampled),
                "worst": _kept(one.worst),
                "empty": round(one.abstentions / max(1, one.claims + one.abstentions), 4),
            }
            for one in rows
        ],
    }


def _kept(value: float) -> float | None:
    """Three digits, as the last ones are another machine's; null for what is no number."""
    return float(f"{value:.3g}") if math.isfinite(value) else None


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page for the rows of sharpness.json."""
    near = [one for one in rows if one["size"] == NEAR and not one["cancelling"]]
    dtypes = list(dict.fromkeys(one["dtype"] for one in near))
    ratio = {(one["stage"], one["dtype"]): f"{one['ratio']:.2g}" for one in near}
    stages = dict.fromkeys(one["stage"] for one in near)
    head = [("stage", *dtypes), *((stage, *(ratio.get((stage, dtype), "") for dtype in dtypes)) for stage in stages)]
    most = max(rows, key=lambda one: one["ratio"] or 0)
    where = WHERE.format(
        count=len(rows),
        most=f"{most['ratio']:.3g}",
        empty=sum(one["empty"] > 0 for one in rows),
        **{name: most[name] for name in ("stage", "dtype", "size")},
    )
    by_hand = [("project", "test", "what", "tolerance"), *BY_HAND]
    return "".join([INTRODUCTION, _table(head), where, TOLERANCES, "\n", _table(by_hand)])


def _table(rows: list[tuple[str, ...]]) -> str:
    first, *rest = rows
    lines = [first, ("---",) * len(first), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
