"""What is printed in tables and lines."""

from __future__ import annotations

import io

import pytest
from rich.markup import escape
from rich.table import Table

from abatis.report.console import SafeConsole
from abatis.report.html import page
from abatis.system.printable import CONTROLS

STEERING = "name\x1b[2J\x07\r\u202etxt"


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("soft_wrap", [False, True])
def test_what_is_printed_does_not_steer_the_terminal(terminal, soft_wrap):
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=terminal, width=60)
    table = Table(title=STEERING)
    table.add_column(STEERING)
    table.add_row(escape(STEERING), style="bold")
    for shown in (table, STEERING, f"[bold]{escape(STEERING)}[/]"):
        console.print(shown, soft_wrap=soft_wrap)
    text = out.getvalue()
    assert "[2J" in text
    for steering in ("\x1b[2J", "\x07", "\r", "\u202e"):
        assert steering not in text
    assert ("\x1b[1m" in text) == terminal  # rich's own codes stay


def test_no_control_character_reaches_a_page():
    text = page(STEERING, None, [])
    assert "name?[2J??" in text
    assert not CONTROLS.search(text)
    assert "\u00a0" in page("100\u00a0%", None, [])  # spaces stay as they are


def test_other_text_is_as_it_was():
    out = io.StringIO()
    SafeConsole(file=out, width=60).print("clean accuracy 91.2 %, café → ok")
    assert out.getvalue() == "clean accuracy 91.2 %, café → ok\n"
