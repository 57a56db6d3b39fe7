"""Adversarial training steps with attacks that can be installed: torchattacks in a plain loop,
ART's own trainer.

Each maker returns ``step(x, y)`` and raises ImportError where its library is absent.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr

import torch
import torch.nn.functional as F
from benchmarks.plain_loops import ALPHA, EPS, STEPS, update
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


def torchattacks_start(x: Tensor) -> Tensor:
    """Where its attack begins after ``torch.manual_seed(0)``."""
    torch.manual_seed(0)
    return (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)


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


PEERS: dict[str, Callable[[nn.Module, Optimizer], PeerStep]] = {
    "torchattacks": torchattacks_step,
    "ART": art_step,
}
