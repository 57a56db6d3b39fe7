"""The finished run that is exported: its configuration, its evaluation and its network."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abatis.config.option_groups import SourceConfig
from abatis.config.toml import read_toml
from abatis.data import DataRequest, open_data
from abatis.data.sources import is_streamed
from abatis.errors import DataError, UsageError
from abatis.nets.backbones import resolve, view_of
from abatis.nets.backbones.from_repository import find_folder, is_repository, read_repository
from abatis.nets.backbones.from_timm import size_options
from abatis.nets.backbones.names import has_prefix
from abatis.nets.backbones.own_options import DESIGN
from abatis.nets.backbones.zoo.architectures import find_timm_network
from abatis.nets.backbones.zoo.table import find_zoo, is_zoo
from abatis.nets.digest import weights_digest
from abatis.nets.weights_file import find_weights, parse_class_names, read_weights
from abatis.report.eval_record import check_files, find_verdict, read_record
from abatis.report.sealed_json import read_json
from abatis.runs.network import CHANGED_BY
from abatis.runs.run_folder import PYTHON, load_weights
from abatis.system.timm_import import timm

CHECKED = 6  # test images on which an exported network is compared with the run's


@dataclass(frozen=True)
class FinishedRun:
    """A run folder as it is exported.

    Args:
        folder: The run folder.
        table: The contents of run.toml.
        plan: The rows of plan.json.
        record: The contents of eval.json; empty where the run was not evaluated.
        module: The network, in eval mode.
        facts: What the weights file says of the network: classes, channels, image size.
        images: A few test images (n, C, H, W) in [0, 1] and their labels (n,), if given.
    """

    folder: Path
    table: Mapping[str, Any]
    plan: list[dict[str, Any]]
    record: Mapping[str, Any]
    module: nn.Module
    facts: Mapping[str, Any]
    images: tuple[Tensor, Tensor] | None

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.folder.resolve().name

    @property
    def architecture(self) -> str:
        """timm's name of the network, or the name of the user's function or class."""
        known = self.timm_network
        name = known[0] if known else str(self.table["backbone"]).rpartition(":")[2]
        return "+".join([name, *self.facts.get(CHANGED_BY, [])])

    @property
    def in_timm(self) -> bool:
        """Whether timm can build the network by its name."""
        return self.timm_network is not None

    @cached_property
    def timm_network(self) -> tuple[str, dict[str, Any]] | None:
        """timm's name of the network, and its options; None where timm cannot build it."""
        if self.facts.get(CHANGED_BY):
            return None
        backbone, size = str(self.table["backbone"]), int(self.facts["image_size"])
        if is_repository(backbone):
            found = read_repository(find_folder(backbone))
            config = found.config
            return (config["architecture"], config.get("model_args", {})) if found.is_timm else None
        if is_zoo(backbone):
            return find_timm_network(find_zoo(backbone).architecture, size)
        if has_prefix(backbone) or backbone.startswith(PYTHON):
            return None
        own = {name: self.table.get(f"backbone_{name}") for name in DESIGN}
        options = {name: value for name, value in own.items() if value is not None}
        name, pretrained = resolve(backbone, size), bool(self.table["pretrained"])
        cfg = timm.models.get_pretrained_cfg(name)
        return name, {**size_options(name, cfg, size, pretrained), **options}

    @property
    def view(self) -> dict[str, Any]:
        """How image files became images for the network, in timm's words."""
        seen = view_of(str(self.table["backbone"])).at(int(self.facts["image_size"]))
        # only images of a folder are resized and cropped; others are judged at the size they have
        cropped = seen.crop if is_streamed(str(self.table["data"])) else 1.0
        return {"interpolation": seen.interpolation, "crop_pct": cropped}

    def test_images(self) -> tuple[Tensor, Tensor]:
        """The first test images (CHECKED, C, H, W) and labels (CHECKED,).

        A smaller test set is repeated from the start.
        """
        if self.images is not None:
            return self.images
        table = self.table
        if str(table["data"]).startswith(PYTHON):
            raise UsageError(
                f"the run's data were given from Python: {table['data'][len(PYTHON) :]}",
                fix="from Python: abatis.commands.export.finished_run."
                "read_finished_run(folder, model=..., images=(x, y))",
            )
        request = DataRequest(
            table["data"],
            Path(table["data_dir"]),
            table.get("limit"),
            table.get("image_size"),
            augment="none",
            skip_broken=table.get("skip_broken", False),
            view=view_of(str(table["backbone"])),
            follow_links=table.get("follow_links", False),
            class_names=parse_class_names(self.facts),
            source=SourceConfig.model_validate(table.get("source", {})),
        )
        test = open_data(request).test
        batch = next(test.subset(torch.arange(CHECKED) % len(test)).eval_batches(CHECKED))
        return batch.x, batch.y


