"""The loop around the step: epochs, validation, the best weights, checkpoints, a safe stop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from abatis.api.randomness import reseed
from abatis.api.run import Now
from abatis.errors import NotFiniteError, Stopped
from abatis.nets.weights_file import WEIGHTS_LAST
from abatis.system import distributed
from abatis.system.change_file import change_text
from abatis.system.device import peak_memory_mb
from abatis.system.files import explain_disk_errors
from abatis.system.signals import AGAIN, StopRequest
from abatis.train.batches import cut_epoch
from abatis.train.best_weights import keep_best
from abatis.train.checkpoint import Loaded
from abatis.train.continuation import Source
from abatis.train.epoch_metrics import EpochMetrics
from abatis.train.failed_batch import write_failed_batch
from abatis.train.judged_weights import JudgedWeights
from abatis.train.micro_batches import RowShare
from abatis.train.optimizer import (
    make_optimizer,
    schedule_momentum,
    schedule_rate,
    set_rate,
)
from abatis.train.resume import stops_early
from abatis.train.saving import Saver
from abatis.train.skip_nonfinite import SkipNonFinite
from abatis.train.step import Step, StepResult
from abatis.train.step_setup import StepSetup
from abatis.train.training import Listener, Progress, Training

LOG_EVERY = 20  # steps between two reads of the metrics
METRICS = "metrics.jsonl"  # in the run folder: a row per epoch


class Trainer:
    """Trains one network by one plan; all of its state can be saved and restored.

    Args:
        training: What it is made of.
    """

    def __init__(self, training: Training) -> None:
        config = training.config
        net = training.net
        self.training = training
        self.config = config
        self.net = net
        self.plan = training.plan
        # on a GPU, a host that reads in every step makes the device wait
        deferred = (
            training.device.type == "cuda" and net.sharding is None and not config.skip_nonfinite
        )
        self.optimizer = make_optimizer(config.optim, net.list_modules(), fused=deferred)
        setup = StepSetup(
            net,
            training.plan,
            config.threat_model,
            training.random,
            batch_statistics=config.attack.bn == "train",
            accumulate=config.accumulate,
            clip_grad=config.clip_grad,
            deferred=deferred,
            statistics=config.statistics,
        )
        self.step = Step(setup, self.optimizer)
        self.skipping = SkipNonFinite(config.skip_nonfinite, net, self.optimizer)
        self.progress = Progress()
        self.metrics = EpochMetrics()
        self.judged_weights = JudgedWeights(training.plan, net)
        self.saver = Saver(
            training,
            self.optimizer,
            self.skipping,
            self.progress,
            self.metrics,
            self.judged_weights,
        )
        self._clock = 0.0  # when seconds were counted last

    @property
    def judged(self) -> nn.Module:
        """The network whose accuracy counts: the trained one, or that of a trainer hook."""
        return self.training.make_whole(self.judged_weights.module)

    def restore(self, loaded: Loaded) -> None:
        """Continue from a checkpoint, bit for bit."""
        self.saver.restore(loaded)

    def take_over(self, source: Source) -> None:
        """Go on from the end of another run, and write a first checkpoint of this one."""
        self.saver.take_over(source)
        self.save()

    def save(self) -> None:
        """Write a checkpoint."""
        self.step.check()
        self.saver.save()

    def fit(self, listener: Listener) -> None:
        """Train to the end.

        Raises:
            Stopped: A signal asked for it; the state is saved.
            NotFiniteError: Loss or gradient was not finite.
        """
        self._trim_metrics()
        self.net.train()
        with StopRequest() as stop, self._explain_failures():
            while not self.progress.finished:
                self._train_epoch(stop, listener)
                listener.epoch(self._end_epoch())
                self._warn_if_slow(listener)
                if note := self.training.data.take_note():
                    listener.note(note)
                if distributed.any_says(stop.asked):  # in the validation; all of it is saved
                    raise self._make_stopped()
            self.training.write_weights(WEIGHTS_LAST, self.net.module)

    def _train_epoch(self, stop: StopRequest, listener: Listener) -> None:
        """Make the steps of the current epoch, with checkpoints in between."""
        progress = self.progress
        every = self.config.checkpoint_every
        self._clock = time.perf_counter()
        for result in self._make_steps(listener):
            if result is not None:
                self.metrics.add(result)
            if progress.step % LOG_EVERY == 0 or progress.step <= 3:
                listener.step(progress.step, progress.epochs_ended, self._read_averages())
            # all processes leave the loop after the same step
            stopping = distributed.any_says(stop.asked)
            if stopping or (every and progress.step % every == 0):
                self._count_seconds()
                self.save()
                self._warn_if_slow(listener)
            if stopping:
                raise self._make_stopped()
        self._count_seconds()

    def _make_steps(self, listener: Listener) -> Iterator[StepResult | None]:
        """Make the steps of the epoch that are not done yet; None for one that was skipped."""
        config, train = self.config, self.training.data.train
        epoch, steps = self.progress.epochs_ended, self.training.steps
        first = self.progress.step - epoch * self.training.steps_per_epoch
        batches = cut_epoch(config, train, epoch)[first:]
        numbered = enumerate(batches, start=self.progress.step)

        def report_skipped(error: NotFiniteError) -> None:
            write_failed_batch(error, self.training)
            listener.note(f"skipped step {error.step}: {error.what} ({error.where})")

        for batch in train.train_batches(numbered, config.seed, distributed.rows_of):
            number = self.progress.step
            size = len(batches[0])
            share = RowShare(distributed.rows_of(size).start, size)
            momentum = schedule_momentum(config.optim, number, steps, self.training.steps_per_epoch)
            set_rate(self.optimizer, self._rate_at(number), momentum)
            result = None
            with self.skipping.tolerate(report_skipped):
                result = self.step(batch, number, epoch, number / steps, share)
            self.progress.step += 1
            yield result

    def _end_epoch(self) -> dict[str, Any]:
        """Validate, keep the best weights, write metrics and a checkpoint; the epoch's row."""
        progress = self.progress
        self._average_buffers()
        self.training.random.at(progress.step)
        last = max(progress.step - 1, 0)
        self.plan.run.clock.now = Now(last, progress.epochs_ended, last / self.training.steps)
        reseed(self.config.seed, "epoch end", progress.step)
        for name, hooks in self.plan.trainers:
            with self.net.whole(), self.plan.watch(name, "epoch_end", self.net):
                hooks.epoch_end(progress.epochs_ended)
        self.judged_weights.ask()
        progress.epochs_ended += 1
        row: dict[str, Any] = {
            "epoch": progress.epochs_ended,
            "step": progress.step,
            "lr": self._rate_at(max(progress.step - 1, 0)),
            **self._read_averages(),
        }
        self.metrics.clear()
        row |= self._validate()
        row["seconds"] = round(progress.seconds, 3)
        if (memory := peak_memory_mb(self.training.device)) is not None:
            row["peak_memory_mb"] = memory
        progress.finished = progress.epochs_ended >= self.config.epochs or stops_early(
            progress.epochs_ended, progress.best, self.config
        )
        if distributed.rank() == 0:
            path = self.training.folder / METRICS
            with explain_disk_errors(path.parent), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self.tell(row)
        self.save()
        return row

    def _validate(self) -> dict[str, float]:
        """Clean and robust accuracy on the held-out images; keeps the weights if they are best."""
        accuracies: dict[str, float] = {}
        if self.training.data.val is not None:
            clean, robust = self.training.validate(self.judged)
            accuracies = {"val_clean_acc": clean, "val_robust_acc": robust}
        judged = self.judged_weights
        own = judged.module if judged.has_own_file else None
        keep_best(self.training, self.progress, accuracies, own)
        return accuracies

    def tell(self, values: Mapping[str, float]) -> None:
        """Call the ``metrics`` of every trainer hook."""
        for name, hooks in self.plan.trainers:
            with self.plan.watch(name, "metrics", self.net):
                hooks.metrics(values)

    def _rate_at(self, step: int) -> float:
        optim, training = self.config.optim, self.training
        return optim.lr * schedule_rate(optim, step, training.steps, training.steps_per_epoch)

    def _average_buffers(self) -> None:
        """From here on every process has the mean of all running statistics."""
        if not distributed.several():
            return
        statistics = self.net.running_statistics()
        sums = distributed.sum_over_processes(statistics)
        with torch.no_grad():
            for own, whole in zip(statistics, sums, strict=True):
                own.copy_(whole / distributed.world_size())
        if self.training.averaging is not None:
            self.training.averaging.copy_buffers()

    def _read_averages(self) -> dict[str, float]:
        """The averages of the epoch so far; raises the errors of deferred checks."""
        self.step.check()
        return self.metrics.averages()

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._clock
        self._clock = now

    def _warn_if_slow(self, listener: Listener) -> None:
        """Say once that saving is slow."""
        if warning := self.saver.find_warning():
            listener.note(warning)

    def _make_stopped(self) -> Stopped:
        return Stopped(
            f"stopped after step {self.progress.step} of {self.training.steps}; the state is saved",
            where=str(self.training.folder),
            fix=AGAIN,
        )

    @contextmanager
    def _explain_failures(self) -> Iterator[None]:
        """Say after which step another process was lost; write the batch that was not finite."""
        steps = self.training.steps
        try:
            with distributed.watch_others(lambda: f"after step {self.progress.step} of {steps}"):
                yield
        except NotFiniteError as error:
            write_failed_batch(error, self.training)
            raise

    def _trim_metrics(self) -> None:
        """Drop the rows of epochs that will be run again."""
        path = self.training.folder / METRICS
        if path.exists() and distributed.rank() == 0:
            kept = self.progress.epochs_ended - self.training.continues.get("epoch", 0)
            change_text(path, lambda text: "".join(f"{row}\n" for row in text.splitlines()[:kept]))
