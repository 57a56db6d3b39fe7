"""A small run and what its evaluation may say."""

from __future__ import annotations

import json

import pytest

import abatis
from abatis.nets.digest import weights_digest
from tests.helpers import tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder without an evaluation."""
    return abatis.run(tiny(tmp_path_factory.mktemp("runs"), name="little", epochs=1)).folder


@pytest.fixture
def judged(trained):
    """Gives the run folder this evaluation."""

    def write(**changes):
        record = {
            "n": 38,
            "clean_acc": 32 / 38,
            "autoattack_acc": 0.5,
            "robust_acc": 0.5,
            "threat": "Linf:8/255",
            "data": "digits",
            "verdict": "PASS",
            "note": "",
            "attacks": {"AutoAttack": {"left_out": []}},
            "weights_sha256": weights_digest(abatis.load(trained)),
        }
        (trained / "eval.json").write_text(json.dumps(record | changes))
        return trained

    return write
