"""argparse as every subcommand uses it. Apart from command_line.py, whose pydantic-settings most of them do without."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from abatis.config import discovery
from abatis.errors import UsageError, did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse that says "did you mean" and leaves the exit code to the caller."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [
                option
                for action in self._actions
                for option in action.option_strings
                if option.startswith("--")
            ]
            word = unknown[0].partition("=")[0]
            raise UsageError(
                f"unknown option {word}: {_flag_hint(word, flags)}",
                fix=f"{self.prog} --help lists all options",
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, fix=f"{self.prog} --help lists all options")


def _flag_hint(word: str, flags: Sequence[str]) -> str:
    plugin = discovery.normal(word.lstrip("-").partition(".")[0])
    if (
        "." in word
        and plugin in discovery.installed()
        and not any(flag.startswith(f"--{plugin}.") for flag in flags)
    ):
        return f"it belongs to a plugin that is not selected; add --plugin {plugin}"
    hint = did_you_mean(word, flags)
    return hint if hint.startswith("did") else "no option has a name like it"
