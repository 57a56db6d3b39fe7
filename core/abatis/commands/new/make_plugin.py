"""``defense new plugin NAME``: copies a template, a complete distribution, under a new name.

The templates are tested plugins, named after their kind: ``my-loss``, ``my-wrapper``. Loads without
torch.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import abatis
from abatis.api.options import read_path
from abatis.commands.registry.entries import read_registry
from abatis.config import discovery
from abatis.config.parser import Parser
from abatis.config.run_config import reserved_names
from abatis.errors import UsageError

TEMPLATES = Path(__file__).with_name("templates")
KINDS = {
    "loss": "the base loss, in place of cross-entropy",
    "wrapper": "weights the terms of any base loss, or switches them",
    "regularizer": "terms added to any base loss",
    "attacker": "makes the adversarial training images, in place of PGD",
    "trainer": "hooks before the attack, around the update and after epochs",
}
NOT_COPIED = {"__pycache__", ".pytest_cache"}
TRY = "--data digits --backbone cnn --epochs 1 --limit 200 --threat Linf:0.1"


def run_new(words: Sequence[str], prog: str) -> int:
    """``defense new plugin NAME [--kind KIND] [--out DIR]``; returns 0."""
    parser = Parser(
        prog=prog, description="Create something new from a template.", allow_abbrev=False
    )
    made = parser.add_subparsers(dest="what", required=True, parser_class=Parser)
    rows = "\n".join(f"  {kind:<12} {about}" for kind, about in KINDS.items())
    plugin = made.add_parser(
        "plugin",
        help="create a plugin with tests, README and CI",
        epilog=f"kinds:\n{rows}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plugin.add_argument(
        "name",
        metavar="NAME",
        help="name of the plugin, such as my-idea; the distribution is abatis-NAME",
    )
    plugin.add_argument(
        "--kind",
        choices=KINDS,
        default="regularizer",
        help="what the plugin provides (default: regularizer)",
    )
    plugin.add_argument(
        "--out",
        metavar="DIR",
        type=read_path,
        default=Path(),
        help="where to create the folder NAME (default: here)",
    )
    asked: argparse.Namespace = parser.parse_args(list(words))
    name = discovery.normalise_name(asked.name)
    folder = make_plugin(name, asked.kind, asked.out)
    print(f"created {folder}, a plugin that runs as it is. Next steps:\n")
    print(f"  python -m pip install -e {shlex.quote(str(folder))} pytest")
    print(f"  python -m pytest {shlex.quote(str(folder))}")
    print(f"  defense-run --plugin {name} {TRY}")
    return 0


def make_plugin(name: str, kind: str, out: Path) -> Path:
    """Create the folder of a new plugin.

    Args:
        name: The name of the plugin.
        kind: A key of ``KINDS``.
        out: Where the folder ``name`` is created.

    Returns:
        The new folder.

    Raises:
        UsageError: The name cannot be used, the folder exists, or it cannot be written.
    """
    _check_name(name)
    folder = out / name
    try:
        folder.mkdir(parents=True)
        for source in sorted((TEMPLATES / kind).rglob("*")):
            if source.is_file() and not NOT_COPIED & set(source.parts):
                target = folder / rename(
                    source.relative_to(TEMPLATES / kind).as_posix(), kind, name
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(
                    rename(source.read_text(encoding="utf-8"), kind, name), encoding="utf-8"
                )
    except FileExistsError:
        raise UsageError(f"{folder} exists", fix="choose another name, or another --out") from None
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror}", fix="choose another --out"
        ) from error
    return folder


def rename(text: str, kind: str, name: str) -> str:
    """A text of a template with the name replaced, in each of its spellings."""
    words = name.split("-")
    for old, new in (
        (f"my-{kind}", name),
        (f"my_{kind}", "_".join(words)),
        (f"My{kind.capitalize()}", _make_class_name(name)),
        (f"My {kind}", " ".join(words).capitalize()),
    ):
        text = text.replace(old, new)
    return text


def _make_class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))


def _check_name(name: str) -> None:
    """Raise UsageError where a name is not allowed or already taken."""
    if wrong := discovery.find_name_fault(name, reserved_names()):
        raise UsageError(
            f"a plugin cannot be named '{name}': {wrong}",
            fix="choose another name, such as my-idea",
        )
    if name in discovery.list_installed():
        raise UsageError(
            f"the installed {discovery.list_installed()[name].distribution} is named '{name}'",
            fix="choose another name",
        )
    if name in read_registry():
        raise UsageError(f"the registry has a method named '{name}'", fix="choose another name")
    if _make_class_name(name) in (*abatis.__all__, "Tensor"):
        raise UsageError(
            f"a plugin cannot be named '{name}': "
            f"its class {_make_class_name(name)} would shadow another class",
            fix="choose another name, such as my-idea",
        )
