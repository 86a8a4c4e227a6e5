"""The site: what its pages say, that every link arrives, and that it works in a browser with its own files alone."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from browsing import missing, serious
from playwright.sync_api import Browser, Page, TimeoutError

from properties.commands.record_pages import rows
from properties.commands.site.building import Built, SiteError, build, katex_cache, sizes
from properties.commands.site.facts import Facts, dialects, gather, meanings, slug
from properties.commands.site.formulas import LAWS, METHODS
from properties.commands.site.katex import taken
from properties.commands.site.links import broken
from properties.commands.site.pages import Page as Generated
from properties.commands.site.pages import Pages, cell, finding
from properties.commands.site.prose import Prose
from properties.commands.site.staging import Stage, configuration, navigation, schemes
from properties.core.law import all_laws
from properties.report import standing
from properties.report.page.figures import Heat, Heats, Section, Words

ROOT = Path(__file__).parents[1]
LAW = "manifold.every-n-takes-its-iterations"
"""The law whose failure has the picture of a matrix of ones."""
KEPT = (LAW, "manifold.last-axis-sums", "block.permutation-limit-carries-streams")
SLIPS = ("h-res-transposed", "one-iteration-fewer", "launched-on-the-default-stream")
SHOWN = ("x-transformers", "transformers-deepseek-v4", "hyper-connections-channel-first")
EXPLOSIONS = [("A chain", [Section("Layer by layer", [Words("It grows."), Heats([Heat("A", [[1.0, 2.0]])])])])]


@pytest.fixture(scope="module")
def facts() -> Facts:
    """Everything, read from this checkout."""
    return gather(ROOT)


@pytest.fixture(scope="module")
def few(facts: Facts) -> Facts:
    """A few laws, deviations and implementations, as they are."""
    return replace(
        facts,
        laws={law: facts.laws[law] for law in KEPT},
        deviations={name: facts.deviations[name] for name in SLIPS},
        kills=[row for row in facts.kills if row.name in SLIPS],
        standings=[entry for entry in facts.standings if entry["name"] in SHOWN],
        elsewhere=[facts.standings[0] | {"name": "Mine & <others>", "where": "https://example.org/mine"}],
    )


@pytest.fixture(scope="module")
def texts(few: Facts) -> dict[str, str]:
    """The generated pages of the few, by path."""
    return {page.path: page.text for page in Pages(few, EXPLOSIONS).all()}


# -- what is generated ------------------------------------------------------------------------------------------------


def test_every_law_dialect_deviation_and_implementation_has_a_page(texts: dict[str, str], few: Facts) -> None:
    assert {f"laws/{law}.md" for law in KEPT} <= set(texts)
    assert {f"deviations/{name}.md" for name in SLIPS} <= set(texts)
    assert {f"implementations/{name}.md" for name in SHOWN} <= set(texts)
    assert "dialects/QWEN4_EXP.md" in texts
    assert "implementations/elsewhere-mine-others.md" in texts


def test_a_failing_cell_leads_to_what_failed_there(texts: dict[str, str]) -> None:
    links = re.findall(r'<a class="cell failed" href="(implementations/[^"#]+)\.html#([^"]+)"', texts["table.md"])
    assert ("implementations/x-transformers", "float32-manifold") in links
    for page, anchor in links:
        assert f'id="{anchor}"' in texts[f"{page}.md"], (page, anchor)


def test_the_page_of_a_law_says_who_breaks_it_and_what_it_sees(texts: dict[str, str], few: Facts) -> None:
    text = texts[f"laws/{LAW}.md"]
    assert "../implementations/x-transformers.html#float32-manifold" in text
    assert "../findings.html#x-transformers-23110-the-residual-mixing-is-a-matrix-of-ones" in text
    assert '<table class="map"><caption>got</caption>' in text
    seen = {(law, row.name) for row in few.kills for law in row.killed if law in KEPT}
    assert seen
    for law, name in seen:
        assert f'href="../laws/{law}.html"' in texts[f"deviations/{name}.md"]
        assert f'href="../deviations/{name}.html"' in texts[f"laws/{law}.md"]
    assert r"\[ \sum_{k \in \text{line}} H_k" in texts["laws/manifold.last-axis-sums.md"]


def test_what_an_entry_of_a_stranger_says_is_text(texts: dict[str, str]) -> None:
    for text in texts.values():
        assert "<others>" not in text
    assert "Mine &amp; &lt;others&gt;" in texts["table.md"]
    assert "(run elsewhere)" in texts["table.md"]


def test_pages_that_count_are_followed_by_every_row(texts: dict[str, str], few: Facts) -> None:
    for name, count in {
        "implementations.md": len(few.public),
        "corpus.md": len(few.bugs),
        "identify-table.md": sum(len(part["rows"]) for part in few.identified.values()),
        "adversary.md": len(few.survivors),
        "sharpness.md": len(few.sharp),
    }.items():
        assert count > 10
        assert texts[name].count('<tr><th scope="row">') == count, name


def test_a_deviation_that_no_cpu_shows_says_so(texts: dict[str, str]) -> None:
    assert "it needs what a CPU lacks" in texts["deviations/launched-on-the-default-stream.md"]


def test_the_first_page_shows_the_matrix_of_ones(texts: dict[str, str], few: Facts) -> None:
    assert "mixes by a matrix of ones" in texts["index.md"]
    assert f"<strong>{len(few.laws)}</strong> laws" in texts["index.md"]


@pytest.mark.parametrize(
    ("counts", "seen"),
    [
        ((3, 0, 0, 2), ("passed", "3/3", "3 of 3 laws held, 2 do not apply")),
        ((3, 1, 0, 0), ("failed", "3/4", "3 of 4 laws held, 1 failed")),
        ((3, 0, 1, 0), ("error", "3/3 !", "3 of 3 laws held, 1 could not be judged")),
        ((0, 0, 0, 2), ("not-applicable", "–", "none of 2 laws applies")),
    ],
)
def test_a_cell_is_held_of_exercised(counts: tuple[int, ...], seen: tuple[str, str, str]) -> None:
    assert cell(dict(zip(standing.COUNTED, counts, strict=True))) == seen


def test_every_formula_is_of_a_law_or_a_method_that_there_is() -> None:
    assert set(LAWS) <= set(all_laws())
    assert {name for law in all_laws().values() for name in law.needs} <= set(METHODS)


@pytest.mark.slow
def test_everything_that_there_is_has_a_page_and_links_pages_that_there_are(facts: Facts) -> None:
    pages = {page.path: page.text for page in Pages(facts, EXPLOSIONS).all()}
    assert len(pages) > len(facts.laws) + len(facts.deviations)
    there = {path.removesuffix(".md") + ".html" for path in pages}
    for path, text in pages.items():
        for link in re.findall(r'href="((?:\.\./)?(?:laws|deviations|dialects|implementations)/[^"#]+)', text):
            assert link.removeprefix("../") in there, (path, link)


# -- words ------------------------------------------------------------------------------------------------------------


def test_sentences_become_links_code_and_nothing_else() -> None:
    prose = Prose({"manifold.last-axis-sums": "laws/a.html", "PAPER": "dialects/PAPER.html"}, 1)
    said = prose.inline(
        "As `PAPER` says (arXiv 2512.24880): <b> & manifold.last-axis-sums (docs/mathematics.md, Norms)."
    )
    assert '<a href="../dialects/PAPER.html"><code>PAPER</code></a>' in said
    assert '<a href="https://arxiv.org/abs/2512.24880">arXiv 2512.24880</a>' in said
    assert '<a href="../laws/a.html"><code>manifold.last-axis-sums</code></a>' in said
    assert '<a href="../mathematics.html#norms">Norms</a>' in said
    assert "&lt;b&gt; &amp; " in said
    assert prose.inline("the *first* of 2 * 3 * 4") == "the <em>first</em> of 2 * 3 * 4"
    assert prose.inline("`x_y` and e.g. no.law") == "<code>x_y</code> and e.g. no.law"
    assert str(prose.paragraphs("One\nline.\n\nTwo.")) == "<p>One line.</p>\n<p>Two.</p>"


def test_every_field_of_every_dialect_is_explained() -> None:
    assert [(one["name"], field["name"]) for one in dialects() for field in one["fields"] if not field["means"]] == []
    paper = next(one for one in dialects() if one["name"] == "PAPER")
    assert [field["name"] for field in paper["fields"] if field["differs"]] == ["rms_eps"]
    words = meanings(
        "What.\n\n    Attributes:\n        a, b: one\n            two.\n        c: three.\n\n    More: no.\n"
    )
    assert words == {"a": "one two.", "b": "one two.", "c": "three."}


def test_names_become_addresses() -> None:
    assert slug("Mine: Über (v2)") == "mine-ber-v2"
    assert slug("///") == "unnamed"
    assert finding("docs/findings.md#a-b", "../") == "../findings.html#a-b"


# -- what is staged ---------------------------------------------------------------------------------------------------


def test_links_that_leave_docs_lead_to_pages_of_the_files(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for name, text in {
        "docs/a.md": "[b](b.md#x) [code](../mine.py) [folder](../folder/) [r](recipes/README.md) [web](https://a.b/c)\n\n"
        "```\n[not a link](../mine.py)\n```\n\n[same]: ../mine.py\n",
        "docs/b.md": "# x\n",
        "docs/recipes/README.md": "[up](../a.md) [workflow](../../.github/w.yml)\n",
        "mine.py": "x = 1\n",
        "folder/inside.py": "y = 2\n",
        ".github/w.yml": "on: push\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    Stage(root, out).docs()
    text = (out / "a.md").read_text()
    assert "[b](b.md#x) [code](files/mine.py.md) [folder](files/folder/index.md) [r](recipes/index.md)" in text
    assert "[web](https://a.b/c)" in text
    assert "[not a link](../mine.py)" in text
    assert "[same]: files/mine.py.md" in text
    assert (out / "recipes/index.md").read_text() == "[up](../a.md) [workflow](../files/github/w.yml.md)\n"
    assert "~~~~python\nx = 1\n" in (out / "files/mine.py.md").read_text()
    assert "[`inside.py`](inside.py.md)" in (out / "files/folder/index.md").read_text()


def test_rows_go_below_a_page_of_docs(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "docs").mkdir(parents=True)
    (root / "docs" / "a.md").write_text("# A\n")
    stage = Stage(root, out)
    stage.docs()
    stage.pages([Generated("a.md", "## Rows\n", below=True), Generated("b.md", "# B\n")])
    assert (out / "a.md").read_text() == "---\nhide: [toc]\n---\n# A\n\n## Rows\n"
    assert (out / "b.md").read_text() == "# B\n"


def test_the_navigation_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    nav: list[Any] = ["a.md", {"B": "b.md"}, {"C": [{"A": "a.md"}, "b.md"]}, {"D": ["b.md"]}, {"E": "https://x.y"}]
    assert navigation(nav, tmp_path) == ["a.md", {"C": [{"A": "a.md"}]}, {"E": "https://x.y"}]


def test_the_configuration_keeps_what_only_python_can_make(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    for name in ("index.md", "new.md"):
        (tmp_path / "pages" / name).touch()
    others = ["new.md", "index.md", "gone.md"]
    text = configuration((ROOT / "mkdocs.yml").read_text(), tmp_path / "pages", tmp_path / "site", others)
    assert "nav:\n- Home: index.md\n- More:\n  - new.md\n" in text
    assert "slugify: !!python/object/apply:pymdownx.slugs.slugify" in text
    assert "docs_dir: pages\n" in text
    assert "site_dir: site\n" in text


def test_the_colours_follow_the_scheme_that_is_chosen_on_the_page() -> None:
    parts = (ROOT / "properties" / "report" / "page" / "parts.css").read_text()
    found = schemes(parts)
    assert "prefers-color-scheme" not in found
    light, dark = (re.findall(r"--failed: (#\w+)", found)[k] for k in (0, 1))
    assert light != dark
    with pytest.raises(ValueError, match="no colours"):
        schemes("a { }")


def test_only_what_browsers_read_is_taken_of_katex(tmp_path: Path) -> None:
    package = tmp_path / "katex"
    (package / "dist" / "fonts").mkdir(parents=True)
    for name in ("A.woff2", "A.woff", "A.ttf"):
        (package / "dist" / "fonts" / name).touch()
    (package / "dist" / "katex.min.js").touch()
    (package / "LICENSE").touch()
    style = (
        'src:url(fonts/A.woff2) format("woff2"),url(fonts/A.woff) format("woff"),url(fonts/A.ttf) format("truetype")}'
    )
    (package / "dist" / "katex.min.css").write_text(style)
    taken(package, tmp_path / "out")
    assert (tmp_path / "out" / "katex.min.css").read_text() == 'src:url(fonts/A.woff2) format("woff2")}'
    assert [path.name for path in (tmp_path / "out" / "fonts").iterdir()] == ["A.woff2"]


def test_links_that_do_not_arrive_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="b.html">b</a><a href="#y">y</a><a href="#x">x</a><a href="https://a.b">web</a>'
        '<img src="//c.d/e.png"><script src="gone.js"></script><i id="x"></i>'
    )
    (tmp_path / "s.css").write_text("@import url(https://a.b/c.css); a { background: url(data:,) }")
    assert list(broken(tmp_path)) == [
        "a.html: the anchor x is there twice",
        "a.html: loads //c.d/e.png from elsewhere",
        "a.html: links b.html, which is not there",
        "a.html: links #y, and there is no such place on that page",
        "a.html: links gone.js, which is not there",
        "s.css: loads https://a.b/c.css from elsewhere",
    ]


def test_sizes_are_told_by_kind(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("x" * 2048)
    assert sizes(tmp_path)[-1] == "1 files, 0.0 MiB"
    assert "2 KiB" in sizes(tmp_path)[0]


# -- a small one, built -----------------------------------------------------------------------------------------------


def katex_is_there() -> None:
    if not (katex_cache(ROOT) / "katex.min.css").is_file():
        folder = katex_cache(ROOT)
        missing(f"{folder} has no KaTeX: python -m properties.commands.site.katex {folder} (make test) fetches it")


@pytest.fixture(scope="module")
def site(few: Facts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    """The site of a few laws, with all of docs/."""
    if importlib.util.find_spec("zensical") is None:
        missing("zensical is not installed: pip install 'mhc-properties[docs]'")
    katex_is_there()
    out = tmp_path_factory.mktemp("built") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out.parent)
        return out, build(ROOT, Path("site"), few, EXPLOSIONS)  # a relative folder, as `make site` has it


@pytest.fixture(scope="module")
def address(site: tuple[Path, Built]) -> Iterator[str]:
    """Where the small site is served, on this machine alone."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site[0])))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def seen(browser: Browser, address: str) -> Iterator[Page]:
    """A page of the site; nothing may be fetched from elsewhere, and no script may fail."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, base_url=address)
    page, said = context.new_page(), list[str]()
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda asked: said.append(asked.url) if not asked.url.startswith((address, "data:", "blob:")) else None,
    )
    yield page
    context.close()
    assert said == []


@pytest.mark.slow
def test_every_link_of_the_small_site_arrives(site: tuple[Path, Built]) -> None:
    assert site[1].broken == []
    assert (site[0] / "conformance.json").is_file()
    assert (site[0] / "badges" / "x-transformers.svg").is_file()
    assert "KiB" in "\n".join(site[1].said)


@pytest.mark.slow
def test_a_failing_cell_opens_the_smallest_input(seen: Page) -> None:
    seen.goto("table.html")
    seen.click("a.cell.failed[href*='x-transformers.html#float32-manifold']")
    seen.wait_for_url("**/x-transformers.html#float32-manifold")
    opened = seen.locator("[id='float32-manifold'] details")
    assert opened.get_attribute("open") is not None
    assert opened.locator("table.map").first.is_visible()
    assert "Save the counterexample" in opened.inner_text()


@pytest.mark.slow
def test_rows_are_filtered_by_words_that_have_an_address(seen: Page) -> None:
    seen.goto("table.html")
    rows = seen.locator("table.living tbody tr:visible")
    before = rows.count()
    seen.fill(".filter input", "x-transformers fails")
    assert 0 < rows.count() < before
    assert seen.url.endswith("#?q=x-transformers%20fails")
    seen.goto("about:blank")
    seen.goto("table.html#?q=nothing%20of%20the%20kind")
    assert rows.count() == 0


@pytest.mark.slow
def test_what_the_keyboard_reaches_is_seen(seen: Page) -> None:
    seen.goto("table.html")
    outline = (
        "getComputedStyle(document.activeElement.matches('.md-option') ? document.activeElement.nextElementSibling"
    )
    outline += " : document.activeElement).outlineStyle"
    reached: list[str] = []
    for _ in range(25):
        seen.keyboard.press("Tab")
        reached.append(seen.evaluate("document.activeElement.type || document.activeElement.tagName"))
        assert seen.evaluate(outline) != "none", reached
    assert {"radio", "search", "A", "DIV"} <= set(reached)


@pytest.mark.slow
def test_formulas_are_set_without_a_network(seen: Page) -> None:
    seen.goto("laws/manifold.last-axis-sums.html")
    assert seen.locator(".arithmatex .katex").count() >= 2
    assert seen.locator(".katex-error").count() == 0


def open_search(page: Page) -> None:
    """Until its field has the focus: the page's script may not hear the first key, and takes an n for the next page."""
    for _ in range(10):
        page.keyboard.press("Control+k")
        with contextlib.suppress(TimeoutError):
            page.wait_for_selector("input:focus", timeout=5000)
            return
    pytest.fail("the search does not open")


