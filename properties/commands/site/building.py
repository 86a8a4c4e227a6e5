"""One build of the site: pages are staged, zensical renders them, and what came of it is looked over."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from properties.commands.site.facts import Facts, gather
from properties.commands.site.katex import KatexError, fetch
from properties.commands.site.links import broken
from properties.commands.site.pages import Pages
from properties.commands.site.staging import Stage, configuration
from properties.engine.known import PUBLISHED, KnownError
from properties.report.standing import StandingError

_HERE = Path(__file__).parent


class SiteError(Exception):
    """The site cannot be built; the message says why, and what to do."""


@dataclass
class Built:
    """What came of a build.

    Attributes:
        said: lines for the terminal: pages, sizes, seconds.
        broken: every link that does not arrive.
    """

    said: list[str] = field(default_factory=lambda: [])
    broken: list[str] = field(default_factory=lambda: [])


def build(root: Path, out: Path, facts: Facts | None = None, explosions: list[Any] | None = None) -> Built:
    """Build the site of a checkout.

    Args:
        out: the folder of the site. Beside it goes the folder of pages that it is made from, NAME-pages.
        facts: what pages are drawn from; that of the checkout by default.
        explosions: what is drawn of explosions; searched for by default.

    Raises:
        SiteError: zensical or KaTeX is missing, a data file cannot be read, or zensical fails.
    """
    started = time.monotonic()
    root, out = root.resolve(), out.resolve()  # zensical works in the folder of the site
    stage = staging_of(out)
    for folder in (stage, out):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        fetch(katex_cache(root))
        staged(
            root,
            stage,
            gather(root) if facts is None else facts,
            found_explosions() if explosions is None else explosions,
        )
    except (StandingError, KnownError, KatexError, ValueError, OSError) as error:
        raise SiteError(str(error)) from error
    except (UndefinedError, LookupError, TypeError, AttributeError) as error:  # of what a row lacks, or has too much of
        raise SiteError(f"a page could not be drawn, {_where(error)}: {type(error).__name__}: {error}") from error
    shutil.copytree(katex_cache(root), stage / "assets" / "katex")
    staging = time.monotonic() - started
    render(root, stage, out)
    whole = time.monotonic() - started
    return Built(
        [*sizes(out), f"staged in {staging:.0f} s, built in {whole:.0f} s: {out / 'index.html'}"], list(broken(out))
    )


def _where(error: BaseException) -> str:
    """The innermost place of ours at which a page could not be drawn."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if str(_HERE.parent) in one.filename]
    return f"at {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "in its template"


def staging_of(out: Path) -> Path:
    """The folder of the pages that a site is made from, beside it."""
    return out.with_name(f"{out.name}-pages")


def staged(root: Path, stage: Path, facts: Facts, explosions: list[Any]) -> None:
    """Everything that zensical reads, in a folder."""
    writer = Stage(root, stage)
    writer.docs()
    writer.pages(Pages(facts, explosions).all())
    modules = {law.module.replace(".", "/") + ".py" for law in facts.laws.values()}
    writer.sources([*sorted(modules), "CHANGELOG.md", ".github/CONTRIBUTING.md"])
    writer.known(PUBLISHED.with_suffix(""))
    writer.badges(facts)
    writer.style()
    writer.written(_HERE / "written")


def katex_cache(root: Path) -> Path:
    """Where KaTeX stays from build to build."""
    return root / "build" / "katex"


def found_explosions() -> list[Any]:
    """The explosions of `mhc-properties verify`, found anew, as (title, sections)."""
    from properties.commands.verify import EXPLOSIONS
    from properties.explosion import find_minimal
    from properties.explosion.pictures.page import explosion_sections

    found = [find_minimal(family, **options) for family, options in EXPLOSIONS]  # pyright: ignore[reportArgumentType]
    return [explosion_sections(one) for one in found]


def render(root: Path, stage: Path, out: Path) -> None:
    """Let zensical make the site of a staged folder.

    Raises:
        SiteError: it is not installed, or it ends with an error, or says that something is wrong with a page.
    """
    config = stage.with_name(f"{stage.name}.yml")
    text = (root / "mkdocs.yml").read_text("utf-8").replace("paths: [.]", f"paths: [{root.resolve()}]")
    config.write_text(configuration(text, stage, out, _pages(root)), "utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", str(config)],
        cwd=config.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = re.sub(r"\x1b\[[\d;]*m", "", ended.stdout + ended.stderr)
    if "No module named zensical" in said:
        raise SiteError("zensical is not installed: pip install 'mhc-properties[docs]'")
    if ended.returncode or not (out / "index.html").is_file():
        raise SiteError(f"zensical ended with {ended.returncode}:\n{said[-4000:]}")
    searched_from_disk(out)


def searched_from_disk(out: Path) -> None:
    """Let the search work in a site that is opened from disk, where a page may load a script and no JSON.

    zensical's own plugin for this also has every page fetch a script from elsewhere.
    """
    index = (out / "search.json").read_text("utf-8")
    (out / "search.js").write_text(f"var __index = {index}", "utf-8")


def _pages(root: Path) -> list[str]:
    """The pages of docs/ itself."""
    return sorted(path.name for path in (root / "docs").glob("*.md"))


def sizes(out: Path) -> list[str]:
    """How many files of which kind there are, how large they are together, and the five largest."""
    files = [path for path in out.rglob("*") if path.is_file()]
    size, count = Counter[str](), Counter[str]()
    for path in files:
        size[path.suffix] += path.stat().st_size
        count[path.suffix] += 1
    lines = [
        f"{count[kind]:>6} {kind or 'without ending':<14} {size[kind] / 1024:>9.0f} KiB"
        for kind, _ in size.most_common(8)
    ]
    largest = sorted(files, key=lambda path: -path.stat().st_size)[:5]
    lines += [f"{path.stat().st_size / 1024:>9.0f} KiB  {path.relative_to(out)}" for path in largest]
    return [*lines, f"{len(files)} files, {sum(size.values()) / 2**20:.1f} MiB"]
