"""What tests of pages share: what is missing is said, and pages are asked whether everybody can read them."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest
from playwright.sync_api import Page

from properties.commands.site.screens import FETCHED


def missing(why: str) -> NoReturn:
    """The test is not run, and says why; in continuous integration it fails."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(f"not run, {why}")


def serious(page: Page, moderate: bool = False) -> list[tuple[str, str, str, str]]:
    """What axe says against a page: rule, impact, the first place, what would mend it."""
    axe = FETCHED / "axe.min.js"
    if not axe.is_file():
        missing(f"axe is not in {FETCHED} (python tests/browser/fetch.py {FETCHED})")
    page.evaluate(axe.read_text("utf-8"))
    wanted = ("serious", "critical", *(("moderate",) if moderate else ()))
    return [
        (one["id"], one["impact"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"])
        for one in page.evaluate("axe.run().then(found => found.violations)")
        if one["impact"] in wanted
    ]
