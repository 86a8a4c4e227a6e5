"""`mhc-properties batched`: laws at thousands of cases, hundreds in one pass on the device (docs/gpu.md).

    mhc-properties batched ref:PAPER --device cuda --tokens 100000 --json      (= python -m properties.commands.batched)

With `--compare N` the same laws are run as ever on the CPU, N examples each, and the rates stand side by side: tokens a
second, of processor time where all is computed on the CPU, of the clock where a device computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from properties.commands.options import Device, DeviceOption, DialectOption, JsonOption, LawOption, TargetArgument
from properties.guards.answer import progress_on_stderr, tell
from properties.guards.printable import message_of, printable

if TYPE_CHECKING:
    from properties.commands.batched_prediction import Prediction
    from properties.core.case import Case
    from properties.core.implementation import Implementation
    from properties.core.law import Law
    from properties.core.trial import Trial
    from properties.engine.batching import Tally
    from properties.engine.subject import Subject

NOTHING = 2
"""Exit status where no law was judged."""


@dataclass(frozen=True)
class Row:
    """A law at many cases.

    Attributes:
        shares: the seconds of the stages of `properties.commands.bench`, of drawing, and of the rest, which is judging.
        alone: tokens a second of the ordinary run on the CPU; None where it was not asked for.
        prediction: how fast it would be on a GPU, where that was asked for.
    """

    tally: Tally
    shares: dict[str, float]
    alone: float | None = None
    prediction: Prediction | None = None

    @property
    def times(self) -> float | None:
        """How many times as many tokens a second as in the ordinary run."""
        return self.tally.rate / self.alone if self.alone else None

    def told(self) -> dict[str, Any]:
        """As it stands in the object of --json."""
        tally = self.tally
        found = {
            name: getattr(tally, name)
            for name in ("law", "status", "reason", "cases", "tokens", "launches", "claims", "abstentions", "asked")
        }
        file = None if tally.verdict is None else str(tally.verdict.counterexample)
        return found | {
            "cleared": tally.cleared,
            "left": tally.left,
            "leads": tally.leads,
            "worst_ratio": tally.worst,
            "counterexample": file,
            "tokens_per_second": tally.rate,
            "seconds": self.shares,
            "alone_tokens_per_second": self.alone,
            "times": self.times,
            "predicted_tokens_per_second": self.prediction.rate() if self.prediction else None,
        }


def measured(
    law: Law, subject: Subject, *, tokens: int, at_once: int, randomness: int, directory: Path, compare: int = 0
) -> Row:
    """A law at many cases, with the time of its stages, and with `compare` the rate of so many ordinary examples."""
    from properties.commands.bench import Clock, watching
    from properties.core.device import device_of
    from properties.engine.batching import clock_of, examine_many

    device = device_of(subject.device)
    if compare:  # what is loaded and built for the first time counts for neither
        with TemporaryDirectory(prefix="mhc-batched-") as where:
            examine_many(law, subject, tokens=8, at_once=4, randomness=randomness, directory=Path(where))
    clock = Clock(device, clock_of(subject))
    with watching(clock):
        tally = examine_many(
            law, subject, tokens=tokens, at_once=at_once, randomness=randomness, directory=directory
        )  # fmt: skip
    device.synchronise()
    told = {**clock.seconds, "draw": tally.seconds["draw"]}
    told["judging"] = max(0.0, sum(tally.seconds.values()) - sum(told.values()))
    row = Row(tally, told)
    return replace(row, alone=ordinary(law, subject, compare)) if compare and tally.status == "passed" else row


def ordinary(law: Law, subject: Subject, examples: int) -> float:
    """Tokens a second of a law in an ordinary run on the CPU, drawn by Hypothesis and judged one by one."""
    import torch

    from properties.engine.batching import clock_of
    from properties.engine.runner import examine
    from properties.engine.subject import Profile
    from properties.laws.batches import TOGETHER

    seen, how = 0, TOGETHER[law.id]

    def counting(trial: Trial, case: Case) -> None:
        nonlocal seen
        seen += len(getattr(case, how.tokens[0]))
        law.judge(trial, case)

    here = replace(subject, device=torch.device("cpu"))
    clock = clock_of(subject)
    with TemporaryDirectory(prefix="mhc-batched-") as where:
        begun = clock()
        examine(replace(law, judge=counting), here, Profile(examples, derandomise=True), directory=Path(where))
        return seen / (clock() - begun)


def batched(
    target: TargetArgument,
    device: DeviceOption = Device.CPU,
    dialect: DialectOption = None,
    dtype: Annotated[str, typer.Option(help="of the state")] = "float32",
    law: LawOption = None,
    tokens: Annotated[int, typer.Option(min=1, help="tokens a law, at least")] = 10_000,
    at_once: Annotated[int, typer.Option(min=0, help="tokens of one pass, at most; 0: 512 on a CPU, or 4096")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="another number draws other cases")] = 0,
    compare: Annotated[int, typer.Option(min=0, help="ordinary examples of each law on the CPU, to compare")] = 0,
    predict: Annotated[bool, typer.Option(help="count what a pass asks of a GPU: how fast that may be")] = False,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="where counterexamples go")
    ] = ".mhc-properties/batched",
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Judge laws at thousands of cases, hundreds in one pass, where the target computes.

    The law by itself has the last word on every case that may fail. Laws that cannot be judged so are counted, each
    with the reason.

    Exit 0: every law that was judged holds; 1: one failed; 2 and above: nothing was judged, or the harness could not
    run. An answer that is right alone and wrong among others is told, and no failure of these laws.
    """
    import torch

    from properties.commands.batched_prediction import predicted
    from properties.commands.refusals import refuse_absent, refuse_lost, refuse_unknown
    from properties.core.implementation import dtype_names
    from properties.core.law import all_laws
    from properties.engine.subject import Subject
    from properties.targets.target import TargetError, resolve

    refuse_absent(device.value)
    refuse_unknown([], (), law or [])
    where = Path(out).absolute()
    refuse_lost(where, "--out")
    try:
        implementation = resolve(target, dialect)
    except TargetError as error:
        raise typer.BadParameter(message_of(error), param_hint="TARGET") from None
    if dtype not in dtype_names(implementation):
        told = f"{printable(repr(dtype), 60)}: {printable(target)} takes {', '.join(dtype_names(implementation))}"
        raise typer.BadParameter(told, param_hint="--dtype")
    torch.set_num_threads(1)
    subject = Subject(target, implementation, getattr(torch, dtype), torch.device(device.value), dialect)
    rows: list[Row] = []
    reasons: dict[str, list[str]] = {}
    with progress_on_stderr(as_json):
        for one in all_laws().values():
            if law and not any(one.id.startswith(prefix) for prefix in law):
                continue
            row = measured(
                one, subject, tokens=tokens, at_once=at_once, randomness=seed, directory=where, compare=compare
            )
            if predict and row.tally.status == "passed":
                row = replace(row, prediction=predicted(one, subject, at_once=at_once or 4096, randomness=seed))
            if row.tally.status == "not-applicable":
                reasons.setdefault(row.tally.reason, []).append(one.id)
                continue
            rows.append(row)
            typer.echo(_line(row))
        _footer(implementation, subject, rows, reasons, compare)
    failed = any(row.tally.status == "failed" for row in rows)
    status = NOTHING if not rows else int(failed)
    if as_json:
        tell(
            {
                "target": target,
                "dtype": dtype,
                "device": device.value,
                "laws": [row.told() for row in rows],
                "not_batched": {reason: ids for reason, ids in reasons.items()},
                "tokens": sum(row.tally.tokens for row in rows),
                "tokens_per_second": _rate(rows),
                "alone_tokens_per_second": _alone(rows),
                "predicted_tokens_per_second": _predicted(rows),
                "exit": status,
            }
        )
    raise typer.Exit(status)


