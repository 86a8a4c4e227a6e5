"""Reports as a page: the template, its style and its script, with the reports and small counterexamples inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from properties.guards.printable import printable
from properties.report.report import SCHEMA, exit_code

if TYPE_CHECKING:
    from jinja2 import Environment

_MOST_BYTES = 150_000
"""Of all counterexamples in a page, beside those of causes; a page of one implementation stays below 1 MiB."""
_MOST_REPORT = 700_000
"""Bytes of a report for each implementation; what is larger goes without some of its pictures."""
_HERE = Path(__file__).parent


class Shown(NamedTuple):
    """A report in a page.

    Attributes:
        name: what tells it from the others.
        report: the content of a report.json of this form, see `properties.report.report.read`.
        folder: where it lies, and the counterexamples beside it; None where nobody knows.
    """

    name: str
    report: dict[str, Any]
    folder: Path | None = None


def page(shown: Sequence[Shown]) -> bytes:
    """The page of one report or of several, in UTF-8.

    Raises:
        ValueError: there is no report.
    """
    if not shown:
        raise ValueError("a page needs one report at least")
    from markupsafe import Markup

    data = {
        "schema": SCHEMA,
        "reports": [{"name": printable(one.name, 200), "report": _thinned(one.report)} for one in shown],
        "files": dict(_files(shown)),
    }
    # `<` never ends the script that the data lie in; the style and the script are our own.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return rendered(
        "page.html.j2",
        title=_title(shown),
        verdict=_verdict(shown),
        denominator=" ".join(f"{one.report['totals']['sentence']}." for one in shown),
        script=Markup((_HERE / "page.js").read_text("utf-8")),
        data=Markup(text),
    )


def rendered(template: str, **values: Any) -> bytes:
    """A template of this folder with the style of all pages, in UTF-8; every value is text, unless it is Markup."""
    from markupsafe import Markup

    style = Markup("".join((_HERE / name).read_text("utf-8") for name in ("parts.css", "page.css")))
    return (
        environment().get_template(template).render(version=_version(), css=style, **values).encode("utf-8", "replace")
    )


def environment(*folders: Path) -> Environment:
    """What renders the templates of these folders, and of this one behind them; every value is text, unless it is
    Markup, and one that is missing is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader([*folders, _HERE]), autoescape=True, undefined=StrictUndefined)


def _thinned(report: dict[str, Any]) -> dict[str, Any]:
    """The report without the inputs, and then the pictures, of as many failures as it takes to stay small.

    Those that a cause shows first are kept, and of the others the largest go first; report.json has them all.
    """
    kept = {cause["counterexample"] for cause in report.get("causes", ())}
    entries = [(i, law, one) for i, run in enumerate(report["runs"]) for law, one in run["laws"].items()]
    sizes = {
        (part, i, law): len(json.dumps(one["failure"][part]))
        for part in ("inputs", "picture")
        for i, law, one in entries
        if one.get("failure") and one["counterexample"] not in kept
    }
    names = {run["implementation"] for run in report["runs"]}
    over = len(json.dumps(report, separators=(",", ":"))) - _MOST_REPORT * max(1, len(names))
    without: dict[tuple[int, str], list[str]] = {}
    for part, i, law in sorted(sizes, key=lambda key: (key[0] != "inputs", -sizes[key])):
        if over <= 0:
            break
        over -= sizes[part, i, law]
        without.setdefault((i, law), []).append(part)
    if not without:
        return report
    thin = {key: _without(report["runs"][key[0]]["laws"][key[1]]["failure"], parts) for key, parts in without.items()}
    runs = [
        {
            **run,
            "laws": {
                law: {**one, "failure": thin[i, law]} if (i, law) in thin else one for law, one in run["laws"].items()
            },
        }
        for i, run in enumerate(report["runs"])
    ]
    return {**report, "runs": runs}


def _without(failure: dict[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """A failure without its inputs or its picture, which says so."""
    return {**failure, **{part: [] if part == "inputs" else None for part in parts}, "left_out": list(parts)}


def _version() -> str:
    try:
        return version("mhc-properties")
    except PackageNotFoundError:
        return "not installed"


def _title(shown: Sequence[Shown]) -> str:
    """The implementations, or how many there are."""
    names = list(dict.fromkeys(run["implementation"] for one in shown for run in one.report["runs"]))
    if not names:
        return "A run of no law"
    if len(names) > 3:
        return f"{len(names)} implementations"
    return printable(", ".join(names), 200)


def _verdict(shown: Sequence[Shown]) -> str:
    """What a page says without its script."""
    worst = {exit_code(one.report["totals"]) for one in shown}
    if 1 in worst:
        return "Laws failed"
    return "Every law that applies held" if worst == {0} else "No verdict on everything"


def _files(shown: Sequence[Shown]) -> Iterable[tuple[str, str]]:
    """Counterexamples that can be saved from the page, by the name that the report has for them.

    Those of causes, and of the others as many as there is room for, the smallest first.
    """
    room = _MOST_BYTES
    for one in shown:
        first = [cause["counterexample"] for cause in one.report.get("causes", ())]
        rest = [entry["counterexample"] for run in one.report["runs"] for entry in run["laws"].values()]
        found = {name: path for name in (*first, *rest) if name and (path := _path(name, one.folder)) is not None}
        for name, path in sorted(found.items(), key=lambda pair: (pair[0] not in first, pair[1].stat().st_size)):
            room -= (size := path.stat().st_size)
            if room >= 0 or (name in first and size <= _MOST_BYTES // 4):
                yield name, base64.b64encode(path.read_bytes()).decode()


def _path(name: str, folder: Path | None) -> Path | None:
    """Where a counterexample of a report lies: in the folder of counterexamples beside the report, and nowhere else,
    since a report may come from anybody and name any file."""
    if folder is None:
        return None
    path = folder / "counterexamples" / Path(name.replace("\\", "/")).name
    return path if path.suffix == ".safetensors" and path.is_file() and not path.is_symlink() else None
