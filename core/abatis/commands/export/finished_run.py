"""The finished run that is exported: its configuration, its evaluation and its network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.config.toml import read_toml
from abatis.data import open_data
from abatis.errors import UsageError
from abatis.nets.backbones import resolve, view_of
from abatis.nets.backbones.names import is_factory
from abatis.nets.digest import weights_digest
from abatis.nets.weights_file import read_weights, weights_file_of
from abatis.report.eval_record import read_record
from abatis.runs.run_folder import PYTHON, load_weights

CHECKED = 6  # test images that what is written is compared on


@dataclass(frozen=True)
class Source:
    """table: run.toml; plan: the rows of plan.json; record: eval.json, empty where it was not judged; module: in eval mode;
    facts: of the weights file; images: a few test images (n, C, H, W) in [0, 1] and labels (n,), where they were given."""

    folder: Path
    table: Mapping[str, Any]
    plan: list[dict[str, Any]]
    record: Mapping[str, Any]
    module: nn.Module
    facts: Mapping[str, Any]
    images: tuple[Tensor, Tensor] | None

    @property
    def name(self) -> str:
        """That of the run folder."""
        return self.folder.resolve().name

    @property
    def architecture(self) -> str:
        """timm's name of the network, else that of the user's function or class."""
        backbone = str(self.table["backbone"])
        return (
            backbone.rpartition(":")[2]
            if ":" in backbone
            else resolve(backbone, int(self.facts["image_size"]))
        )

    @property
    def in_timm(self) -> bool:
        """Can timm make the network by its name?"""
        return not is_factory(str(self.table["backbone"])) and not str(
            self.table["backbone"]
        ).startswith(PYTHON)

    def test_images(self) -> tuple[Tensor, Tensor]:
        """The first test images, (CHECKED, C, H, W) and (CHECKED,), again from the start where there are fewer."""
        if self.images is not None:
            return self.images
        table = self.table
        if str(table["data"]).startswith(PYTHON):
            raise UsageError(
                f"the run's data were an object of yours, {table['data'][len(PYTHON) :]}",
                fix="from Python: finished(folder, model=..., images=(x, y)) of abatis.commands.export.finished_run",
            )
        test = open_data(
            table["data"],
            data_dir=Path(table["data_dir"]),
            limit=table.get("limit"),
            augment="none",
            image_size=table.get("image_size"),
            device=torch.device("cpu"),
            workers=0,
            skip_broken=table.get("skip_broken", False),
            view=view_of(str(table["backbone"])),
        ).test
        batch = next(test.subset(torch.arange(CHECKED) % len(test)).eval_batches(CHECKED))
        return batch.x, batch.y


def finished(
    folder: Path,
    *,
    allow_fail: bool = False,
    model: nn.Module | None = None,
    images: tuple[Tensor, Tensor] | None = None,
) -> Source:
    """A run that may be exported; raises UsageError where its verdict is FAIL and not allowed, or its weights were not judged.

    model, images: the module that the run trained and a few of its test images, (n, C, H, W) in [0, 1] with labels (n,),
    for a run that was given them from Python.
    """
    record = judged(folder, allow_fail)
    module = load_weights(folder, model).eval()
    if record.get("weights_sha256") not in (None, weights_digest(module)):
        raise UsageError(
            f"the weights in {folder} are not the ones that were judged",
            fix=f"defense eval {folder}",
        )
    plan = folder / "plan.json"
    rows = json.loads(plan.read_text(encoding="utf-8")) if plan.is_file() else []
    _, facts = read_weights(weights_file_of(folder))
    return Source(folder, read_toml(folder / "run.toml"), rows, record, module, facts, images)


def judged(folder: Path, allow_fail: bool) -> Mapping[str, Any]:
    """The evaluation of a run that may be exported, empty where there is none; raises UsageError."""
    if not (folder / "run.toml").is_file():
        raise UsageError(
            f"{folder} is no run folder: it holds no run.toml",
            fix="name a folder that defense-run wrote",
        )
    record = read_record(folder)
    if record.get("verdict") == "FAIL" and not allow_fail:
        raise UsageError(
            f"the masking verdict of {folder} is FAIL: its accuracy under attack cannot be trusted",
            fix="read its findings in report.html; --allow-fail exports it as unreliable",
        )
    return record
