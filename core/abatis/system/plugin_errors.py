"""Exceptions from a plugin's code, as errors that name the plugin, its version and the line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from abatis.errors import AbatisError, PluginError, UsageError
from abatis.system import distributed
from abatis.system.torch_messages import find_missing_derivative, is_out_of_memory
from abatis.system.user_module import raised_at


@contextmanager
def blame_plugin(
    plugin: str, role: str, versions: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Turn an exception into a PluginError with the plugin, its version and the line.

    Args:
        plugin: the plugin's name.
        role: which of its parts is called, as in "failed in its attacker".
        versions: those of the run's plugins, by name.
    """
    try:
        yield
    except AbatisError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error) or distributed.lost_process(error):
            raise
        operation = find_missing_derivative(error)
        if operation:
            raise UsageError(
                f"torch has no second derivative of {operation}, which a loss or penalty with an "
                "input gradient needs",
                where=f"the {role}",
                fix="use a backbone with other activations, or a method without input gradients",
            ) from error
        version = f", version {versions[plugin]}" if versions and plugin in versions else ""
        raise PluginError(
            f"plugin '{plugin}' failed in its {role}: {type(error).__name__}: {error}",
            where=f"{raised_at(error)}{version}",
        ) from error
