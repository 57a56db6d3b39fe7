"""torchvision and timm are imported when they are used, and torchvision for another torch works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAILS = """
import torch
import torchvision.part
torch.library.register_fake("torchvision::nms")(lambda *_: None)
torch.library.register_fake("torchvision::qnms")(lambda *_: None)
"""
USE = """
import random, sys
sys.path.insert(0, sys.argv[1])
from abatis.system.timm_import import call_with_timm, timm, torchvision
calls = []
call_with_timm(lambda: calls.append("timm"))
assert not {"timm", "torchvision"} & set(sys.modules)
random.seed(3)
state = random.getstate()
assert timm.answer == 42 and random.getstate() == state
assert calls == ["timm"]
call_with_timm(lambda: calls.append("late"))
assert calls == ["timm", "late"]
import torchvision as plain
assert torchvision.part is plain.part and plain.part.answer == 6
"""


@pytest.mark.slow
def test_a_torchvision_for_another_torch_is_mended_for_whoever_imports_it(tmp_path: Path) -> None:
    """As torchvision built for CUDA fails beside a CPU build of torch: it has no such operators."""
    for package, text in (
        ("torchvision", FAILS),
        ("timm", "import random, torchvision\nrandom.random()\nanswer = 42\n"),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(text)
    (tmp_path / "torchvision" / "part.py").write_text("answer = 6\n")
    (tmp_path / "timm" / "optim.py").write_text("")
    plain = "import sys; sys.path.insert(0, sys.argv[1]); import torchvision"
    alone, mended = (
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        for program in (plain, USE)
    )
    assert "operator torchvision::nms does not exist" in alone.stderr
    assert mended.returncode == 0, mended.stderr
