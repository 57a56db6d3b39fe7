"""The authors' own trainings, step for step: weights, buffers, losses and images after every step.

The reference files were made by running the released training functions in float64 on a tiny
network. A training is reproduced when parameters and buffers agree after every step.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.testing import Replayed, loss_terms, replay
from tests.reference import reference_dir

LIMIT = 1e-9  # of the largest entry of a tensor
PLAIN = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}  # the update is the gradient
CLEAN_ADV_CLEAN = {"loss": ["clean", "adv", "clean"]}
KEPT_STEPS = {"attack": ["steps"]}
LOGGED = {"attack": ["steps", "adv"], "loss": ["adv"], "after": ["clean"]}

TRAININGS: dict[str, tuple[tuple[str, ...], dict[str, list[str]]]] = {
    "amm": (("amm",), {}),
    "at_awp": (("awp",), LOGGED),
    "at_emr": (("emr",), KEPT_STEPS),
    "at_emr_decayed": (("emr",), KEPT_STEPS),
    "average_margin_lr": (("average-margin",), {}),
    "average_margin_mlp": (("average-margin",), {}),
    "gairat": (("gairat",), {}),
    "gairat_burn_in": (("gairat",), {}),
    "mail_at": (("mail",), {}),
    "mail_at_burn_in": (("mail",), {}),
    "mail_at_emr": (("mail", "emr"), {"loss": ["clean", "adv"]}),
    "mail_at_emr_burn_in": (("emr",), KEPT_STEPS),
    "mail_trades": (("mail", "trades"), {}),
    "mail_trades_burn_in": (("mail", "trades"), {}),
    "mail_trades_emr": (("mail", "trades", "emr"), {}),
    "mail_trades_emr_burn_in": (("emr",), KEPT_STEPS),
    "mart": (("mart",), {}),
    "pgd_at": ((), LOGGED),
    "trades": (("trades",), CLEAN_ADV_CLEAN),
    "trades_awp": (("trades", "awp"), {"loss": ["adv", "clean", "clean"]}),
    "trades_awp_warmup": (("trades", "awp"), {"loss": ["adv", "clean", "clean"]}),
    "trades_emr": (("trades", "emr"), {**KEPT_STEPS, **CLEAN_ADV_CLEAN}),
}
"""The plugins of each training, and which forwards move its running statistics."""

OPTIONS: dict[str, dict[str, str]] = {
    "amm": {
        "lambda": "weight",
        "clip_value": "clip",
        "c": "c",
        "d": "d",
        "shrinkage": "shrinkage",
        "aggregation": "aggregation",
        "top_fraction": "top_fraction",
        "iterations": "iterations",
        "candidates": "candidates",
        "overshoot": "overshoot",
        "epsilon": "epsilon",
        "norm": "norm",
    },
    "average-margin": {"mu": "weight", "tau": "tau", "orthogonality": "orthogonality"},
    "awp": {"gamma": "gamma", "warmup_epochs": "warmup"},
    "emr": {
        "lambda": "weight",
        "temperature": "temperature",
        "decay": "decay",
        "decay_epochs_from_1": "decay_epochs",
    },
    "gairat": {"Lambda": "shift", "burn_in_epochs": "burn_in", "omega": "omega"},
    "mail": {"slope": "slope", "bias": "bias", "burn_in_epochs": "burn_in"},
    "mart": {"beta": "beta"},
    "trades": {"beta": "beta"},
}
"""The options of each plugin, by the papers' words for them."""
FIXED = {"average-margin": {"ramp": "released", "layers": "all"}}


class Shifted(nn.Module):
    """``(x - mean) / std`` with constants that are no buffers."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Means(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def network(about: Mapping[str, Any]) -> nn.Module:
    """The tiny network of a reference file, its parts under their names there."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if "mean" in about:
        mean = about["mean"] if isinstance(about["mean"], list) else [about["mean"]]
        parts["shifted"] = Shifted(mean, about.get("std", [1.0] * len(mean)))
    if about["kind"] == "conv":
        parts["conv1"], parts["bn1"] = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        parts["relu1"] = nn.ReLU()
        parts["conv2"], parts["bn2"] = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        parts |= {"relu2": nn.ReLU(), "means": Means(), "fc": nn.Linear(8, 10)}
        return nn.Sequential(parts)
    sizes = about["sizes"]
    parts["flat"] = nn.Flatten()
    for number in range(1, len(sizes)):
        parts["fc" if len(sizes) == 2 else f"fc{number}"] = nn.Linear(
            *sizes[number - 1 : number + 1]
        )
        parts[f"relu{number}"] = nn.ReLU() if number + 1 < len(sizes) else nn.Identity()
    return nn.Sequential(parts)


