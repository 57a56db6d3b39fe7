"""The contract every plugin keeps, the norm against the authors' code, and the loss by hand."""

from __future__ import annotations

import pytest
import torch
from abatis_twins.norm import HalfFrozenNorm, TwoNorms
from tests.frontier import frontier, is_close, tensor_of
from tests.helpers import tiny
from torch import nn

import abatis
from abatis import Net, UsageError
from abatis.testing import (
    Bench,
    PluginContract,
    loss_terms,
    network_of,
    smooth_network,
    tiny_batch,
    tiny_network,
    total,
)


@pytest.mark.slow
class TestTwins(PluginContract):
    plugin = "twins"
    exempt = {
        "test_the_order_of_the_batch_does_not_matter": "the halves are rows of the batch",
        "test_processes_and_micro_batches_make_the_update_of_one": "each part has its own halves",
        "test_terms_are_legal_for_any_network_classes_and_batch": "networks without batch norm are"
        " refused; the test below has others",
    }


@pytest.mark.parametrize("form", ["at", "trades"])
@pytest.mark.parametrize(("num_classes", "size"), [(2, 1), (10, 7)])
def test_terms_are_legal_with_batch_norm(form, num_classes, size):
    bench = Bench("twins", lambda module, classes: {"form": form})
    module = bench.change(tiny_network(num_classes)).train(size > 1)
    terms = bench.terms(Net(module), tiny_batch(size, num_classes))
    assert all(term.value.shape == (size,) for term in terms.values())
    assert bool(torch.isfinite(total(terms)))


def make_norm(arrays, when):
    """The norm of the reference values, before or after its training forward."""
    made = HalfFrozenNorm(nn.BatchNorm2d(5).double())
    for prefix, norm in (("", made.adaptive), ("main_bn.", made.frozen)):
        state = {
            name: tensor_of(arrays, f"mixbn_{when}_{prefix}{name}") for name in norm.state_dict()
        }
        norm.load_state_dict(state)
    return made


def test_the_norm_is_the_released_one():
    arrays = frontier("twins")
    norm = make_norm(arrays, "before").train()
    x = tensor_of(arrays, "mixbn_x").requires_grad_()
    out = norm(x)
    assert is_close(out.detach(), arrays["mixbn_out_mix"])
    weights = (x, norm.adaptive.weight, norm.frozen.weight)
    for name, gradient in zip(
        ("x", "own_weight", "frozen_weight"),
        torch.autograd.grad(out.square().sum(), weights),
        strict=True,
    ):
        assert is_close(gradient, arrays[f"mixbn_grad_{name}"]), name
    after = make_norm(arrays, "after")
    for mine, theirs in ((norm.adaptive, after.adaptive), (norm.frozen, after.frozen)):
        assert is_close(mine.running_mean, theirs.running_mean)
        assert is_close(mine.running_var, theirs.running_var)
    norm.eval()
    assert is_close(norm(x).detach(), arrays["mixbn_out_eval_target"])
    assert is_close(norm.frozen(x).detach(), arrays["mixbn_out_eval_source"])


def test_the_halves_count_by_themselves():
    """Three samples: the first is the first half, two are the second; CE = log 2 each.

    With lambda = 2: 2 log 2 + log 2.
    """
    z = torch.zeros(3, 2)
    terms = loss_terms(
        "twins", logits_clean=z, logits_adv=z, y=torch.tensor([0, 1, 0]), options={"frozen": 2}
    )
    assert float(terms["ce"].value.mean()) == pytest.approx(3 * 0.6931472, rel=1e-6)


def test_what_is_exported_has_ordinary_norms_and_the_same_logits():
    module = network_of("twins", module=tiny_network(10), num_classes=10).eval()
    assert isinstance(module, TwoNorms)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    plain = module.plain()
    assert plain.state_dict().keys() == tiny_network(10).state_dict().keys()
    assert torch.equal(plain(x), module(x))


def test_a_network_without_batch_norms_is_refused():
    with pytest.raises(UsageError, match="has no batch norm"):
        network_of("twins", module=smooth_network(10), num_classes=10)


@pytest.mark.slow
def test_a_run_keeps_the_frozen_statistics_and_is_loaded_again(tmp_path):
    made = abatis.run(tiny(tmp_path, name="run", plugin=["twins"], backbone="resnet8", epochs=1))
    module = abatis.load(made.folder)
    norms = [part for part in module.modules() if isinstance(part, HalfFrozenNorm)]
    assert norms
    for norm in norms:
        assert not bool(norm.frozen.running_mean.any())  # as it was built
        assert bool(norm.adaptive.running_mean.any())
    assert Net(module).features(torch.rand(2, 1, 8, 8)).shape[0] == 2
