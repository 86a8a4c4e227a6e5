"""Every command of README and of the pages that teach is run, and what it prints is compared with what is quoted.

A page is run section by section, each in an empty folder that looks like a clone: `examples/` is there, and so are the
files that the page gives up to that section, in fences such as ```python title="mine.py". Commands are the lines of
```console fences that begin with `$ `; what follows a command is what it prints. A line of three dots stands for lines
that are left out, and a command without a quotation has to succeed. A section whose commands are those with which
another one begins is run with it, once, and both quotations are compared.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import typer

from properties import cli

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "start",
            "your-implementation",
            "reading-a-result",
            "why-residuals-explode",
            "writing-a-law",
            "writing-a-family",
            "writing-a-deviation",
            "writing-an-adapter",
            "in-your-ci",
            "how-far-to-trust",
            "exit-codes-files-schema",
            "glossary",
            "models",
        )
    ),
)
NOT_RUN = {
    "git clone": "there is no network in a test",
    "make ": "it makes an environment, from the network",
    "python -m pip install": "it installs from the network; tests/test_wheel.py installs a wheel",
    "python -m venv": "it belongs to an installation",
    "mhc-properties explode train:hc ": "it trains a thousand runs; tests/test_critical_rates.py trains a few",
}
"""How commands begin that no test runs, and why."""
CHEAP = re.compile(r"(mhc-properties (--version|--help|list|laws)\b|cp |sed |cat |cd |mkdir )")
"""How commands begin that take no more than the start of Python; a section with any other is slow."""
NEEDED = {"x-transformers": "x_transformers", "x_transformers": "x_transformers", "published": "transformers"}
"""What a section names -> the library that it then needs, of an extra that not every environment has."""
ELIDED = "..."
UNSET = (
    "CI",
    "GITHUB_ACTIONS",
    "BUILD_NUMBER",
    "PYTEST_ADDOPTS",
    "COLUMNS",
    "PYTEST_CURRENT_TEST",
    "PYTEST_XDIST_WORKER",
)
"""What would change what is printed."""


@dataclass
class Step:
    """A command, and the lines that are quoted below it."""

    command: str
    quoted: list[str] = field(default_factory=list)

    @property
    def not_run(self) -> str | None:
        """The beginning in `NOT_RUN`, if it is there."""
        return next((one for one in NOT_RUN if self.command.startswith(one)), None)


@dataclass
class Section:
    """What stands below a heading: files that the page gave until then, and commands."""

    page: str
    heading: str
    files: dict[str, str]
    steps: list[Step] = field(default_factory=list)

    @property
    def run(self) -> list[Step]:
        return [step for step in self.steps if step.not_run is None]

    @property
    def commands(self) -> list[str]:
        return [step.command for step in self.run]

    @property
    def missing(self) -> str | None:
        """What it needs and this environment has not."""
        words = " ".join(step.command for step in self.run)
        lacking = [library for word, library in NEEDED.items() if word in words and find_spec(library) is None]
        if "node " in words and shutil.which("node") is None:
            lacking.append("node")
        return f"not run: {', '.join(lacking)} is not installed" if lacking else None

    @property
    def cheap(self) -> bool:
        return all(CHEAP.match(step.command) for step in self.run)


def sections(page: str) -> list[Section]:
    """The sections of a page that have commands."""
    found, files = [Section(page, "top", {})], dict[str, str]()
    fence, title, lines = "", "", list[str]()
    for line in (ROOT / page).read_text("utf-8").splitlines():
        if fence and line != "```":
            lines.append(line)
        elif fence:
            if title:
                files[title] = "\n".join(lines) + "\n"
                found[-1].files[title] = files[title]
            if fence == "console":
                found[-1].steps += steps(lines)
            fence, lines = "", []
        elif match := re.fullmatch(r'```(\w+)(?: title="([^"]+)")?', line):
            fence, title = match[1], match[2] or ""
        elif line.startswith("#"):
            found.append(Section(page, line.strip("# "), dict(files)))
    return [one for one in found if one.steps]


def steps(lines: Sequence[str]) -> list[Step]:
    """The commands of a console; a backslash at the end of one goes on in the next line."""
    found: list[Step] = []
    for line in lines:
        if line.startswith("$ "):
            found.append(Step(line[2:]))
        elif found and not found[-1].quoted and found[-1].command.endswith("\\"):
            found[-1].command = found[-1].command[:-1] + line.strip()
        else:
            assert found, f"a console begins with a command, not with {line!r}"
            found[-1].quoted.append(line)
    return found


def normal(text: str, folder: Path) -> list[str]:
    """Without what is another in every run or machine, or with every new law: times, folders, names, digits, counts."""
    text = re.sub(r"    the search for slips ran out of time[^\n]*\n(?: {8}[^\n]*\n)*", "", text + "\n")
    text = text.replace(f"{folder}/", "").replace(f"{folder.resolve()}/", "")
    text = re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.4g}", text)
    text = re.sub(r"_[0-9a-f]{10}\.safetensors", "_HASH.safetensors", text)
    text = re.sub(r"\bin \d+(\.\d+)?s( \(\d+:\d\d:\d\d\))?", "in N s", text)
    text = re.sub(r"\b\d+(\.\d+)? (KiB|MiB|s)\b", r"N \2", text)
    text = re.sub(r"worst ratio where laws hold: .*", "worst ratio where laws hold: N", text)
    text = re.sub(r"and \d+ laws more apply", "and N laws more apply", text)
    return [line.rstrip() for line in text.rstrip("\n").splitlines()]


def differs(quoted: Sequence[str], said: Sequence[str]) -> str:
    """Where a quotation and what was printed differ; empty where they do not."""
    at, loose, piece = 0, False, list[str]()
    for line in [*quoted, None]:
        if line is not None and line != ELIDED:
            piece.append(line)
            continue
        places = range(at, len(said) - len(piece) + 1) if loose else range(at, at + 1)
        if line is None and loose and piece:
            places = range(max(at, len(said) - len(piece)), len(said) - len(piece) + 1)
        place = next((one for one in places if list(said[one : one + len(piece)]) == piece), None)
        if place is None:
            return "quoted, and not printed there:\n" + "\n".join(piece)
        at, loose, piece = place + len(piece), True, []
    left = said[at:] if quoted and quoted[-1] != ELIDED else ()
    return "printed, and not quoted:\n" + "\n".join(left) if left else ""


def environment() -> dict[str, str]:
    """That of a user at a desk, but for the profile: searches are deterministic as in continuous integration.

    One thread each: of such small tensors more threads make nothing faster, and each of them waits by spinning.
    """
    quiet = {name: value for name, value in os.environ.items() if name not in UNSET}
    paths = f"{Path(sys.executable).parent}{os.pathsep}{quiet.get('PATH', '')}"
    python = os.pathsep.join(filter(None, (str(ROOT), quiet.get("PYTHONPATH"))))
    return quiet | {"PATH": paths, "PYTHONPATH": python, "CI": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def clone(folder: Path, files: dict[str, str]) -> None:
    """A folder in which commands of a page are typed."""
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs" / "pictures").mkdir(parents=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def printed(command: str, folder: Path) -> tuple[int, str]:
    """The exit status of a command, and what it prints on stdout."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), f"{command}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.returncode, done.stdout


