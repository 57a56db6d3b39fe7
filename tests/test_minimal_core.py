"""What an import loads: the core without what stands on it, and no torch to show a result.

Measured in processes of their own. All modules of a folder are imported together: what each of
them loads by itself is among what they load together.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.commands.compare.run_folders import record, run_folder

CORE = Path(__file__).resolve().parents[1] / "core" / "abatis"
MINIMAL = ("api", "system", "config", "data", "nets", "train")
ABOVE = tuple(f"abatis.{room}" for room in ("evaluate", "report", "runs", "commands", "testing"))
IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # a tracker whose library is not installed
        assert not error.name.startswith("abatis"), error
print(*sorted(sys.modules))
"""
HEAVY = {
    "matplotlib",
    "optuna",
    "pyautoattack",
    "scipy",
    "sklearn",
    "sympy",
    "timm",
    "torch._dynamo",
    "torchvision",
}
OWN_NETWORK = """
import sys
from safetensors.torch import save_file
from abatis.cli import run
words = ["--data", "digits", "--backbone", "resnet18", "--plugin", "mart"]
assert run([*words, *sys.argv[1:]]) == 0
import abatis
from abatis.nets.backbones.own_nets import OWN_NETS
save_file(OWN_NETS["cifar_resnet8"].build(in_chans=1).state_dict(), "net.safetensors")
net = abatis.load("net.safetensors", backbone="resnet8", normalize="none", channels=1)
print("modules", *sorted(sys.modules))
import timm
made = timm.create_model("cifar_resnet8", num_classes=10, in_chans=1)
made.load_state_dict(net.backbone.state_dict())
assert timm.is_model("mnist_lenet") and made.pretrained_cfg["first_conv"] == "features.stem"
"""
COMPARE = """
import sys
from abatis.cli import main
code = main(["compare", *sys.argv[1:]])
assert code == 0, code
print(*sorted(sys.modules))
"""


def list_modules(*rooms: str) -> list[str]:
    """The modules in some folders of the core."""
    paths = [path for room in rooms for path in sorted((CORE / room).rglob("*.py"))]
    names = [".".join(path.relative_to(CORE.parent).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def find_loaded(program: str, words: Sequence[str]) -> set[str]:
    """The modules that are loaded when a program has ended; it prints them last."""
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_what_trains_loads_nothing_of_what_judges_reports_or_commands():
    modules = ["abatis.errors", *list_modules(*MINIMAL)]
    loaded = find_loaded(IMPORT, modules)
    assert {"abatis.train.trainer", "abatis.nets.net", "torch"} <= loaded
    assert [name for name in loaded if name.startswith(ABOVE)] == []


def test_a_report_is_made_without_torch():
    modules = list_modules("report")
    assert "abatis.report.run_report" in modules
    loaded = find_loaded(IMPORT, modules)
    assert loaded.issuperset(modules)
    assert "torch" not in loaded


def test_comparing_finished_runs_loads_no_autoattack(tmp_path):
    flags = [1, 1, 0, 0]
    runs = [
        run_folder(tmp_path / name, record(flags, flags, flags, seed=0), plugin=plugins)
        for name, plugins in (("one", []), ("other", ["emr"]))
    ]
    words = [*map(str, runs), "--out", str(tmp_path / "compared")]
    loaded = find_loaded(COMPARE, words)
    assert (tmp_path / "compared" / "compare.json").is_file()
    assert "abatis.commands.compare.ranking" in loaded
    assert loaded.isdisjoint({"pyautoattack", "abatis.evaluate", "abatis.runs.runner"})


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (["--dry-run"], HEAVY | {"jinja2", "abatis.evaluate.autoattack", "abatis.runs.runner"}),
        pytest.param(
            ["--limit", "60", "--epochs", "1", "--ladder", "none"],
            # torch's optimisers import its compiler, and that sympy
            HEAVY - {"pyautoattack", "sympy", "torch._dynamo"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_our_own_networks_need_neither_timm_nor_torchvision(words, unused, tmp_path, monkeypatch):
    """timm knows them all the same, as soon as it is imported."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", OWN_NETWORK, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("modules ")]
    loaded = set(line.split())
    assert {"torch", "abatis_mart", "abatis.nets.backbones.cifar_resnet"} <= loaded
    assert loaded.isdisjoint({*unused, "abatis_trades"})
    assert "cifar_resnet18" in done.stdout
