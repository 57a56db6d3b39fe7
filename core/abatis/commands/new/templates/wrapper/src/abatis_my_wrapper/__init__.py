"""My wrapper: options and hooks; the mathematics is in wrapper.py."""

from __future__ import annotations

from collections.abc import Generator

from pydantic import Field

from abatis import Loss, PluginConfig, Run, hookimpl

DEFENSE_API = "1.0"


class MyWrapperConfig(PluginConfig):
    """Options of the weights."""

    neutral = {"gamma": 0}

    gamma: float = Field(
        2.0, ge=0, le=100, description="how fast the weight falls with the probability of the label"
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return MyWrapperConfig


@hookimpl(wrapper=True, tryfirst=True)
def defense_loss(run: Run) -> Generator[None, Loss, Loss]:
    from abatis_my_wrapper.wrapper import MyWrapper

    inner = yield
    return MyWrapper(inner, run.config(MyWrapperConfig))
