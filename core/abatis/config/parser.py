"""argparse as every command uses it, with its messages in the words of this project.

It is apart from command_line.py because most commands do without pydantic-settings.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn

from abatis.config import discovery
from abatis.config.known_plugins import check_is_unknown
from abatis.config.other_names import switch_instead, translate, write_switch
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
SWITCH = re.compile(r"argument (?P<flag>--\S+)/--no-\S+: ignored explicit argument '(?P<value>.*)'")
"""What it says where a switch is given a value."""


class Parser(argparse.ArgumentParser):
    """argparse that says "did you mean" and leaves the exit code to the caller."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            raise self.explain_unknown(unknown[0], words)
        return parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        self._check_repeats(words)
        return super().parse_known_args(words, namespace)

    def explain_unknown(self, word: str, words: Sequence[str]) -> UsageError:
        """The error for a word that no option takes.

        Args:
            word: It.
            words: The whole command line.
        """
        flags = [
            option
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--")
        ]
        flag = word.partition("=")[0]
        option, written = translate(words, words.index(word), flags) if word in words else ("", "")
        if option and (word.startswith("-") or "=" in word):
            what = f"unknown option {flag}: it is called {option} here"
            return UsageError(what, fix=f"write {written}")
        if not word.startswith("-"):
            instead = switch_instead(words, word, flags)
            own = f"--{flag.lstrip('+')}"
            if "=" in word and own in flags:  # as Hydra writes it
                instead = f"{own} {word.partition('=')[2]}"
            return UsageError(
                f"'{word}' belongs to no option",
                fix=f"write {instead}"
                if instead
                else "options are written --OPTION VALUE, lists with commas: 5,6",
            )
        if flag == "--version":
            return UsageError(f"{self.prog} has no --version", fix="defense --version")
        return UsageError(
            f"unknown option {flag}: {_flag_hint(flag, flags)}",
            fix=f"{self.prog} --help lists all options",
        )

    def _check_repeats(self, words: Sequence[str]) -> None:
        """Tell where an option with one value is given two different ones: the last counts."""
        given: dict[str, tuple[str, str]] = {}
        for position, word in enumerate(words):
            flag, equals, value = word.partition("=")
            action = self._option_string_actions.get(flag)
            if action is None or not _has_one_value(action):
                continue
            following = value if equals else (*words, "")[position + 1]
            told = flag if action.nargs == 0 else following
            first, before = given.setdefault(action.dest, (flag, told))
            if before != told:
                both = f"{before} and {told}" if action.nargs != 0 else f"as {first} and {flag}"
                tell(f"note: {first} is given twice: {both}; the last one counts")
                given[action.dest] = flag, told

    def format_help(self) -> str:
        return super().format_help().replace(NO_BREAK, " ")

    def error(self, message: str) -> NoReturn:
        instead = ""
        if found := SWITCH.fullmatch(message):
            instead = write_switch(found["flag"], found["value"])
        fix = f"write {instead}" if instead else f"{self.prog} --help lists all options"
        raise UsageError(reword(message), fix=fix)


@cache
def tell(note: str) -> None:
    """Write a note for the user, once in a process: a command line is read more than once."""
    print(note, file=sys.stderr)


def _has_one_value(action: argparse.Action) -> bool:
    """Does an option that is given once more replace what was given before?"""
    replaces = isinstance(action, argparse._StoreAction | argparse.BooleanOptionalAction)
    return replaces and action.nargs in (None, 0)


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


def read_count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not re.fullmatch(r"\+?0*[1-9]\d*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)
