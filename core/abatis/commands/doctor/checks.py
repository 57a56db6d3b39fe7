"""``defense doctor``: can a run start here, and what mends it if not? What may be broken is tried in a process of its own."""

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
from abatis.commands.registry.entries import methods
from abatis.config import discovery
from abatis.config.parser import Parser
from abatis.errors import AbatisError

CANNOT_START = 1  # exit code
PATIENCE = 120  # seconds for one part
AT_ONCE = 2  # parts tried at the same time
INSTALL = "python -m pip install -c constraints.txt"

PARTS = {
    "torch": ("import torch; print(torch.__version__)", f"{INSTALL} torch"),
    "torchvision": (
        "from abatis.system.timm_import import torchvision; print(torchvision.__version__)",
        f"{INSTALL} torch torchvision: they must be of one release",
    ),
    "timm": (
        "from abatis.system.timm_import import timm; print(timm.__version__)",
        f"{INSTALL} timm",
    ),
    "scikit-learn": (
        "import sklearn.datasets; print(sklearn.__version__)",
        f"{INSTALL} scikit-learn: the digits come with it",
    ),
    "pyautoattack": (
        "from abatis.system.timm_import import timm; timm; import abatis.evaluate.autoattack; "
        "from importlib.metadata import version; print(version('pyautoattack'))",
        f"{INSTALL} pyautoattack; until then --eval quick works",
    ),
    "pillow": (
        "import PIL.Image; print(PIL.__version__)",
        f"{INSTALL} pillow: folder data need it",
    ),
    "jinja2": (
        "import jinja2, abatis.report.html; print(jinja2.__version__)",
        f"{INSTALL} jinja2: the reports need it",
    ),
}
"""What is tried for each part, printing its version, and what mends it."""

DEVICES = """
import torch
found = {"cpu": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"}
for number in range(torch.cuda.device_count()):
    torch.ones(2, device=f"cuda:{number}").sum().item()
    about = torch.cuda.get_device_properties(number)
    found[f"cuda:{number}"] = f"{about.name}, {about.total_memory / 2**30:.1f} GiB"
if torch.backends.mps.is_available():
    found["mps"] = "Apple GPU"
print("; ".join(f"{device}: {told}" for device, told in found.items()))
"""
PLUGIN = """
import sys
from abatis.config import discovery
from abatis.config.run_config import reserved_names
print(discovery.load(sys.argv[1], reserved=reserved_names()).version)
"""
SELF_TEST = """
import sys, time, torch, abatis
began = time.perf_counter()
options = {"data": "digits", "backbone": "cnn", "threat": "Linf:0.1", "eval": "none", "limit": 120, "batch_size": 32,
           "attack": {"steps": 3}, "quiet": True, "out": sys.argv[1], "name": "doctor"}
abatis.run(abatis.RunConfig(**options, epochs=1))
folder = abatis.run(abatis.RunConfig(**options, epochs=2, resume=True)).folder
assert torch.isfinite(abatis.load(folder)(torch.rand(2, 1, 8, 8))).all()
print(f"trained, saved, resumed and read back in {time.perf_counter() - began:.1f} s")
"""


@dataclass(frozen=True)
class Check:
    """One thing that was tried. Without what is ``needed`` no run can start."""

    kind: str
    name: str
    ok: bool
    needed: bool
    detail: str
    fix: str


def check_all(words: Sequence[str], prog: str) -> int:
    """``defense doctor [--json]``; returns 0 where a run can start, else 1."""
    parser = Parser(
        prog=prog,
        description="Say whether a run can start here, and what mends what is broken.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    asked = parser.parse_args(list(words))
    checks = _checks()
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


def _checks() -> list[Check]:
    """Everything that is tried, a few at the same time, in the order of this list."""
    with ThreadPoolExecutor(AT_ONCE) as pool, tempfile.TemporaryDirectory() as folder:
        parts = [
            pool.submit(_tried, "part", name, code, fix, needed=name == "torch")
            for name, (code, fix) in PARTS.items()
        ]
        found = _known_plugins()
        for name, plugin in ({} if isinstance(found, Check) else found).items():
            fix = f"mend or reinstall {plugin.distribution}; runs without this plugin are not affected"
            parts.append(pool.submit(_tried, "plugin", name, PLUGIN, fix, words=[name]))
        parts.append(
            pool.submit(_tried, "device", "all", DEVICES, "mend the driver, or use --device cpu")
        )
        parts.append(
            pool.submit(
                _tried,
                "self-test",
                "a small run",
                SELF_TEST,
                "mend what is broken above",
                [folder],
                True,
            )
        )
        checks = [part.result() for part in parts]
    return [*checks, _registry(), *([found] if isinstance(found, Check) else [])]


def _tried(
    kind: str, name: str, code: str, fix: str, words: Sequence[str] = (), needed: bool = False
) -> Check:
    """Run some code in a process of its own; its last line is the detail, of the output or of the error."""
    try:
        line = [sys.executable, "-c", code, *words]
        done = subprocess.run(
            line,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return Check(kind, name, False, needed, f"no answer within {PATIENCE} s", fix)
    ok = done.returncode == 0
    lines = (done.stdout if ok else done.stderr).strip().splitlines()
    told = next(
        (line for line in lines if not ok and line.startswith("abatis.errors.")),
        lines[-1] if lines else "",
    )
    detail = told or ("" if ok else f"ended with code {done.returncode}")
    return Check(kind, name, ok, needed, detail, "" if ok else fix)


def _known_plugins() -> dict[str, discovery.Installed] | Check:
    try:
        return dict(discovery.installed())
    except AbatisError as error:
        return Check("plugin", "all", False, True, error.what, error.fix or "")


def _registry() -> Check:
    try:
        return Check("registry", "registry.toml", True, False, f"{len(methods())} methods", "")
    except AbatisError as error:
        return Check("registry", "registry.toml", False, False, error.what, error.fix or "")


def _show(about: dict[str, Any], checks: Sequence[Check], can_start: bool) -> None:
    print(
        f"abatis {about['abatis']}, Python {about['python']}, {about['platform']}, {about['free_gib']} GiB free here"
    )
    for check in checks:
        print(
            f"{'ok' if check.ok else 'BROKEN':<7} {check.kind:<10} {check.name:<18} {check.detail}"
        )
        if check.fix:
            print(f"{'':<7} fix: {check.fix}")
    print("a run can start here" if can_start else "no run can start here")
