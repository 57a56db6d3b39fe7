"""One training step: attack, terms, one total, backward, update.

The loss and the penalties of a micro-batch sit in one ``StepModule.forward``, the only thing a process wrapper may wrap.
Nothing here logs, validates or saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.context import StepContext, TrainerHooks
from abatis.api.randomness import reseed
from abatis.api.term import Term, total
from abatis.errors import NotFiniteError, OutOfMemoryError, PluginError, is_out_of_memory
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.system.plugin_errors import blamed
from abatis.train.deferred_checks import DeferredChecks
from abatis.train.image_checks import INSIDE, STAY_INSIDE, check_batch
from abatis.train.micro_batches import Engine, MicroBatches, NotYetKnown, RowShare
from abatis.train.plan import Plan


@dataclass(frozen=True)
class StepResult:
    """What a step leaves behind, still on the device: nothing here was read by the host.

    total (), terms: name to mean (), right_adv and right_clean: correct predictions among the samples, () int64,
    None where no such forward was made.
    """

    total: Tensor
    terms: dict[str, Tensor]
    right_adv: Tensor | None
    right_clean: Tensor | None
    samples: int


class StepModule(nn.Module):
    """The objective of one micro-batch as a module: context to (total (), terms)."""

    def __init__(self, net: Net, plan: Plan) -> None:
        super().__init__()
        self.model = net.module
        self.plan = plan

    def forward(self, ctx: StepContext) -> tuple[Tensor, dict[str, Term]]:
        terms = self.plan.terms(ctx)
        return total(terms), terms


class Step:
    """Runs the steps of one plan on one network. Call it with a batch; the gradients are empty before and after."""

    def __init__(self, engine: Engine, optimizer: torch.optim.Optimizer) -> None:
        """optimizer: a fused one where the engine defers reading."""
        self.engine, self.optimizer = engine, optimizer
        self.net, self.plan, self.random = engine.net, engine.plan, engine.random
        net, plan = engine.net, engine.plan
        share = distributed.shared if net.sharding is None else net.sharding.shared
        self.module, self.exchanging = share(StepModule(net, plan))
        self.parameters = [
            parameter for parameter in net.module.parameters() if parameter.requires_grad
        ]
        self.gathers: int | None = (
            None  # calls of ctx.gather in a micro-batch; counted in the first step
        )
        # what must hold is then not read in the step, which makes no update once it is broken
        self.watch = DeferredChecks() if engine.deferred else None

    def __call__(
        self, batch: Batch, number: int, epoch: int, progress: float, share: RowShare | None = None
    ) -> StepResult:
        """One update; raises NotFiniteError before it, PluginError for a broken promise, OutOfMemoryError with its phase.

        share: where ``batch`` is one process's part of the global batch.
        Where reading is deferred, :meth:`check` raises the first two.
        """
        share = share or RowShare(0, len(batch))
        with _phase("transform of the batch"):
            batch = self._transformed(batch, number, share)
        with _phase("attack"):
            micros = MicroBatches(self.engine, batch, number, epoch, progress, share)
        with _phase("loss"):
            self.gathers = micros.gather(self.gathers)
            try:
                result = self._outer(micros)
            except NotYetKnown:  # a plugin gathers more than in the first step: count again
                self.optimizer.zero_grad(set_to_none=True)
                self.gathers = micros.gather(None)
                result = self._outer(micros)
        self._guard(result, micros)
        self.optimizer.step()
        for name, hooks in self.plan.trainers:
            with self.plan.watched(name, "after_update", self.net):
                hooks.after_update(micros.whole())
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _transformed(self, batch: Batch, number: int, share: RowShare) -> Batch:
        """The batch as the trainer hooks change it, on the draws of its rows."""
        self.random.at(number, slice(share.first, share.first + len(batch)), share.of)
        reseed(self.random.seed, "transform", number)
        for name, hooks in self.plan.trainers:
            with self.plan.watched(name, "transform_batch", self.net, batch) as first:
                changed = hooks.transform_batch(batch)
                if first:
                    check_batch(changed, batch, name)
            batch = changed
        return batch

    def _outer(self, micros: MicroBatches) -> StepResult:
        self._before_loss(micros)
        return self._backward(micros)

    def _before_loss(self, micros: MicroBatches) -> None:
        def objective() -> Tensor:
            with self.net.buffers_restored():
                shares = [
                    total(self.plan.terms(ctx)) * (len(ctx.batch) / ctx.global_size)
                    for ctx in micros
                ]
            return torch.stack(shares).sum()

        for name, hooks in self.plan.trainers:
            ctx = micros.whole()
            with self.plan.watched(name, "before_loss", self.net, ctx.batch):
                hooks.before_loss(ctx, objective)
        moved = any(
            type(hooks).before_loss is not TrainerHooks.before_loss
            for _, hooks in self.plan.trainers
        )
        if micros.gathered and moved:  # the weights have changed, and what is gathered with them
            micros.gathered = []
            self.gathers = micros.gather(self.gathers)

    def _backward(self, micros: MicroBatches) -> StepResult:
        """Gradients of the whole batch's total, micro-batch by micro-batch, weighted by their true sizes."""
        sums: dict[str, Tensor] = {}
        right: dict[str, Tensor] = {}
        for last, ctx in zip(_last(len(micros.cuts)), micros, strict=True):
            share = len(ctx.batch) / ctx.global_size
            with self.exchanging(last):
                value, terms = self.module(ctx)
                if not value.requires_grad:
                    what = f"the terms {', '.join(terms)} do not depend on the network"
                    raise PluginError(what, fix="do not detach the logits")
                with blamed(self.plan.loss_name, "backward pass", self.plan.versions):
                    (
                        value * (share * distributed.world_size())
                    ).backward()  # the exchange takes the mean over the processes
            means = {"total": value, **{name: term.value.mean() for name, term in terms.items()}}
            add_to(sums, {name: mean.detach() * share for name, mean in means.items()})
            add_to(right, _right(ctx))
        whole = sums.pop("total")
        return StepResult(
            whole, sums, right.get("logits_adv"), right.get("logits_clean"), micros.share.of
        )

    def check(self) -> None:
        """Raise what a step had to raise whose reading was deferred. One synchronisation."""
        broken = self.watch.read() if self.watch is not None else None
        if broken is None:
            return
        step, names = broken
        since = "no update was made since"
        if INSIDE in names:
            raise PluginError(
                f"attacker '{self.plan.attacker_name}' left the ball or [0, 1]",
                where=f"step {step}; {since}",
                fix=STAY_INSIDE,
            )
        raise NotFiniteError.at(step, f"{' and '.join(names)} not finite", since)

    def _guard(self, result: StepResult, micros: MicroBatches) -> None:
        """Clip the gradient; raise NotFiniteError, naming the term, where the total or the gradient is not finite."""
        norm = torch.nn.utils.get_total_norm(
            [part.grad for part in self.parameters if part.grad is not None]
        )
        if self.net.sharding is not None:
            norm = self.net.sharding.undivided(norm)
        if self.engine.clip_grad:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.engine.clip_grad, norm)
        if self.watch is not None:
            conditions = {
                f"term '{name}'": torch.isfinite(value) for name, value in result.terms.items()
            }
            conditions |= {
                "the gradient": torch.isfinite(norm),
                INSIDE: torch.cat(micros.inside).all(),
            }
            held = distributed.all_agree(torch.stack(list(conditions.values())))
            known = dict(zip(conditions, held.unbind(), strict=True))
            self.optimizer.found_inf = self.watch.see(micros.number, known)  # type: ignore[attr-defined]
        elif not bool(distributed.all_agree(torch.isfinite(norm) & torch.isfinite(result.total))):
            self._not_finite(result, micros)

    def _not_finite(self, result: StepResult, micros: MicroBatches) -> NoReturn:
        """Find the term to blame; all processes find the same, so that none waits for one that has left."""
        terms = dict(
            zip(
                result.terms,
                (float(mean) for mean in distributed.summed(list(result.terms.values()))),
                strict=True,
            )
        )
        odd = next(
            (f"term '{name}' is {mean}" for name, mean in terms.items() if not math.isfinite(mean)),
            None,
        )
        what = f"the loss is not finite: {odd}" if odd else self._odd_gradient(micros)
        raise NotFiniteError.at(micros.number, what, "the update was not made", terms)

    def _odd_gradient(self, micros: MicroBatches) -> str:
        with self.net.whole():
            parameters = [
                parameter for parameter in self.net.module.parameters() if parameter.requires_grad
            ]
            for name, term in (named for ctx in micros for named in self.plan.terms(ctx).items()):
                if not term.value.requires_grad:
                    continue
                parts = torch.autograd.grad(
                    term.value.mean(), parameters, retain_graph=True, allow_unused=True
                )
                norm = torch.nn.utils.get_total_norm([part for part in parts if part is not None])
                if not bool(distributed.all_agree(torch.isfinite(norm))):
                    return f"the gradient of term '{name}' is not finite, its value is"
        return "the gradient of the total is not finite, that of each term is"


@contextmanager
def _phase(name: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"the device has no memory left in the {name}",
            fix="cut the batch into micro-batches: --accumulate 2 (or more)",
        ) from error


def _last(count: int) -> Iterator[bool]:
    """Which of so many micro-batches is the last one."""
    return (number == count - 1 for number in range(count))


def add_to(sums: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Add values to running sums, name by name."""
    for name, value in values.items():
        sums[name] = sums[name] + value if name in sums else value


def _right(ctx: StepContext) -> dict[str, Tensor]:
    """Numbers of correct predictions, (), of the logits that the losses computed anyway."""
    made = [name for name in ("logits_clean", "logits_adv") if name in ctx.__dict__]
    return {name: (ctx.__dict__[name].detach().argmax(1) == ctx.batch.y).sum() for name in made}
