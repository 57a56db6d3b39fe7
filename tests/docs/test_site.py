"""The documentation site: it builds without a warning, asks nobody for anything, and fits a phone
and a desk.

ABATIS_SHOTS names a folder that is given the screenshots.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from abatis.commands.registry.entries import read_registry
from tests.browser import BROWSER, OVERFLOW, Chromium

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("mkdocs") is None, reason="no mkdocs here; make docs installs it"
    ),
]
CUT_OFF = """[
    ...document.querySelectorAll('.md-content img, .md-content table, .md-content pre')
].filter(part => {
    const box = part.getBoundingClientRect();
    const boxes = '.md-typeset__table, .md-typeset__scrollwrap, .card, pre';
    const inside = part.closest(boxes);
    return box.right > innerWidth + 1 && !inside;
}).map(part => part.outerHTML.slice(0, 80))"""

TOO_LONG = """[...document.querySelectorAll('.language-sh code')].filter(
    part => part.scrollWidth > part.clientWidth + 1
).map(part => part.textContent.slice(0, 80))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(folder),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("no chromium here")
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    # the theme keeps the colours of the first page that was read
    forget = "try { localStorage.clear() } catch {}"
    chromium.call("Page.addScriptToEvaluateOnNewDocument", source=forget)
    yield chromium
    chromium.close()


def test_every_page_of_the_repository_is_on_the_site(site):
    for path in ROOT.glob("docs/**/*.md"):
        page = (
            path.relative_to(ROOT / "docs")
            .with_suffix(".html")
            .as_posix()
            .replace("README", "index")
        )
        assert (site / page).is_file(), page


def test_method_pages_and_the_registry_show_the_entries(site):
    registry = (site / "registry.html").read_text(encoding="utf-8")
    for name, method in read_registry().items():
        assert method.title in registry
        if not method.community:
            assert method.claim.replace("'", "&#x27;") in (
                site / "methods" / f"{name}.html"
            ).read_text(encoding="utf-8")


def test_hooks_and_names_are_made_from_the_docstrings(site):
    assert "Only one plugin of a run may answer" in (site / "reference" / "hooks.html").read_text(
        encoding="utf-8"
    )
    assert 'id="abatis.StepContext"' in (site / "reference" / "api.html").read_text(
        encoding="utf-8"
    )


def test_titles_tell_pages_apart(site):
    pages = sorted(set(site.rglob("*.html")) - {site / "404.html"})
    titles = [
        re.search(r"<title>(.*?)</title>", page.read_text(encoding="utf-8"))[1] for page in pages
    ]
    assert sorted({*titles}) == sorted(titles)
    records = [title for page, title in zip(pages, titles, strict=True) if "results" in page.parts]
    assert len(records) > 10
    assert not [title for title in records if ".npz" in title or ".json" in title]


def test_every_formula_is_typeset(site):
    count = 0
    for path in ROOT.glob("docs/**/*.md"):
        page = path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        text = (site / page.replace("README", "index")).read_text(encoding="utf-8")
        formulas = path.read_text(encoding="utf-8").count("```math\n")
        assert text.count("<math") == formulas, page
        assert "\\begin{" not in text
        count += formulas
    assert count >= 20


def test_a_file_that_a_page_names_is_shown(site):
    page = (site / "architecture.html").read_text(encoding="utf-8")
    assert 'href="source/tests/test_architecture.py.html"' in page
    assert (site / "source" / "tests" / "test_architecture.py.html").is_file()


@pytest.mark.parametrize("width", [375, 1280])
def test_pages_fit_and_ask_nobody_else(site, browser, width):
    for page in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # that one is for servers
        look(site, browser, page, width, "light")


@pytest.mark.parametrize("width", [375, 1280])
def test_so_they_do_in_the_dark(site, browser, width):
    for name in ("concepts", "registry", "reference/api"):
        look(site, browser, site / f"{name}.html", width, "dark")
        assert browser.value("document.body.dataset.mdColorScheme") == "slate"


def test_commands_are_known_as_such(site):
    """Else none would be looked at for its length, nor folded."""
    assert (site / "sweeps.html").read_text(encoding="utf-8").count('class="language-sh') == 2


def look(site, browser, page, width, theme):
    browser.open(page.as_uri(), width, theme)
    requests = [sent["request"]["url"] for sent in browser.told("Network.requestWillBeSent")]
    assert all(url.startswith(("file:", "data:")) for url in requests), (page, requests)
    assert browser.told("Log.entryAdded", "Runtime.exceptionThrown") == [], page
    assert browser.value(OVERFLOW) == 0, page
    assert browser.value(CUT_OFF) == [], page
    assert browser.value(TOO_LONG) == [], page
    if os.environ.get("ABATIS_SHOTS"):
        name = page.relative_to(site).with_suffix("").as_posix().replace("/", "-")
        browser.shot(Path(os.environ["ABATIS_SHOTS"]) / f"{name}-{width}-{theme}.png")
