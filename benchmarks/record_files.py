"""How a record is written: as .json, and as a page that names the versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def list_versions(record: Mapping[str, Any]) -> str:
    """The versions of a record in words."""
    return ", ".join(f"{package} {version}" for package, version in record["versions"].items())


def write_record(path: Path, record: Mapping[str, Any], page: str) -> None:
    """Write a record as .json and its page as .md, and print the page."""
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)
