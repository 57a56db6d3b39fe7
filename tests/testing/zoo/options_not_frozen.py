"""Options that can be changed after they were checked."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from abatis import PluginConfig, hookimpl

FAILS = "test_options_are_frozen_and_closed"
WORDS = "option scale can be changed"


class Broken(PluginConfig):
    model_config = ConfigDict(frozen=False)

    scale: float = Field(1.0, ge=0, description="scale of the term")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return Broken
