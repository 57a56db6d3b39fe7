"""A number without a bound, inside a tuple."""

from __future__ import annotations

from pydantic import Field

from abatis import PluginConfig, hookimpl

FAILS = "test_options_are_described_and_bounded"
WORDS = "option epochs holds a number without a bound: a bound in Field() does not reach into a"


class Broken(PluginConfig):
    epochs: tuple[int, ...] = Field((60, 90), description="where the weight falls")


@hookimpl
def defense_config() -> type[PluginConfig]:
    return Broken
