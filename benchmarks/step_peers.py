"""Training steps of other libraries: torchattacks in a plain loop, ART's own trainer, MAIR's
trainers, and the loop of Rade and Moosavi-Dezfooli.

torchattacks and ART are compared where they are installed. MAIR (github.com/Harry24k/MAIR) is
imported from the folder that ABATIS_MAIR names, or where it is installed; the loop
(github.com/imrahulr/adversarial_robustness_pytorch, or hat) from the folder in ABATIS_RADE.

Each maker returns ``step(x, y)`` and raises ImportError where its library is absent.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import torch.nn.functional as F
from benchmarks.plain_loops import ALPHA, EPS, STEPS, Start, small_normal, uniform, update
from torch import Tensor, nn
from torch.optim import Optimizer

PeerStep = Callable[[Tensor, Tensor], None]


def torchattacks_step(model: nn.Module, optimizer: Optimizer) -> PeerStep:
    """Its PGD, which attacks in eval mode, then the usual update."""
    import torchattacks

    import abatis.system.timm_import  # noqa: F401  # the library imports it

    attack = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS, random_start=True)

    def step(x: Tensor, y: Tensor) -> None:
        x_adv = attack(x, y)
        update(model, optimizer, lambda: F.cross_entropy(model(x_adv), y))

    return step


def art_step(model: nn.Module, optimizer: Optimizer) -> PeerStep:
    """Its trainer after Madry et al. for one epoch of one batch; it works in float32 on numpy
    arrays and shuffles them.
    """
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    import abatis.system.timm_import  # noqa: F401

    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (3, 32, 32),
        10,
        optimizer,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    trainer = AdversarialTrainerMadryPGD(
        classifier, nb_epochs=1, eps=EPS, eps_step=ALPHA, max_iter=STEPS
    )

    def step(x: Tensor, y: Tensor) -> None:
        with redirect_stderr(io.StringIO()):  # progress bars
            trainer.fit(x.numpy(), y.numpy(), batch_size=len(x), nb_epochs=1)

    return step


def mair_step(
    model: nn.Module, optimizer: Optimizer, method: str = "AT", **more: float
) -> PeerStep:
    """A trainer of its, for one epoch of one batch that records and saves nothing."""
    mair = _import_from("ABATIS_MAIR", "mair")
    trainer = getattr(mair, method)(
        mair.RobModel(model, n_classes=10), eps=EPS, alpha=ALPHA, steps=STEPS, **more
    )
    trainer.setup(optimizer=optimizer)

    def step(x: Tensor, y: Tensor) -> None:
        trainer.fit([(x, y)], n_epochs=1, record_type=None, save_type=None)

    return step


def mair_trades_step(model: nn.Module, optimizer: Optimizer) -> PeerStep:
    """Its TRADES with the weight of ours."""
    return mair_step(model, optimizer, "TRADES", beta=6.0)


def rade_step(model: nn.Module, optimizer: Optimizer) -> PeerStep:
    """Its loss and attack, and the update of its loop, whose tables of metrics need an old
    pandas.
    """
    if not os.environ.get("ABATIS_RADE"):
        raise ImportError("ABATIS_RADE names no folder")
    trainer_of = _import_from("ABATIS_RADE", "core.utils.train").Trainer
    trainer = trainer_of.__new__(trainer_of)  # its own __init__ builds one of its networks
    trainer.model, trainer.optimizer, trainer.criterion = model, optimizer, nn.CrossEntropyLoss()
    trainer.params = SimpleNamespace(keep_clean=False)
    trainer.attack, _ = trainer_of.init_attack(
        model, trainer.criterion, "linf-pgd", EPS, STEPS, ALPHA
    )

    def step(x: Tensor, y: Tensor) -> None:
        model.train()
        loss, _ = trainer.adversarial_loss(x, y)
        loss.backward()
        optimizer.step()

    return step


def _import_from(variable: str, name: str) -> ModuleType:
    """Import a module, first from the folder that an environment variable names."""
    folder = os.environ.get(variable)
    if not folder:
        return importlib.import_module(name)
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def list_peer_versions() -> dict[str, str]:
    """Versions that are known only to the modules, of those that were imported."""
    mair = sys.modules.get("mair")
    return {} if mair is None else {"mair": getattr(mair, "__version__", "unknown")}


@dataclass(frozen=True)
class Peer:
    """A step of another library, and where its attack begins: as this does after
    ``torch.manual_seed(0)``, or unknown.
    """

    make: Callable[[nn.Module, Optimizer], PeerStep]
    start: Start | None = None


PEERS = {
    "at: torchattacks": Peer(torchattacks_step, uniform),
    "at: ART": Peer(art_step),
    "at: MAIR": Peer(mair_step, uniform),
    "at: Rade's loop": Peer(rade_step, uniform),
    "trades: MAIR": Peer(mair_trades_step, small_normal),
}
"""By method and library."""
