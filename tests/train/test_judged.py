"""The weights that a plugin has judged: validated, kept, saved, evaluated, resumed to the bit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from abatis import PluginConflict, PluginError, TrainerHooks, UsageError, load, run
from abatis.nets.weights_file import WEIGHTS, WEIGHTS_AVERAGED, read_weights
from abatis.testing.contract.lockstep import Lockstep
from abatis.train.restatistics import renew_statistics
from tests.frontier import Tiny, frontier, is_close, tensor_of
from tests.frontier import load as load_tiny
from tests.helpers import cut_last_epoch, final_bytes, plugin, tiny


class Halves(TrainerHooks):
    """Judges half of every weight, with running statistics of its own."""

    def __init__(self, run, fresh=True, never=False):
        self.run, self.fresh, self.never = run, fresh, never
        self.module = copy.deepcopy(run.net.module).requires_grad_(False)

    @torch.no_grad()
    def epoch_end(self, epoch):
        pairs = zip(self.module.parameters(), self.run.net.module.parameters(), strict=True)
        for own, weight in pairs:
            own.copy_(weight / 2)
        if self.fresh:
            self.run.restatistics(self.module)

    def judged(self):
        return None if self.never else self.module

    def state_dict(self):
        return {"module": self.module.state_dict()}

    def load_state_dict(self, state):
        self.module.load_state_dict(state["module"])


def halving(name="halves", **settings):
    return plugin(name, trainer=lambda run: Halves(run, **settings))


def weights_of(folder, name):
    return read_weights(folder / name)[0]


def test_the_weights_of_a_plugin_are_kept_and_loaded(install, tmp_path):
    install(halving())
    done = run(tiny(tmp_path, name="run", plugin=["halves"], backbone="resnet8"))
    folder = done.folder
    trained, judged = weights_of(folder, WEIGHTS), weights_of(folder, WEIGHTS_AVERAGED)
    name = next(iter(dict(load(folder).named_parameters())))
    assert torch.equal(judged[name], trained[name] / 2)
    assert torch.equal(dict(load(folder).named_parameters())[name], judged[name])
    mean = next(key for key in trained if key.endswith("running_mean"))
    assert not torch.allclose(judged[mean], trained[mean])
    rows = json.loads((folder / "plan.json").read_text())
    assert [row["provider"] for row in rows if row["role"] == "weights"] == ["halves"]


def test_without_an_answer_the_trained_weights_are_judged(install, tmp_path):
    install(halving(never=True))
    folder = run(tiny(tmp_path, name="run", plugin=["halves"])).folder
    trained, judged = weights_of(folder, WEIGHTS), weights_of(folder, WEIGHTS_AVERAGED)
    assert all(torch.equal(trained[name], judged[name]) for name in trained)


def test_a_killed_run_goes_on_to_the_bit(install, tmp_path):
    """From the checkpoint of epoch 1 of 2; and the judged file of the best epoch, once deleted,
    is written again from the checkpoint of that epoch.
    """
    install(halving())
    config = {"plugin": ["halves"], "backbone": "resnet8"}
    whole = run(tiny(tmp_path, name="whole", **config)).folder
    resumed = cut_last_epoch(whole)
    (resumed / WEIGHTS_AVERAGED).unlink()
    run(tiny(tmp_path, name="resumed", resume=True, **config))
    assert final_bytes(resumed) == final_bytes(whole)
    assert (resumed / WEIGHTS_AVERAGED).read_bytes() == (whole / WEIGHTS_AVERAGED).read_bytes()


def test_two_providers_conflict_and_the_error_shows_the_way_out(install, tmp_path):
    install(halving(), halving("other"))
    both = {"plugin": ["halves", "other"], "ema": True, "dry_run": True}
    with pytest.raises(PluginConflict) as caught:
        run(tiny(tmp_path, **both))
    for name in ("halves", "other", "averaging"):
        assert f"--use weights={name}" in str(caught.value)
    for name in ("halves", "averaging", "trained"):
        run(tiny(tmp_path, **both, use={"weights": name}))
    with pytest.raises(UsageError, match="no such provider"):
        run(tiny(tmp_path, **both, use={"weights": "halfs"}))
    with pytest.raises(UsageError, match="'averaging' provides no weights"):
        run(tiny(tmp_path, plugin=["halves"], dry_run=True, use={"weights": "averaging"}))


def test_the_trained_weights_are_judged_where_they_are_asked_for(install, tmp_path):
    install(halving())
    config = {"plugin": ["halves"], "use": {"weights": "trained"}}
    folder = run(tiny(tmp_path, name="run", **config)).folder
    assert not (folder / WEIGHTS_AVERAGED).exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [("weights", "returned str"), (nn.Linear(2, 2), "another structure")],
)
def test_an_answer_that_is_no_such_network_is_named(install, tmp_path, answer, words):
    class Wrong(TrainerHooks):
        def judged(self):
            return answer

    install(plugin("wrong", trainer=lambda run: Wrong()))
    with pytest.raises(PluginError, match=words):
        run(tiny(tmp_path, name="run", plugin=["wrong"]))


def test_statistics_afresh_are_the_released_ones():
    """Over three batches of 4, 4 and 3 images (KD-SWA's second collection)."""
    arrays = frontier("averaging")
    prefix = "swa_result1_"
    module = load_tiny(Tiny(), arrays, prefix)
    module.eval()
    batches = [tensor_of(arrays, f"swa_batch{number}_x") for number in range(3)]
    for norm in (module.bn1, module.bn2):
        norm.running_mean.fill_(5)
        norm.num_batches_tracked.fill_(3)
    renew_statistics(module, batches)
    for name, buffer in module.named_buffers():
        assert is_close(buffer, tensor_of(arrays, prefix + name)), name
    assert not any(part.training for part in module.modules())
    assert module.bn1.momentum == 0.1


def test_statistics_afresh_are_the_same_in_several_processes():
    arrays = frontier("averaging")
    batches = [tensor_of(arrays, f"swa_batch{number}_x") for number in range(3)]
    lockstep = Lockstep(2)

    def work():
        module = load_tiny(Tiny(), arrays, "swa_source0_")
        renew_statistics(module, batches[lockstep.rank :: 2])
        return module

    for module in lockstep.play(work):
        alone = load_tiny(Tiny(), arrays, "swa_source0_")
        renew_statistics(alone, batches)
        for name, buffer in alone.named_buffers():
            assert is_close(dict(module.named_buffers())[name], buffer, 1e-14), name


def test_frozen_norms_stay():
    module = load_tiny(Tiny(), frontier("averaging"), "swa_source0_")
    before = module.bn1.running_mean.clone()
    renew_statistics(module, [torch.rand(4, 3, 12, 12).double()], frozen=["bn1"])
    assert torch.equal(module.bn1.running_mean, before)
    assert int(module.bn2.num_batches_tracked) == 1
