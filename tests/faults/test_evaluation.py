"""F20: an evaluation that is killed goes on, and leaves the training's draws alone."""

from __future__ import annotations

import json
import random
import signal

import numpy as np
import pytest
import torch

from abatis.evaluate.judge import Judge
from abatis.report.eval_record import STATE
from tests.faults import die, in_child, train

ATTACKS = ["PGD-20", "margin-PGD-20", "APGD-CE", "APGD-T", "FAB-T", "Square"]
JUDGED = {"eval": "standard", "limit": 20, "batch_size": 8, "epochs": 1, "ema": 0}


def recording(asked, killed_at=None):
    """In this process, note the attacks of the ladder that are run, and die before one of them."""
    attacked = Judge.run_attack

    def call(self, name, *rest, **named):
        if name == killed_at:
            die()
        asked.append(name)
        return attacked(self, name, *rest, **named)

    Judge.run_attack = call


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """The evaluation that nothing happened to."""
    return json.loads(
        (train(tmp_path_factory.mktemp("judged"), **JUDGED) / "eval.json").read_text()
    )


def resumed(out):
    """What a resumed evaluation finds, and the attacks it runs."""

    def work():
        asked = []
        recording(asked)
        train(out, **JUDGED, resume=True)
        (out / "asked.json").write_text(json.dumps(asked))

    assert in_child(work) == 0
    return json.loads((out / "r" / "eval.json").read_text()), json.loads(
        (out / "asked.json").read_text()
    )


@pytest.mark.parametrize("spoiled", [False, True], ids=["", "state-truncated"])
def test_f20_killed_amid_autoattack_no_finished_attack_is_repeated(tmp_path, judged, spoiled):
    def work():
        recording([], "FAB-T")
        train(tmp_path, **JUDGED)

    assert in_child(work) == -signal.SIGKILL
    state = tmp_path / "r" / STATE
    assert list(json.loads(state.read_text())["attacks"]) == ATTACKS[:4]
    if spoiled:
        state.write_bytes(state.read_bytes()[:-20])
    record, asked = resumed(tmp_path)
    assert [name for name in asked if name in ATTACKS][: 6 if spoiled else 2] == ATTACKS[
        0 if spoiled else 4 :
    ]
    assert record["per_point"] == judged["per_point"]
    assert record["robust_acc"] == judged["robust_acc"]


def test_f20_an_evaluation_draws_nothing_from_the_training(tmp_path, judged):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    train(tmp_path, **{**JUDGED, "eval": "quick"})
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
