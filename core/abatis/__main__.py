"""``python -m abatis`` is ``defense``."""

from __future__ import annotations

import sys

from abatis.cli import main

sys.exit(main())
