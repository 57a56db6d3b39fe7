"""Numbers as people read them, on pages and in the terminal."""

from __future__ import annotations

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
LARGEST = 1e300  # numbers beyond it are treated as missing


def format_percent(share: float | None, space: str = " ") -> str:
    """A fraction as a percentage, ``45.40 %``; pages give a space at which no line breaks."""
    return "-" if share is None else f"{100 * share:.2f}{space}%"


def format_number(value: float | None) -> str:
    """A number to four digits."""
    return "-" if value is None else f"{value:.4g}"


def format_count(count: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 20 s`` or ``45 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def format_age(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h`` or ``5 d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
