"""Networks that a plugin uses beside the judged one: trained, kept, resumed to the bit, shown."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from torch import nn

from abatis import Net, PluginError, Term, TrainerHooks, UsageError, load, run
from abatis.nets.auxiliaries import add_auxiliary
from abatis.nets.weights_file import WEIGHTS, read_weights
from abatis.testing import plan_of, tiny_batch, tiny_network
from abatis.train.checkpoint import load_checkpoint
from tests.helpers import cut_last_epoch, final_bytes, plugin, tiny


def teaching(name="teaching", train=True, module="cnn", **more):
    """A loss whose teacher is trained by it, or frozen."""

    def loss(run):
        given = module() if callable(module) else module
        teacher = run.auxiliary("teacher", given, train=train)

        def terms(ctx):
            guide = teacher(ctx.batch.x)
            entropy = nn.functional.cross_entropy(guide, ctx.batch.target, reduction="none")
            return {"mse": Term((ctx.logits_adv - guide).square().mean(1)), "ce": Term(entropy)}

        return terms

    return plugin(name, loss=loss, **more)


def teacher_of(folder):
    return load_checkpoint(folder / "checkpoints").state["auxiliaries"]["teacher"]


def test_a_killed_run_goes_on_to_the_bit(install, tmp_path):
    """Weights, running statistics and moments of both networks, from epoch 1 of 2."""
    install(teaching())
    config = {"plugin": ["teaching"], "backbone": "resnet8", "ema": 0.9}
    whole = run(tiny(tmp_path, name="whole", **config)).folder
    resumed = cut_last_epoch(whole)
    before = teacher_of(resumed)["tensors"]
    run(tiny(tmp_path, name="resumed", resume=True, **config))
    assert final_bytes(resumed) == final_bytes(whole)
    after, again = teacher_of(whole)["tensors"], teacher_of(resumed)["tensors"]
    assert all(torch.equal(after[name], again[name]) for name in after)
    assert not any(torch.equal(after[name], before[name]) for name in after if "weight" in name)
    # what is judged knows nothing of it
    assert read_weights(whole / WEIGHTS)[0].keys() == load(whole).state_dict().keys()


def test_the_plan_and_the_trace_show_it(install, tmp_path, capsys):
    install(teaching())
    folder = run(tiny(tmp_path, name="run", plugin=["teaching"], epochs=1)).folder
    (row,) = [
        row for row in json.loads((folder / "plan.json").read_text()) if row["role"] == "auxiliary"
    ]
    assert (row["provider"], row["options"]["trained"]) == ("teacher", "yes")
    run(tiny(tmp_path, plugin=["teaching"], dry_run=True, trace=True, quiet=False))
    told = capsys.readouterr().out
    assert "trace: auxiliary network teacher, trained: " in told


def test_a_frozen_network_is_compared_when_a_run_is_resumed(install, tmp_path):
    install(teaching(train=False))
    config = {"plugin": ["teaching"]}
    whole = run(tiny(tmp_path, name="whole", **config)).folder
    assert teacher_of(whole).keys() == {"digest"}
    shutil.rmtree(whole / "checkpoints" / "step-00000008")
    other = teaching(train=False, module=lambda: Small())
    install(other)
    with pytest.raises(UsageError, match="other weights than when this run was started"):
        run(tiny(tmp_path, name="whole", resume=True, **config))


def test_a_network_for_other_images_or_classes_is_refused_before_the_run_starts(install, tmp_path):
    """The digits are 8x8 and of 10 classes."""
    install(teaching(module=lambda: nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))))
    message = r"auxiliary network 'teacher' \(Sequential\) fails on images \(2, 1, 8, 8\)"
    with pytest.raises(UsageError, match=message) as found:
        run(tiny(tmp_path, name="run", plugin=["teaching"]))
    assert "resize them" in found.value.fix
    factory = tmp_path / "wide.py"
    factory.write_text(
        "from torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100))\n"
    )
    install(teaching(module=f"{factory}:make"))
    with pytest.raises(UsageError, match=r"returns \(2, 100\) .* the data have 10 classes"):
        run(tiny(tmp_path, name="run", plugin=["teaching"]))
    assert not (tmp_path / "run").exists()


def test_the_logits_are_found_among_several_outputs(install, tmp_path):
    class Two(Small):
        def forward(self, x):
            logits = super().forward(x)
            return (logits, logits.square()) if self.training else {"logits": logits}

    install(teaching(module=Two))
    run(tiny(tmp_path, plugin=["teaching"], epochs=1))


class Small(nn.Module):
    """A network on one-channel images, with weights that are always the same."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        nn.init.ones_(self.linear.weight)

    def forward(self, x):
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_nothing_but_the_training_forward_moves_its_statistics(install, tmp_path, accumulate):
    """``objective()`` and the pass that gathers leave the buffers of both networks alone."""

    class Asks(TrainerHooks):
        def before_loss(self, ctx, objective):
            objective()
            objective.terms()

    def with_norm():
        return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.LazyLinear(10))

    module = with_norm()
    module(torch.rand(2, 1, 8, 8))
    module[0].reset_running_stats()
    install(teaching(module=lambda: module, trainer=lambda run: Asks()))
    run(tiny(tmp_path, name="run", plugin=["teaching"], epochs=1, accumulate=accumulate))
    counts = teacher_of(tmp_path / "run")["tensors"]["0.num_batches_tracked"]
    assert counts == 4 * accumulate  # steps


