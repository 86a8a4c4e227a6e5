"""Random mutants of the reference before the laws, and what there is to say of each."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from properties.catalogue.mutants import Spec


class Results:
    """What is known of mutants, by what is said (ground, attempt, confirmation) and of whom."""

    def __init__(self, lines: Iterable[dict[str, Any]] = ()) -> None:
        self.lines: dict[tuple[str, str], dict[str, Any]] = {}
        for one in lines:
            self.add(**one)

    def add(self, kind: str, name: str, **values: Any) -> None:
        """Say something; what was said of the same takes its place."""
        self.lines[kind, name] = {"kind": kind, "name": name, **values}

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """What is said of that kind, by name."""
        return {name: line for (found, name), line in self.lines.items() if found == kind}


def finite(value: float) -> float | None:
    """For JSON, which has no infinity: None."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def tried(specs: Sequence[Spec]) -> Results:
    """Mutants that declare alike, each up to the first law that fails; what no law sees is put to mpmath."""
    import torch

    from properties.engine.mutation import attempt, ground
    from properties.engine.witness import confirm

    torch.set_num_threads(1)
    results = Results()
    preset, streams, dtype, compilable = specs[0].group
    declared = f"{preset} n in {streams} {str(dtype).removeprefix('torch.')}{' compilable' * compilable}"
    found = ground(list(specs), specs[0].seed)
    name = f"{declared}, {specs[0].target} to {specs[-1].target}"
    results.add("ground", name, laws=len(found.laws), seconds=round(found.seconds, 1), wrong=found.wrong)
    for spec in specs:
        outcome = attempt(spec, found)
        values = dataclasses.asdict(outcome) | {"ratio": finite(outcome.ratio), "errors": list(outcome.errors)}
        results.add("attempt", spec.target, text=spec.text, preset=spec.preset, **values)
        if outcome.killed:
            continue
        began = time.process_time()
        shown = confirm(spec)
        values = {"status": shown.status, "ratio": finite(shown.ratio), "where": shown.where}
        results.add("confirmation", spec.target, seconds=round(time.process_time() - began, 2), **values)
    return results


def again(specs: list[Spec], seed: int, prefix: str, results: Results) -> None:
    """Put survivors before the laws whose ids begin so, as they are now: whether what was changed sees more.

    Left out are those that depend on earlier calls, which one law by itself does not bring about as a check does.
    """
    from properties.catalogue.mutants import Mutant
    from properties.engine.mutation import laws_in_order, methods_of, try_law

    attempts, confirmed = results.of("attempt"), results.of("confirmation")
    laws = [law for law in laws_in_order() if law.id.startswith(prefix)]
    for spec in specs:
        alive = not attempts[spec.target]["killed"] and confirmed[spec.target]["status"] == "wrong"
        if not alive or any(one.kind == "history" for one in spec.conditions):
            continue
        chosen = [law for law in laws if not methods_of(spec).isdisjoint(law.needs)]
        seen = next((law.id for law in chosen if try_law(law, Mutant(spec), seed).status == "failed"), "")
        typer.echo(f"{spec.target}: {seen or 'not seen'}", err=True)
        if seen:
            results.add(**(attempts[spec.target] | {"killed": seen}))


def sampled(count: int) -> dict[str, Any]:
    """The rates of a few mutants of seed 2, those of the first that declare alike: what one ground is enough for."""
    from properties.catalogue.mutants import drawn
    from properties.commands.adversary_page import rates

    every = [drawn(2, index) for index in range(4 * count)]
    groups = Counter(one.group for one in every)
    specs = [one for one in every if one.group == max(groups, key=groups.__getitem__)][:count]
    return rates(specs, tried(specs))
