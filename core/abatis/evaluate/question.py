"""What decides the verdicts of an attack: the network, the points, the settings, the versions.

A kept verdict is used again only for exactly the same question. So whatever cannot be proven
equal counts as another question, and the attack runs again.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from abatis.api.randomness import per_sample, seeded
from abatis.evaluate.isolation import isolate
from abatis.evaluate.judge import Points
from abatis.evaluate.request import EvaluationRequest
from abatis.nets.copying import copy_module
from abatis.nets.digest import print_structure, weights_digest
from abatis.nets.net import Net
from abatis.system.device import device_name
from abatis.system.environment import find_version
from abatis.system.files import sha256_of

LIBRARIES = ("abatis", "torch", "torchvision", "timm", "numpy", "pyautoattack")
TRIED = 16  # points on which the outputs are compared
NOISE = 8 / 255  # largest change of a pixel in the moved copies of these points
PACKAGE = Path(__file__).resolve().parents[1]


def describe_question(module: nn.Module, request: EvaluationRequest) -> dict[str, Any] | None:
    """Return, in plain types, what decides the verdicts of an attack: not the batch size.

    Args:
        module: the network; a copy of it is run on a few points and thrown away.
        request: what is asked.

    Returns:
        None where the network cannot be copied, cannot be run, or has parts without source files:
        then nothing can be proven equal.
    """
    outputs, files = _digest_outputs(module, request), _digest_files(module)
    if outputs is None or files is None:
        return None
    threat = asdict(request.threat).items()
    return {
        "weights": weights_digest(module),
        "structure": _digest_text(print_structure(module)),
        "outputs": outputs,
        "files": files,
        "data": digest_points(request.points),
        "n": len(request.points),
        "threat": {key: value for key, value in threat if key != "text"},
        "seed": request.seed,
        "layout": request.layout,
        "versions": {name: find_version(name) for name in LIBRARIES},
        "plugins": {name: str(facts) for name, facts in request.plugins.items()},
        "adaptive": sorted(request.adaptive),
        "device": [request.device.type, device_name(request.device)],
    }


def digest_points(points: Points) -> str:
    """Return the sha256 of all images and labels, in order."""
    digest = hashlib.sha256()
    for batch in points.eval_batches(256):
        digest.update(batch.x.cpu().contiguous().numpy().tobytes())
        digest.update(batch.y.cpu().numpy().tobytes())
    return digest.hexdigest()


def digest_flags(flags: Tensor) -> str:
    """Return the sha256 of (n,) bool."""
    return hashlib.sha256(flags.cpu().numpy().tobytes()).hexdigest()


def _digest_outputs(module: nn.Module, request: EvaluationRequest) -> str | None:
    """The sha256 of the logits of a few points, as they are and slightly moved, and of gradients.

    None where they are unknown.
    """
    try:
        twin = copy_module(module)
        places = torch.linspace(0, len(request.points) - 1, TRIED).long().unique()
        size = min(TRIED, request.batch_size)
        digest = hashlib.sha256()
        with isolate(twin) as net, seeded(0, "fingerprint"):
            for batch in request.points.subset(places).eval_batches(size):
                noise = per_sample("uniform", 0, "fingerprint noise", batch.index, batch.x)
                for x in (batch.x, (batch.x + NOISE * (2 * noise - 1)).clamp(0, 1)):
                    with torch.no_grad():
                        digest.update(net(x).float().cpu().contiguous().numpy().tobytes())
                    digest.update(_find_gradient(net, x))
    except Exception:  # whatever is wrong with the network, the evaluation itself says it better
        return None
    return digest.hexdigest()


def _find_gradient(net: Net, x: Tensor) -> bytes:
    """The gradient at images (B, C, H, W) of a fixed sum of the logits, or that there is none."""
    x = x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            logits = net(x).float()
            weights = torch.arange(1, logits.shape[1] + 1, device=logits.device)
            (gradient,) = torch.autograd.grad((logits * weights).sum(), x)
    except Exception as error:  # a network without gradients is judged, too
        return type(error).__name__.encode()
    return gradient.float().cpu().contiguous().numpy().tobytes()


def _digest_files(module: nn.Module) -> list[str] | None:
    """The sha256 of every source file that can take part; None where a part has none.

    These are the files of the network's classes, this package, and all modules that were loaded
    from outside of the installed libraries: factories, plugins in files, and what they import.
    """
    classes = {_find_file(sys.modules.get(type(part).__module__)) for part in module.modules()}
    if None in classes:
        return None
    loaded = {_find_file(owner) for owner in list(sys.modules.values())}
    own = sorted(PACKAGE.rglob("*.py"))
    outside = {
        path
        for path in classes | loaded
        if path is not None
        and not path.is_relative_to(PACKAGE)
        and (path in classes or not _is_installed(path))
    }
    try:
        return sorted({sha256_of(path) for path in (*own, *outside)})
    except OSError:  # a file is gone since it was loaded
        return None


def _find_file(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).absolute() if isinstance(file, str) and Path(file).is_file() else None


def _is_installed(path: Path) -> bool:
    """Does a file belong to Python or to an installed library, known by its version?"""
    return any(path.is_relative_to(folder) for folder in _list_library_folders())


@cache
def _list_library_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {Path(sysconfig.get_path(name)) for name in names}
    return tuple({*found, *(folder.resolve() for folder in found)})


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