def test_the_same_seed_makes_the_same_teacher_whatever_else_is_selected(install, tmp_path):
    found = []
    for others in ((), ("other",)):
        install(teaching(), plugin("other", trainer=lambda run: draw_and_return()))
        folder = run(
            tiny(tmp_path, name=f"run{len(others)}", plugin=["teaching", *others], epochs=1)
        ).folder
        found.append(teacher_of(folder)["tensors"])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def draw_and_return():
    torch.rand(3)
    return TrainerHooks()


def test_a_skipped_step_leaves_it_as_it_was(install, tmp_path):
    """The second step is not finite; behind it the teacher is as it was, its counter too."""
    seen = []

    class Looks(TrainerHooks):
        def __init__(self, run):
            self.run = run

        def transform_batch(self, batch):
            module = self.run.net.auxiliaries["teacher"].module
            seen.append(copy.deepcopy(module.state_dict()))
            return batch

    def loss(run):
        teacher = run.auxiliary("teacher", nn.Sequential(nn.BatchNorm2d(1), Small()), train=True)

        def terms(ctx):
            factor = float("nan") if ctx.step == 1 else 1.0
            gap = (ctx.logits_adv - teacher(ctx.batch.x)).square().mean(1) * factor
            return {"gap": Term(gap)}

        return terms

    install(plugin("spoilt", loss=loss, trainer=lambda run: Looks(run)))
    run(tiny(tmp_path, name="run", plugin=["spoilt"], epochs=1, skip_nonfinite=1))
    assert all(torch.equal(seen[2][name], seen[1][name]) for name in seen[1])
    assert not torch.equal(seen[3]["1.linear.weight"], seen[2]["1.linear.weight"])


def test_misuse_is_named(install, tmp_path):
    net = Net(tiny_network(10))

    def loss(run):
        run.auxiliary("one", tiny_network(10), train=True)
        with pytest.raises(PluginError, match="'one' already"):
            run.auxiliary("one", tiny_network(10), train=False)
        with pytest.raises(PluginError, match="itself"):
            run.auxiliary("two", run.net.module, train=False)
        frozen = tiny_network(10).requires_grad_(False)
        with pytest.raises(UsageError, match="no trainable parameters"):
            run.auxiliary("three", frozen, train=True)
        return lambda ctx: {"x": Term(ctx.logits_adv.logsumexp(1))}

    plan_of(plugin("misused", loss=loss), net=net, num_classes=10)
    assert list(net.auxiliaries) == ["one"]

    def late(run):
        return lambda ctx: {"x": Term(run.auxiliary("late", "cnn", train=True)(ctx.batch.x))}

    install(plugin("late", loss=late))
    with pytest.raises(PluginError, match="came after the start"):
        run(tiny(tmp_path, name="late", plugin=["late"]))
    install(teaching())
    with pytest.raises(UsageError, match="--shard root is not supported with an auxiliary"):
        run(tiny(tmp_path, plugin=["teaching"], shard="root", dry_run=True))


def test_it_is_frozen_and_in_eval_mode_during_an_attack():
    net = Net(tiny_network(10))
    other = add_auxiliary(net, lambda given: Net(given), "other", tiny_network(10), True)
    x = tiny_batch(4, 10).x
    with net.attack_mode():
        assert not any(part.training for part in other.module.modules())
        assert not other(x).requires_grad
    assert other.module.training
    assert other(x).requires_grad
