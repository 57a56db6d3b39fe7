"""The masking diagnostics: planted networks are caught, honest ones pass."""

from __future__ import annotations

import json

import pytest
import torch

import abatis
from abatis.api.threat import Threat
from abatis.data import DataRequest, open_data
from abatis.evaluate.isolation import isolate
from abatis.evaluate.masking.training import TrainingFacts
from abatis.nets.weights_file import read_weights
from abatis.runs.undefended_twin import train_undefended_twin
from tests.evaluate.planted import PLANTED, SPEAK, by_id, diagnosed, shorten, spoke
from tests.helpers import tiny

STANDARD = {"use": {"attacker": "none"}}


@pytest.fixture
def short(monkeypatch):
    shorten(monkeypatch)


@pytest.fixture(scope="session")
def images():
    """All digits, as a run sees them."""
    return open_data(DataRequest("digits", augment="none"))


def trained(out, **options):
    """The network at the end of its training.

    The best one on the way need not be an example of an honest, finished one.
    """
    settings = {"limit": None, "optim": {"lr": 0.05, "schedule": "one-cycle"}}
    folder = abatis.run(tiny(out, **{**settings, **options})).folder
    net = abatis.load(folder)
    net.load_state_dict(read_weights(folder / "weights-last.safetensors")[0])
    return net


@pytest.fixture(scope="session")
def standard(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("standard"), limit=600, epochs=8, **STANDARD)


@pytest.fixture(scope="session")
def adversarial(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("adversarial"), limit=700, epochs=6, attack={"steps": 3})


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["standard", "adversarial"])
def test_honest_networks_pass(request, images, standard, name):
    net = request.getfixturevalue(name)
    training = TrainingFacts(
        images.train.subset(torch.arange(32)), standard, Threat.parse("Linf:0.1")
    )
    found = diagnosed(net, images.test.subset(torch.arange(60)), training=training)
    assert found.list_findings() == []
    assert found.verdict == "PASS"
    assert [test.id for test in found.tests] == [f"D{number}" for number in range(1, 29)]
    idle = {test.id for test in found.tests if test.status != "pass"}
    assert idle == {"D25", "D27", "D28"}  # they follow doubts, or belong to a whole evaluation
    assert str(found) == "no sign of masking found by 25 tests"
    assert 0.9 < by_id(found)["D5"].value < 1.1
    assert found.curve.accuracy[-2:] == (0, 0)  # the huge radii
    at_eps = found.curve.right[found.curve.eps.index(0.1)]
    assert (
        int(at_eps.sum()) >= int(found.robust.sum()) == int((at_eps & found.robust).sum())
    )  # other attacks only add to these


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", PLANTED)
def test_planted_networks_are_caught(images, standard, name):
    found = diagnosed(PLANTED[name](standard), images.test.subset(torch.arange(24)), "Linf:0.15")
    assert found.verdict == ("WARN" if name == "softmax" else "FAIL")
    assert spoke(found) >= SPEAK[name]
    assert {sentence.split()[0] for sentence in found.list_findings()} == spoke(found)
    assert json.loads(json.dumps([test.to_json() for test in found.tests], allow_nan=False))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2))])
@pytest.mark.parametrize(
    "options", [STANDARD, {"attack": {"steps": 10}}], ids=["standard", "adversarial"]
)
def test_six_honest_networks_pass(tmp_path, images, options, seed):
    """Ten epochs of all digits, all queries and an own twin, at the radius of the training."""
    net = trained(tmp_path, epochs=10, batch_size=128, seed=seed, **options)

    def twin():
        return train_undefended_twin(
            net, images.train, seed=seed, epochs=5, batch_size=128, lr=0.05
        )

    training = TrainingFacts(images.train.subset(torch.arange(256)), twin, Threat.parse("Linf:0.1"))
    found = diagnosed(net, images.test.subset(torch.arange(256)), training=training)
    assert found.list_findings() == []
    assert found.verdict == "PASS"


@pytest.mark.long
@pytest.mark.slow
def test_overfitting_to_a_single_step_is_caught(tmp_path, images):
    """Trained on one step of a radius far too large."""
    attack = {"steps": 1, "step_size": "0.3", "start": "normal"}
    net = trained(
        tmp_path,
        epochs=10,
        batch_size=128,
        threat="Linf:0.3",
        attack=attack,
        optim={"lr": 0.1, "schedule": "one-cycle"},
    )
    training = TrainingFacts(images.train.subset(torch.arange(256)), net, Threat.parse("Linf:0.3"))
    found = diagnosed(net, images.test.subset(torch.arange(256)), "Linf:0.15", training=training)
    assert found.verdict in ("WARN", "FAIL")
    assert "D23" in spoke(found)


def test_a_twin_is_another_network_of_the_same_kind(standard, images):
    before = {name: tensor.clone() for name, tensor in standard.state_dict().items()}
    state = torch.get_rng_state()
    few = images.train.subset(torch.arange(600))
    with isolate(standard):  # as it is while it is being diagnosed: frozen
        first, again, other = (
            train_undefended_twin(standard, few, seed=seed, epochs=3, batch_size=64, lr=0.05)
            for seed in (0, 0, 1)
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in standard.state_dict().items())
    weights = [
        torch.cat([one.flatten() for one in net.parameters()])
        for net in (standard, first, again, other)
    ]
    assert torch.equal(weights[1], weights[2])
    assert (weights[0] - weights[1]).norm() > 1
    assert (weights[1] - weights[3]).norm() > 1
    assert not first.training
    batch = next(few.eval_batches(600))
    with torch.no_grad():
        assert (first(batch.x).argmax(1) == batch.y).double().mean() > 0.8
