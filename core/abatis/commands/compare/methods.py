"""Turns ``--methods a b+c --seeds 3`` and any options of ``defense-run`` into configurations.

There is one RunConfig for each method and seed. Loads without torch. What the methods share:

* The training budget is the same for all: data, backbone, epochs, batch size, threat, training
  attack and optimizer are the user's options, or the defaults. A recipe has no influence on it, not
  even its ``[use]`` table: a method whose recipe trains on clean images is trained on adversarial
  images here, unless ``--use attacker=none`` is given for all.
* From a plugin's recommended recipe, only the options of the plugin itself are used,
  ``[a] weight = ...``. A recipe is recommended if its file is named ``recipes/DATA-*.toml`` after
  the data set of the comparison, does not end in ``-released`` and asks for no additional images.
  If there are several, the first choice is one for exactly this combination of plugins, then one
  for this backbone, then the first by name.
* Without such a recipe, the defaults of the plugin are used. Options of the command line override
  both.

:attr:`MethodRuns.sources` says where the options came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abatis.api.options import use_underscores
from abatis.config.command_line import parse_run
from abatis.config.discovery import get_plugin_name, normalise_plugins
from abatis.config.recipes import list_recipes
from abatis.config.run_config import RunConfig
from abatis.config.toml import read_toml
from abatis.errors import UsageError

PLAIN = "at"  # built-in adversarial training, without plugins


@dataclass(frozen=True)
class MethodRuns:
    """The runs of one method.

    Args:
        name: The name of the method.
        configs: One configuration for each seed.
        sources: Where the options of its plugins come from, in words.
    """

    name: str
    configs: tuple[RunConfig, ...]
    sources: str


def plan_methods(
    names: Iterable[str], seeds: int, words: Sequence[str], out: Path | None, prog: str
) -> list[MethodRuns]:
    """The runs of every method, each method once, in the order given.

    Args:
        names: Methods such as ``a`` or ``b+c``; a text may hold several, separated by commas.
        seeds: The number of runs of a method.
        words: Options of ``defense-run``, for all runs.
        out: The folder for the runs; one named after the data if None.
        prog: The name of the command, for messages.

    Raises:
        UsageError: A method is unknown, or an option is one that a comparison sets itself.
    """
    together = {plugins_of(name): None for text in names for name in text.split(",") if name}
    if not together:
        raise UsageError(
            "--methods is empty",
            fix=f"{prog} --methods {PLAIN} NAME; defense registry list shows the methods",
        )
    everyone = normalise_plugins(plugin for plugins in together for plugin in plugins)
    # --resume: runs continue where they stopped; and no words at all would print the help
    asked = parse_run(
        [*words, "--resume", *(word for plugin in everyone for word in ("--plugin", plugin))], prog
    )
    if asked.plugin != everyone or asked.name is not None:
        raise UsageError(
            "--plugin and --name are set by compare itself",
            fix="leave them out; --methods selects what is trained",
        )
    if asked.ladder in ("none", "clean"):
        raise UsageError(
            "without an evaluation of the robustness there is nothing to compare",
            fix="--ladder quick is the shortest evaluation",
        )
    return [
        _plan_method(plugins, asked, seeds, out or choose_out(asked.data)) for plugins in together
    ]


def plugins_of(name: str) -> tuple[str, ...]:
    """The plugins of ``a+b``; none for ``at``."""
    return tuple(
        plugin
        for plugin in normalise_plugins(part.strip() for part in name.split("+"))
        if plugin != PLAIN
    )


def choose_out(data: str) -> Path:
    """``comparisons/DATA``; DATA is the file or folder name where the data are the user's own."""
    return Path("comparisons") / Path(data.partition(":")[2] or data).resolve().stem


def _plan_method(plugins: tuple[str, ...], asked: RunConfig, seeds: int, out: Path) -> MethodRuns:
    name = "+".join(map(get_plugin_name, plugins)) or PLAIN
    given = {
        field: getattr(asked, field) for field in asked.model_fields_set - {"plugin", "options"}
    }
    options, sources = {}, []
    for plugin in plugins:
        recipe, recommended, left = _find_recipe(plugin, plugins, asked)
        explicit = asked.options[get_plugin_name(plugin)].model_dump(exclude_unset=True)
        options[get_plugin_name(plugin)] = {**recommended, **explicit}
        over = f", {', '.join(sorted(explicit))} as given" if explicit else ""
        origin = f"recipe {recipe}" if recipe else "its defaults"
        sources.append(f"{get_plugin_name(plugin)} from {origin}{over}{left}")
    # "_" replaces "+", which the name of a run must not contain; no plugin has a "_" in its name
    raw = {**given, "plugin": plugins, "options": options, "out": out}
    configs = (
        RunConfig.model_validate({**raw, "seed": seed, "name": f"{name.replace('+', '_')}-s{seed}"})
        for seed in range(asked.seed, asked.seed + seeds)
    )
    return MethodRuns(
        name, tuple(configs), "; ".join(sources) or "no plugin, built-in adversarial training"
    )


def _find_recipe(
    plugin: str, together: Sequence[str], asked: RunConfig
) -> tuple[str, dict[str, Any], str]:
    """The recommended recipe of a plugin.

    Returns:
        Its name, its options of the plugin, and a remark on what of it is not used; all empty if
        there is none.
    """
    fitting: list[tuple[tuple[int, bool, str], dict[str, Any]]] = []
    for name in together:
        for recipe, path in list_recipes(name).items():
            table = read_toml(path)
            used = normalise_plugins(table.get("plugin", ()))
            named = path.stem.startswith(f"{asked.data}-") and not path.stem.endswith("-released")
            fits = named and table.get("data") == asked.data and set(used) <= set(together)
            fits = fits and "extra" not in table  # made for additional images
            if fits and plugin.replace("-", "_") in table:
                fitting.append(
                    ((-len(used), table.get("backbone") != asked.backbone, recipe), table)
                )
    if not fitting:
        return "", {}, ""
    (_, _, recipe), table = min(fitting, key=lambda found: found[0])
    left = [
        f"{role}={provider}"
        for role, provider in table.get("use", {}).items()
        if asked.use.get(role) != provider
    ]
    return (
        recipe,
        use_underscores(table[plugin.replace("-", "_")]),
        f" (without its use {', '.join(left)})" if left else "",
    )
