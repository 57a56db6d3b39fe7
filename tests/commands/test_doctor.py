"""``defense doctor``: whatever is broken is named with its fix.

The exit code says whether a run can start.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from abatis.cli import main
from abatis.commands.doctor import checks
from abatis.commands.registry import entries
from abatis.config import discovery
from abatis.errors import UsageError
from tests.helpers import ROOT

KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def parts(monkeypatch):
    """A small world: one part that works, and a self-test that does."""
    parts = {"torch": ("print('9.9')", "install torch")}
    for name, value in {
        "PARTS": parts,
        "DEVICES": "print('cpu: 1 thread')",
        "CARD": "print('none that torch cannot use')",
        "SELF_TEST": "print('trained')",
    }.items():
        monkeypatch.setattr(checks, name, value)
    monkeypatch.setattr(discovery, "list_installed", lambda: {})
    return parts


def test_where_all_is_well_a_run_can_start(parts, capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "ok      part       torch              9.9\n" in text
    assert "ok      self-test  a small run        trained\n" in text
    assert "BROKEN" not in text
    assert text.endswith("a run can start here\n")


def test_a_card_that_torch_cannot_use_is_told_and_stops_nothing(parts, capsys, monkeypatch):
    own = "from abatis.system import unseen_gpu; unseen_gpu._has_card = lambda: True\n"
    own += "import torch; torch.cuda.is_available = lambda: False; torch.version.cuda = None\n"
    code = (ROOT / "core/abatis/commands/doctor/checks.py").read_text()
    monkeypatch.setattr(checks, "CARD", own + code.split('CARD = """')[1].split('"""')[0])
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "BROKEN  device     NVIDIA cards" in text
    assert "is built without CUDA; install a CUDA build of torch" in text
    assert text.endswith("a run can start here\n")


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("raise ImportError('operator does not exist')", "ImportError: operator does not exist"),
        (KILLED, "ended with exit code -9"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
    ],
)
def test_a_part_that_is_broken_is_named_and_stops_only_what_needs_it(
    parts, capsys, monkeypatch, code, detail
):
    if "sleep" in code:
        monkeypatch.setattr(checks, "TIMEOUT", 1)
    parts["vision"] = (code, "install vision")
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["can_start"]
    (broken,) = [check for check in found["checks"] if not check["ok"]]
    assert (broken["name"], broken["detail"], broken["fix"]) == ("vision", detail, "install vision")


@pytest.mark.parametrize("broken", ["torch", "self-test"])
def test_what_every_run_needs_decides(parts, capsys, monkeypatch, broken):
    if broken == "torch":
        parts["torch"] = ("import nothing_like_torch", "install torch")
    else:
        monkeypatch.setattr(checks, "SELF_TEST", "raise SystemExit(4)")
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "BROKEN" in text
    assert "fix: " in text
    assert text.endswith("no run can start here\n")


def test_a_plugin_whose_import_fails_is_named_with_its_reason(parts, tmp_path, monkeypatch):
    """Its entry point is found by the process that tries it, as any other's."""
    (tmp_path / "broken_plugin.py").write_text("import missing_module\n")
    about = tmp_path / "broken_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\nSummary: none\n"
    )
    (about / "entry_points.txt").write_text("[abatis.plugins]\nbroken = broken_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    program = checks.Program("plugin", "broken", checks.PLUGIN, "fix it", ("broken",))
    (check,) = checks._try_all([program], lambda check: None)
    assert not check.ok
    assert (
        "plugin 'broken' cannot be imported: ModuleNotFoundError: No module named 'missing_module'"
        in check.detail
    )


def test_plugins_and_a_registry_that_cannot_even_be_listed(parts, capsys, monkeypatch):
    def twice():
        raise UsageError("two distributions provide a plugin named 'x'", fix="uninstall one")

    monkeypatch.setattr(discovery, "list_installed", twice)
    monkeypatch.setattr(entries, "registry_file", lambda: Path("/nowhere/registry.toml"))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "two distributions" in text
    assert "the registry is broken" in text


def test_a_part_that_works_only_here_is_told_with_its_fix(parts, capsys):
    parts["vision"] = ("print('noise')\nprint('warning: 1.0, but not elsewhere')", "install vision")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "WARN    part       vision             1.0, but not elsewhere\n" in text
    assert "fix: install vision\n" in text


def test_an_import_that_fails_outside_abatis_is_seen(tmp_path, monkeypatch):
    """A torchvision for another torch: it is imported only once an operator is declared."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torch\n__version__ = '9.9'\n"
        "torch.library.register_fake('torchvision::nms')(lambda *_: None)\n"
    )
    (tmp_path / "timm").mkdir()
    for name in ("__init__", "optim"):
        (tmp_path / "timm" / f"{name}.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    code, fix = checks.PARTS["torchvision"]
    (check,) = checks._try_all([checks.Program("part", "torchvision", code, fix)], lambda _: None)
    assert check.ok
    assert "9.9, but 'import torchvision' fails beside torch" in check.detail
    assert "operator torchvision::nms does not exist; abatis works around it" in check.detail
    assert check.fix == fix


def test_each_line_is_told_as_it_comes(parts, monkeypatch):
    """The small run waits until the line about torch was told."""
    told = []
    waits = "import os, time\nwhile not os.path.exists({!r}): time.sleep(0.01)"

    def tell(check):
        told.append(check.name)
        if check.name == "torch":
            Path(flag).write_text("told")

    with tempfile.TemporaryDirectory() as folder:
        flag = f"{folder}/flag"
        monkeypatch.setattr(checks, "SELF_TEST", waits.format(flag))
        listed = checks._run_checks(tell)
    assert all(check.ok for check in listed)
    assert sorted(told) == sorted(check.name for check in listed)


@pytest.mark.slow
def test_every_part_works_here(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in found["checks"] if not check["ok"]] == []
    assert {"torch", "timm", "emr", "a small run"} <= {check["name"] for check in found["checks"]}
