"""One training step: attack, terms, one total, backward, update.

The loss and the penalties of a micro-batch are computed in one ``StepModule.forward``, the only
thing that is wrapped for several processes. Nothing here logs, validates or saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.context import StepContext, TrainerHooks
from abatis.api.randomness import reseed
from abatis.api.run import Now
from abatis.api.term import Term, total
from abatis.errors import NotFiniteError, OutOfMemoryError, PluginError
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.system.plugin_errors import blame_plugin
from abatis.system.torch_messages import is_out_of_memory
from abatis.train.deferred_checks import DeferredChecks
from abatis.train.image_checks import INSIDE, STAY_INSIDE, check_batch
from abatis.train.micro_batches import MicroBatches, NotYetKnown, RowShare, add_to
from abatis.train.objective import StepObjective
from abatis.train.plan import Plan
from abatis.train.step_setup import StepSetup


@dataclass(frozen=True)
class StepResult:
    """What a step reports, still on the device: nothing here was read by the host.

    Attributes:
        total: The objective, ().
        terms: The mean of every term, () each, by name.
        right_adv: Correct predictions at adversarial images, () int64; None without such a forward.
        right_clean: Correct predictions at clean images, likewise.
        samples: The size of the global batch.
        attack: What the attacker asks to be shown, () each: the sum over this process's samples.
    """

    total: Tensor
    terms: dict[str, Tensor]
    right_adv: Tensor | None
    right_clean: Tensor | None
    samples: int
    attack: dict[str, Tensor] = field(default_factory=dict)


class StepModule(nn.Module):
    """The objective of one micro-batch as a module: context to (total (), terms)."""

    def __init__(self, net: Net, plan: Plan) -> None:
        super().__init__()
        self.model = net.module
        self.others = nn.ModuleList(net.list_modules()[1:])
        self.plan = plan

    def forward(self, ctx: StepContext) -> tuple[Tensor, dict[str, Term]]:
        terms = self.plan.terms(ctx)
        return total(terms), terms


class Step:
    """Runs the steps of one plan on one network; gradients are empty before and after each.

    Args:
        setup: What every step works with.
        optimizer: Makes the update; a fused one where checks are deferred.
    """

    def __init__(self, setup: StepSetup, optimizer: torch.optim.Optimizer) -> None:
        self.setup = setup
        self.optimizer = optimizer
        self.net = setup.net
        self.plan = setup.plan
        self.random = setup.random
        self.net.auxiliaries_closed = True
        module = StepModule(self.net, self.plan)
        if self.net.sharding is None:
            self.module, self.exchanging = distributed.average_gradients(module)
        else:
            self.module, self.exchanging = self.net.sharding.share(module)
        self.parameters = self.net.list_parameters()
        # calls of ctx.gather in a micro-batch; counted in the first step
        self.gathers: int | None = None
        # once a deferred check has failed, no step makes an update any more
        self.deferred_checks = DeferredChecks() if setup.deferred else None

    def __call__(
        self, batch: Batch, number: int, epoch: int, progress: float, share: RowShare | None = None
    ) -> StepResult:
        """Make one update. Where checks are deferred, :meth:`check` raises the first two errors.

        Args:
            batch: Images and labels; with several processes, the rows of this one.
            number: The step's, from 0.
            epoch: From 0.
            progress: Share of the training done, in [0, 1).
            share: Which rows of the global batch these are; all of them if not given.

        Raises:
            NotFiniteError: Loss or gradient is not finite; no update was made.
            PluginError: A plugin failed, or broke its contract.
            OutOfMemoryError: The device has no memory left, and in which phase.
        """
        share = share or RowShare(0, len(batch))
        self.plan.run.clock.now = Now(number, epoch, progress)
        with _name_phase("transform of the batch"):
            batch = self._transform(batch, number, share)
        with _name_phase("attack"):
            micros = MicroBatches(self.setup, batch, number, epoch, progress, share)
        first = number == 0 and self.setup.statistics.first == "replace"
        with _name_phase("loss"), self.net.replace_statistics() if first else nullcontext():
            result = self._compute_gradients(micros)
        with _name_phase("update"):
            self._check_and_clip(result, micros)
            self.optimizer.step()
        for name, hooks in self.plan.trainers:
            with self.plan.watch(name, "after_update", self.net):
                hooks.after_update(micros.whole())
        if self.setup.statistics.after:
            micros.move_statistics_after()
            if (averaging := self.plan.averaging) is not None:
                averaging.copy_buffers()
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _transform(self, batch: Batch, number: int, share: RowShare) -> Batch:
        """The batch as the trainer hooks change it, on the draws of its rows."""
        self.random.at(number, slice(share.first, share.first + len(batch)), share.of)
        reseed(self.random.seed, "transform", number)
        for name, hooks in self.plan.trainers:
            with self.plan.watch(name, "transform_batch", self.net, batch) as first:
                changed = hooks.transform_batch(batch)
                if first:
                    check_batch(changed, batch, name)
            batch = changed
        return batch

    def _compute_gradients(self, micros: MicroBatches) -> StepResult:
        self.gathers = micros.gather(self.gathers)
        buffers = [] if micros.gathered is None else self.net.list_buffers()
        before = [buffer.clone() for buffer in buffers]
        try:
            self._call_before_loss(micros)
            return self._go_backward(micros)
        except NotYetKnown:  # a plugin gathers more often than in the first step: count again
            self.optimizer.zero_grad(set_to_none=True)
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            self.gathers = micros.gather(None)
            self._call_before_loss(micros)
            return self._go_backward(micros)

    def _call_before_loss(self, micros: MicroBatches) -> None:
        objective = StepObjective(self.net, self.plan, micros)
        for name, hooks in self.plan.trainers:
            ctx = micros.whole()
            with self.plan.watch(name, "before_loss", self.net, ctx.batch):
                hooks.before_loss(ctx, objective)
        moved = any(
            type(hooks).before_loss is not TrainerHooks.before_loss
            for _, hooks in self.plan.trainers
        )
        if micros.gathered and moved:  # weights have changed, and with them what is gathered
            micros.gathered = []
            self.gathers = micros.gather(self.gathers)

    def _go_backward(self, micros: MicroBatches) -> StepResult:
        """Gradients of the batch's total, over micro-batches weighted by their sizes."""
        sums: dict[str, Tensor] = {}
        right: dict[str, Tensor] = {}
        last = len(micros.cuts) - 1
        for number, ctx in enumerate(micros):
            share = len(ctx.batch) / ctx.global_size
            with self.exchanging(number == last):
                value, terms = self.module(ctx)
                if not value.requires_grad:
                    what = f"the terms {', '.join(terms)} do not depend on the network"
                    raise PluginError(what, fix="do not detach the logits")
                with blame_plugin(self.plan.loss_name, "backward pass", self.plan.versions):
                    # the exchange takes the mean over the processes
                    (value * (share * distributed.world_size())).backward()
            means = {"total": value, **{name: term.value.mean() for name, term in terms.items()}}
            add_to(sums, {name: mean.detach() * share for name, mean in means.items()})
            add_to(right, _count_right(ctx))
        whole = sums.pop("total")
        return StepResult(
            whole,
            sums,
            right.get("logits_adv"),
            right.get("logits_clean"),
            micros.share.of,
            micros.sum_shown(),
        )

    def check(self) -> None:
        """Raise the error of the first step that failed a deferred check. One synchronisation."""
        broken = self.deferred_checks.read() if self.deferred_checks is not None else None
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

    def _check_and_clip(self, result: StepResult, micros: MicroBatches) -> None:
        """Clip the gradient; raise NotFiniteError where the total or the gradient is not finite."""
        gradients = [part.grad for part in self.parameters if part.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.net.sharding is not None:
            norm = self.net.sharding.undivide(norm)
        if self.setup.clip_grad:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.setup.clip_grad, norm)
        if self.deferred_checks is not None:
            conditions = {
                f"term '{name}'": torch.isfinite(value) for name, value in result.terms.items()
            }
            conditions |= {
                "the gradient": torch.isfinite(norm),
                INSIDE: torch.cat(micros.inside).all(),
            }
            held = distributed.all_agree(torch.stack(list(conditions.values())))
            agreed = dict(zip(conditions, held.unbind(), strict=True))
            broken = self.deferred_checks.note(micros.number, agreed)
            self.optimizer.found_inf = broken  # type: ignore[attr-defined]
        elif not bool(distributed.all_agree(torch.isfinite(norm) & torch.isfinite(result.total))):
            self._raise_not_finite(result, micros)

    def _raise_not_finite(self, result: StepResult, micros: MicroBatches) -> NoReturn:
        """Find the term to blame; all processes find the same, so that none waits in vain."""
        means = distributed.sum_over_processes(list(result.terms.values()))
        terms = {name: float(mean) for name, mean in zip(result.terms, means, strict=True)}
        odd = [name for name, mean in terms.items() if not math.isfinite(mean)]
        if odd:
            what = f"the loss is not finite: term '{odd[0]}' is {terms[odd[0]]}"
        else:
            what = self._find_odd_gradient(micros)
        raise NotFiniteError.at(micros.number, what, "the update was not made", terms)

    def _find_odd_gradient(self, micros: MicroBatches) -> str:
        """Which term has a gradient that is not finite, in words."""
        with self.net.whole():
            for ctx in micros:
                for name, term in self.plan.terms(ctx).items():
                    if not term.value.requires_grad:
                        continue
                    parts = torch.autograd.grad(
                        term.value.mean(),
                        self.net.list_parameters(),
                        retain_graph=True,
                        allow_unused=True,
                    )
                    gradients = [part for part in parts if part is not None]
                    norm = torch.nn.utils.get_total_norm(gradients)
                    if not bool(distributed.all_agree(torch.isfinite(norm))):
                        return f"the gradient of term '{name}' is not finite, its value is"
        return "the gradient of the total is not finite, that of each term is"


@contextmanager
def _name_phase(name: str) -> Iterator[None]:
    """Turn running out of memory into an OutOfMemoryError that names the phase."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"the device ran out of memory in the {name}",
            fix="cut the batch into micro-batches: --accumulate 2 (or more)",
        ) from error


def _count_right(ctx: StepContext) -> dict[str, Tensor]:
    """Numbers of correct predictions, (), of the logits that the losses computed anyway."""
    made = [name for name in ("logits_clean", "logits_adv") if name in ctx.__dict__]
    return {name: (ctx.__dict__[name].detach().argmax(1) == ctx.batch.y).sum() for name in made}
