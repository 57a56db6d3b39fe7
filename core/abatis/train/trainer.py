"""The loop around the step: epochs, validation, the best weights, checkpoints, and stopping without loss."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from abatis.api.randomness import Randomness, reseed
from abatis.config.run_config import RunConfig
from abatis.data import Data, batches_per_epoch, epoch_batches
from abatis.errors import CheckpointError, NotFiniteError, Stopped, UsageError
from abatis.nets.net import Net
from abatis.nets.weights_file import WEIGHTS, WEIGHTS_AVERAGED, WEIGHTS_LAST, write_weights
from abatis.system import distributed
from abatis.system.device import peak_memory_mb
from abatis.system.files import disk, write_text
from abatis.system.signals import AGAIN, StopRequest
from abatis.train.best_weights import best_digests, restore_best
from abatis.train.builtin.averaging import WeightAveraging
from abatis.train.checkpoint import CHECKPOINTS, Loaded, place_of, save_checkpoint, too_slow
from abatis.train.epoch_metrics import EpochMetrics
from abatis.train.micro_batches import Engine, RowShare
from abatis.train.optimizer import factor, make_optimizer, set_rate
from abatis.train.plan import Plan
from abatis.train.resume import about_run, is_finished
from abatis.train.skip_nonfinite import SkipNonFinite
from abatis.train.step import Step, StepResult

LOG_EVERY = 20  # steps between two reads of the metrics
NOT_FINITE = "not-finite.json"  # in the run folder: the batch whose loss or gradient was not finite


class Listener(Protocol):
    """Who is told how the training goes."""

    def step(self, done: int, epoch: int, averages: Mapping[str, float]) -> None: ...

    def epoch(self, row: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Training:
    """What a training is made of.

    folder: that of the run; facts: of the network and the data, for the weights files; random: the draws that the plan's
    callables use; validate: clean and robust accuracy of a network on the held-out images, asked where there are any.
    """

    config: RunConfig
    net: Net
    plan: Plan
    data: Data
    folder: Path
    facts: Mapping[str, Any]
    random: Randomness
    validate: Callable[[nn.Module], tuple[float, float]]


class Trainer:
    """Trains one network by one plan; all of its state can be saved and taken back."""

    def __init__(self, training: Training) -> None:
        """Raises UsageError where options do not go together."""
        self.training = training
        self.config, self.data, self.folder = training.config, training.data, training.folder
        self.net, self.plan = training.net, training.plan
        config, net, plan, data = training.config, training.net, training.plan, training.data
        self.about = about_run(config, next(net.module.parameters()).device)
        self.averaging = next(
            (hooks for _, hooks in plan.trainers if isinstance(hooks, WeightAveraging)), None
        )
        if config.skip_nonfinite and net.sharding is not None:
            raise UsageError(
                "--skip-nonfinite takes back what a step did, and was never tried on pieces",
                fix="--shard none",
            )
        # on a GPU a host that reads in every step would be waited for; what defers that was never tried on pieces
        deferred = (
            next(net.module.parameters()).is_cuda
            and net.sharding is None
            and not config.skip_nonfinite
        )
        self.optimizer = make_optimizer(config.optim, net.module, fused=deferred)
        engine = Engine(
            net,
            plan,
            config.threat_model,
            training.random,
            batch_statistics=config.attack.bn == "train",
            accumulate=config.accumulate,
            clip_grad=config.clip_grad,
            deferred=deferred,
        )
        self.one_step = Step(engine, self.optimizer)
        self.skipping = SkipNonFinite(config.skip_nonfinite, net.module, self.optimizer)
        self.steps_per_epoch = batches_per_epoch(len(data.train), config.batch_size)
        self.steps = self.steps_per_epoch * config.epochs
        self.done = 0  # steps
        self.epochs_ended = 0
        self.best: dict[str, float] = {}
        self.best_files: dict[str, str] = {}  # of the best weights, by their sha256
        self.finished = False
        self.seconds = 0.0
        self.save_seconds, self.warned = 0.0, False
        self.meter = EpochMetrics()

    @property
    def judged(self) -> nn.Module:
        """The network whose accuracy counts: the averaged one where averaging is on."""
        return self._whole(self.net.module if self.averaging is None else self.averaging.averaged)

    @property
    def _twin(self) -> nn.Module | None:
        return None if self.averaging is None else self.averaging.twin

    def _whole(self, module: nn.Module) -> nn.Module:
        """The same; where it is in pieces, a copy that is put together from those of all processes."""
        return module if self.net.sharding is None else self.net.sharding.gathered(module)

    @property
    def _best_step(self) -> int:
        return int(self.best.get("epoch", 0)) * self.steps_per_epoch

    def fit(self, listener: Listener) -> None:
        """Train to the end; raises Stopped after saving where a signal asked for it."""
        self._trim_metrics()
        self.net.module.train()
        with StopRequest() as stop, self._explained():
            while not self.finished:
                began = time.perf_counter()
                for result in self._epoch_steps(partial(self._skipped, listener)):
                    if result is not None:
                        self.meter.add(result)
                    if self.done % LOG_EVERY == 0 or self.done <= 3:
                        listener.step(self.done, self.epochs_ended, self._averages())
                    every = self.config.checkpoint_every
                    stopping = distributed.any_says(
                        stop.asked
                    )  # all leave the loop after the same step
                    if stopping or (every and self.done % every == 0):
                        self.seconds += time.perf_counter() - began
                        began = time.perf_counter()
                        self.save()
                        self._warn(listener)
                    if stopping:
                        raise self._stopped()
                row = self._end_epoch(time.perf_counter() - began)
                listener.epoch(row)
                self._warn(listener)
                if distributed.any_says(
                    stop.asked
                ):  # during the validation, whose checkpoint is best_digests
                    raise self._stopped()
            self._write(WEIGHTS_LAST, self.net.module)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say after which step another process was lost; write what the batch was whose numbers are not finite."""
        try:
            with distributed.answering(lambda: f"after step {self.done} of {self.steps}"):
                yield
        except NotFiniteError as error:
            self._dump(error)
            raise

    def _skipped(self, listener: Listener, error: NotFiniteError) -> None:
        self._dump(error)
        listener.note(f"left out: {error.what} ({error.where})")

    def _dump(self, error: NotFiniteError) -> None:
        """What the batch was that broke a step: its images by their places in the training split."""
        if error.step is None or distributed.rank() > 0:
            return
        config, (epoch, number) = self.config, divmod(error.step, self.steps_per_epoch)
        batch = epoch_batches(len(self.data.train), config.batch_size, config.seed, epoch)[number]
        terms = {
            name: mean if math.isfinite(mean) else str(mean) for name, mean in error.terms.items()
        }
        about = {
            "what": error.what,
            "step": error.step,
            "epoch": epoch,
            "seed": config.seed,
            "terms": terms,
        }
        with disk(self.folder):
            write_text(
                self.folder / NOT_FINITE,
                json.dumps({**about, "batch": batch.tolist()}, indent=2) + "\n",
            )
        error.where = f"{error.where}; {self.folder / NOT_FINITE} has the batch"

    def _warn(self, listener: Listener) -> None:
        """Say once that saving is slow."""
        warning = too_slow(self.save_seconds)
        if warning and not self.warned:
            listener.note(warning)
        self.warned = self.warned or bool(warning)

    def _averages(self) -> dict[str, float]:
        """What the host reads at the log interval; raises what the steps since the last one left to be raised."""
        self.one_step.check()
        return self.meter.averages()

    def _stopped(self) -> Stopped:
        return Stopped(
            f"stopped after step {self.done} of {self.steps}; the state is saved",
            where=str(self.folder),
            fix=AGAIN,
        )

    def _epoch_steps(
        self, skipped: Callable[[NotFiniteError], None]
    ) -> Iterator[StepResult | None]:
        """The steps of the current epoch that are not done yet; None for one that was left out."""
        epoch, seed = self.epochs_ended, self.config.seed
        first = self.done - epoch * self.steps_per_epoch
        batches = epoch_batches(len(self.data.train), self.config.batch_size, seed, epoch)[first:]
        numbered = enumerate(batches, start=self.done)
        for batch in self.data.train.train_batches(numbered, seed, distributed.rows_of):
            of = len(batches[0])
            rows = distributed.rows_of(of)
            set_rate(
                self.optimizer,
                self.config.optim.lr * factor(self.config.optim, self.done, self.steps),
            )
            result = None
            with self.skipping.allowed(skipped):
                result = self.one_step(
                    batch, self.done, epoch, self.done / self.steps, RowShare(rows.start, of)
                )
            self.done += 1
            yield result

    def _end_epoch(self, seconds: float) -> dict[str, Any]:
        """Validate, keep the best weights, write metrics and a checkpoint; returns the epoch's row."""
        self._average_buffers()
        self.one_step.random.at(self.done)
        reseed(self.config.seed, "epoch end", self.done)
        for name, hooks in self.plan.trainers:
            with self.net.whole(), self.plan.watched(name, "epoch_end", self.net):
                hooks.epoch_end(self.epochs_ended)
        self.seconds += seconds
        self.epochs_ended += 1
        rate = self.config.optim.lr * factor(self.config.optim, max(self.done - 1, 0), self.steps)
        row: dict[str, Any] = {
            "epoch": self.epochs_ended,
            "step": self.done,
            "lr": rate,
            **self._averages(),
        }
        self.meter = EpochMetrics()
        row |= self._validate()
        row["seconds"] = round(self.seconds, 3)
        row["peak_memory_mb"] = peak_memory_mb(next(self.net.module.parameters()).device)
        since_best = self.epochs_ended - int(self.best.get("epoch", 0))
        stop_early = bool(self.config.early_stop) and since_best >= self.config.early_stop
        self.finished = self.epochs_ended >= self.config.epochs or stop_early
        if distributed.rank() == 0:
            with (
                disk(self.folder),
                (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file,
            ):
                file.write(json.dumps(row) + "\n")
            self.tell(row)
        self.save()
        return row

    def tell(self, values: Mapping[str, float]) -> None:
        """Hand numbers to whoever keeps them elsewhere."""
        for name, hooks in self.plan.trainers:
            with self.plan.watched(name, "metrics", self.net):
                hooks.metrics(values)

    def _validate(self) -> dict[str, float]:
        """Clean and robust accuracy on the held-out images; writes the weights where they are the best so far."""
        now: dict[str, float] = {}
        if self.data.val is not None:
            clean, robust = self.training.validate(self.judged)
            now = {"val_clean_acc": clean, "val_robust_acc": robust}
        rank = (now.get("val_robust_acc", 0.0), now.get("val_clean_acc", 0.0))
        if (
            not self.best
            or not now
            or rank > (self.best["val_robust_acc"], self.best["val_clean_acc"])
        ):
            self.best = {
                "epoch": self.epochs_ended,
                "val_robust_acc": rank[0],
                "val_clean_acc": rank[1],
            }
            self._write(WEIGHTS, self.net.module)
            if self.averaging is not None:
                self._write(WEIGHTS_AVERAGED, self.averaging.averaged)
            self.best_files = best_digests(self.folder)
        return now

    def _write(self, name: str, module: nn.Module) -> None:
        """Weights into the run folder, by the first process."""
        module = self._whole(module)
        if distributed.rank() == 0:
            with disk(self.folder):
                write_weights(self.folder / name, module.state_dict(), self.training.facts)

    def _average_buffers(self) -> None:
        """From here on every process has the mean of all running statistics."""
        if not distributed.several():
            return
        statistics = self.net.running_statistics()
        with torch.no_grad():
            for own, whole in zip(statistics, distributed.summed(statistics), strict=True):
                own.copy_(whole / distributed.world_size())
        if self.averaging is not None:
            self.averaging.copy_buffers()

    def save(self) -> None:
        """Write a checkpoint of everything a resumed run needs; nothing in the run changes by it."""
        self.one_step.check()
        statistics = [tensor.cpu() for tensor in self.net.running_statistics()]
        parts = distributed.each({"statistics": statistics, "meter": self.meter.state_dict()})
        began = time.perf_counter()
        if distributed.rank() == 0:
            weights = (
                self.net.module.state_dict() if self.net.sharding is None else self._save_pieces
            )
            save_checkpoint(
                self.folder / CHECKPOINTS,
                self.done,
                weights,
                self._state(parts),
                self.about,
                self._best_step,
            )
        elif self.net.sharding is not None:
            with disk(self.folder):
                self._save_pieces(None)
        self.save_seconds = time.perf_counter() - began
        distributed.first_says(
            None
        )  # a process that left before it is best_digests would take the writer along

    def _save_pieces(self, folder: Path | None) -> None:
        assert self.net.sharding is not None
        self.net.sharding.save(folder, self.optimizer, self._twin)

    def _state(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What a checkpoint holds besides the weights; parts: what differs from process to process."""
        return {
            "epochs_ended": self.epochs_ended,
            "best": self.best,
            "best_files": self.best_files,
            "finished": self.finished,
            "seconds": self.seconds,
            "parts": parts,
            "skipped_in_a_row": self.skipping.in_a_row,
            "optimizer": self.optimizer.state_dict()
            if self.net.sharding is None
            else {},  # lies with the pieces
            "trainers": {name: hooks.state_dict() for name, hooks in self.plan.trainers},
        }

    def restore(self, loaded: Loaded) -> None:
        """Go on from a checkpoint, bit for bit."""
        state = loaded.state
        if self.net.sharding is None:
            self.net.module.load_state_dict(loaded.weights)
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            self.net.sharding.load(loaded.folder, self.optimizer, self._twin)
        for name, hooks in self.plan.trainers:
            hooks.load_state_dict(state["trainers"].get(name, {}))
        self.done, self.epochs_ended = loaded.step, state["epochs_ended"]
        self.skipping.in_a_row = state["skipped_in_a_row"]
        self.best, self.best_files, self.seconds = (
            state["best"],
            state["best_files"],
            state["seconds"],
        )
        self._restore_statistics([part["statistics"] for part in state["parts"]])
        device = next(self.net.module.parameters()).device
        self.meter = EpochMetrics.restored([part["meter"] for part in state["parts"]], device)
        self.finished = is_finished(state, self.config)
        self._mend_best()

    def _restore_statistics(self, parts: Sequence[Sequence[Tensor]]) -> None:
        """Those of this process; their mean where they are of more or fewer processes."""
        same = len(parts) == distributed.world_size()
        with torch.no_grad():
            for own, *all_of_it in zip(self.net.running_statistics(), *parts, strict=True):
                own.copy_(all_of_it[distributed.rank()] if same else torch.stack(all_of_it).mean(0))
        if self.averaging is not None:
            self.averaging.copy_buffers()

    def _mended(self, checkpoint: Path) -> bool:
        join = (
            None
            if self.net.sharding is None
            else partial(self.net.sharding.join, twin=self._twin is not None)
        )
        return restore_best(self.folder, self.best_files, checkpoint, self.training.facts, join)

    def _mend_best(self) -> None:
        """See that the best weights so far are those that were best_digests; where they are lost, the best is chosen anew."""
        checkpoint = place_of(self.folder / CHECKPOINTS, self._best_step)
        if distributed.first_says(distributed.rank() > 0 or self._mended(checkpoint)):
            return
        if self.finished:
            raise CheckpointError(
                "the best weights are damaged, and the checkpoint of their epoch is gone",
                where=str(self.folder),
                fix="put them back, or begin anew under another --name",
            )
        self.best, self.best_files = {}, {}

    def _trim_metrics(self) -> None:
        """Drop the rows of epochs that will be run again."""
        path = self.folder / "metrics.jsonl"
        if path.exists() and distributed.rank() == 0:
            rows = path.read_text(encoding="utf-8").splitlines()[: self.epochs_ended]
            write_text(path, "".join(row + "\n" for row in rows))
