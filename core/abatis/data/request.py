"""What a run asks of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from abatis.config.option_groups import ExtraConfig, SourceConfig
from abatis.config.run_config import RunConfig
from abatis.data.info import View
from abatis.errors import UsageError

CPU = torch.device("cpu")
DEFAULT_VIEW = View()
DEFAULT_SOURCE = SourceConfig()


@dataclass(frozen=True)
class DataRequest:
    """Which data to open, and how.

    Attributes:
        spec: the data as ``--data`` names them, for example ``"cifar10"`` or ``"npz:PATH"``.
        data_dir: where named data sets lie.
        limit: use N training images and the same share of the test images, spread over all
            classes; for smoke tests. A limit beyond the set is fine.
        image_size: pixels a side, for image files; else from the files, else from ``view``.
        augment: "auto", "none", "crop" or "crop-flip".
        crop_padding: what crops see beyond the border, "zeros" or "reflect"; for data in memory.
        validation: how many training images are held out, or which share below 1; None for a
            tenth and at most 1000.
        device: where batches are put.
        workers: loader processes for data that are read during training; 0 reads in this process,
            None chooses by the number of cores.
        skip_broken: leave out image files that cannot be read.
        view: how image files become images for the network.
        extra: additional training images, for data in memory.
        follow_links: read image files that links out of the data folder lead to.
        class_names: of the network that the data are for, in the order of its outputs. Class
            folders get their labels by these names; empty for their own order.
        trains: a network is to be trained, so that training images are needed.
        source: how the data are read, for sources that leave a choice.
        download: fetch a data set of torchvision's that is not in ``data_dir``.
        measure: mean and std are needed; where they would have to be measured on all images of a
            file, they are else 0 and 1.
    """

    spec: str
    data_dir: Path = Path("data")
    limit: int | None = None
    image_size: int | None = None
    augment: str = "auto"
    crop_padding: str = "zeros"
    validation: float | None = None
    device: torch.device = CPU
    workers: int | None = 0
    skip_broken: bool = False
    view: View = DEFAULT_VIEW
    extra: ExtraConfig | None = None
    follow_links: bool = False
    class_names: tuple[str, ...] = ()
    trains: bool = True
    source: SourceConfig = DEFAULT_SOURCE
    download: bool = False
    measure: bool = True

    @property
    def place(self) -> str:
        """What ``spec`` has behind its prefix, as it is written."""
        return self.spec.partition(":")[2]

    @property
    def path(self) -> Path:
        """What ``spec`` has behind its prefix."""
        return Path(self.place).expanduser()

    @classmethod
    def of(cls, config: RunConfig, view: View, device: torch.device = CPU) -> DataRequest:
        """The request of a run; view: how its network sees image files."""
        return cls(
            config.data,
            config.data_dir,
            config.limit,
            config.image_size,
            config.augment,
            config.crop_padding,
            config.validation,
            device,
            config.workers,
            config.skip_broken,
            replace(view, auto_augment=config.auto_augment, erasing=config.erasing),
            config.extra if config.extra.file is not None else None,
            config.follow_links,
            source=config.source,
            download=config.download,
        )

    def for_judging(self) -> DataRequest:
        """The same images without what only a training step sees."""
        return replace(self, view=replace(self.view, auto_augment="", erasing=0.0), extra=None)

    def check(self, streamed: bool, takes: frozenset[str] = frozenset()) -> None:
        """Raise UsageError for options that do not apply to such data.

        Args:
            streamed: the data are image files that are read during training, not arrays in memory.
            takes: the options of the group ``source`` that apply.
        """
        idle = sorted(set(self.source.model_dump(exclude_defaults=True)) - takes)
        if idle:
            option = idle[0].replace("_", "-")
            raise UsageError(f"--source.{option} does not apply to {self.spec}", fix="leave it out")
        if streamed and self.extra is not None:
            raise UsageError(
                "--extra.file needs data in memory, and a folder is read during training",
                fix="use npz:PATH or a named data set, or leave --extra.file out",
            )
        if streamed and self.crop_padding != "zeros":
            raise UsageError(
                f"--crop-padding {self.crop_padding} needs data in memory: image files are cropped"
                " without padding",
                fix="leave it out",
            )
        if not streamed and (self.view.auto_augment or self.view.erasing):
            raise UsageError(
                f"--auto-augment and --erasing apply to image files, and the data are {self.spec}",
                fix="leave them out, or use folder:PATH",
            )
