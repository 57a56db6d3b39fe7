"""The name of a run folder, where the user gives none. Loads without torch."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from abatis.config.run_config import RunConfig


def make_up_name(config: RunConfig) -> str:
    """Return ``PLUGINS-BACKBONE-DATA``, from the second run on with a number behind it.

    A run that resumes gets the newest of these names.
    """
    parts = [*(config.options or ("at",)), _word(config.backbone), _word(config.data)]
    base = "-".join(parts)[:70]
    numbered = re.compile(re.escape(base) + r"(?:-([2-9]|[1-9][0-9]{1,5}))?")
    there = [
        path.name for path in config.out.glob(f"{base}*") if path.is_dir() and any(path.iterdir())
    ]
    used = {int(match[1] or 1) for match in map(numbered.fullmatch, there) if match}
    number = (
        max(used)
        if config.resumes and used
        else next(free for free in count(1) if free not in used)
    )
    return base if number == 1 else f"{base}-{number}"


def _word(spec: str) -> str:
    """The part of a backbone or data spec that tells it from others, fit for a folder's name."""
    kind, _, rest = spec.partition(":")
    is_prefix = bool(rest) and not kind.endswith(".py")  # npz:PATH, but not FILE.py:FACTORY
    telling = Path(rest if is_prefix else kind).stem
    return re.sub(r"[^A-Za-z0-9_]+", "-", telling).strip("-") or "run"
