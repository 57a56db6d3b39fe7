"""Makes the distributions of this folder look installed while their own tests run, as an editable install would."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from abatis import plugins

HERE = Path(__file__).parent
SOURCES = sorted(HERE.glob("*/src"))
sys.path[:0] = map(str, SOURCES)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder with the metadata that pip would write."""
    folder = tmp_path_factory.mktemp("site")
    for source in SOURCES:
        about = tomllib.loads((source.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        info = folder / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
        info.mkdir()
        fields = {
            "Metadata-Version": "2.1",
            "Name": about["name"],
            "Version": about["version"],
            "Summary": about["description"],
        }
        (info / "METADATA").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()), encoding="utf-8")
        entries = "".join(f"{name} = {module}\n" for name, module in about["entry-points"]["abatis.plugins"].items())
        (info / "entry_points.txt").write_text(f"[abatis.plugins]\n{entries}", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _installed(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))  # for processes that a test starts
    _forget()
    yield
    _forget()


def _forget():
    plugins.installed.cache_clear()
    plugins._load_installed.cache_clear()
