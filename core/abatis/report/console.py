"""Where tables and lines are printed: nothing in a name of a file or a plugin steers a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from abatis.system.printable import make_printable


class SafeConsole(Console):
    """rich's console, without the control characters of what it shows."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, **options)

    @property
    def shows_progress(self) -> bool:
        """Can it show a bar that moves? In a notebook rich needs ipywidgets for that."""
        return self.is_terminal or (self.is_jupyter and find_spec("ipywidgets") is not None)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of something to print, as rich's own method does."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield segment._replace(text=make_printable(segment.text))
