"""The options ``--source.*`` of ``defense eval``, those of a run. Loads without torch."""

from __future__ import annotations

import argparse

from pydantic import ValidationError

from abatis.config.option_groups import SourceConfig
from abatis.errors import UsageError

PREFIX = "source."
DEFAULT_SOURCE = SourceConfig()


def add_source_options(parser: argparse._ActionsContainer) -> None:
    """One option for each of the group, with the help of a run's."""
    for name, field in SourceConfig.model_fields.items():
        flag = f"--{PREFIX}{name.replace('_', '-')}"
        parser.add_argument(flag, dest=f"{PREFIX}{name}", metavar="VALUE", help=field.description)


def read_source(asked: argparse.Namespace, before: SourceConfig = DEFAULT_SOURCE) -> SourceConfig:
    """The group as it was given, on top of another; raises UsageError that names what is wrong."""
    given = {name: getattr(asked, f"{PREFIX}{name}") for name in SourceConfig.model_fields}
    try:
        return SourceConfig.model_validate(
            {
                **before.model_dump(exclude_unset=True),
                **{name: value for name, value in given.items() if value is not None},
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"--{PREFIX}{option} {first['input']}: {first['msg']}") from error
