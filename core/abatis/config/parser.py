"""argparse as every command uses it, with its messages in the words of this project.

It is apart from command_line.py because most commands do without pydantic-settings.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from abatis.config import discovery
from abatis.config.known_plugins import check_is_unknown
from abatis.errors import UsageError, did_you_mean

NO_BREAK = "\xa0"  # a space at which help does not break a line
MESSAGES = {
    r"argument (\S+): expected one argument": "{0} needs a value",
    r"argument (\S+): expected at least one argument": "{0} needs at least one value",
    r"argument (\S+): ignored explicit argument (.*)": "{0} takes no value (got {1})",
    r"argument (\S+): invalid int value: (.*)": "{0} must be a whole number, not {1}",
    r"argument (\S+): invalid float value: (.*)": "{0} must be a number, not {1}",
    r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)": "{0} must be one of {2}, not {1}",
    r"the following arguments are required: (.*)": "missing: {0}",
}
"""What argparse says, as patterns, and what is said instead."""


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
            if not word.startswith("-"):
                raise UsageError(
                    f"'{unknown[0]}' belongs to no option",
                    fix="options are written --OPTION VALUE, lists with commas: 5,6",
                )
            raise UsageError(
                f"unknown option {word}: {_flag_hint(word, flags)}",
                fix=f"{self.prog} --help lists all options",
            )
        return parsed

    def format_help(self) -> str:
        return super().format_help().replace(NO_BREAK, " ")

    def error(self, message: str) -> NoReturn:
        raise UsageError(reword(message), fix=f"{self.prog} --help lists all options")


def reword(message: str) -> str:
    """A message of argparse in the words of this project; as it is where it is another one."""
    for pattern, words in MESSAGES.items():
        if found := re.fullmatch(pattern, message, re.DOTALL):
            return words.format(*found.groups())
    return message


def _flag_hint(word: str, flags: Sequence[str]) -> str:
    plugin = discovery.normalise_name(word.lstrip("-").partition(".")[0])
    if plugin in discovery.list_installed() and not any(
        flag.startswith(f"--{plugin}.") for flag in flags
    ):
        return f"it belongs to a plugin that is not selected; add --plugin {plugin}"
    if "." in word and plugin not in discovery.list_installed():
        check_is_unknown(plugin, f"option {word} belongs to it")
    hint = did_you_mean(word, flags)
    return hint if hint.startswith("did") else "no option has a similar name"