def together(every: Sequence[Section]) -> list[list[Section]]:
    """The sections that are run at once: the one with the most commands first, and those that it begins with."""
    found: list[list[Section]] = []
    for section in sorted(every, key=lambda one: -len(one.run)):
        typed = section.commands
        for group in found:
            if group[0].commands[: len(typed)] == typed and all(
                group[0].files.get(name) == text for name, text in section.files.items() if name in " ".join(typed)
            ):
                group.append(section)
                break
        else:
            found.append([section])
    return found


def cases() -> Iterator[object]:
    every = [section for page in PAGES for section in sections(page) if section.run]
    for group in sorted(together(every), key=lambda group: every.index(group[0])):
        name = "-and-".join(re.sub(r"\W+", "-", f"{Path(one.page).stem}-{one.heading}".lower()) for one in group)
        yield pytest.param(group, id=name.strip("-"), marks=() if group[0].cheap else (pytest.mark.slow,))


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("group", list(cases()))
def test_commands_print_what_is_quoted(group: list[Section], tmp_path: Path) -> None:
    if group[0].missing:
        pytest.skip(group[0].missing)
    clone(tmp_path, group[0].files)
    for place, step in enumerate(group[0].run):
        status, said = printed(step.command, tmp_path)
        for section in group:
            quoted = section.run[place].quoted if place < len(section.run) else [ELIDED]
            if not quoted:
                assert status == 0, f"{section.page}: {step.command}\n{said}"
                continue
            wrong = differs(normal("\n".join(quoted), tmp_path), normal(said, tmp_path))
            assert not wrong, f"{section.page}: $ {step.command}\n{wrong}\nall that was printed:\n{said}"


