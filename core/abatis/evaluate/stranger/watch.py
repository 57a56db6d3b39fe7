"""What a network does besides computing: files, programs, connections, and replaced functions."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

KEY_FUNCTIONS = (
    "torch:argmax",
    "torch:where",
    "torch:isfinite",
    "torch:is_grad_enabled",
    "torch:Tensor.argmax",
    "torch:Tensor.max",
    "torch:Tensor.eq",
    "torch:Tensor.__eq__",
    "torch:Tensor.isfinite",
    "torch:Tensor.backward",
    "torch:autograd.grad",
    "torch:autograd.backward",
    "torch:no_grad.__enter__",
    "torch:enable_grad.__enter__",
    "torch.nn.functional:cross_entropy",
    "abatis.api.ball:Ball.contains",
    "abatis.api.ball:Ball.climb",
    "abatis.evaluate.judge:find_correct",
    "abatis.evaluate.judge:Judge.run_attack",
    "abatis.evaluate.judge:Judge._run_once",
    "abatis.evaluate.pgd:make_pgd",
    "abatis.evaluate.pgd:differentiate",
    "abatis.evaluate.pgd:margin",
    "abatis.evaluate.masking.diagnosis:diagnose",
    "pyautoattack:AutoAttack.run_standard_evaluation",
    "pyautoattack.autopgd_base:APGDAttack.perturb",
    "pyautoattack.square:SquareAttack.perturb",
    "pyautoattack.fab_base:FABAttack.perturb",
)
"""Functions that decide a verdict; a network, or a plugin, that replaces one cheats."""

SYSTEM = ("/dev/", "/proc/", "/sys/")
CODE = (".py", ".pyc", ".pyi", ".so", ".pyd", ".dll")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = {
    "socket.connect": "opens a connection",
    "subprocess.Popen": "starts a program",
    "os.system": "starts a program",
    "os.posix_spawn": "starts a program",
    "os.exec": "starts a program",
    "os.mkdir": "writes files",
    "os.rename": "writes files",
    "os.remove": "writes files",
    "os.truncate": "writes files",
    "shutil.copyfile": "writes files",
    "sqlite3.connect": "opens a database",
}


def fingerprint_functions() -> dict[str, str]:
    """The code of each of :data:`KEY_FUNCTIONS` in this process; absent ones are left out."""
    found = {}
    for name in KEY_FUNCTIONS:
        place, _, path = name.partition(":")
        try:
            target: Any = import_module(place)
            for part in path.split("."):
                target = getattr(target, part)
        except (ImportError, AttributeError):
            continue
        found[name] = _fingerprint(target)
    return found


def list_replaced(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The functions whose code differs, by their usual names."""
    return [
        name.replace(":", ".") for name, code in before.items() if after.get(name, code) != code
    ]


def _fingerprint(target: Any) -> str:
    code = getattr(target, "__code__", None)
    if code is None:
        return f"{type(target).__name__} {getattr(target, '__qualname__', '')}"
    digest = hashlib.sha256(code.co_code).hexdigest()
    return f"{code.co_name} {os.path.basename(code.co_filename)}:{code.co_firstlineno} {digest}"


class FileWatch:
    """Notes what happens while it is on; an audit hook of this process, which stays until its end.

    Args:
        since: a time; a file that was changed after it, and is read, carries memories.

    Attributes:
        seen: what was noted so far, in words.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self.on = False
        self.seen: dict[str, None] = {}
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        self.on = False  # what this function does is not noted
        try:
            told = EVENTS.get(event)
            if event == "open":
                told = self._judge_opening(*arguments)
            if told:
                self.seen[told] = None
        finally:
            self.on = True

    def _judge_opening(self, path: object, mode: object, flags: object) -> str:
        if not isinstance(path, str | bytes):
            return ""
        name = os.fsdecode(path)
        if name.startswith(SYSTEM) or "__pycache__" in name:
            return ""
        wanted = any(letter in str(mode or "") for letter in "wax+")
        if wanted or (isinstance(flags, int) and flags & WRITES):
            return "writes files"
        if name.endswith(CODE):
            return ""
        try:
            changed = os.stat(name).st_mtime
        except OSError:
            return ""
        return "reads files that changed during the evaluation" if changed > self.since else ""

    def collect(self, act: Callable[[], Any]) -> Any:
        """Call a function with the watch on."""
        self.on = True
        try:
            return act()
        finally:
            self.on = False
