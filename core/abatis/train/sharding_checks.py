"""What does not go together with ``--shard``."""

from __future__ import annotations

from torch import nn

from abatis.api.context import TrainerHooks
from abatis.config.run_config import RunConfig
from abatis.errors import UsageError
from abatis.nets.blocks import find_blocks
from abatis.system import distributed
from abatis.train.plan import Plan

NOT_BUILT = "leave out --shard: the processes then share only the batches"


def check_shard_options(config: RunConfig) -> None:
    """Raise UsageError where the other options rule out ``--shard``: known without a network."""
    if config.shard == "none":
        return
    how = f"--shard {config.shard}"
    if not distributed.several() and not config.dry_run:
        raise UsageError(
            f"{how}: there is only one process, which would hold everything",
            fix="--nproc 2 (or more), or torchrun",
        )
    for asked, flag in (
        (config.compile != "none", "--compile"),
        (config.grad_checkpointing, "--grad-checkpointing"),
        (config.skip_nonfinite > 0, "--skip-nonfinite"),
    ):
        if asked:
            raise UsageError(
                f"{flag} is not supported with {how}", fix=f"leave out {flag} or --shard"
            )


def check_sharding(config: RunConfig, plan: Plan, module: nn.Module) -> None:
    """Raise UsageError where a run cannot be sharded as it asks for, with the reason."""
    check_shard_options(config)
    how = f"--shard {config.shard}"
    if plan.run.networks:
        raise UsageError(
            f"{how} is not supported with a network that a plugin changed:"
            f" {', '.join(plan.run.networks)}",
            fix=NOT_BUILT,
        )
    if plan.features_for:
        raise UsageError(
            f"{how} is not supported with the features of a network, which"
            f" {', '.join(plan.features_for)} reads",
            fix=NOT_BUILT,
        )
    acting = [name for name, hooks in plan.trainers if _acts_on_weights(hooks)]
    if acting:
        raise UsageError(
            f"{how}: {', '.join(acting)} works on whole weights inside the step, "
            "but they are in pieces there",
            fix=NOT_BUILT,
        )
    if config.shard == "blocks" and plan.needs_double_backward:
        raise UsageError(
            f"{how}: {', '.join(dict(plan.regularizers))} differentiates a gradient, "
            "but its blocks are in pieces again by then",
            fix="--shard root",
        )
    if config.shard == "blocks" and not find_blocks(module):
        raise UsageError(
            f"{how}: {config.backbone} has no blocks in a Sequential or ModuleList",
            fix="--shard root",
        )


def _acts_on_weights(hooks: TrainerHooks) -> bool:
    return any(
        getattr(type(hooks), name) is not getattr(TrainerHooks, name)
        for name in ("before_loss", "after_update", "judged")
    )