def read_finished_run(
    folder: Path,
    *,
    allow_fail: bool = False,
    model: nn.Module | None = None,
    images: tuple[Tensor, Tensor] | None = None,
) -> FinishedRun:
    """Read a run that may be exported.

    Args:
        folder: The run folder.
        allow_fail: Whether a masking verdict of FAIL is accepted.
        model: The module that the run trained, if it was given from Python.
        images: A few test images (n, C, H, W) in [0, 1] and their labels (n,), if the data were
            given from Python.

    Raises:
        UsageError: ``folder`` is not a run folder, the verdict is FAIL and not accepted, or the
            weights are not those that were evaluated.
        DataError: The evaluation is damaged, or a file of the run was changed since.
    """
    record = _read_evaluation(folder, allow_fail)
    module = load_weights(folder, model).eval()
    if record.get("weights_sha256") not in (None, weights_digest(module)):
        raise UsageError(
            f"the weights in {folder} are not the ones that were evaluated",
            fix=f"defense eval {shlex.quote(str(folder))}",
        )
    check_files(folder, record)
    rows = _read_plan(folder / "plan.json")
    _, facts = read_weights(find_weights(folder))
    module = _take_plain(module, facts)
    options = _read_options(folder / "run.toml")
    return FinishedRun(folder, options, rows, record, module, facts, images)


def _take_plain(module: nn.Module, facts: Mapping[str, Any]) -> nn.Module:
    """The network that is written: that of ``plain()``, where a plugin's network has one.

    Raises UsageError where it gives other logits.
    """
    make = getattr(module, "plain", None)
    if not facts.get(CHANGED_BY) or not callable(make):
        return module
    plain: nn.Module = make().eval()
    size = int(facts["image_size"])
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(CHECKED, int(facts["channels"]), size, size, generator=draw)
    with torch.no_grad():
        judged, written = module(x), plain(x)
    if not torch.allclose(written, judged, rtol=0, atol=1e-5 * float(judged.abs().max())):
        raise UsageError(
            f"plain() of the network that {', '.join(facts[CHANGED_BY])} made gives other logits",
            fix="let it return the network that is judged, in other layers",
        )
    return plain


def _read_plan(path: Path) -> list[dict[str, Any]]:
    """The rows of a plan; none where there is no file. Raises DataError where it is damaged."""
    found = read_json(path) if path.exists() else []
    rows: list[Any] = found if isinstance(found, list) else [None]
    if not all(
        isinstance(row, dict)
        and all(isinstance(row.get(key), str) for key in ("role", "provider", "version"))
        and isinstance(row.get("options"), dict)
        for row in rows
    ):
        raise DataError(
            f"{path.name} is damaged: it is not a list of rows of a plan",
            where=str(path),
            fix="restore it from a backup, or delete it",
        )
    return rows


def _read_options(path: Path) -> dict[str, Any]:
    """The options in a run.toml, which must be there. Raises UsageError where it is damaged."""
    table = read_toml(path)
    if all(isinstance(table.get(key), str) for key in ("backbone", "data", "threat")):
        return table
    raise UsageError(
        f"{path.name} is damaged: backbone, data and threat are not all there",
        where=str(path),
        fix="restore it from a backup",
    )


def _read_evaluation(folder: Path, allow_fail: bool) -> Mapping[str, Any]:
    """The evaluation of a run that may be exported; empty if it was not evaluated."""
    if not (folder / "run.toml").is_file():
        raise UsageError(
            f"{folder} is not a run folder: it has no run.toml",
            fix="give a folder that defense-run wrote",
        )
    record = read_record(folder)
    if find_verdict(record) == "FAIL" and not allow_fail:
        raise UsageError(
            f"the masking verdict of {folder} is FAIL: its robust accuracy cannot be trusted",
            fix="read the findings in its report.html; --allow-fail exports it as unreliable",
        )
    return record
