"""The report in a real browser: at home on a phone and on a desk, in both themes, silent and still.

ABATIS_SHOTS names a folder that is given the screenshots.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from abatis.report.html import Section, page
from abatis.report.run_report import write_report
from tests.browser import BROWSER, OVERFLOW, Chromium
from tests.report import run_folder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium here")]

SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('svg.plot text')].map(
    text => parseFloat(getComputedStyle(text).fontSize)
        * text.ownerSVGElement.getBoundingClientRect().width / 400))"""
OUTSIDE = """[...document.querySelectorAll('svg.plot text')].filter(text => {
    const own = text.getBoundingClientRect(), all = text.ownerSVGElement.getBoundingClientRect();
    return own.left < all.left - 1 || own.right > all.right + 1
        || own.bottom > all.bottom + 1 || own.top < all.top - 1;
}).map(text => text.textContent)"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


CHECKED = {"status", "ladder", "verdict"}  # words that a record may not have in another form


def made(tmp_path: Path, kind: str) -> Path:
    """A run folder: one that passes, one that fails, and one whose words are far too long."""
    if kind != "long":
        return run_folder(
            tmp_path / "boosted-smooth-resnet18-cifar10", failed="D10" if kind == "fail" else ""
        )
    folder = run_folder(tmp_path / ("n" * 120))
    for path in folder.glob("*.json"):
        path.write_text(json.dumps(stretched(json.loads(path.read_text()))))
    return folder


def stretched(value: Any) -> Any:
    """The same record, with words of 150 letters."""
    if isinstance(value, dict):
        return {key: part if key in CHECKED else stretched(part) for key, part in value.items()}
    if isinstance(value, list):
        return [stretched(part) for part in value]
    return value + "verylongword" * 12 if isinstance(value, str) else value


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("kind", ["pass", "fail", "long"])
def test_the_page_fits_and_keeps_quiet(browser, tmp_path, kind, width, theme):
    report = write_report(made(tmp_path, kind))
    browser.open(report.as_uri(), width, theme)
    requests = [sent["request"]["url"] for sent in browser.told("Network.requestWillBeSent")]
    assert requests == [report.as_uri()]
    assert (
        browser.told("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []
    )
    assert browser.value("innerWidth") == width
    assert (
        browser.value("document.querySelectorAll('details').forEach(one => one.open = true)")
        is None
    )
    assert browser.value(OVERFLOW) == 0
    assert browser.value(OUTSIDE) == []
    assert browser.value(SMALLEST_TEXT) >= 9.5
    if os.environ.get("ABATIS_SHOTS"):
        browser.shot(Path(os.environ["ABATIS_SHOTS"]) / f"{kind}-{width}-{theme}.png")


def test_the_policy_stops_what_gets_in(browser, tmp_path):
    script = Markup(
        "<script>document.title = 'broken into'</script>"
        "<img src='http://127.0.0.1:9/x.png' style='width: 9px'>"
    )
    broken = tmp_path / "broken.html"
    broken.write_text(page("whole", None, [Section("s", [script])]))
    browser.open(broken.as_uri(), 1280, "light")
    assert browser.value("document.title") == "whole"
    assert (
        browser.value("getComputedStyle(document.body).margin") == "0px"
    )  # its own style is let through
    complaints = " ".join(entry["entry"]["text"] for entry in browser.told("Log.entryAdded"))
    assert all(kind in complaints for kind in ("script", "image", "style"))
