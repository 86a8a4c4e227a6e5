"""The command line: mhc-properties check, explode, replay, laws, verify (= python -m properties.cli)."""

from __future__ import annotations

import contextlib
import enum
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from properties.guards.answer import progress_on_stderr, tell, told
from properties.guards.faults import HarnessError
from properties.guards.one_object import OneObject
from properties.guards.printable import message_of, printable

if TYPE_CHECKING:
    from properties.engine.known_file import Known

app = typer.Typer(
    name="mhc-properties",
    help="Numerical verification of (manifold-constrained) hyper-connections.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


HARNESS_ERROR = 3
"""Exit status where the harness could not run."""


class Device(enum.StrEnum):
    """Where an implementation computes."""

    CPU = "cpu"
    CUDA = "cuda"


class ProfileName(enum.StrEnum):
    """How long to search."""

    DEV = "dev"
    CI = "ci"
    THOROUGH = "thorough"


ReportOption = Annotated[str, typer.Option("--report", metavar="DIR", help="where report.json and counterexamples go")]
# Names of files are taken as text: a Path makes of an empty one the current folder.
DialectOption = Annotated[
    str | None, typer.Option("--dialect", metavar="PRESET", help="what a plain function claims to compute")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="one JSON object on the last line of stdout; progress goes to stderr")
]


