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

from abatis import processes
from abatis.errors import NotFiniteError, OutOfMemoryError, PluginError, is_out_of_memory
from abatis.micros import Micros, NotYetKnown, Share
from abatis.net import Net
from abatis.plan import Plan, blamed
from abatis.promises import INSIDE, STAY_INSIDE, check_batch
from abatis.randomness import Randomness, reseed
from abatis.types import Batch, StepContext, Term, Threat, TrainerHooks, total
from abatis.watch import Watch


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

    def __init__(
        self,
        net: Net,
        plan: Plan,
        optimizer: torch.optim.Optimizer,
        threat: Threat,
        random: Randomness,
        *,
        batch_statistics: bool = False,
        accumulate: int = 1,
        clip_grad: float = 0.0,
        deferred: bool = False,
    ) -> None:
        self.net, self.plan, self.optimizer, self.threat, self.random = net, plan, optimizer, threat, random
        self.batch_statistics, self.accumulate, self.clip_grad = batch_statistics, accumulate, clip_grad
        share = processes.shared if net.sharding is None else net.sharding.shared
        self.module, self.exchanging = share(StepModule(net, plan))
        self.parameters = [parameter for parameter in net.module.parameters() if parameter.requires_grad]
        self.gathers: int | None = None  # calls of ctx.gather in a micro-batch; counted in the first step
        # deferred: what must hold is not read in the step, which makes no update once it is broken; needs a fused optimizer
        self.watch = Watch() if deferred else None

    def __call__(self, batch: Batch, number: int, epoch: int, progress: float, share: Share | None = None) -> StepResult:
        """One update; raises NotFiniteError before it, PluginError for a broken promise, OutOfMemoryError with its phase.

        share: where ``batch`` is one process's part of the global batch.
        Where reading is deferred, :meth:`check` raises the first two.
        """
        share = share or Share(0, len(batch))
        with _phase("transform of the batch"):
            batch = self._transformed(batch, number, share)
        with _phase("attack"):
            micros = Micros(self, batch, number, epoch, progress, share)
        with _phase("loss"):
            micros.gather()
            try:
                result = self._outer(micros)
            except NotYetKnown:  # a plugin gathers more than in the first step: count again
                self.optimizer.zero_grad(set_to_none=True)
                self.gathers = None
                micros.gather()
                result = self._outer(micros)
        self._guard(result, micros)
        self.optimizer.step()
        for name, hooks in self.plan.trainers:
            with self.plan.watched(name, "after_update", self.net):
                hooks.after_update(micros.whole())
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _transformed(self, batch: Batch, number: int, share: Share) -> Batch:
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

    def _outer(self, micros: Micros) -> StepResult:
        self._before_loss(micros)
        return self._backward(micros)

    def _before_loss(self, micros: Micros) -> None:
        def objective() -> Tensor:
            with self.net.buffers_restored():
                shares = [total(self.plan.terms(ctx)) * (len(ctx.batch) / ctx.global_size) for ctx in micros]
            return torch.stack(shares).sum()

        for name, hooks in self.plan.trainers:
            ctx = micros.whole()
            with self.plan.watched(name, "before_loss", self.net, ctx.batch):
                hooks.before_loss(ctx, objective)
        moved = any(type(hooks).before_loss is not TrainerHooks.before_loss for _, hooks in self.plan.trainers)
        if micros.gathered and moved:  # the weights have changed, and what is gathered with them
            micros.gathered = []
            micros.gather()

    def _backward(self, micros: Micros) -> StepResult:
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
                with blamed(self.plan.loss_name, "backward pass", self.plan.rows):
                    (value * (share * processes.world_size())).backward()  # the exchange takes the mean over the processes
            means = {"total": value, **{name: term.value.mean() for name, term in terms.items()}}
            add_to(sums, {name: mean.detach() * share for name, mean in means.items()})
            add_to(right, _right(ctx))
        whole = sums.pop("total")
        return StepResult(whole, sums, right.get("logits_adv"), right.get("logits_clean"), micros.share.of)

    def check(self) -> None:
        """Raise what a step had to raise whose reading was deferred. One synchronisation."""
        broken = self.watch.read() if self.watch is not None else None
        if broken is None:
            return
        step, names = broken
        since = "no update was made since"
        if INSIDE in names:
            raise PluginError(f"attacker '{self.plan.attacker_name}' left the ball or [0, 1]", where=f"step {step}; {since}",
                              fix=STAY_INSIDE)  # fmt: skip
        raise NotFiniteError.at(step, f"{' and '.join(names)} not finite", since)

    def _guard(self, result: StepResult, micros: Micros) -> None:
        """Clip the gradient; raise NotFiniteError, naming the term, where the total or the gradient is not finite."""
        norm = torch.nn.utils.get_total_norm([part.grad for part in self.parameters if part.grad is not None])
        if self.net.sharding is not None:
            norm = self.net.sharding.undivided(norm)
        if self.clip_grad:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad, norm)
        if self.watch is not None:
            conditions = {f"term '{name}'": torch.isfinite(value) for name, value in result.terms.items()}
            conditions |= {"the gradient": torch.isfinite(norm), INSIDE: torch.cat(micros.inside).all()}
            held = processes.all_agree(torch.stack(list(conditions.values())))
            known = dict(zip(conditions, held.unbind(), strict=True))
            self.optimizer.found_inf = self.watch.see(micros.number, known)  # type: ignore[attr-defined]
        elif not bool(processes.all_agree(torch.isfinite(norm) & torch.isfinite(result.total))):
            self._not_finite(result, micros)

    def _not_finite(self, result: StepResult, micros: Micros) -> NoReturn:
        """Find the term to blame; all processes find the same, so that none waits for one that has left."""
        terms = dict(zip(result.terms, (float(mean) for mean in processes.summed(list(result.terms.values()))), strict=True))
        odd = next((f"term '{name}' is {mean}" for name, mean in terms.items() if not math.isfinite(mean)), None)
        what = f"the loss is not finite: {odd}" if odd else self._odd_gradient(micros)
        raise NotFiniteError.at(micros.number, what, "the update was not made", terms)

    def _odd_gradient(self, micros: Micros) -> str:
        with self.net.whole():
            parameters = [parameter for parameter in self.net.module.parameters() if parameter.requires_grad]
            for name, term in (named for ctx in micros for named in self.plan.terms(ctx).items()):
                if not term.value.requires_grad:
                    continue
                parts = torch.autograd.grad(term.value.mean(), parameters, retain_graph=True, allow_unused=True)
                norm = torch.nn.utils.get_total_norm([part for part in parts if part is not None])
                if not bool(processes.all_agree(torch.isfinite(norm))):
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
