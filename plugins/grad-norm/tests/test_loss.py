"""The gradient norm against the authors' code, its ramp, and what a new network is told."""

from __future__ import annotations

import pytest
import torch
from tests.frontier import Tiny, frontier, is_close, load, tensor_of
from tests.helpers import tiny
from torch import nn

from abatis import Batch, Net, Now, StepContext, UsageError, run
from abatis.testing import Bench, penalty_terms, plan_of, replay, smooth_network, tiny_batch, total
from abatis_grad_norm.loss import GradNormLoss

FULL = {
    "ramp_start": 1.0,
    "std": [1.0],
    "forward": "eval",
}  # the stored images are normalised already
CASES = {"DBP": {}, "DBPChannel": {"channels": [1.0, 2.0, 1.0]}}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_released_code(case):
    arrays = frontier("gradnorm")
    module = load(Tiny(), arrays, f"{case}_net_")
    x, target = tensor_of(arrays, f"{case}_x"), tensor_of(arrays, f"{case}_target")
    plan = plan_of(
        "grad-norm",
        net=Net(module),
        num_classes=10,
        options={**FULL, **CASES[case]},
        threat="Linf:4/255",
    )
    batch = Batch(x, target.argmax(1), torch.arange(len(x)), y_soft=target)
    ctx = StepContext(batch, x, {}, plan.run.net, 0, 0, 0.0, global_size=len(x))
    terms = plan.terms(ctx)
    assert is_close(terms["ce"].value.mean().detach(), arrays[f"{case}_ce"])
    assert is_close(terms["grad_l1"].value.mean().detach(), arrays[f"{case}_reg"])
    loss = total(terms)
    assert is_close(loss.detach(), arrays[f"{case}_loss"])
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    for (name, _), gradient in zip(module.named_parameters(), gradients, strict=True):
        assert is_close(gradient, tensor_of(arrays, f"{case}_grad_{name}")), name
    assert int(module.bn1.num_batches_tracked) == 0  # eval mode


def test_the_weight_grows_as_released():
    """``alpha_rows``: start, slope, cap, epoch, batch, batches, accumulation, alpha."""
    rows = frontier("gradnorm")["alpha_rows"]
    for start, slope, cap, epoch, batch, batches, accumulation, alpha in rows:
        updates = int(batches // accumulation)
        options = {"ramp_start": start, "ramp": slope, "ramp_end": cap}
        plan = Bench("grad-norm").plan(Net(smooth_network(10)), options)
        object.__setattr__(plan.run, "steps_per_epoch", updates)
        plan.run.clock.now = Now(int(epoch) * updates + int(batch // accumulation), int(epoch))
        assert isinstance(plan.loss, GradNormLoss)
        assert plan.loss.find_share() == pytest.approx(alpha, abs=1e-12)


def test_the_weight_may_grow_over_a_share_of_the_training():
    """From 0.2 to 1 in the first half: 0.6 after a quarter."""
    plan = Bench("grad-norm").plan(
        Net(smooth_network(10)), {"ramp_start": 0.2, "full_at": 0.5, "ramp": 7.0}
    )
    assert isinstance(plan.loss, GradNormLoss)
    for progress, alpha in ((0.0, 0.2), (0.25, 0.6), (0.5, 1.0), (0.99, 1.0)):
        plan.run.clock.now = Now(0, 0, progress)
        assert plan.loss.find_share() == pytest.approx(alpha)


def test_by_hand():
    """z = (w x, 0) at x = 0 with w = 3: CE = log 2, its derivative -3/2, so eps / 0.225 * 3/2."""
    layer = nn.Linear(1, 2, bias=False)
    layer.weight.data = torch.tensor([[3.0], [0.0]])
    module = nn.Sequential(nn.Flatten(), layer)
    (step,) = replay(
        "grad-norm",
        module,
        [Batch(torch.zeros(1, 1, 1, 1), torch.tensor([0]), torch.arange(1))],
        options=FULL,
        threat="Linf:0.45",
    )
    assert step.terms["ce"].item() == pytest.approx(torch.tensor(2.0).double().log().item())
    assert step.terms["grad_l1"].item() == pytest.approx(3.0)
    assert torch.equal(step.x_adv, torch.zeros(1, 1, 1, 1).double())


def test_a_new_network_with_running_statistics_is_refused():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(UsageError, match="would stay at 0 and 1"):
        replay("grad-norm", module, [tiny_batch(4, 10)], options={"forward": "eval"})
    replay("grad-norm", module, [tiny_batch(4, 10)])
    assert int(module[1].num_batches_tracked) == 1
    replay("grad-norm", module, [tiny_batch(4, 10)], options={"forward": "eval"})  # they moved


def test_the_channels_of_an_option_are_those_of_the_images():
    with pytest.raises(UsageError, match=r"--grad-norm\.std has 2 values, and images have 3"):
        replay("grad-norm", smooth_network(10), [tiny_batch(4, 10)], options={"std": [0.2, 0.3]})


def test_several_threats_are_refused(tmp_path):
    """Its loss would train with the eps of the first, whatever the attacker does."""
    several = {"plugin": ["grad-norm", "multi-norm"], "also_train": ["L2:0.5"], "dry_run": True}
    with pytest.raises(UsageError, match=r"knows one eps, .* in Linf:.* and L2:0\.5"):
        run(tiny(tmp_path, use={"attacker": "multi-norm"}, **several))
    run(tiny(tmp_path, use={"attacker": "multi-norm", "loss": "cross-entropy"}, **several))


def test_penalties_go_with_it():
    assert penalty_terms("emr", smooth_network(10), *[tiny_batch(4, 10).x] * 2, torch.arange(4))
    steps = replay(("emr", "grad-norm"), smooth_network(10), [tiny_batch(4, 10)])
    assert set(steps[0].terms) == {"ce", "grad_l1", "emr/grad_sq", "total"}
