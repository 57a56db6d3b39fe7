"""What every published network comes with: model.safetensors, config.json in timm's form, and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from abatis import __version__
from abatis.commands.export.card import card
from abatis.commands.export.finished_run import Source
from abatis.nets.backbones import Normalized, view_of
from abatis.nets.backbones.from_timm import size_options
from abatis.nets.digest import weights_digest
from abatis.nets.weights_file import write_weights
from abatis.runs.published import CONFIG, PUBLISHED_WEIGHTS
from abatis.runs.run_folder import bare
from abatis.system.files import explain_disk_errors, write_text
from abatis.system.timm_import import timm

CARD = "README.md"


def write_folder(source: Source, out: Path, also: dict[str, str] | None = None) -> list[Path]:
    """Write the three files; returns them. also: other files of the folder and what they are, for the card.

    Of a network that timm knows, the weights are timm's own, and the normalisation lies in config.json; any other
    network is written whole.
    """
    table = source.table
    about: dict[str, Any] = {
        "version": __version__,
        "architecture": source.architecture,
        **{key: source.facts[key] for key in ("num_classes", "channels", "image_size")},
        "data": bare(table["data"]),
        "threat": table["threat"],
        "weights_sha256": weights_digest(source.module),
        **{
            key: source.record.get(key)
            for key in ("robust_acc", "autoattack_acc", "clean_acc", "n", "verdict")
        },
    }
    if names := source.facts.get("class_names"):
        about["class_names"] = names
    with explain_disk_errors(out):
        if source.in_timm and isinstance(source.module, Normalized):
            _write_timm(source, source.module, out, about)
        else:
            write_weights(out / PUBLISHED_WEIGHTS, source.module.state_dict())
            write_text(out / CONFIG, json.dumps({"abatis": about}, indent=2) + "\n")
        write_text(out / CARD, card(source, also or {}))
    return [out / name for name in (PUBLISHED_WEIGHTS, CONFIG, CARD)]


def _write_timm(source: Source, module: Normalized, out: Path, about: dict[str, Any]) -> None:
    """By timm's own writer; float32 statistics survive JSON bit for bit."""
    facts = source.facts
    channels, size = int(facts["channels"]), int(facts["image_size"])
    name, pretrained = source.architecture, bool(source.table["pretrained"])
    shape = size_options(name, timm.models.get_pretrained_cfg(name), size, pretrained)
    statistics = {
        "mean": module.normalize.mean.flatten().tolist(),
        "std": module.normalize.std.flatten().tolist(),
    }
    view = view_of(str(source.table["backbone"])).at(size)
    cropped = (
        view.crop if str(source.table["data"]).startswith("folder:") else 1.0
    )  # other images come at their size
    seen = {
        "input_size": (channels, size, size),
        "interpolation": view.interpolation,
        "crop_pct": cropped,
        **statistics,
    }
    timm.models.save_for_hf(
        module.backbone,
        out,
        safe_serialization=True,
        model_args={"in_chans": channels, **shape},
        model_config={
            "pretrained_cfg": seen,
            "abatis": about,
            "label_names": about.get("class_names"),
        },
    )
