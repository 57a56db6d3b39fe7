"""``defense doctor``: whether a run can start here, and how to fix it if not.

Every check that may crash runs in a process of its own.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from abatis import __version__
from abatis.commands.registry.entries import read_registry
from abatis.config import discovery
from abatis.config.parser import Parser
from abatis.errors import AbatisError
from abatis.system.printable import make_printable

CANNOT_START = 1  # exit code
TIMEOUT = 120  # seconds for one check
AT_ONCE = 2  # checks that run at the same time
INSTALL = "python -m pip install -c constraints.txt"

PARTS = {
    "torch": ("import torch; print(torch.__version__)", f"{INSTALL} torch"),
    "torchvision": (
        "from abatis.system.timm_import import torchvision; print(torchvision.__version__)",
        f"{INSTALL} torch torchvision: their releases must match",
    ),
    "timm": (
        "from abatis.system.timm_import import timm; print(timm.__version__)",
        f"{INSTALL} timm",
    ),
    "scikit-learn": (
        "import sklearn.datasets; print(sklearn.__version__)",
        f"{INSTALL} scikit-learn: it contains the digits data set",
    ),
    "pyautoattack": (
        "from abatis.system.timm_import import timm; timm; import abatis.evaluate.autoattack; "
        "from importlib.metadata import version; print(version('pyautoattack'))",
        f"{INSTALL} pyautoattack; without it, only --eval quick works",
    ),
    "pillow": (
        "import PIL.Image; print(PIL.__version__)",
        f"{INSTALL} pillow: needed for image folders",
    ),
    "jinja2": (
        "import jinja2, abatis.report.html; print(jinja2.__version__)",
        f"{INSTALL} jinja2: needed for the reports",
    ),
}
"""For each package: a program that uses it and prints its version, and how to fix it."""

DEVICES = """
import torch
found = {"cpu": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"}
for number in range(torch.cuda.device_count()):
    torch.ones(2, device=f"cuda:{number}").sum().item()
    about = torch.cuda.get_device_properties(number)
    found[f"cuda:{number}"] = f"{about.name}, {about.total_memory / 2**30:.1f} GiB"
if torch.backends.mps.is_available():
    found["mps"] = "Apple GPU"
print("; ".join(f"{device}: {about}" for device, about in found.items()))
"""
CARD = """
import sys
from abatis.system.unseen_gpu import find_unseen_gpu
unseen = find_unseen_gpu()
sys.exit(str(unseen)) if unseen else print("none that torch cannot use")
"""
PLUGIN = """
import sys
from abatis.config import discovery
from abatis.config.run_config import reserved_names
print(discovery.load_plugin(sys.argv[1], reserved=reserved_names()).version)
"""
SELF_TEST = """
import sys, time, torch, abatis
began = time.perf_counter()
options = {"data": "digits", "backbone": "cnn", "threat": "Linf:0.1", "eval": "none",
           "limit": 120, "batch_size": 32, "attack": {"steps": 3}, "quiet": True,
           "out": sys.argv[1], "name": "doctor"}
abatis.run(abatis.RunConfig(**options, epochs=1))
folder = abatis.run(abatis.RunConfig(**options, epochs=2, resume=True)).folder
assert torch.isfinite(abatis.load(folder)(torch.rand(2, 1, 8, 8))).all()
print(f"trained, saved, resumed and loaded in {time.perf_counter() - began:.1f} s")
"""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        kind: part, plugin, device, self-test or registry.
        name: What was checked.
        ok: Whether it works.
        needed: Whether every run needs it.
        detail: Its version, or what went wrong.
        fix: How to fix it; empty if it works.
    """

    kind: str
    name: str
    ok: bool
    needed: bool
    detail: str
    fix: str


def check_all(words: Sequence[str], prog: str) -> int:
    """``defense doctor [--json]``; returns 0 if a run can start, 1 if not."""
    parser = Parser(
        prog=prog,
        description="Check whether a run can start here, and how to fix what is broken.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(list(words))
    checks = _run_checks()
    can_start = all(check.ok for check in checks if check.needed)
    about = {
        "abatis": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
    }
    if asked.json:
        print(
            json.dumps(
                {"can_start": can_start, **about, "checks": [asdict(check) for check in checks]},
                indent=2,
            )
        )
    else:
        _show(about, checks, can_start)
    return 0 if can_start else CANNOT_START


def _run_checks() -> list[Check]:
    """All checks, a few at the same time; the results are in a fixed order."""
    with ThreadPoolExecutor(AT_ONCE) as pool, tempfile.TemporaryDirectory() as folder:
        parts = [
            pool.submit(_try_program, "part", name, code, fix, needed=name == "torch")
            for name, (code, fix) in PARTS.items()
        ]
        found = _find_plugins()
        for name, plugin in ({} if isinstance(found, Check) else found).items():
            fix = f"fix or reinstall {plugin.distribution}; it affects only runs with this plugin"
            parts.append(pool.submit(_try_program, "plugin", name, PLUGIN, fix, words=[name]))
        parts.append(
            pool.submit(
                _try_program, "device", "all", DEVICES, "fix the driver, or use --device cpu"
            )
        )
        parts.append(
            pool.submit(_try_program, "device", "NVIDIA cards", CARD, "or use --device cpu")
        )
        parts.append(
            pool.submit(
                _try_program,
                "self-test",
                "a small run",
                SELF_TEST,
                "fix what is broken above",
                [folder],
                True,
            )
        )
        checks = [part.result() for part in parts]
    return [*checks, _check_registry(), *([found] if isinstance(found, Check) else [])]


def _try_program(
    kind: str, name: str, code: str, fix: str, words: Sequence[str] = (), needed: bool = False
) -> Check:
    """Run a program in a process of its own.

    The detail is the last line of its output, or of its error.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return Check(kind, name, False, needed, f"no answer within {TIMEOUT} s", fix)
    ok = done.returncode == 0
    lines = (done.stdout if ok else done.stderr).strip().splitlines()
    line = next(
        (text for text in lines if not ok and text.startswith("abatis.errors.")),
        lines[-1] if lines else "",
    )
    detail = line or ("" if ok else f"ended with exit code {done.returncode}")
    return Check(kind, name, ok, needed, detail, "" if ok else fix)


def _find_plugins() -> dict[str, discovery.Installed] | Check:
    try:
        return dict(discovery.list_installed())
    except AbatisError as error:
        return Check("plugin", "all", False, True, error.what, error.fix or "")


def _check_registry() -> Check:
    try:
        return Check(
            "registry", "registry.toml", True, False, f"{len(read_registry())} methods", ""
        )
    except AbatisError as error:
        return Check("registry", "registry.toml", False, False, error.what, error.fix or "")


def _show(about: dict[str, Any], checks: Sequence[Check], can_start: bool) -> None:
    print(
        f"abatis {about['abatis']}, Python {about['python']}, {about['platform']}, "
        f"{about['free_gib']} GiB free disk space here"
    )
    for check in checks:
        state = "ok" if check.ok else "BROKEN"
        print(make_printable(f"{state:<7} {check.kind:<10} {check.name:<18} {check.detail}"))
        if check.fix:
            print(make_printable(f"{'':<7} fix: {check.fix}"))
    print("a run can start here" if can_start else "no run can start here")
