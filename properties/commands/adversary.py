"""An adversary who knows the strategies: random mutants of the reference, put before the laws, and what survives.

    mhc-properties adversary --seed 1 --mutants 1000 --label NAME

A mutant is the reference, wrong at one stage under a condition (`properties.catalogue.mutants`); `mutant:SEED:INDEX` is
a target like any other. Each is run through the laws of the default profile in float32, up to the first that fails.
What no law sees is put to mpmath at an input at which the condition holds: it is wrong, and the laws do not see it; or
it is equivalent to the reference. Results are appended to DIR/adversary-SEED.jsonl one by one, and a run that was ended
goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from properties.catalogue.mutants import Spec

SCHEMA = 1


class Results:
    """A file of results, one line each: a line is there as a whole, or is not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[tuple[str, str], dict[str, Any]] = {}
        for one in _whole_lines(path):
            self.lines[one["kind"], one["name"]] = one

    def add(self, kind: str, name: str, **values: Any) -> None:
        """Append a line."""
        line = {"kind": kind, "name": name, **values}
        self.lines[kind, name] = line
        with self.path.open("ab") as file:
            file.write((json.dumps(line) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """The lines of a kind by name."""
        return {name: line for (found, name), line in self.lines.items() if found == kind}


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """What was written to the end; a line that was cut off is taken out of the file."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        path.write_bytes(whole)
    for text in whole.splitlines():
        yield json.loads(text)


def finite(value: float) -> float | None:
    """For JSON, which has no infinity: None."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def attempts(specs: list[Spec], seed: int, results: Results) -> None:
    """Run every mutant that has no result yet through the laws, those that declare alike together."""
    from properties.engine.mutation import attempt, ground

    done = results.of("attempt")
    left = [one for one in specs if one.target not in done]
    groups: dict[Any, list[Spec]] = {}
    for one in left:
        groups.setdefault(one.group, []).append(one)
    for group, members in groups.items():
        preset, streams, dtype, compilable = group
        name = f"{preset} n in {streams} {str(dtype).removeprefix('torch.')}{' compilable' * compilable}"
        found = ground(members, seed, lambda text, name=name: typer.echo(f"{name}: {text}", err=True))
        results.add("ground", name, laws=len(found.laws), seconds=round(found.seconds, 1), wrong=found.wrong)
        typer.echo(f"{name}: {len(found.laws)} laws, {found.seconds:.0f} s", err=True)
        for number, spec in enumerate(members, 1):
            outcome = attempt(spec, found)
            values = dataclasses.asdict(outcome) | {"ratio": finite(outcome.ratio)}
            results.add("attempt", spec.target, text=spec.text, preset=spec.preset, **values)
            if number % 50 == 0:
                typer.echo(f"{number}/{len(members)}", err=True)


def confirmations(specs: list[Spec], results: Results) -> None:
    """Put every survivor to mpmath that was not yet."""
    from properties.engine.witness import confirm

    tried, done = results.of("attempt"), results.of("confirmation")
    for spec in specs:
        outcome = tried.get(spec.target)
        if outcome is None or outcome["killed"] or spec.target in done:
            continue
        began = time.process_time()
        found = confirm(spec)
        results.add(
            "confirmation",
            spec.target,
            status=found.status,
            ratio=finite(found.ratio),
            where=found.where,
            seconds=round(time.process_time() - began, 2),
        )


def again(specs: list[Spec], seed: int, prefix: str, results: Results) -> None:
    """Put survivors before the laws whose ids begin so, as they are now: whether what was changed sees more.

    Left out are those that depend on earlier calls, which one law by itself does not bring about as a check does.
    """
    from properties.catalogue.mutants import Mutant
    from properties.engine.mutation import laws_in_order, methods_of, try_law

    tried, confirmed = results.of("attempt"), results.of("confirmation")
    laws = [law for law in laws_in_order() if law.id.startswith(prefix)]
    for spec in specs:
        alive = not tried[spec.target]["killed"] and confirmed[spec.target]["status"] == "wrong"
        if not alive or any(one.kind == "history" for one in spec.conditions):
            continue
        chosen = [law for law in laws if not methods_of(spec).isdisjoint(law.needs)]
        seen = next((law.id for law in chosen if try_law(law, Mutant(spec), seed).status == "failed"), "")
        typer.echo(f"{spec.target}: {seen or 'not seen'}", err=True)
        if seen:
            results.add(**(tried[spec.target] | {"killed": seen}))


def sampled(count: int) -> dict[str, Any]:
    """The rates of a few mutants of seed 2, those of the first that declare alike: what one ground is enough for."""
    from properties.catalogue.mutants import drawn
    from properties.commands.adversary_page import rates

    every = [drawn(2, index) for index in range(4 * count)]
    groups = Counter(one.group for one in every)
    specs = [one for one in every if one.group == max(groups, key=groups.__getitem__)][:count]
    with TemporaryDirectory(prefix="mhc-adversary-") as where:
        results = Results(Path(where) / "sample.jsonl")
        attempts(specs, 2, results)
        confirmations(specs, results)
        return rates(specs, results)


def main(
    seed: Annotated[int, typer.Option(min=0, help="the mutants are those of this seed")] = 1,
    mutants: Annotated[int, typer.Option(min=1, max=100_000, help="how many")] = 1000,
    out: Annotated[Path, typer.Option(help="where results are kept while the run goes on")] = Path(".mhc-properties"),
    label: Annotated[str, typer.Option(help="the name of this run in adversary.json")] = "last run",
    docs: Annotated[Path, typer.Option(help="where adversary.md and adversary.json go")] = Path("docs"),
    law: Annotated[str, typer.Option(help="put survivors before laws whose ids begin so again, as they are now")] = "",
    preset: Annotated[str, typer.Option(help="of them those that declare this one, such as PAPER")] = "",
    page: Annotated[bool, typer.Option(help="write the page and the rates")] = True,
) -> None:
    """Try random mutants on the laws, and list those that no law sees.

    Exit 0: the laws accused no reference and the harness did not fail; 1: one of them did.
    """
    import torch

    from properties.catalogue.mutants import drawn
    from properties.commands.adversary_page import publish, rates
    from properties.commands.refusals import refuse_lost, refuse_unknown

    torch.set_num_threads(1)
    refuse_lost(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / f"adversary-{seed}.jsonl")
    specs = [drawn(seed, index) for index in range(mutants)]
    if preset and not any(one.preset == preset for one in specs):
        there = ", ".join(sorted({one.preset for one in specs}))
        raise typer.BadParameter(
            f"none of these mutants declares {preset!r}; they declare {there}", param_hint="--preset"
        )
    specs = [one for one in specs if preset in ("", one.preset)]
    attempts(specs, seed, results)
    confirmations(specs, results)
    if law:
        refuse_unknown([], (), [law])
        again(specs, seed, law, results)
    found = rates(specs, results) | ({"again": law} if law else {})
    found |= {"preset": preset, "drawn": mutants} if preset else {}
    if page:
        refuse_lost(docs, "--docs")
        publish(docs, label, found)
    typer.echo(
        f"{found['mutants']} mutants: {found['killed']} seen, {found['survived']} wrong and not seen, "
        f"{found['equivalent']} equivalent; {100 * found['rate']:.1f} % of the wrong ones are seen"
    )
    for one in found["harness"]:
        typer.echo(one)
    raise typer.Exit(1 if found["harness"] else 0)
