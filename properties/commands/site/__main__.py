"""`python -m properties.commands.site`: the whole site, in a folder that opens from disk or goes to any web server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from properties.commands.site.building import SiteError, build

ROOT = Path(__file__).parents[3]


def main() -> None:
    """Build it, look whether its links arrive, and say how large it is.

    Exit codes: 0 it is built and every link arrives; 1 a link does not; 2 it could not be built.
    """
    parser = argparse.ArgumentParser(prog="python -m properties.commands.site", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout; this one by default")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "site", help="where it goes; what is there is replaced"
    )
    given = parser.parse_args()
    try:
        built = build(given.root, given.out)
    except SiteError as error:
        print(f"the site could not be built: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(built.said))
    for text in built.broken:
        print(text, file=sys.stderr)
    sys.exit(1 if built.broken else 0)


if __name__ == "__main__":
    main()
