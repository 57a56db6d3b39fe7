"""Options that were renamed."""

from __future__ import annotations

import pytest

from abatis import RunConfig, UsageError
from abatis.config import parser
from abatis.config.command_line import parse_run


def test_the_old_name_works_with_a_note(capsys, tmp_path):
    parser.tell.cache_clear()
    assert parse_run(["--eval", "quick"]).ladder == "quick"
    assert "--eval is called --ladder" in capsys.readouterr().err
    assert parse_run(["--ladder", "quick"]) == parse_run(["--eval=quick"])
    assert RunConfig(eval="clean").ladder == "clean"
    file = tmp_path / "old.toml"
    file.write_text('eval = "clean"\n')
    assert parse_run(["--config", str(file)]).ladder == "clean"
    assert parse_run(["--config", str(file), "--ladder", "rand"]).ladder == "rand"


def test_both_names_at_once_are_refused():
    with pytest.raises(UsageError, match="two names of one option"):
        RunConfig(eval="clean", ladder="quick")
