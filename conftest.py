"""Fixtures for the whole suite."""

from __future__ import annotations

import os

# tiny tensors: threads that wait for each other cost more than they give
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.helpers import our_plugins

from abatis.config import discovery


@pytest.fixture(autouse=True)
def _global_generators() -> Iterator[None]:
    """Restore the global generators after every test: some seed them."""
    from abatis.api.randomness import untouched

    with untouched():
        yield


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make modules look installed.

    ``install(module)`` installs a module by its own name, ``install(name=error)`` one whose import
    raises the error. Beside them only the plugins of this checkout are seen.
    """

    def now(*modules: ModuleType, **broken: BaseException) -> None:
        found = {name: discovery.list_installed()[name] for name in our_plugins()}
        for name, answer in [*((module.__name__, module) for module in modules), *broken.items()]:

            def load(answer: Any = answer) -> Any:
                if isinstance(answer, BaseException):
                    raise answer
                return answer

            entry: Any = SimpleNamespace(load=load, value=name)
            found[name] = discovery.Installed(name, f"dist-{name}", "1.0", "made by a test", entry)
        monkeypatch.setattr(discovery, "list_installed", lambda: found)
        discovery._load_installed.cache_clear()

    yield now
    discovery._load_installed.cache_clear()
