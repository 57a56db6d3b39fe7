"""``defense export``: finished runs in formats that other programs read."""

from __future__ import annotations

from collections.abc import Sequence


def command(words: Sequence[str]) -> int:
    """Export a run: safetensors, ONNX, torch.export, RobustBench, Hugging Face."""
    from abatis.commands.export.options import parse

    asked = parse(words, "defense export")
    from abatis.commands.export.export_run import export_run

    return export_run(asked)
