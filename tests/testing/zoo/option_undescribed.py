"""An option that says nothing of itself but its bound."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, hookimpl

FAILS = "test_options_are_described_and_bounded"
WORDS = "option scale has no description"


class Broken(PluginConfig):
    scale: float = Field(1.0, ge=0)


@hookimpl
def defense_config() -> type[PluginConfig]:
    return Broken
