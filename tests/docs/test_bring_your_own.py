"""The page's five commands, as they stand: from a .pth to a report and a comparison."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from abatis.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bring-your-own.md"


@pytest.mark.slow
def test_five_commands_lead_from_a_pth_to_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    network, training = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    Path("net.py").write_text(network)
    subprocess.run([sys.executable, "-c", training], check=True)
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 5
    for words in commands:
        assert main(["run", *words[1:]] if words[0] == "defense-run" else words[1:]) == 0, words
    told = " ".join(capsys.readouterr().out.split())
    assert "the names in the file begin with 'module.'" in told
    assert "not read from the file: epoch" in told
    for name in ("first", "mine", "hardened"):
        assert (tmp_path / "reports" / name / "report.html").is_file()
    mine, hardened = (
        json.loads(Path("reports", name, "eval.json").read_text()) for name in ("mine", "hardened")
    )
    assert mine["clean_acc"] > 0.8
    assert hardened["robust_acc"] > mine["robust_acc"]
