"""The pytest plugin: skips standard tests that are exempt, and prints the reasons.

pytest loads it in every session where abatis is installed, so it imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import pytest

from abatis.testing.exempt import list_reasons

EXEMPT = pytest.StashKey[dict[str, None]]()


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Skip standard tests that are left out, and note every exemption."""
    lines = config.stash.setdefault(EXEMPT, {})  # a dict for its order
    contract = sys.modules.get("abatis.testing.contract.standard")
    if contract is None:
        return
    classes = {
        cls: None
        for item in items
        if (cls := getattr(item, "cls", None)) and issubclass(cls, contract.PluginContract)
    }
    for cls in classes:
        for name, (what, why) in list_reasons(cls, contract.STANDARD).items():
            lines[f"{cls.__name__}.{name} {what}: {why}"] = None
            for item in _select(items, cls, name) if what == "left out" else ():
                item.add_marker(pytest.mark.skip(reason=why))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the reasons, unless pytest prints no summary."""
    lines = config.stash.get(EXEMPT, {})
    if lines:
        terminalreporter.section("exempt from the plugin contract")
        for line in lines:
            terminalreporter.write_line(line)


def _select(items: Sequence[pytest.Item], cls: type, name: str) -> Iterator[pytest.Item]:
    return (
        item
        for item in items
        if getattr(item, "cls", None) is cls and getattr(item, "originalname", item.name) == name
    )