@pytest.mark.slow
def test_docs_have_a_search_and_a_reference_from_docstrings(seen: Page) -> None:
    seen.goto("api/properties.html")
    assert "Implementation" in seen.inner_text("article")
    open_search(seen)
    seen.keyboard.type("matrix of ones")
    seen.wait_for_selector("a[href*='findings.html']:visible")


@pytest.mark.slow
def test_the_search_works_from_disk(browser: Browser, site: tuple[Path, Built]) -> None:
    page, said = browser.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto((site[0] / "index.html").as_uri())
    open_search(page)
    page.keyboard.type("matrix of ones")
    page.wait_for_selector("a[href*='findings.html']:visible")
    page.close()
    assert said == []


@pytest.mark.slow
def test_the_proofs_are_set_as_mathematics(seen: Page) -> None:
    seen.goto("mathematics.html")
    assert seen.locator(".katex-display").count() >= 15
    assert seen.locator(".katex-error").count() == 0
    assert seen.locator(".arithmatex").count() == seen.locator(".arithmatex .katex").count()
    assert "$" not in seen.inner_text("article")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (1200, "light")])
def test_axe_finds_nothing_serious_on_pages_of_the_site(
    browser: Browser, address: str, scheme: Any, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, base_url=address)
    page = context.new_page()
    for name in (
        "index",
        "table",
        "implementations/x-transformers",
        f"laws/{LAW}",
        "dialects/PAPER",
        "exploding",
        "mathematics",
        "corpus",
    ):
        page.goto(f"{name}.html")
        assert serious(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    context.close()


def test_what_cannot_be_read_ends_in_a_sentence(tmp_path: Path) -> None:
    katex_is_there()
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "katex").symlink_to(katex_cache(ROOT))
    (tmp_path / "docs").mkdir()
    with pytest.raises(SiteError, match=r"implementations\.json|kill\.json"):
        build(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("[]", "is not what it should be"),
        ('{"schema": 9, "rows": []}', "has the schema 9"),
        ('{"schema": 1, "rows": [1]}', "holds 1 among its rows"),
    ],
)
def test_a_file_of_rows_that_is_none_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "sharpness.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"sharpness\.json .*{words}"):
        rows(path, "rows")


def test_a_row_that_lacks_something_ends_in_a_sentence(few: Facts, tmp_path: Path) -> None:
    katex_is_there()
    sharp = [{name: value for name, value in few.sharp[0].items() if name != "ratio"}]
    with pytest.raises(SiteError, match=r"a page could not be drawn, at sharpness\.md\.j2, line \d+: .*'ratio'"):
        build(ROOT, tmp_path / "out", replace(few, sharp=sharp), [])


def test_the_workflow_publishes_every_week_what_make_site_builds() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "site.yml").read_text())
    assert workflow[True]["schedule"]  # YAML reads the key "on" as true
    steps = [step.get("run", step.get("uses", "")) for job in workflow["jobs"].values() for step in job["steps"]]
    assert "make site" in steps
    assert any(step.startswith("actions/deploy-pages") for step in steps)
    assert any("git push" in step for step in steps)  # or the next push would publish the table as it was
