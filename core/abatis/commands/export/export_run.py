"""Writes a finished run in the format that was asked for."""

from __future__ import annotations

import argparse
import importlib

from abatis.commands.export.card import describe_end
from abatis.commands.export.finished_run import read_finished_run
from abatis.commands.export.options import FORMATS
from abatis.system.files import explain_disk_errors
from abatis.system.printable import make_printable


def export_run(asked: argparse.Namespace) -> int:
    """Write the run that the options name, and print what was written; returns the exit code."""
    run = read_finished_run(asked.run, allow_fail=asked.allow_fail)
    with explain_disk_errors(asked.out):
        asked.out.mkdir(parents=True, exist_ok=True)
    for line in importlib.import_module(FORMATS[asked.to]).export(asked, run):
        print(make_printable(line))
    if said := describe_end(run.folder):
        print(make_printable(f"note: {said}"))
    return 0
