"""What a plugin's code raises becomes an error that names the plugin, its version and the line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from abatis.errors import AbatisError, PluginError, is_out_of_memory
from abatis.system import distributed
from abatis.system.user_module import raised_at


@contextmanager
def blamed(plugin: str, role: str, versions: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn an exception from a plugin's code into a PluginError with the plugin, its version and the line.

    versions: those of the run's plugins, by name.
    """
    try:
        yield
    except AbatisError:
        raise
    except (Exception, SystemExit) as error:
        if (isinstance(error, Exception) and is_out_of_memory(error)) or distributed.lost(error):
            raise
        version = f", version {versions[plugin]}" if versions and plugin in versions else ""
        raise PluginError(
            f"plugin '{plugin}' failed in its {role}: {type(error).__name__}: {error}",
            where=f"{raised_at(error)}{version}",
        ) from error
