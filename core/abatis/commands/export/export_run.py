"""Writes a finished run in the form that was asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from abatis.commands.export.finished_run import Source, finished
from abatis.commands.export.folder import write_folder
from abatis.commands.export.hub import send
from abatis.commands.export.onnx import ONNX, write_onnx
from abatis.commands.export.program import LOADER, PROGRAM, write_program
from abatis.commands.export.robustbench import Entry, export
from abatis.system.files import explain_disk_errors


def write(asked: argparse.Namespace) -> int:
    """Write the run that the options name, and say what was written; returns the exit code."""
    source = finished(asked.run, allow_fail=asked.allow_fail)
    with explain_disk_errors(asked.out):
        asked.out.mkdir(parents=True, exist_ok=True)
    for line in WRITERS[asked.to](asked, source):
        print(line)
    return 0


def _safetensors(asked: argparse.Namespace, source: Source) -> list[str]:
    write_folder(source, asked.out)
    return [f"written: weights, configuration and model card in {asked.out}"]


def _hub(asked: argparse.Namespace, source: Source) -> list[str]:
    files = write_folder(source, asked.out)
    return [
        f"written: weights, configuration and model card in {asked.out}",
        send(asked.out, files, asked.repo),
    ]


def _onnx(asked: argparse.Namespace, source: Source) -> list[str]:
    difference = write_onnx(source.module, source.test_images()[0], asked.out)
    write_folder(source, asked.out, {ONNX: "the same network for ONNX Runtime, any batch size"})
    return [
        f"written: {asked.out / ONNX} and what --to safetensors writes",
        _equal("ONNX Runtime's logits", difference),
    ]


def _torch_export(asked: argparse.Namespace, source: Source) -> list[str]:
    also = {
        PROGRAM: "the same network as a torch.export program, any batch size",
        LOADER: f"loads {PROGRAM} with torch alone",
    }
    difference = write_program(source.module, *source.test_images(), asked.out)
    write_folder(source, asked.out, also)
    told = _equal("its logits and input gradients", difference)
    return [f"written: {asked.out / PROGRAM}, {LOADER} and what --to safetensors writes", told]


def _equal(what: str, difference: float) -> str:
    return f"{what} differ from the run's network by at most {difference:.1e} of the largest value"


def _robustbench(asked: argparse.Namespace, source: Source) -> list[str]:
    entry = Entry(
        asked.name,
        asked.dataset,
        asked.paper_title,
        asked.authors,
        asked.venue,
        asked.link,
        asked.additional_data,
    )
    exported = export(source, asked.out, entry)
    return [
        f"written: {exported.info}, and the network beside it",
        *(f"note: {note}" for note in exported.notes),
    ]


WRITERS: dict[str, Callable[[argparse.Namespace, Source], list[str]]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "torch-export": _torch_export,
    "robustbench": _robustbench,
    "hub": _hub,
}
"""By the name of the format: writes, and returns the lines to show."""
