"""Where the reference data are that the repository does not contain."""

from __future__ import annotations

import os
from pathlib import Path


def reference_dir() -> Path | None:
    """Return the folder named by ABATIS_REFERENCE, else ``shared`` beside the checkout, or None."""
    named = os.environ.get("ABATIS_REFERENCE")
    if named:
        return Path(named)
    beside = Path(__file__).resolve().parents[2] / "shared"
    return beside if beside.is_dir() else None
