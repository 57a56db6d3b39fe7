"""``defense doctor``: whether a run can start here, and how to fix it if not.

Every check that may crash runs in another process.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from abatis import __version__
from abatis.commands.doctor.worker import WARN, Worker
from abatis.commands.registry.entries import read_registry
from abatis.config import discovery
from abatis.config.parser import Parser
from abatis.errors import AbatisError
from abatis.system.printable import make_printable

CANNOT_START = 1  # exit code
TIMEOUT = 120  # seconds for one check
INDENT = 38  # columns before the detail of a check
CONSTRAINTS = "constraints.txt"  # in a checkout
INSTALL = "python -m pip install" + (f" -c {CONSTRAINTS}" if Path(CONSTRAINTS).is_file() else "")

PARTS = {
    "torch": ("import torch; print(torch.__version__)", f"{INSTALL} torch"),
    "torchvision": (
        """
failed = ""
try:
    import torchvision
except Exception as error:
    failed = f"{type(error).__name__}: {error}".splitlines()[0]
from abatis.system.timm_import import torchvision
import torch
print(torchvision.__version__ if not failed else
      f"warning: {torchvision.__version__}, but 'import torchvision' fails beside torch"
      f" {torch.__version__}: {failed}; abatis works around it, your own code does not")
""",
        f"{INSTALL} --force-reinstall torch torchvision: both from one index, "
        "since their releases and builds must match",
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
        f"{INSTALL} pyautoattack; without it, only --ladder quick works",
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
torch.set_num_threads(1)  # on images this small, threads that wait for each other cost more
began = time.perf_counter()
options = {"data": "digits", "backbone": "cnn", "threat": "Linf:0.1", "ladder": "none",
           "limit": 120, "batch_size": 32, "attack": {"steps": 3}, "quiet": True,
           "out": sys.argv[1], "name": "doctor"}
abatis.run(abatis.RunConfig(**options, epochs=1))
folder = abatis.run(abatis.RunConfig(**options, epochs=2, resume=True)).folder
assert torch.isfinite(abatis.load(folder)(torch.rand(2, 1, 8, 8))).all()
print(f"trained, saved, resumed, loaded: {time.perf_counter() - began:.1f} s")
"""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        kind: part, plugin, device, self-test or registry.
        name: What was checked.
        ok: Whether it works.
        needed: Whether every run needs it.
        detail: Its version, or what is wrong.
        fix: How to fix it; empty if there is nothing to fix.
    """

    kind: str
    name: str
    ok: bool
    needed: bool
    detail: str
    fix: str


@dataclass(frozen=True)
class Program:
    """A check that another process makes: a program that works, or raises, or crashes.

    Args:
        kind: As of the :class:`Check`.
        name: What is checked.
        code: The program.
        fix: How to fix it.
        words: Its arguments.
        needed: Whether every run needs it.
    """

    kind: str
    name: str
    code: str
    fix: str
    words: tuple[str, ...] = ()
    needed: bool = False


def check_all(words: Sequence[str], prog: str) -> int:
    """``defense doctor [--json]``; returns 0 if a run can start, 1 if not."""
    parser = Parser(
        prog=prog,
        description="Check whether a run can start here, and how to fix what is broken.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(list(words))
    about = {
        "abatis": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "free_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
    }
    if not asked.json:
        first = f"abatis {about['abatis']}, Python {about['python']}, {about['platform']}, "
        first += f"{about['free_gib']} GiB free disk space here"
        print("\n".join(_fold(first, 0)), flush=True)
    checks = _run_checks((lambda check: None) if asked.json else _show)
    can_start = all(check.ok for check in checks if check.needed)
    if asked.json:
        listed = [asdict(check) for check in checks]
        print(json.dumps({"can_start": can_start, **about, "checks": listed}, indent=2))
    else:
        print("a run can start here" if can_start else "no run can start here")
    return 0 if can_start else CANNOT_START


def _run_checks(tell: Callable[[Check], None]) -> list[Check]:
    """All checks, in a fixed order; each is told as soon as it is made."""
    programs = [
        Program("part", name, code, fix, needed=name == "torch")
        for name, (code, fix) in PARTS.items()
    ]
    found = _find_plugins()
    for name, plugin in ({} if isinstance(found, Check) else found).items():
        fix = f"fix or reinstall {plugin.distribution}; it affects only runs with this plugin"
        programs.append(Program("plugin", name, PLUGIN, fix, (name,)))
    programs.append(Program("device", "all", DEVICES, "fix the driver, or use --device cpu"))
    programs.append(Program("device", "NVIDIA cards", CARD, "or use --device cpu"))
    others = [_check_registry(), *([found] if isinstance(found, Check) else [])]
    for check in others:
        tell(check)
    with tempfile.TemporaryDirectory() as folder:
        fix = "fix what else is broken"
        programs.append(Program("self-test", "a small run", SELF_TEST, fix, (folder,), needed=True))
        return [*others, *_try_all(programs, tell)]


def _try_all(programs: Sequence[Program], tell: Callable[[Check], None]) -> list[Check]:
    """Run programs one after the other in another process, which imports a library once."""
    worker, checks = Worker(), []
    try:
        for program in programs:
            checks.append(_try_program(program, worker))
            tell(checks[-1])
    finally:
        worker.close()
    return checks


def _try_program(program: Program, worker: Worker) -> Check:
    ok, detail = worker.run(program.code, program.words, TIMEOUT)
    warned = detail.startswith(WARN)
    fix = program.fix if warned or not ok else ""
    shown = detail.removeprefix(WARN)
    return Check(program.kind, program.name, ok, program.needed, shown, fix)


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


def _show(check: Check) -> None:
    state = "BROKEN" if not check.ok else "WARN" if check.fix else "ok"
    lines = _fold(f"{state:<7} {check.kind:<10} {check.name:<18} {check.detail}", INDENT)
    if check.fix:
        lines += _fold(f"{'':<7} fix: {check.fix}", 13)
    print("\n".join(lines), flush=True)


def _fold(line: str, indent: int) -> list[str]:
    """A line, folded where a terminal is too narrow for it."""
    line = make_printable(line)
    if not sys.stdout.isatty():
        return [line]
    width = max(shutil.get_terminal_size().columns, 2 * INDENT)
    return textwrap.wrap(line, width, subsequent_indent=" " * indent, break_on_hyphens=False)
