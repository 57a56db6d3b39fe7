"""The report in a real browser: at home on a phone and on a desk, in both themes, silent and still.

Chromium is driven over its debugging pipe, so that nothing but the browser itself is needed. ABATIS_SHOTS names a folder
that is given the screenshots.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from abatis.report.html import Section, page
from abatis.report.run_report import write_report
from tests.report import run_folder

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium here")]

OVERFLOW = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('svg.plot text')].map(
    text => parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getBoundingClientRect().width / 400))"""
OUTSIDE = """[...document.querySelectorAll('svg.plot text')].filter(text => {
    const own = text.getBoundingClientRect(), all = text.ownerSVGElement.getBoundingClientRect();
    return own.left < all.left - 1 || own.right > all.right + 1 || own.bottom > all.bottom + 1 || own.top < all.top - 1;
}).map(text => text.textContent)"""


class Chromium:
    """One headless page; ``seen`` holds what it asked for and what it complained about."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
        pipe = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", pipe, "-", str(BROWSER), *flags, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._read, self._number, self._session = b"", 0, ""
        self.seen: list[dict[str, Any]] = []
        target = next(found for found in self.call("Target.getTargets")["targetInfos"] if found["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Do one thing and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            self.seen.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            chunk = os.read(self._in, 1 << 20)
            assert chunk, "the browser is gone"
            self._read += chunk
        raw, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message

    def open(self, address: str, width: int, theme: str) -> None:
        """Load a page and wait until it stands."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.seen.clear()
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.seen):
            self.seen.append(self._message())

    def value(self, expression: str) -> Any:
        """What a script finds that the page itself could not run."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def shot(self, path: Path) -> None:
        """The whole page as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def told(self, *methods: str) -> list[Any]:
        return [event["params"] for event in self.seen if event.get("method") in methods]

    def close(self) -> None:
        self.call("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def made(tmp_path: Path, kind: str) -> Path:
    """A run folder: one that passes, one that fails, and one whose words are far too long."""
    if kind != "long":
        return run_folder(tmp_path / "boosted-smooth-resnet18-cifar10", spoke="D10" if kind == "fail" else "")
    folder = run_folder(tmp_path / ("n" * 120))
    for path in folder.glob("*.json"):
        path.write_text(json.dumps(stretched(json.loads(path.read_text()))))
    return folder


def stretched(value: Any) -> Any:
    """The same record, with words of 150 letters."""
    if isinstance(value, dict):
        return {key: stretched(part) if key != "status" else part for key, part in value.items()}
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
    assert browser.told("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []
    assert browser.value("innerWidth") == width
    assert browser.value("document.querySelectorAll('details').forEach(one => one.open = true)") is None
    assert browser.value(OVERFLOW) == 0
    assert browser.value(OUTSIDE) == []
    assert browser.value(SMALLEST_TEXT) >= 9.5
    if os.environ.get("ABATIS_SHOTS"):
        browser.shot(Path(os.environ["ABATIS_SHOTS"]) / f"{kind}-{width}-{theme}.png")


def test_the_policy_stops_what_gets_in(browser, tmp_path):
    script = Markup("<script>document.title = 'broken into'</script><img src='http://127.0.0.1:9/x.png' style='width: 9px'>")
    broken = tmp_path / "broken.html"
    broken.write_text(page("whole", None, [Section("s", [script])]))
    browser.open(broken.as_uri(), 1280, "light")
    assert browser.value("document.title") == "whole"
    assert browser.value("getComputedStyle(document.body).margin") == "0px"  # its own style is let through
    complaints = " ".join(entry["entry"]["text"] for entry in browser.told("Log.entryAdded"))
    assert all(kind in complaints for kind in ("script", "image", "style"))