def test_every_quotation_is_compared_and_no_command_is_run_twice() -> None:
    every = [section for page in PAGES for section in sections(page) if section.run]
    groups = together(every)
    assert sorted(id(one) for group in groups for one in group) == sorted(map(id, every))
    slow = Counter(command for group in groups if not group[0].cheap for command in group[0].commands)
    assert [command for command, times in slow.items() if times > 1 and not CHEAP.match(command)] == []


def test_a_section_is_run_with_one_that_goes_on_from_it() -> None:
    one, other, more = (Section(page, "", {"a.py": "x\n"}) for page in ("one", "other", "more"))
    one.steps = [Step("sed x a.py")]
    other.steps = [Step("sed x a.py"), Step("cat a.py")]
    more.steps = [Step("sed y a.py")]
    assert together([one, other, more]) == [[other, one], [more]]
    one.files["a.py"] = "y\n"  # the same command in another file
    assert together([one, other, more]) == [[other], [one], [more]]


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_where_they_are_run(page: str) -> None:
    """In consoles, and nowhere else in a page: not in an indented block, nor in a fence of another language."""
    text = re.sub(
        r"^```(?:console|yaml|python|toml|c|js)\b.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.M | re.S
    )
    assert re.findall(r"^(?:    |\$ ).*(?:mhc-properties|pytest) .*$", text, re.MULTILINE) == []


def typed() -> Iterator[tuple[str, str]]:
    """(page, command) of what any page of the project says to type, whether or not a test runs it."""
    for file in [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        lines = file.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(
            r"^(?:\$ |    |      - run: | +entry: )(?:\S+=\S* )*(mhc-properties .*)$", lines, re.MULTILINE
        ):
            yield file.name, re.split(r" \||2>&1| > |  #|\[--", line)[0]


def test_every_command_of_every_page_is_understood() -> None:
    """The commands and options that the pages name are there, and take what they are given."""
    group = typer.main.get_command(cli.app)
    every = list(typed())
    assert len(every) > 50
    wrong: list[tuple[str, str, str]] = []
    for page, line in every:
        name, *words = shlex.split(line)[1:]
        try:
            cast(Any, group).get_command(None, name).make_context(name, words)
        except Exception as error:
            wrong.append((page, line, f"{type(error).__name__}: {getattr(error, 'message', error)}"))
    assert wrong == []


def test_what_is_not_run_stands_on_a_page() -> None:
    every = [step.not_run for page in PAGES for section in sections(page) for step in section.steps]
    assert NOT_RUN.keys() == {one for one in every if one}


def test_a_quotation_is_compared_line_by_line() -> None:
    said = ["a", "b", "c", "d"]
    for good in (said, ["a", "...", "d"], ["...", "b", "c", "..."], ["a", "..."], ["...", "d"], ["..."]):
        assert not differs(good, said), good
    for bad in (["a"], ["b", "..."], ["a", "...", "c"], ["...", "b", "d", "..."], ["...", "e", "..."], [*said, "e"]):
        assert differs(bad, said), bad
    assert differs(["a", "...", "a"], ["a"])
