"""``--optim.rates``: learning rates of single layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from abatis import UsageError, run
from abatis.config.option_groups import OptimConfig
from abatis.nets.layer_names import find_layers
from abatis.nets.weights_file import WEIGHTS_LAST, read_weights
from abatis.train.layer_rates import describe_rates, find_rates
from abatis.train.optimizer import load_moments, make_optimizer, set_rate
from tests.helpers import cut_last_epoch, final_bytes, tiny
from tests.nets.test_large import names_in_groups, net_of

RATES = ["stem=0.1", "stage1*=0.5", "fc=10"]


def net_of_ones() -> nn.Module:
    """Layers stem, layer1 (a convolution and a norm) and head; all parameters are 1."""
    layer = nn.Sequential()
    layer.add_module("conv", nn.Conv2d(1, 1, 1, bias=False))
    layer.add_module("norm", nn.BatchNorm2d(1))
    module = nn.Sequential()
    for name, part in (
        ("stem", nn.Conv2d(1, 1, 1, bias=False)),
        ("layer1", layer),
        ("head", nn.Linear(1, 1, bias=False)),
    ):
        module.add_module(name, part)
    with torch.no_grad():
        for weight in module.double().parameters():
            weight.fill_(1)
    return module


def take_steps(module: nn.Module, number: int, **options: object) -> dict[str, float]:
    """The weights after updates at the rate 0.1, with gradients of 1."""
    optimizer = make_optimizer(OptimConfig(**options), module)
    for _ in range(number):
        set_rate(optimizer, 0.1)
        for weight in module.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    return {name: float(weight.detach()) for name, weight in module.named_parameters()}


def test_by_hand():
    """SGD with momentum 0.9 and decay 0.5, two steps at 0.1 from 1, with gradients of 1.

    The first direction is 1 + 0.5 = 1.5. At a tenth of the rate: 1 - 0.01 * 1.5 = 0.985; then
    0.9 * 1.5 + 1 + 0.5 * 0.985 = 2.8425 and 0.985 - 0.01 * 2.8425 = 0.956575. At the full rate:
    0.85, then 2.775 and 0.5725. At twice the rate: 0.7, then 2.7 and 0.16.
    Norms have no decay: 1 - 0.02 * 1 = 0.98, then 1.9 and 0.942 at a fifth of the rate.
    """
    found = take_steps(
        net_of_ones(),
        2,
        weight_decay=0.5,
        decay_norms=False,
        rates=("stem=0.1", "layer1=0.2", "conv=1", "head=2"),
    )
    assert found["stem.weight"] == pytest.approx(0.956575, rel=1e-12)
    assert found["layer1.conv.weight"] == pytest.approx(0.5725, rel=1e-12)  # the last counts
    assert found["layer1.norm.weight"] == found["layer1.norm.bias"] == pytest.approx(0.942)
    assert found["head.weight"] == pytest.approx(0.16, rel=1e-12)


def test_factors_come_on_top_of_the_decay_by_layer():
    module = net_of("test_vit").module
    config = OptimConfig(
        name="adamw",
        weight_decay=0.05,
        decay_all=False,
        layer_decay=0.5,
        rates=("blocks.0=3", "pos_embed=7"),
    )
    plain = config.model_copy(update={"rates": ()})
    (rates, decays), (before, decays_before) = (
        [
            {
                name: group[key]
                for names, group in names_in_groups(make_optimizer(asked, module), module)
                for name in names
            }
            for key in ("lr_scale", "weight_decay")
        ]
        for asked in (config, plain)
    )
    assert decays == decays_before
    for name, rate in rates.items():
        factor = 3 if ".blocks.0." in name else 7 if name.endswith("pos_embed") else 1
        assert rate == pytest.approx(factor * before[name]), name


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [("b", ["a.b", "b"]), ("a.b", ["a.b"]), ("b.0", ["b.0"]), ("c*", []), ("a*", ["a", "a.b"])],
)
def test_a_pattern_means_names_and_their_ends(pattern, parts):
    module = nn.Module()
    module.a, module.b = nn.Module(), nn.Sequential(nn.Identity())
    module.a.b = nn.Identity()
    assert find_layers(module, pattern) == [module.get_submodule(name) for name in parts]


def test_the_plan_counts_parameters_by_the_rate_that_counts():
    """stem and head have 1, the norm in layer1 2, its convolution 1."""
    (row,) = describe_rates(net_of_ones(), ["layer1=0.2", "conv=0.5", "head=2"], "net")
    counts = {"layer1=0.2": 2, "conv=0.5": 1, "head=2": 1, "others": 1}
    assert row.options == {text: f"({count} parameters)" for text, count in counts.items()}


@pytest.mark.parametrize("text", ["stem", "=0.1", "stem=", "stem=x", "stem=-1", "stem=nan"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(UsageError, match=r"is not LAYER=FACTOR .* like stem=0\.1"):
        tiny("unused", optim={"rates": [text]})


def test_a_rate_of_zero_is_called_frozen():
    with pytest.raises(UsageError, match="would not train the layer; write --freeze stem"):
        tiny("unused", optim={"rates": ["stem=0"]})


def test_an_unknown_layer_is_answered_with_the_nearest(tmp_path):
    config = tiny(tmp_path, backbone="resnet8", optim={"rates": ["stm=0.1"]}, dry_run=True)
    with pytest.raises(UsageError, match=r"rates stm=0\.1: cifar_resnet8 has no such") as caught:
        run(config)
    assert "did you mean 'stem'?" in caught.value.fix


def test_a_frozen_layer_has_no_rate():
    module = net_of_ones()
    module.stem.requires_grad_(False)
    with pytest.raises(UsageError, match=r"rates stem=2: stem of net is frozen"):
        find_rates(module, ["stem=2"], "net")


def test_the_first_update_is_scaled_layer_by_layer(tmp_path):
    """One update without momentum moves a layer by its factor times what it moves without one."""

    def train(name, **options):
        optim = {"momentum": 0, "weight_decay": 0, "schedule": "constant", **options}
        config = {"backbone": "resnet8", "batch_size": 150, "epochs": 1, "optim": optim}
        return run(tiny(tmp_path, name=name, validation=0, **config)).folder / WEIGHTS_LAST

    start, plain, scaled = (
        read_weights(path)[0]
        for path in (train("start", lr=1e-30), train("plain"), train("rates", rates=RATES))
    )
    factors = {"stem": 0.1, "stage1_0": 0.5, "fc": 10}
    seen = set()
    for name in (one for one in start if one.endswith(("weight", "bias"))):
        layer = next((layer for layer in factors if f".{layer}." in name), "others")
        factor = factors.get(layer, 1)
        step, own = plain[name] - start[name], scaled[name] - start[name]
        assert float(step.abs().max()) > 0
        assert torch.allclose(own, factor * step, rtol=1e-5, atol=3e-7 * max(1, factor)), name
        seen.add(layer)
    assert seen == {*factors, "others"}


def test_a_resumed_run_has_the_same_rates(tmp_path):
    config = {"backbone": "resnet8", "optim": {"rates": RATES}, "ema": 0.9}
    whole = run(tiny(tmp_path, name="whole", **config)).folder
    resumed = cut_last_epoch(whole)
    run(tiny(tmp_path, name="resumed", resume=True, **config))
    assert final_bytes(resumed) == final_bytes(whole)
    with pytest.raises(UsageError, match=r"optim\.rates"):
        run(tiny(tmp_path, name="resumed", resume=True, **config | {"optim": {}}))


def test_a_run_that_goes_on_from_another_has_its_rates(tmp_path):
    """Moments have the order of the optimizer's groups."""
    config = {"backbone": "resnet8", "optim": {"rates": RATES}}
    first = run(tiny(tmp_path, name="first", epochs=1, **config)).folder
    run(tiny(tmp_path, name="second", continue_from=first, **config))
    other = config | {"optim": {"rates": ["stem=0.2", "stage1*=0.5", "fc=10"]}}
    with pytest.raises(UsageError, match=r"that run has --optim\.rates stem=0\.1,") as caught:
        run(tiny(tmp_path, name="third", continue_from=first, **other))
    assert "--init" in caught.value.fix


def optimizer_of(*rates, **more):
    module = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("first", "second", "third")})
    return make_optimizer(OptimConfig(rates=rates, **more), module)


def test_rates_and_decays_are_those_of_the_run_that_loads_the_moments():
    """As with --allow-mismatch; else the run would show other numbers than it trains with."""
    own = optimizer_of("second=0.5", weight_decay=0.25, momentum=0.75)
    load_moments(own, optimizer_of("second=0.1", weight_decay=0.125, momentum=0.5).state_dict())
    others, second = own.param_groups
    assert (others["lr_scale"], second["lr_scale"]) == (1.0, 0.5)
    assert {group["weight_decay"] for group in own.param_groups} == {0.25}
    assert {group["momentum"] for group in own.param_groups} == {0.75}


@pytest.mark.parametrize("rate", ["third=0.1", "*=0.1"])
def test_moments_of_other_layers_are_refused(rate):
    """Of layers with tensors of the same number and shapes, too."""
    with pytest.raises(UsageError, match="the checkpoint: "):
        load_moments(optimizer_of("second=0.1"), optimizer_of(rate).state_dict())
