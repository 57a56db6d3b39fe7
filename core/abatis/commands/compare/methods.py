"""From ``--methods a b+c --seeds 3`` and any options of ``defense-run`` to one RunConfig a method and seed. No torch.

What is shared and what is not:

* The budget is the user's, or the defaults, and the same for all: data, backbone, epochs, batch size, threat, training
  attack, optimizer. Nothing of a recipe enters it, a recipe's ``[use]`` included: a method whose recipe trains on clean
  images is trained on attacked ones here, unless ``--use attacker=none`` says so for all.
* Of a plugin's recommended recipe only the plugin's own options are taken, ``[a] weight = ...``. Recommended is a file
  ``recipes/DATA-*.toml`` for the data set compared on that does not end in ``-released``. Where there are several, one
  for exactly this combination of plugins comes first, then one for this backbone, then the first by name.
* Without such a recipe the plugin's defaults are used. Options given on the command line go above both.

:attr:`Method.sources` says which it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abatis.api.options import use_underscores
from abatis.config.command_line import parse_run
from abatis.config.discovery import canonical, name_of
from abatis.config.recipes import recipes_of
from abatis.config.run_config import RunConfig
from abatis.config.toml import read_toml
from abatis.errors import UsageError

PLAIN = "at"  # adversarial training by the built-ins alone: no plugin


@dataclass(frozen=True)
class Method:
    """One row of the comparison to be: a configuration a seed, and a sentence on where the plugins' options come from."""

    name: str
    configs: tuple[RunConfig, ...]
    sources: str


def asked_methods(
    names: Iterable[str], seeds: int, words: Sequence[str], out: Path | None, prog: str
) -> list[Method]:
    """Every method once, in the order given; raises UsageError for an unknown one, or an option that compare sets itself."""
    together = {plugins_of(name): None for text in names for name in text.split(",") if name}
    if not together:
        raise UsageError(
            "--methods names no method",
            fix=f"{prog} --methods {PLAIN} NAME; defense registry list shows them",
        )
    everyone = canonical(plugin for plugins in together for plugin in plugins)
    # --resume: every run goes on where it was, and words are never empty, which would ask for help
    asked = parse_run(
        [*words, "--resume", *(word for plugin in everyone for word in ("--plugin", plugin))], prog
    )
    if asked.plugin != everyone or asked.name is not None:
        raise UsageError(
            "compare chooses the plugins of its runs, and their names",
            fix="leave --plugin and --name out; --methods says what to train",
        )
    if asked.eval == "none":
        raise UsageError(
            "--eval none leaves nothing to compare", fix="--eval quick is the shortest evaluation"
        )
    return [_method(plugins, asked, seeds, out or default_out(asked.data)) for plugins in together]


def plugins_of(name: str) -> tuple[str, ...]:
    """The plugins of ``a+b``; none for ``at``."""
    return tuple(
        plugin for plugin in canonical(part.strip() for part in name.split("+")) if plugin != PLAIN
    )


def default_out(data: str) -> Path:
    """``comparisons/DATA``, with the file's or folder's name for data of the user's own."""
    return Path("comparisons") / Path(data.partition(":")[2] or data).resolve().stem


def _method(plugins: tuple[str, ...], asked: RunConfig, seeds: int, out: Path) -> Method:
    name = "+".join(map(name_of, plugins)) or PLAIN
    given = {
        field: getattr(asked, field) for field in asked.model_fields_set - {"plugin", "options"}
    }
    options, sources = {}, []
    for plugin in plugins:
        recipe, recommended, left = _recommended(plugin, plugins, asked)
        explicit = asked.options[name_of(plugin)].model_dump(exclude_unset=True)
        options[name_of(plugin)] = {**recommended, **explicit}
        over = f", {', '.join(sorted(explicit))} as given" if explicit else ""
        sources.append(
            f"{name_of(plugin)} from {f'recipe {recipe}' if recipe else 'its defaults'}{over}{left}"
        )
    # "_" for "+", which a run's name may not hold; no plugin's name has one
    raw = {**given, "plugin": plugins, "options": options, "out": out}
    configs = (
        RunConfig.model_validate({**raw, "seed": seed, "name": f"{name.replace('+', '_')}-s{seed}"})
        for seed in range(asked.seed, asked.seed + seeds)
    )
    return Method(
        name, tuple(configs), "; ".join(sources) or "no plugin, built-in adversarial training"
    )


def _recommended(
    plugin: str, together: Sequence[str], asked: RunConfig
) -> tuple[str, dict[str, Any], str]:
    """Name of the recipe, its options of this plugin, and a remark on what of it is not taken; empty where none fits."""
    fitting: list[tuple[tuple[int, bool, str], dict[str, Any]]] = []
    for name in together:
        for recipe, path in recipes_of(name).items():
            table = read_toml(path)
            used = canonical(table.get("plugin", ()))
            named = path.stem.startswith(f"{asked.data}-") and not path.stem.endswith("-released")
            fits = named and table.get("data") == asked.data and set(used) <= set(together)
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
