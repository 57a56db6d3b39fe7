"""Layers that are left as they are: weights, running statistics, through a resumed run."""

from __future__ import annotations

import pytest
import torch

from abatis import UsageError, run
from abatis.nets.weights_file import WEIGHTS_LAST, read_weights
from tests.helpers import cut_last_epoch, final_bytes, tiny

FROZEN = {"backbone": "resnet8", "freeze": ["stem", "stage1*"]}


def test_frozen_layers_stay_and_the_others_learn(tmp_path):
    start = run(tiny(tmp_path, name="start", backbone="resnet8", epochs=1)).folder
    done = run(tiny(tmp_path, name="done", init=start, **FROZEN)).folder
    before, after = (read_weights(folder / WEIGHTS_LAST)[0] for folder in (start, done))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert not any("stem" in name or "stage1" in name for name in moved)
    assert {name for name in after if "stage2" in name or ".fc." in name} <= moved


def test_a_resumed_run_freezes_the_same(tmp_path):
    whole = run(tiny(tmp_path, name="whole", **FROZEN)).folder
    resumed = cut_last_epoch(whole)
    run(tiny(tmp_path, name="resumed", resume=True, **FROZEN))
    assert final_bytes(resumed) == final_bytes(whole)


def test_an_unknown_layer_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(UsageError, match="layer1: cifar_resnet8 has no such layer") as caught:
        run(tiny(tmp_path, backbone="resnet8", freeze=["layer1"], dry_run=True))
    for name in ("stem", "stage1", "fc"):
        assert name in caught.value.fix