def _rate(rows: list[Row]) -> float | None:
    """Tokens a second of all laws, each of which has about as many."""
    spent = sum(sum(row.tally.seconds.values()) for row in rows)
    return sum(row.tally.tokens for row in rows) / spent if spent else None


def _alone(rows: list[Row]) -> float | None:
    """Tokens a second of the ordinary run, with as many tokens of each law as in the other."""
    known = [row for row in rows if row.alone]
    spent = sum(row.tally.tokens / row.alone for row in known if row.alone)
    return sum(row.tally.tokens for row in known) / spent if spent else None


def _predicted(rows: list[Row]) -> float | None:
    """Tokens a second of all laws on a GPU, predicted."""
    known = [(row.tally.tokens, row.prediction.rate()) for row in rows if row.prediction]
    return sum(tokens for tokens, _ in known) / sum(tokens / rate for tokens, rate in known) if known else None


def _line(row: Row) -> str:
    from properties.commands.batched_prediction import told as in_words

    tally, whole = row.tally, sum(row.shares.values()) or 1.0
    shares = ", ".join(f"{stage} {100 * part / whole:.0f} %" for stage, part in row.shares.items())
    told = f"{tally.law}: {tally.status}, {tally.cases} cases, {tally.tokens} tokens in {tally.launches} passes"
    told += f", worst ratio {tally.worst:.3g}, {tally.rate:.0f} tokens/s ({shares})"
    if row.times is not None:
        told += f", {row.times:.0f} times the {row.alone:.0f} of an ordinary run on the CPU"
    if tally.asked:
        told += f"; the law judged {tally.asked} cases by itself, {tally.cleared} of which hold"
    lines = [told]
    if row.prediction is not None:
        lines.append(in_words(row.prediction, row.alone))
    lines += [*(f"  lead: {lead}" for lead in tally.leads)]
    if tally.verdict is not None:
        lines.append(tally.verdict.message)
    return "\n".join(lines)


def _footer(
    implementation: Implementation, subject: Subject, rows: list[Row], reasons: dict[str, list[str]], compare: int
) -> None:
    left = sum(map(len, reasons.values()))
    where = f"{printable(implementation.name)} in {subject.dtype_name} on {subject.device.type}"
    typer.echo(f"{where}: {len(rows)} laws judged for many cases at once, {left} not")
    for reason, ids in sorted(reasons.items(), key=lambda one: -len(one[1])):
        typer.echo(f"  {len(ids)}: {reason}")
    rate, alone = _rate(rows), _alone(rows)
    if rate is not None:
        typer.echo(f"all laws: {rate:.0f} tokens/s" + (f", {rate / alone:.1f} times {alone:.0f}" if alone else ""))
    if (guess := _predicted(rows)) is not None:
        times = f", {guess / alone:.0f} times the CPU's" if alone else ""
        typer.echo(f"all laws on a GPU, predicted and not measured: {guess:.0f} tokens/s{times}")
    if compare and subject.device.type != "cpu":
        typer.echo("tokens a second are of the clock: the device computes while the CPU draws")


if __name__ == "__main__":
    typer.run(batched)
