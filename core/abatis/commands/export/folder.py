"""``--to safetensors``, part of every other format too: weights, configuration and model card.

The files are model.safetensors, config.json in timm's format, and README.md, the model card.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from abatis import __version__
from abatis.commands.export.card import make_card
from abatis.commands.export.finished_run import FinishedRun
from abatis.nets.backbones import Normalized
from abatis.nets.backbones.from_repository import CONFIG
from abatis.nets.digest import weights_digest
from abatis.nets.weights_file import write_weights
from abatis.report.numbers import ROBUST, UPPER, find_headline, is_bound
from abatis.runs.published import PUBLISHED_WEIGHTS, can_rebuild
from abatis.runs.run_folder import strip_folders
from abatis.system.files import explain_disk_errors, write_text
from abatis.system.timm_import import timm

CARD = "README.md"


def export(asked: argparse.Namespace, run: FinishedRun) -> list[str]:
    """Write the three files into ``asked.out``; returns the lines to print."""
    write_folder(run, asked.out)
    return [f"wrote weights, configuration and model card to {asked.out}"]


def write_folder(run: FinishedRun, out: Path, also: dict[str, str] | None = None) -> list[Path]:
    """Write the three files.

    For a network that timm knows, the weights are those of timm's module and the normalisation is
    in config.json. Any other network is written whole.

    Args:
        run: The finished run.
        out: The folder to write into; it must exist.
        also: Other files of the folder and what they are, for the model card.

    Returns:
        The paths of the three files.
    """
    table = run.table
    about: dict[str, Any] = {
        "version": __version__,
        "architecture": run.architecture,
        **{key: run.facts[key] for key in ("num_classes", "channels", "image_size")},
        "data": strip_folders(table["data"]),
        "threat": table["threat"],
        "weights_sha256": weights_digest(run.module),
        **{key: run.record.get(key) for key in ("autoattack_acc", "clean_acc", "n", "verdict")},
        **_describe_robustness(run.record),
    }
    if names := run.facts.get("class_names"):
        about["class_names"] = names
    with explain_disk_errors(out):
        if run.in_timm and isinstance(run.module, Normalized):
            _write_timm(run, run.module, out, about)
        else:
            write_weights(out / PUBLISHED_WEIGHTS, run.module.state_dict())
            about |= {"view": run.view, "normalize": run.table.get("normalize", "data")}
            if can_rebuild(str(run.table["backbone"])):
                about["backbone"] = run.table["backbone"]
            write_text(out / CONFIG, json.dumps({"abatis": about}, indent=2) + "\n")
        write_text(out / CARD, make_card(run, also or {}))
    return [out / name for name in (PUBLISHED_WEIGHTS, CONFIG, CARD)]


def _describe_robustness(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The robust accuracy, or only its upper bound where the masking verdict is FAIL."""
    headline = find_headline(record)
    if is_bound(record.get("verdict"), ROBUST):
        return {ROBUST.key: None, UPPER.key: headline}
    return {ROBUST.key: headline}


def _write_timm(run: FinishedRun, module: Normalized, out: Path, about: dict[str, Any]) -> None:
    """Write with timm's own writer; float32 statistics survive JSON bit for bit."""
    facts = run.facts
    channels, size = int(facts["channels"]), int(facts["image_size"])
    options = run.timm_network[1] if run.timm_network else {}
    statistics = {
        "mean": module.normalize.mean.flatten().tolist(),
        "std": module.normalize.std.flatten().tolist(),
    }
    seen = {"input_size": (channels, size, size), **run.view, **statistics}
    timm.models.save_for_hf(
        _make_by_timm(run, module.backbone),
        out,
        safe_serialization=True,
        model_args={"in_chans": channels, **options},
        model_config={
            "pretrained_cfg": seen,
            "abatis": about,
            "label_names": about.get("class_names"),
        },
    )


def _make_by_timm(run: FinishedRun, backbone: nn.Module) -> nn.Module:
    """The network as timm makes it, with its facts; the same one where it comes from there."""
    if hasattr(backbone, "pretrained_cfg") or run.timm_network is None:
        return backbone
    name, options = run.timm_network
    sizes = {"num_classes": int(run.facts["num_classes"]), "in_chans": int(run.facts["channels"])}
    made: nn.Module = timm.create_model(name, **sizes, **options)
    made.load_state_dict(backbone.state_dict())
    return made