@app.command(cls=OneObject)
def check(
    targets: Annotated[list[str], typer.Argument(metavar="TARGET...", help="as for pytest --impl")],
    device: Annotated[Device, typer.Option(help="where the implementation computes")] = Device.CPU,
    dialect: DialectOption = None,
    report: ReportOption = ".mhc-properties",
    law: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="only laws whose id begins so; may be repeated")
    ] = None,
    profile: Annotated[ProfileName, typer.Option("--hypothesis-profile", help="how long to search")] = ProfileName.DEV,
    workers: Annotated[str, typer.Option("-n", metavar="N", help="worker processes, or auto")] = "0",
    known: Annotated[str | None, typer.Option(metavar="FILE", help="known failures (TOML)")] = None,
    write_known: Annotated[
        str | None, typer.Option(metavar="FILE", help="write what fails as known failures into FILE")
    ] = None,
    isolate: Annotated[bool, typer.Option(help="run each target in a process of its own")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the laws on implementations.

    Exit 0: every exercised law holds or fails as known; 1: a law failed; 2 and above: the harness could not run,
    nothing was exercised, or the run left no whole report.
    """
    from properties.plugin.launch import QUIET, launch, most_workers

    if not re.fullmatch(r"auto|logical|[0-9]{1,9}", workers) or (workers.isdigit() and int(workers) > most_workers()):
        _refuse(
            f"-n {printable(workers, 60)!r}: expected a number of workers from 0 to {most_workers()}, or auto", as_json
        )
    if not report or "\0" in report:
        _refuse(f"--report {printable(report, 60)!r}: expected the name of a folder", as_json)
    kept = _known_so_far(write_known, as_json) if write_known is not None else []
    where = Path(report).absolute()
    arguments = [
        "--pyargs",
        "properties",
        "-q",
        "-p",
        "no:cacheprovider",
        *QUIET,
        # The project in whose folder this runs has a say about its own tests only.
        "--noconftest",
        "-o",
        "addopts=",
        "-n",
        workers,
        "--device",
        device.value,
        f"--report={where}",
    ]
    arguments += ["--hypothesis-profile", profile.value]
    # With the sign of equality nothing that somebody gives is taken for an option.
    arguments += [f"--impl={target}" for target in targets]
    arguments += [f"--law={prefix}" for prefix in law or []]
    arguments += [f"--dialect={dialect}"] if dialect is not None else []
    arguments += [f"--known={known}"] if known is not None else []
    arguments += ["--isolate"] if isolate else []
    with progress_on_stderr(as_json):
        outcome = launch(arguments, where)
    status, found = outcome.status, outcome.report
    if write_known is not None and found is not None:
        lost = _write_known(write_known, found, kept, as_json)
        status = status or lost
    if as_json:
        tell(found or {"error": "the run left no report: stderr says why", "exit": status})
    raise typer.Exit(status)


def _refuse(sentence: str, as_json: bool) -> NoReturn:
    """What cannot be done ends the command before it begins."""
    typer.echo(f"mhc-properties: {sentence}", err=True)
    if as_json:
        tell({"error": sentence, "exit": 2})
    raise typer.Exit(2)


def _known_so_far(path: str, as_json: bool) -> list[Known]:
    """The entries of the file that is to be written; what cannot be read or written is refused before the run."""
    from properties.engine.known_file import KnownError, load_to_write

    try:
        return load_to_write(path)
    except KnownError as error:
        _refuse(f"--write-known {message_of(error)}", as_json)


def _write_known(path: str, report: dict[str, Any], kept: list[Known], as_json: bool) -> int:
    """0, or the exit status where the file could not be written."""
    from properties.engine.known_file import write
    from properties.report.report import lines_of

    try:
        entries = write(Path(path), lines_of(report), keep=kept)
    except OSError as error:
        typer.echo(f"--write-known {printable(path, 200)}: {error.strerror or error}", err=True)
        return HARNESS_ERROR
    typer.echo(f"{len(entries)} known failures: {printable(path, 200)}", err=as_json)
    return 0


@app.command(cls=OneObject)
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a counterexample, or an explosion")],
    impl: Annotated[
        str | None, typer.Option(metavar="TARGET", help="what to try it on, instead of the target that the file names")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="run the target that the file names, though it does not come with us")
    ] = False,
    dialect: DialectOption = None,
    device: Annotated[Device | None, typer.Option(help="another device")] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="run the target in a process of its own")] = False,
    as_json: JsonOption = False,
) -> None:
    """Try a stored counterexample again. Prints FIXED (exit 0), FAILED (exit 1) or ERROR (exit 2).

    A file is data: the target that it names is run only where it comes with this package, or with --trust.
    """
    from properties.commands.replay import replay_file

    outcome = replay_file(file, impl, device.value if device else None, isolate, trust=trust, dialect=dialect)
    typer.echo(f"{outcome.status} {outcome.law}".rstrip(), err=as_json)
    typer.echo(outcome.message, err=as_json)
    if as_json:
        tell({"status": outcome.status, "law": outcome.law, "ratio": outcome.ratio, "message": outcome.message})
    raise typer.Exit({"FIXED": 0, "FAILED": 1, "ERROR": 2}[outcome.status])


@app.command(cls=OneObject)
def identify(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="as for pytest --impl")],
    dialect: Annotated[str | None, typer.Option(metavar="PRESET", help="compare with this preset")] = None,
    device: Annotated[Device, typer.Option(help="where the implementation computes")] = Device.CPU,
    isolate: Annotated[bool, typer.Option(help="run the target in a process of its own")] = False,
    as_json: JsonOption = False,
) -> None:
    """Infer from its behaviour which hyper-connections a target computes, and what is wrong with it.

    Exit 0: a dialect, with or without named slips, explains it; 1: nothing does; 2: no verdict, as the target could not
    be used, crashed or hung.
    """
    from properties.diagnosis import identify_command

    raise typer.Exit(identify_command(target, dialect, as_json, device=device.value, isolate=isolate))


@app.command(cls=OneObject)
def laws(as_json: JsonOption = False) -> None:
    """List every law: id, kind, statement, and what it cannot see."""
    from properties.core.law import all_laws

    found = all_laws()
    if as_json:
        fields = ("id", "kind", "stage", "statement", "reason", "needs", "blind")
        tell({"laws": [{field: getattr(one, field) for field in fields} for one in found.values()]})
        return
    for one in found.values():
        typer.echo(f"{one.id}  ({one.kind})\n    {one.statement}")
    typer.echo(f"{len(found)} laws")


@app.command(cls=OneObject)
def verify(as_json: JsonOption = False) -> None:
    """The main job: the laws on the reference and on transformers' DeepSeek-V4, and the smallest explosions."""
    from properties.commands.verify import main_job

    raise typer.Exit(main_job(as_json))


def main() -> None:
    """Entry point of the console script.

    A target can end the process in which it is called, with any exit status. So the commands that call one of
    somebody else do so in another process than the one that answers for them (`properties.plugin.launch`).
    """
    from properties.plugin.launch import answering, answers_for, calls_a_stranger

    words = sys.argv[1:]
    try:
        os.getcwd()
    except OSError as error:
        sentence = f"the current folder cannot be used ({error.strerror}): change to one that exists"
        typer.echo(f"mhc-properties: {sentence}", err=True)
        _without_an_object(sentence, 2)
        raise SystemExit(2) from None
    if calls_a_stranger(words) and (status := answers_for(words)) is not None:
        raise SystemExit(status)
    if words[:1] != ["check"]:  # which needs no torch in this process
        from properties.explosion.command import register

        register(app)
    with answering():
        _run()


def _run() -> None:
    try:
        app(prog_name="mhc-properties")
    except KeyboardInterrupt:  # after everything that listens to it has ended
        from properties.plugin.launch import INTERRUPTED

        _without_an_object("stopped by SIGINT", INTERRUPTED)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:  # exit 1 is the verdict that a law failed, and Python's own for a traceback
        if not isinstance(error, HarnessError):  # which says all there is to say
            traceback.print_exc()
        sentence = f"{type(error).__name__}: {message_of(error)}"
        typer.echo(f"HARNESS ERROR: {sentence}", err=True)
        _without_an_object(sentence, HARNESS_ERROR)
        raise SystemExit(HARNESS_ERROR) from error


def _without_an_object(sentence: str, status: int) -> None:
    """With --json there is an object also where a command ended before it had one."""
    if "--json" in sys.argv and not told():
        with contextlib.suppress(OSError, ValueError):  # stdout is gone, perhaps for that very reason
            tell({"error": sentence, "exit": status})


if __name__ == "__main__":
    main()
