"""A plugin that writes the margins of the network after every epoch; it changes nothing.

Used by the rows of the average margin with ``--plugin ./margin_history.py``. It writes
``margin-history.json`` where ``--margin-history.file`` says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from abatis import PluginConfig, Run, TrainerHooks, hookimpl
from abatis.data import DataRequest, open_data
from abatis.data.order import choose_stratified
from abatis.evaluate.isolation import isolate
from abatis.evaluate.margins import input_margin, logit_margin

POINTS = 500  # of the training and of the test images, the same in every epoch
EVERY, FIRST = 5, 10  # every epoch up to the tenth, then every fifth


class MarginHistoryConfig(PluginConfig):
    """Where the data are and where the numbers go."""

    data_dir: str = Field("data", description="folder with mnist.npz")
    file: str = Field("margin-history.json", description="where the margins are written")


class MarginHistory(TrainerHooks):
    """Minimum and mean of the logit margins of all training images, and of the L2 input margins
    (DeepFool, negative where misclassified) of 500 training and 500 test images.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.config = run, run.config(MarginHistoryConfig)
        self.rows: list[dict[str, float]] = []
        self.data = open_data(
            DataRequest("mnist", Path(self.config.data_dir), None, augment="none", validation=0)
        )

    def epoch_end(self, epoch: int) -> None:
        """Measure, and write the file anew: it is whole after a kill too."""
        done = epoch + 1
        if done > FIRST and done % EVERY:
            return
        with isolate(self.run.net.module) as net:
            logits = torch.cat(
                [
                    logit_margin(net(batch.x), batch.y).detach().double()
                    for batch in self.data.train.eval_batches(2000)
                ]
            )
            row = {
                "epoch": done,
                "logit_mean": logits.mean().item(),
                "logit_min": logits.min().item(),
                "wrong": (logits <= 0).double().mean().item(),
            }
            for name, split in (("train", self.data.train), ("test", self.data.test)):
                points = split.subset(choose_stratified(split.labels, POINTS))
                batch = next(points.eval_batches(POINTS))
                lengths = input_margin(net, batch.x, batch.y, "L2").double()
                found = lengths[lengths.isfinite()]
                row[f"input_mean_{name}"] = found.mean().item()
                row[f"input_min_{name}"] = found.min().item()
                row[f"unreached_{name}"] = len(lengths) - len(found)
        self.rows.append(row)
        Path(self.config.file).write_text(json.dumps(self.rows, indent=1) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these numbers."""
        self.rows = list(state["rows"])


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MarginHistoryConfig


@hookimpl
def defense_trainer(run: Run) -> TrainerHooks:
    return MarginHistory(run)
