"""Makes the distributions of this folder look installed while their own tests run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.helpers import forget_installed, write_metadata

HERE = Path(__file__).parent
SOURCES = sorted(HERE.glob("*/src"))
sys.path[:0] = map(str, SOURCES)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder with the metadata that pip would write."""
    folder = tmp_path_factory.mktemp("site")
    for source in SOURCES:
        write_metadata(source.parent, folder)
    return folder


@pytest.fixture(autouse=True)
def _installed(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))  # for processes that a test starts
    forget_installed()
    yield
    forget_installed()
