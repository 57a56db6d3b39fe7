"""Backbones that a function in a user's file makes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from abatis.errors import UsageError, did_you_mean, summarise_error
from abatis.system.user_module import place_in, run_file


def load_factory(spec: str, num_classes: int | None) -> nn.Module:
    """What ``FILE.py:FUNCTION`` returns: a module on images in [0, 1], used as it is.

    The function is called with ``num_classes`` if it takes that and the number is known, else
    without arguments.
    Raises UsageError where the file or the function fails.
    """
    file, _, function = spec.rpartition(":")
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise UsageError(
            f"no file {path} for backbone {spec}",
            fix="write FILE.py:FACTORY with the path of a file",
        )
    try:
        module = run_file(path, f"abatis_backbone_{path.stem}", path.read_bytes())
    except Exception as error:
        raise _failed(path, "import", error) from error
    factory = getattr(module, function, None)
    if not callable(factory):
        known = [
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value) or inspect.isclass(value)
        ]
        raise UsageError(f"no function '{function}' in {path}: {did_you_mean(function, known)}")
    try:
        wants = num_classes is not None and _takes_num_classes(factory)
        net = factory(num_classes=num_classes) if wants else factory()
    except Exception as error:
        raise _failed(path, function, error) from error
    if not isinstance(net, nn.Module):
        raise UsageError(
            f"{spec} returns a {type(net).__name__}",
            fix="return a torch.nn.Module on images in [0, 1]",
        )
    return net


def _takes_num_classes(factory: Any) -> bool:
    parameters = inspect.signature(factory).parameters.values()
    return any(
        one.name == "num_classes" or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters
    )


def _failed(path: Path, function: str, error: Exception) -> UsageError:
    """The error to show; its line is the last one of the user's file."""
    return UsageError(
        f"backbone {path.name}, {function}: {summarise_error(error)}",
        where=place_in(path, error),
        fix="make it run by itself first; its imports must be on PYTHONPATH",
    )
