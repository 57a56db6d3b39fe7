"""``defense new plugin NAME``: a whole distribution, copied from a tested one of its kind under another name.

Nothing here imports torch. The templates are plugins like any other, named after their kind: ``my-loss``, ``my-wrapper``.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import abatis
from abatis.commands.registry.entries import read_registry
from abatis.config import discovery
from abatis.config.parser import Parser
from abatis.config.run_config import reserved_names
from abatis.errors import UsageError

TEMPLATES = Path(__file__).with_name("templates")
KINDS = {
    "loss": "the base loss, instead of the cross-entropy",
    "wrapper": "weights or switches the terms of any base loss",
    "regularizer": "terms that are added to any base loss",
    "attacker": "makes the training images, instead of PGD",
    "trainer": "acts before the attack, around the update and at epoch ends",
}
LEFT_BEHIND = {"__pycache__", ".pytest_cache"}
TRY = "--data digits --backbone cnn --epochs 1 --limit 200 --threat Linf:0.1"


def make(words: Sequence[str], prog: str) -> int:
    """``defense new plugin NAME [--kind KIND] [--out DIR]``; returns 0."""
    parser = Parser(
        prog=prog, description="Make something new from a template.", allow_abbrev=False
    )
    made = parser.add_subparsers(dest="what", required=True, parser_class=Parser)
    rows = "\n".join(f"  {kind:<12} {about}" for kind, about in KINDS.items())
    plugin = made.add_parser(
        "plugin",
        help="a plugin, with tests, README and CI",
        epilog=f"kinds:\n{rows}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plugin.add_argument(
        "name",
        metavar="NAME",
        help="the plugin's name, such as my-idea; the distribution is abatis-NAME",
    )
    plugin.add_argument(
        "--kind",
        choices=KINDS,
        default="regularizer",
        help="what it provides (default: regularizer)",
    )
    plugin.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where the folder NAME is made (default: here)",
    )
    asked: argparse.Namespace = parser.parse_args(list(words))
    name = discovery.normalise_name(asked.name)
    folder = new_plugin(name, asked.kind, asked.out)
    print(f"{folder}: a {asked.kind} that runs as it is. Next:\n")
    print(f"  python -m pip install -e {shlex.quote(str(folder))} pytest")
    print(f"  python -m pytest {shlex.quote(str(folder))}")
    print(f"  defense-run --plugin {name} {TRY}")
    return 0


def new_plugin(name: str, kind: str, out: Path) -> Path:
    """Make the folder ``out/name``; raises UsageError for a name that cannot be used and a folder that is there."""
    _check(name)
    folder = out / name
    try:
        folder.mkdir(parents=True)
        for source in sorted((TEMPLATES / kind).rglob("*")):
            if source.is_file() and not LEFT_BEHIND & set(source.parts):
                target = folder / renamed(
                    source.relative_to(TEMPLATES / kind).as_posix(), kind, name
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(
                    renamed(source.read_text(encoding="utf-8"), kind, name), encoding="utf-8"
                )
    except FileExistsError:
        raise UsageError(
            f"{folder} is there already", fix="choose another name, or another --out"
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror}", fix="choose another --out"
        ) from error
    return folder


def renamed(text: str, kind: str, name: str) -> str:
    """A template's text under another name, in each of its spellings."""
    words = name.split("-")
    for old, new in (
        (f"my-{kind}", name),
        (f"my_{kind}", "_".join(words)),
        (f"My{kind.capitalize()}", _class(name)),
        (f"My {kind}", " ".join(words).capitalize()),
    ):
        text = text.replace(old, new)
    return text


def _class(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))


def _check(name: str) -> None:
    """Raise UsageError where a plugin cannot have a name, or another one has it."""
    if wrong := discovery.find_name_fault(name, reserved_names()):
        raise UsageError(
            f"no plugin can be named '{name}': {wrong}", fix="choose another name, like my-idea"
        )
    if name in discovery.list_installed():
        raise UsageError(
            f"the installed {discovery.list_installed()[name].distribution} is named '{name}'",
            fix="choose another name",
        )
    if name in read_registry():
        raise UsageError(f"the registry has a method named '{name}'", fix="choose another name")
    if _class(name) in (*abatis.__all__, "Tensor"):
        raise UsageError(
            f"no plugin can be named '{name}': its class {_class(name)} would hide the one of that name",
            fix="choose another name, like my-idea",
        )
