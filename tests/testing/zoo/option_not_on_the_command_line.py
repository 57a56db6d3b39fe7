"""An option that Python and TOML know by another name than the command line."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, hookimpl

FAILS = "test_options_can_be_given_on_the_command_line"
WORDS = "option scale is not on the command line"


class Broken(PluginConfig):
    scale: float = Field(1.0, ge=0, alias="lambda", description="scale of the term")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return Broken
