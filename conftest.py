"""Fixtures for the whole suite."""

from __future__ import annotations

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny tensors: threads that wait for each other cost more than they give

from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from abatis.config import discovery


@pytest.fixture(autouse=True)
def _global_generators() -> Iterator[None]:
    """A test may seed the global generators; the next one finds them as they were."""
    from abatis.api.randomness import untouched

    with untouched():
        yield


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make modules look installed: ``install(module)`` by its own name, ``install(name=error)`` fails at import."""

    def now(*modules: ModuleType, **broken: BaseException) -> None:
        found = dict(discovery.installed())
        for name, answer in [*((module.__name__, module) for module in modules), *broken.items()]:

            def load(answer: Any = answer) -> Any:
                if isinstance(answer, BaseException):
                    raise answer
                return answer

            entry: Any = SimpleNamespace(load=load, value=name)
            found[name] = discovery.Installed(name, f"dist-{name}", "1.0", "made by a test", entry)
        monkeypatch.setattr(discovery, "installed", lambda: found)
        discovery._load_installed.cache_clear()

    yield now
    discovery._load_installed.cache_clear()
