"""What reaches a terminal."""

from __future__ import annotations

import pytest

from abatis.report.terminal import Reporter
from abatis.system.printable import make_printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 日本 é\ttab\nline", "größe 日本 é\ttab\nline"),
        ("\x1b]0;title\x07", "?]0;title?"),
        ("\x9b31m\r\x7f\x85", "?31m???"),
        ("a\u202eb\u200bc\ud800", "a?b?c?"),
        ("a\xa0b\u3000c", "a b c"),
    ],
)
def test_what_is_shown_of_a_text(text, shown):
    assert make_printable(text) == shown


def test_notes_and_plans_do_not_steer_the_terminal(capsys):
    Reporter().note("weights from a\x1b[2J\x07b [bold]x[/]")
    assert capsys.readouterr().out == "weights from a?[2Jb [bold]x[/]\n"
