"""What several tests share: our plugins, plugins made on the spot, runs small enough for a test."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from abatis import RunConfig, hookimpl
from abatis.config import discovery
from abatis.config.old_names import rename_old

ROOT = Path(__file__).resolve().parents[1]
GROUP = "abatis.plugins"
CACHED = (discovery.list_installed, discovery._load_installed)  # a test may replace them later
TINY: dict[str, Any] = {
    "backbone": "cnn",
    "data": "digits",
    "limit": 150,
    "batch_size": 32,
    "epochs": 2,
    "threat": "Linf:0.1",
    "attack": {"steps": 2},
    "ladder": "none",
    "quiet": True,
}


def our_plugins() -> list[str]:
    """Return the names of this checkout's plugins: tests never depend on a stranger's.

    That ours are installed is a test of the registry.
    """
    projects = [
        tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))
    ]
    return sorted(name for project in projects for name in project["entry-points"][GROUP])


def forget_installed() -> None:
    """Let the next look at the installed plugins be a fresh one."""
    for function in CACHED:
        function.cache_clear()


def write_distribution(
    site: Path, name: str, entry_points: str, summary: str = "made by a test"
) -> None:
    """Write the metadata of a made-up distribution into a folder, as pip would.

    Args:
        site: a folder that is, or will be, in ``sys.path``.
        name: the distribution's name.
        entry_points: the content of ``entry_points.txt``.
        summary: what the distribution says about itself.
    """
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: {summary}\n",
        encoding="utf-8",
    )
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")


def plugin(name: str, **hooks: Callable[..., Any]) -> ModuleType:
    """Make a module with these hooks: ``plugin("x", loss=function)`` has ``defense_loss``."""
    module = ModuleType(name)
    for hook, function in hooks.items():
        setattr(module, f"defense_{hook}", hookimpl(function))
    return module


def tiny(out: Path, **changes: Any) -> RunConfig:
    """Configure a run on 135 digits that takes a second or two."""
    return RunConfig(**{**TINY, "out": out, **rename_old(changes)})


def final_bytes(folder: Path) -> bytes:
    """Return the bytes of the last weights of a run."""
    return (folder / "weights-last.safetensors").read_bytes()


def cut_last_epoch(whole: Path) -> Path:
    """Copy a :func:`tiny` run to ``resumed`` beside it, without its second and last checkpoint."""
    resumed = whole.with_name("resumed")
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step-00000008")
    return resumed


def write_tiny(config: RunConfig) -> list[str]:
    """The command line of a :func:`tiny` run."""
    table = config.to_toml()
    core = (
        "--backbone cnn --data digits --limit 150 --batch-size 32 --epochs 2 --threat Linf:0.1 "
        "--attack.steps 2 --quiet"
    )
    return [
        *core.split(),
        *(f"--plugin={name}" for name in table["plugin"]),
        f"--ladder={table['ladder']}",
        f"--out={table['out']}",
    ]


def write_metadata(distribution: Path, site: Path) -> None:
    """Write what pip would write for a distribution's folder: its metadata and entry points.

    Args:
        distribution: the folder with its ``pyproject.toml``.
        site: the folder to write to.
    """
    project = tomllib.loads((distribution / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    facts = {
        "Metadata-Version": "2.1",
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
    }
    (info / "METADATA").write_text(
        "".join(f"{key}: {value}\n" for key, value in facts.items()), encoding="utf-8"
    )
    entries = "".join(
        f"{name} = {module}\n" for name, module in project["entry-points"][GROUP].items()
    )
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}", encoding="utf-8")
