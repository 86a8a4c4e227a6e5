"""The kill matrix: which law sees which wrong implementation, and that no law accuses a correct one.

    python -m properties.kill --out DIR        (make kill)

A row is a deviation in the first preset and dtype in which it shows; a cell is one search without shrinking. The page
says which
deviations only the oracle sees, which laws see nothing, and that every declared blind spot is one.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from properties.law import Law

PRESET_ORDER = ("PAPER", "DEEPSEEK_V4", "LUCIDRAINS", "MHC_LITE", "HYPER_CONNECTIONS", "LIGER", "RESIDUAL")
DTYPE_ORDER = ("float64", "float32", "bfloat16")


@dataclass(frozen=True)
class Row:
    """What became of one deviation or control: `killed` maps a law to its kind, `errors` a law to a harness error."""

    name: str
    kind: str
    preset: str
    dtype: str
    killed: dict[str, str]
    errors: dict[str, str]
    exercised: int


Task = tuple[str, str, str, str, int, bool]
"""catalogue, name, preset, dtype, examples, and whether to stop at two kills of different kinds."""


def row_of(task: Task) -> Row:
    """One row, run in a worker process."""
    catalogue, name, preset, dtype, examples, stop = task
    import torch

    from mhc_ref import PRESETS
    from properties import controls, deviations
    from properties.law import FAMILIES, all_laws, family_laws
    from properties.runner import Profile, Subject, examine

    torch.set_num_threads(1)
    build = deviations.build if catalogue == "deviation" else controls.build
    implementation = build(name, PRESETS[preset])
    kind = (deviations.CATALOGUE | deviations.HIDDEN)[name].kind if catalogue == "deviation" else "control"
    subject = Subject(f"{catalogue}:{name}@{preset}", implementation, getattr(torch, dtype), torch.device("cpu"))
    profile = Profile(examples=examples, derandomise=True, shrink=False, thorough=True)
    where = Path(mkdtemp(prefix="mhc-kill-"))
    killed: dict[str, str] = {}
    errors: dict[str, str] = {}
    exercised = 0
    laws = list(all_laws().values())
    if stop:  # one of each family in turn, oracles first: most slips show within a few
        rank = {
            law.id: k for family in FAMILIES for k, law in enumerate(sorted(family_laws(family), key=_oracle_first))
        }
        laws.sort(key=lambda law: rank[law.id])
    for law in laws:
        if stop and len(killed) > 1 and len(set(killed.values())) > 1:
            break
        try:
            verdict = examine(law, subject, profile, directory=where)
        except Exception as error:  # a harness error is a finding about us, and the row goes on
            errors[law.id] = f"{type(error).__name__}: {error}"
            continue
        exercised += verdict.status != "not-applicable"
        if verdict.status == "failed":
            killed[verdict.executed_law or law.id] = law.kind
    return Row(name, kind, preset, dtype, killed, errors, exercised)


def _oracle_first(law: Law) -> bool:
    return law.kind != "oracle"


def tasks(examples: int, only: list[str], stop: bool) -> list[Task]:
    """Every deviation where it first shows, and every control in the two main presets and three dtypes."""
    from mhc_ref import PRESETS
    from properties import controls, deviations
    from properties.device import device_of

    found: list[Task] = []
    for name, deviation in (deviations.CATALOGUE | deviations.HIDDEN).items():
        if (only and name not in only) or (deviation.needs and device_of("cpu").lacks(deviation.needs)):
            continue
        preset = next((p for p in PRESET_ORDER if deviation.applies(PRESETS[p])), None)
        if preset is None:
            continue  # shows in no preset: its test uses a dialect of its own
        shown = [str(one).removeprefix("torch.") for one in deviation.dtypes or DTYPE_ORDER]
        dtype = next(one for one in DTYPE_ORDER if one in shown)
        found.append(("deviation", name, preset, dtype, examples, stop))
    for preset in ("PAPER", "DEEPSEEK_V4"):
        for name in controls.CATALOGUE:
            if only and name not in only:
                continue
            try:
                controls.build(name, PRESETS[preset])
            except LookupError:
                continue
            found += [("control", name, preset, dtype, examples, False) for dtype in DTYPE_ORDER]
    return found


def page(rows: list[Row], stopped: bool = False) -> str:
    """The matrix as Markdown; `stopped` where rows end at their second kill."""
    from properties.deviations import HIDDEN
    from properties.device import device_of
    from properties.law import all_laws

    laws = all_laws()
    elsewhere = [name for name, one in HIDDEN.items() if one.needs and device_of("cpu").lacks(one.needs)]
    deviations = [row for row in rows if row.kind != "control"]
    controls = [row for row in rows if row.kind == "control"]
    survivors = [row.name for row in deviations if not row.killed]
    oracle_only = [row.name for row in deviations if row.killed and set(row.killed.values()) == {"oracle"}]
    single = [row.name for row in deviations if len(row.killed) == 1]
    flagged = [f"{row.name}@{row.preset} {row.dtype}: {', '.join(row.killed)}" for row in controls if row.killed]
    by_law = Counter(law for row in deviations for law in row.killed)
    idle = [law for law in laws if law not in by_law]
    text = [
        "# Kill matrix",
        "",
        "Made by `make kill`: every deviation in the first preset and dtype in which it shows, every control in",
        "PAPER and DEEPSEEK_V4 in float64, float32 and bfloat16, all laws, no shrinking.",
        *(["A row ends at its second kill of another kind (`--stop`), so counts are lower bounds."] if stopped else []),
        "",
        f"* deviations killed: {len(deviations) - len(survivors)} of {len(deviations)}",
        f"* killed by the oracle laws alone: {', '.join(oracle_only) or 'none'}",
        f"* killed by a single law: {', '.join(single) or 'none'}",
        f"* surviving: {', '.join(survivors) or 'none'}",
        f"* controls flagged: {'; '.join(flagged) or 'none'} (of {len(controls)} control runs)",
        f"* laws that kill nothing: {', '.join(idle) or 'none'}",
        f"* harness errors: {sum(len(row.errors) for row in rows)}",
        f"* not run, what they need the CPU lacks: {', '.join(elsewhere) or 'none'}",
        "",
        "| deviation | kind | preset | dtype | killed by | identity | invariant | contract | oracle |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in deviations:
        counts = Counter(row.killed.values())
        cells = " | ".join(str(counts[kind]) for kind in ("identity", "invariant", "contract", "oracle"))
        text.append(
            f"| {row.name} | {row.kind} | {row.preset} | {row.dtype} | {len(row.killed)} of {row.exercised} | {cells} |"
        )
    text += ["", "| law | kind | deviations killed |", "|---|---|---|"]
    text += [f"| {law} | {one.kind} | {by_law[law]} |" for law, one in laws.items()]
    return "\n".join(text) + "\n"


def main(
    out: Annotated[Path, typer.Option(help="where kill.md and kill.json go")] = Path("docs"),
    examples: Annotated[int, typer.Option(help="examples a cell")] = 16,
    jobs: Annotated[int, typer.Option(help="worker processes")] = 2,
    stop: Annotated[bool, typer.Option(help="leave a deviation at its second kill, of another kind")] = False,
    only: Annotated[list[str] | None, typer.Option(help="only this deviation or control; may be repeated")] = None,
) -> None:
    """Make the matrix; exit 1 where a deviation survives, a control is flagged or the harness failed."""
    work = tasks(examples, only or [], stop)
    rows: list[Row] = []
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for row in pool.imap(row_of, work):
            rows.append(row)
            typer.echo(f"{len(rows)}/{len(work)} {row.name} {row.preset} {row.dtype}: {len(row.killed)}", err=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "kill.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (out / "kill.md").write_text(page(rows, stop))
    bad = [row.name for row in rows if bool(row.killed) == (row.kind == "control") or row.errors]
    typer.echo(f"{len(rows)} rows; to look at: {', '.join(bad) or 'none'}")
    raise typer.Exit(1 if bad else 0)


if __name__ == "__main__":
    typer.run(main)
