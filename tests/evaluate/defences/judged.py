"""Factories for ``defense eval tests/evaluate/defences/judged.py:NAME``: every toy by its name.

``NAME_seed_1`` and ``NAME_seed_2`` are the same with other weights.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[3])
if ROOT not in sys.path:
    sys.path.append(ROOT)

from tests.evaluate.defences.table import TOYS, get_toy  # noqa: E402

globals().update({name: partial(get_toy, name) for name in TOYS})
globals().update(
    {f"{name}_seed_{seed}": partial(get_toy, name, seed) for name in TOYS for seed in (1, 2)}
)
