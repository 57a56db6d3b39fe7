"""The plugins that change the network: asked one after the other, wherever it is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from abatis.api.options import PluginConfig
from abatis.api.run import Run
from abatis.config.discovery import Plugin
from abatis.config.hook_checks import make_manager
from abatis.train.hook_answers import ask_hook, list_implementers
from abatis.train.trace import Say, describe_answer


def change_network(
    loaded: Sequence[Plugin],
    options: Mapping[str, PluginConfig],
    run: Run,
    module: nn.Module,
    say: Say | None = None,
) -> nn.Module:
    """Ask ``defense_network`` of every plugin that is not switched off.

    Args:
        loaded: The selected plugins.
        options: Their options, by name.
        run: What the hooks may know; notes which plugins changed the network.
        module: The network as it was built.
        say: Receives the lines of ``--trace``.

    Raises:
        PluginError: A hook failed, or its answer is no network.
    """
    active = [plugin for plugin in loaded if not options[plugin.name].is_neutral]
    manager = make_manager((plugin.name, plugin.module) for plugin in active)
    for name in list_implementers(manager, "network"):
        answer = ask_hook(manager, "network", name, run, module=module)
        if say is not None:
            say(f"trace: defense_network asked {name}: {describe_answer(answer)}")
        if answer is not None:
            module = answer
            run.networks.append(name)
    return module
