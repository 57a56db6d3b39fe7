"""The state of a training: written to checkpoints and read back, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abatis.config.built_in import TRACKERS
from abatis.nets.auxiliaries import check_frozen, load_trained, read_auxiliaries
from abatis.nets.module_state import load_state, read_extra_state, read_tensors
from abatis.system import distributed
from abatis.system.files import explain_disk_errors
from abatis.train.best_weights import find_best_step, restore_best
from abatis.train.checkpoint import CHECKPOINTS, Loaded, describe_slow_save, save_checkpoint
from abatis.train.continuation import Source, take_over_moments
from abatis.train.epoch_metrics import EpochMetrics
from abatis.train.judged_weights import JudgedWeights
from abatis.train.optimizer import load_moments
from abatis.train.resume import describe_run, is_finished
from abatis.train.skip_nonfinite import SkipNonFinite
from abatis.train.training import Progress, Training


class Saver:
    """Saves and restores everything that changes in a training.

    Args:
        training: What is trained: network and trainer hooks.
        optimizer: Its optimizer.
        skipping: Counts the steps that were skipped in a row.
        progress: How far it has come.
        metrics: The averages of the current epoch.
        judged: The weights that are judged.
    """

    def __init__(
        self,
        training: Training,
        optimizer: torch.optim.Optimizer,
        skipping: SkipNonFinite,
        progress: Progress,
        metrics: EpochMetrics,
        judged: JudgedWeights,
    ) -> None:
        self.training = training
        self.net = training.net
        self.optimizer = optimizer
        self.skipping = skipping
        self.progress = progress
        self.metrics = metrics
        self.judged = judged
        self.about = describe_run(training.config, training.device, training.code, training.content)
        self.about |= {"continues": dict(training.continues)} if training.continues else {}
        self.seconds = 0.0  # the last save took
        self._warned = False

    def save(self) -> None:
        """Write a checkpoint of all that a resumed run needs; nothing in the run changes by it."""
        statistics = [tensor.cpu() for tensor in self.net.running_statistics()]
        own = {"statistics": statistics, "meter": self.metrics.state_dict()}
        parts = distributed.collect(own)
        began = time.perf_counter()
        folder = self.training.folder
        if distributed.rank() == 0:
            whole = self.net.sharding is None
            save_checkpoint(
                folder / CHECKPOINTS,
                self.progress.step,
                read_tensors(self.net.module) if whole else self._save_pieces,
                self._collect_state(parts),
                self.about,
                find_best_step(self.training, self.progress),
            )
        elif self.net.sharding is not None:
            with explain_disk_errors(folder):
                self._save_pieces(None)
        self.seconds = time.perf_counter() - began
        # a process that left before the checkpoint is written would take the writer along
        distributed.first_says(None)

    def find_warning(self) -> str:
        """That saving takes too long, the first time that it does; else an empty text."""
        warning = "" if self._warned else describe_slow_save(self.seconds)
        self._warned = self._warned or bool(warning)
        return warning

    def restore(self, loaded: Loaded) -> None:
        """Take over the state of a checkpoint."""
        state = loaded.state
        if self.net.sharding is None:
            load_state(self.net.module, loaded.weights, state.get("extra_state"))
            load_moments(self.optimizer, state["optimizer"])
        else:
            self.net.sharding.load(loaded.folder, self.optimizer, self.training.twin)
        load_trained(self.net, state.get("auxiliaries", {}))
        check_frozen(self.net, state.get("auxiliaries", {}))
        for name, hooks in self.training.plan.trainers:
            hooks.load_state_dict(state["trainers"].get(name, {}))
        self.skipping.in_a_row = state["skipped_in_a_row"]
        self.progress.step = loaded.step
        self.progress.epochs_ended = state["epochs_ended"]
        self.progress.best = state["best"]
        self.progress.best_files = state["best_files"]
        self.progress.seconds = state["seconds"]
        self.progress.finished = is_finished(state, self.training.config)
        self._restore_statistics([part["statistics"] for part in state["parts"]])
        self.metrics.restore([part["meter"] for part in state["parts"]], self.training.device)
        restore_best(self.training, self.progress)

    def take_over(self, source: Source) -> None:
        """Go on from the end of another run; its best weights and its metrics stay there.

        The plugins that both runs have keep their state, as does the average of the weights.
        """
        state = source.loaded.state
        self.net.module.load_state_dict(source.loaded.weights)
        load_trained(self.net, state.get("auxiliaries", {}))
        take_over_moments(self.optimizer, state["optimizer"])
        for name, hooks in self.training.plan.trainers:
            if name in state["trainers"] and name not in TRACKERS:  # those have their own record
                hooks.load_state_dict(state["trainers"][name])
        self.skipping.in_a_row = state["skipped_in_a_row"]
        self.progress.epochs_ended = source.epochs_ended
        self.progress.step = source.epochs_ended * self.training.steps_per_epoch
        self._restore_statistics([part["statistics"] for part in state["parts"]])

    def _save_pieces(self, folder: Path | None) -> None:
        assert self.net.sharding is not None
        self.net.sharding.save(folder, self.optimizer, self.training.twin)

    def _collect_state(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What a checkpoint holds besides the weights; parts: what differs between processes."""
        ended = self.progress.epochs_ended * self.training.steps_per_epoch
        # moments in pieces lie beside the pieces of the weights
        optimizer = self.optimizer.state_dict() if self.net.sharding is None else {}
        return {
            "epochs_ended": self.progress.epochs_ended,
            "best": self.progress.best,
            "best_files": self.progress.best_files,
            "finished": self.progress.finished,
            "seconds": self.progress.seconds,
            "parts": parts,
            "skipped_in_a_row": self.skipping.in_a_row,
            "optimizer": optimizer,
            "extra_state": read_extra_state(self.net.module),
            "auxiliaries": read_auxiliaries(self.net),
            "trainers": {name: hooks.state_dict() for name, hooks in self.training.plan.trainers},
            "judged": self.judged.state_dict() if ended == self.progress.step else {},
        }

    def _restore_statistics(self, parts: Sequence[Sequence[Tensor]]) -> None:
        """Each process's own; the mean of all where there are more or fewer processes now."""
        same = len(parts) == distributed.world_size()
        with torch.no_grad():
            for own, *saved in zip(self.net.running_statistics(), *parts, strict=True):
                own.copy_(saved[distributed.rank()] if same else torch.stack(saved).mean(0))
        if self.training.averaging is not None:
            self.training.averaging.copy_buffers()