def options_of(plugins: tuple[str, ...], method: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for name in plugins:
        known = {own: method[word] for word, own in OPTIONS[name].items() if word in method}
        tables[name] = {**known, **FIXED.get(name, {})}
    return tables


def attack_of(about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": about["steps"],
        "step_size": about["step_size"],
        "start": about["start"],
        "bn": about["statistics"],
    }


class Trajectory:
    """One reference file, and the same training by :func:`abatis.testing.replay`."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.about = json.loads(str(arrays["meta_json"]))
        self.module = self.network_before(0)
        self.batches = [
            Batch(torch.tensor(x), torch.tensor(y), torch.tensor(index))
            for x, y, index in zip(arrays["x"], arrays["y"], arrays["index"], strict=True)
        ]

    def replay(self, **changes: Any) -> list[Replayed]:
        about = self.about
        plugins, statistics = TRAININGS[about["training"]]
        arguments: dict[str, Any] = {
            "options": options_of(plugins, about["method"]),
            "optim": {**about["optim"], "lr": float(self.arrays["lr"][0])},
            "statistics": statistics,
            "clip_grad": about.get("clip_grad", 0.0),
            "epoch": about["epoch"],
            "use": {"attacker": "none"},
        }
        if "attack" in about:
            norm, eps = about["threat"]
            arguments |= {
                "threat": f"{norm}:{eps}",
                "attack": attack_of(about["attack"]),
                "start": [torch.tensor(noise) for noise in self.arrays["start"]],
                "use": {"attacker": "pgd"} if about["attack"]["objective"] == "ce" else {},
            }
        arguments |= {"model": self.module, "batches": self.batches}
        return replay(plugins, **{**arguments, **changes})

    def network_before(self, step: int) -> nn.Module:
        """The official network before a step, in training mode."""
        module = network(self.about["net"]).double()
        parameters = dict(module.named_parameters())
        before = {
            name: self.value_before(step, name, "param" if name in parameters else "buffer")
            for name in module.state_dict()
        }
        module.load_state_dict({name: torch.tensor(value) for name, value in before.items()})
        return module.train()

    def value_before(self, step: int, name: str, kind: str = "param") -> np.ndarray:
        """A parameter or buffer of the official network before a step."""
        if step == 0:
            return self.arrays[f"init.{kind}.{name}"]
        return self.arrays[f"after.{kind}.{name}"][step - 1]

    def sample_weights(self, step: int, info: Mapping[str, Tensor]) -> Tensor:
        """The weight of each sample in a step, (B,): its weighted term over the plain one."""
        plugins = tuple(name for name in TRAININGS[self.about["training"]][0] if name != "emr")
        module, batch = self.network_before(step), self.batches[step]
        with torch.no_grad():
            clean, adversarial = module(batch.x), module(torch.tensor(self.arrays["x_adv"][step]))
        weighted, plain = (
            loss_terms(
                *names,
                logits_clean=clean,
                logits_adv=adversarial,
                y=batch.y,
                info=info,
                options=options_of(names, self.about["method"]),
                epoch=self.about["epoch"],
            )
            for names in (plugins, plugins[1:])
        )
        (name,) = [name for name, term in plain.items() if term.reweight]
        return weighted[name].value / plain[name].value


def files() -> list[str]:
    folder = reference_dir()
    if folder is None:
        return sorted(TRAININGS)
    return sorted(path.stem for path in (folder / "golden" / "trajectories").glob("*.npz"))


@pytest.fixture(params=files())
def trajectory(request) -> Trajectory:
    folder = reference_dir()
    if folder is None:
        pytest.skip("reference values are not here; set ABATIS_REFERENCE")
    return Trajectory(np.load(folder / "golden" / "trajectories" / f"{request.param}.npz"))


def distance(found: Tensor, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest entry."""
    scale = np.abs(expected).max() or 1.0
    return float(np.abs(found.numpy() - expected).max() / scale)


def test_the_released_training_is_reproduced(trajectory):
    arrays, about = trajectory.arrays, trajectory.about
    steps = trajectory.replay()
    assert len(steps) == 4
    for number, step in enumerate(steps):
        found = {f"after.param.{name}": value for name, value in step.parameters.items()}
        found |= {f"after.buffer.{name}": value for name, value in step.buffers.items()}
        assert found.keys() == {key for key in arrays if key.startswith("after.")}
        found |= {f"term.{name}": step.terms[name] for name in about["terms"]}
        assert step.terms.keys() == {*about["terms"], "total"}
        found |= {"total": step.total, "x_adv": step.x_adv}
        worst = {key: distance(value, arrays[key][number]) for key, value in found.items()}
        assert max(worst.values()) <= LIMIT, f"step {number}: {worst}"


def test_what_else_the_released_code_reports(trajectory):
    """Steps that samples survive, their weights, the loss for the log, the norm of the gradient."""
    arrays, about = trajectory.arrays, trajectory.about
    given = {key for key in arrays if key.startswith("info.")}
    if not given:
        pytest.skip("this training reports nothing else")
    for number, step in enumerate(trajectory.replay()):
        expected = {key: arrays[key][number] for key in given}
        found = {}
        if "info.steps_correct" in given:
            found["info.steps_correct"] = step.info["steps_correct"]
        if "info.weights" in given:
            found["info.weights"] = trajectory.sample_weights(number, step.info)
        if "info.clean_loss_after_update" in given:
            batch, after = trajectory.batches[number], copy.deepcopy(trajectory.module)
            after.load_state_dict({**step.parameters, **step.buffers})
            loss = F.cross_entropy(after.train()(batch.x), batch.y)
            found["info.clean_loss_after_update"] = loss.detach()
        if "info.grad_norm" in given:
            trajectory.module = trajectory.network_before(number)
            (unclipped,) = trajectory.replay(
                batches=trajectory.batches[number : number + 1], clip_grad=0.0, optim=PLAIN
            )
            moved = [
                (value - torch.tensor(trajectory.value_before(number, name))).square().sum()
                for name, value in unclipped.parameters.items()
            ]
            found["info.grad_norm"] = torch.stack(moved).sum().sqrt()
        assert found.keys() == given
        worst = {key: distance(found[key], expected[key]) for key in given}
        assert max(worst.values()) <= LIMIT, f"{about['training']}, step {number}: {worst}"
