"""Finds the attack that ``--also LIBRARY:ATTACK`` or ``--also FILE.py:FUNCTION`` names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from abatis.api.threat import Threat
from abatis.errors import UsageError, did_you_mean, summarise_error
from abatis.evaluate.also.attack import AlsoAttack, MakeImages
from abatis.system.files import sha256_of
from abatis.system.user_module import place_in, run_file

FORMS = "write LIBRARY:ATTACK (foolbox, torchattacks, adv-lib) or FILE.py:FUNCTION"
INSTALL = {
    "foolbox": "pip install foolbox",
    "torchattacks": "pip install --no-deps torchattacks (its pinned requests is old)",
    "adv-lib": "pip install 'setuptools<81' visdom, then pip install --no-build-isolation adv-lib",
}
MODULES = {
    "foolbox": "foolbox.attacks",
    "torchattacks": "torchattacks",
    "adv-lib": "adv_lib.attacks",
}
RADII = ("eps", "epsilon", "ε")  # what attacks call their radius
ORDERS = {"Linf": inf, "L2": 2.0, "L1": 1.0}


def find_attack(spec: str) -> AlsoAttack:
    """Find an attack by its name.

    Raises:
        UsageError: there is no such library, file or attack.
    """
    home, colon, name = spec.rpartition(":")
    if not colon or not home or not name:
        raise UsageError(f"--also {spec}: not an attack", fix=FORMS)
    if home.endswith(".py"):
        return _find_function(spec, Path(home).expanduser().absolute(), name)
    library = home.lower().replace("_", "-")
    if library not in MODULES:
        raise UsageError(
            f"--also {spec}: unknown library '{home}', {did_you_mean(home, MODULES)}", fix=FORMS
        )
    module = _import(library)
    found = getattr(module, name, None)
    if not callable(found) or isinstance(found, ModuleType):
        known = [one for one, value in vars(module).items() if callable(value)]
        raise UsageError(
            f"--also {spec}: {library} has no attack '{name}', {did_you_mean(name, known)}"
        )
    adapt: Mapping[str, Callable[[Any], Callable[[nn.Module, Threat], MakeImages]]] = {
        "foolbox": _adapt_foolbox,
        "torchattacks": _adapt_class,
        "adv-lib": _adapt_function,
    }
    return AlsoAttack(f"{library}:{name}", _find_version(library), adapt[library](found))


def _import(library: str) -> ModuleType:
    try:
        return importlib.import_module(MODULES[library])
    except Exception as error:  # libraries fail in any way while they are imported
        missing = (
            isinstance(error, ModuleNotFoundError) and error.name == MODULES[library].split(".")[0]
        )
        why = "is not installed" if missing else f"cannot be imported: {summarise_error(error)}"
        raise UsageError(f"--also: {library} {why}", fix=INSTALL[library]) from error


def _find_version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"


def _find_function(spec: str, path: Path, name: str) -> AlsoAttack:
    if not path.is_file():
        raise UsageError(f"--also {spec}: no file {path}", fix=FORMS)
    try:
        module = run_file(path, f"abatis_also_{path.stem}", path.read_bytes())
    except Exception as error:
        raise UsageError(
            f"--also {path.name}, import: {summarise_error(error)}",
            where=place_in(path, error),
            fix="make it run by itself first; its imports must be on PYTHONPATH",
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [one for one, value in vars(module).items() if inspect.isfunction(value)]
        raise UsageError(f"--also: no function '{name}' in {path}: {did_you_mean(name, known)}")
    return AlsoAttack(f"{path.name}:{name}", sha256_of(path), _adapt_function(function))


def _adapt_foolbox(kind: Any) -> Callable[[nn.Module, Threat], MakeImages]:
    """An attack of foolbox, clipped to the radius by foolbox."""

    def make(model: nn.Module, threat: Threat) -> MakeImages:
        foolbox = importlib.import_module("foolbox")
        attack = kind()

        def run(x: Tensor, y: Tensor) -> Tensor:
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
            images: Tensor = attack(wrapped, x, y, epsilons=threat.eps)[1]
            return images

        return run

    return make


def _adapt_class(kind: Any) -> Callable[[nn.Module, Threat], MakeImages]:
    """A class that takes the network and, where it has one, the radius."""

    def make(model: nn.Module, threat: Threat) -> MakeImages:
        attack: MakeImages = kind(model, **_choose_arguments(kind, threat))
        return attack

    return make


def _adapt_function(function: Any) -> Callable[[nn.Module, Threat], MakeImages]:
    """A function of network, images and labels, and of the radius where it takes one."""

    def make(model: nn.Module, threat: Threat) -> MakeImages:
        named = _choose_arguments(function, threat)

        def run(x: Tensor, y: Tensor) -> Tensor:
            images: Tensor = function(model, x, y, **named)
            return images

        return run

    return make


def _choose_arguments(taker: Any, threat: Threat) -> dict[str, object]:
    """Radius and norm, by the names under which an attack takes them."""
    try:
        names = inspect.signature(taker).parameters
    except (TypeError, ValueError):  # of compiled code it is not known
        return {}
    chosen: dict[str, object] = {name: threat.eps for name in RADII if name in names}
    if "norm" in names:
        default = names["norm"].default
        chosen["norm"] = threat.norm if isinstance(default, str) else ORDERS[threat.norm]
    if "threat" in names:
        chosen["threat"] = threat
    return chosen
