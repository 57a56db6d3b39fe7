"""Can a run be sharded as it asks for? (``--shard``)"""

from __future__ import annotations

from torch import nn

from abatis.api.context import TrainerHooks
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError
from abatis.nets.sharding import blocks
from abatis.system import distributed
from abatis.train.plan import Plan

NOT_BUILT = "leave --shard out: the processes then share the batches alone"


def check_sharding(config: RunConfig, plan: Plan, module: nn.Module) -> None:
    """Raise UsageError where a run cannot be sharded as it asks for, with the reason."""
    how = f"--shard {config.shard}"
    if not distributed.several() and not config.dry_run:
        raise UsageError(
            f"{how}: there is one process, which has it all", fix="--nproc 2 (or more), or torchrun"
        )
    for asked, flag in (
        (config.compile != "none", "--compile"),
        (config.grad_checkpointing, "--grad-checkpointing"),
    ):
        if asked:
            raise UsageError(
                f"{how}: {flag} was never tried on a network in pieces",
                fix=f"leave {flag} out, or --shard",
            )
    acting = [name for name, hooks in plan.trainers if _acts_on_weights(hooks)]
    if acting:
        raise UsageError(
            f"{how}: {', '.join(acting)} works on whole weights inside the step, and here they are in pieces",
            fix=NOT_BUILT,
        )
    if config.shard == "blocks" and plan.needs_double_backward:
        raise UsageError(
            f"{how}: {', '.join(dict(plan.regularizers))} differentiates a gradient, and by then its blocks are "
            "in pieces again",
            fix="--shard root",
        )
    if config.shard == "blocks" and not blocks(module):
        raise UsageError(
            f"{how}: {config.backbone} has no blocks in a Sequential or ModuleList",
            fix="--shard root",
        )


def _acts_on_weights(hooks: TrainerHooks) -> bool:
    return any(
        getattr(type(hooks), name) is not getattr(TrainerHooks, name)
        for name in ("before_loss", "after_update")
    )
