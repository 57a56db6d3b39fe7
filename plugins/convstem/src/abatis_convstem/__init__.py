"""Convolutional stems: options and hooks. The layers are in stem.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from abatis import PluginConfig, Run, hookimpl

if TYPE_CHECKING:
    from torch import nn

DEFENSE_API = "1.1"


class ConvstemConfig(PluginConfig):
    """The option of the convolutional stem."""

    soft_labels = True

    other: Literal["refuse", "keep"] = Field(
        "refuse", description="a network without a patch stem: refuse it, or keep it as it is"
    )


@hookimpl
def defense_config() -> type[PluginConfig]:
    return ConvstemConfig


@hookimpl
def defense_network(run: Run, module: nn.Module) -> nn.Module | None:
    from abatis_convstem.stem import replace_stem

    return replace_stem(module, refuse=run.config(ConvstemConfig).other == "refuse")
