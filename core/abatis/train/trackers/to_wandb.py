"""Weights & Biases, offline: files in RUN/wandb.

``wandb sync RUN/wandb/offline-run-*`` uploads them. Nothing about the machine, the command or the
code is collected.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # a run sends nothing

import wandb

from abatis.train.trackers import Tracker

PROJECT = "abatis"


class Recorder(Tracker):
    """Writes a history over the epochs, and the options as its configuration."""

    version = wandb.__version__
    run: Any = None

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        if self.run is None:
            self.record = self.record or secrets.token_hex(4)
            self.run = wandb.init(
                project=PROJECT,
                name=self.folder.name,
                id=self.record,
                resume="allow",
                mode="offline",
                dir=self.folder,
                config=dict(self.options),
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    host="-",
                    disable_git=True,
                    disable_code=True,
                    save_code=False,
                    x_disable_meta=True,
                    x_disable_stats=True,
                    x_disable_machine_info=True,
                ),
            )
            self.run.define_metric("*", step_metric="epoch")
        self.run.log({"epoch": epoch, **values})

    def close(self, finished: bool) -> None:
        if self.run is not None:
            self.run.finish(0 if finished else 1)
