"""``defense export``: a finished run in a form that other programs read. Nothing here imports torch until it must."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abatis.errors import UsageError, did_you_mean
from abatis.parser import Parser

if TYPE_CHECKING:
    from abatis.export.source import Source


def command(words: Sequence[str], prog: str) -> int:
    """``defense export RUN --to FORMAT --out DIR``; returns the exit code."""
    parser = Parser(prog=prog, description="Write a finished run in a form that others read.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--to", metavar="FORMAT", required=True, help=", ".join(FORMATS))
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write into")
    parser.add_argument("--allow-fail", action="store_true", help="export even where the masking verdict is FAIL")
    parser.add_argument("--repo", metavar="ORG/NAME", help="for --to hub: where on the Hugging Face hub")
    _leaderboard_options(parser)
    asked = parser.parse_args(list(words))
    if asked.to not in FORMATS:
        raise UsageError(f"unknown format '{asked.to}': {did_you_mean(asked.to, FORMATS)}", fix=f"--to {' or '.join(FORMATS)}")
    if (asked.to == "hub") != (asked.repo is not None):
        raise UsageError(
            "--to hub and --repo belong together", fix="--to hub --repo ORG/NAME, or another format without --repo"
        )
    from abatis.checkpoint import disk
    from abatis.export.source import finished

    source = finished(asked.run, allow_fail=asked.allow_fail)
    with disk(asked.out):
        asked.out.mkdir(parents=True, exist_ok=True)
    for line in FORMATS[asked.to](asked, source):
        print(line)
    return 0


def _leaderboard_options(parser: Parser) -> None:
    """What only the authors know."""
    group = parser.add_argument_group("for the entry of a leaderboard")
    group.add_argument("--name", metavar="NAME", help="of the entry, such as Doe2026Sample (default: the run folder's)")
    group.add_argument("--dataset", metavar="NAME", help="of the leaderboard, such as cifar10 (default: the run's data)")
    for option in ("paper-title", "authors", "venue", "link"):
        group.add_argument(f"--{option}", metavar="TEXT", default="N/A")
    group.add_argument("--additional-data", action=argparse.BooleanOptionalAction,
                       help="were other images used than the training set? (default: yes for pretrained networks)")  # fmt: skip


def _safetensors(asked: argparse.Namespace, source: Source) -> list[str]:
    from abatis.export.folder import write_folder

    write_folder(source, asked.out)
    return [f"written: weights, configuration and model card in {asked.out}"]


def _hub(asked: argparse.Namespace, source: Source) -> list[str]:
    from abatis.export.folder import write_folder
    from abatis.export.hub import send

    files = write_folder(source, asked.out)
    return [f"written: weights, configuration and model card in {asked.out}", send(asked.out, files, asked.repo)]


def _onnx(asked: argparse.Namespace, source: Source) -> list[str]:
    from abatis.export.folder import write_folder
    from abatis.export.onnx import ONNX, write_onnx

    difference = write_onnx(source.module, source.test_images()[0], asked.out)
    write_folder(source, asked.out, {ONNX: "the same network for ONNX Runtime, any batch size"})
    return [f"written: {asked.out / ONNX} and what --to safetensors writes", _equal("ONNX Runtime's logits", difference)]


def _torch_export(asked: argparse.Namespace, source: Source) -> list[str]:
    from abatis.export.folder import write_folder
    from abatis.export.program import LOADER, PROGRAM, write_program

    also = {PROGRAM: "the same network as a torch.export program, any batch size", LOADER: f"loads {PROGRAM} with torch alone"}
    difference = write_program(source.module, *source.test_images(), asked.out)
    write_folder(source, asked.out, also)
    told = _equal("its logits and input gradients", difference)
    return [f"written: {asked.out / PROGRAM}, {LOADER} and what --to safetensors writes", told]


def _equal(what: str, difference: float) -> str:
    return f"{what} differ from the run's network by at most {difference:.1e} of the largest value"


def _robustbench(asked: argparse.Namespace, source: Source) -> list[str]:
    from abatis.export.robustbench import Entry, export

    entry = Entry(asked.name, asked.dataset, asked.paper_title, asked.authors, asked.venue, asked.link, asked.additional_data)
    exported = export(source, asked.out, entry)
    return [f"written: {exported.info}, and the network beside it", *(f"note: {note}" for note in exported.notes)]


FORMATS: dict[str, Callable[[argparse.Namespace, Source], list[str]]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torch-export": _torch_export,
    "robustbench": _robustbench,
    "hub": _hub,
}
"""By name: writes, and returns the lines to show."""
