"""Pictures of pages of a built site, to be looked at: two widths, light and dark.

    python -m properties.commands.site.screens build/site --out build/screens

The browser is the one of the tests, see tests/browser/fetch.py, or an installed Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

FETCHED = Path(sys.prefix) / "browser"
"""Where `make test` leaves the browser."""
PAGES = (
    "index.html",
    "table.html",
    "implementations/x-transformers.html",
    "laws/manifold.last-axis-sums.html",
    "mathematics.html",
)
WIDTHS = (390, 1280)
_SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def executable() -> Path | None:
    """The browser: the one that was fetched, or one that is installed; None where there is none."""
    fetched = FETCHED / "chromium"
    if fetched.is_file():
        return fetched
    return next(
        (Path(one) for one in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if one), None
    )


@contextmanager
def browser(found: Path) -> Generator[Any]:
    """That browser, opened."""
    from playwright.sync_api import sync_playwright

    env: dict[str, Any] = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    if found.parent == FETCHED:
        env |= {"LD_LIBRARY_PATH": str(FETCHED / "lib"), "FONTCONFIG_FILE": str(FETCHED / "fonts.conf")}
    with sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=found, env=env, args=["--no-sandbox", "--no-zygote", "--disable-gpu"]
        )
        yield opened
        opened.close()


def taken(site: Path, out: Path, pages: tuple[str, ...] = PAGES) -> Iterator[Path]:
    """Every page in every width and scheme, as a picture of what is seen first."""
    found = executable()
    if found is None:
        raise FileNotFoundError(f"no browser: python tests/browser/fetch.py {FETCHED}")
    out.mkdir(parents=True, exist_ok=True)
    with browser(found) as opened:
        for width in WIDTHS:
            for scheme in _SCHEMES:
                context = opened.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
                seen = context.new_page()
                for name in pages:
                    seen.goto((site.resolve() / name).as_uri())
                    path = out / f"{name.replace('/', '-').removesuffix('.html')}-{width}-{scheme}.png"
                    seen.screenshot(path=path)
                    yield path
                context.close()


def main() -> None:
    """Take them, and say where they are."""
    parser = argparse.ArgumentParser(prog="python -m properties.commands.site.screens", description=__doc__)
    parser.add_argument("site", type=Path, help="a built site")
    parser.add_argument("--out", type=Path, default=Path("build/screens"), help="where the pictures go")
    parser.add_argument("pages", nargs="*", default=PAGES, help="pages of it, index.html and so on")
    given = parser.parse_intermixed_args()
    for path in taken(given.site, given.out, tuple(given.pages)):
        print(path)


if __name__ == "__main__":
    main()
