"""The contract every plugin keeps, as a class of tests to inherit:

    from abatis.testing import PluginContract

    class TestMine(PluginContract):
        plugin = "mine"

Everything runs on the CPU on a tiny network, in seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from abatis import plugins
from abatis.command_line import parse_run
from abatis.config import AttackConfig, PluginConfig
from abatis.net import Net
from abatis.plan import Plan, make_plan
from abatis.randomness import Randomness, seeded
from abatis.step import Step, check_attacked
from abatis.types import Batch, Run, StepContext, Term, Threat, total

PIXELS = 8
THREAT = Threat.parse("Linf:8/255")


def tiny_network(num_classes: int) -> nn.Module:
    """Convolution, batch norm, ReLU, linear: float64, the same weights every time."""
    with seeded(0, "tiny network"):
        layers = [nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, num_classes)]
        return nn.Sequential(*layers).double()


def tiny_batch(size: int, num_classes: int) -> Batch:
    """Random images with labels that run through the classes."""
    draw = torch.Generator().manual_seed(size)
    x = torch.rand(size, 3, PIXELS, PIXELS, generator=draw, dtype=torch.float64)
    return Batch(x, torch.arange(size) % num_classes, torch.arange(size))


class PluginContract:
    """Tests of one plugin. Set ``plugin`` to its name or its ``./FILE.py``, and ``options`` where its defaults do nothing."""

    plugin: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    @property
    def _name(self) -> str:
        return plugins.name_of(self.plugin)

    def _plan(
        self, net: Net, num_classes: int, options: Mapping[str, Any] | None = None, random: Randomness | None = None
    ) -> Plan:
        loaded = plugins.load(self.plugin)
        config = plugins.options_of(loaded, self.options if options is None else options)
        run = Run(net, num_classes, 10, 10, THREAT, torch.device("cpu"), AttackConfig(steps=2), random or Randomness(0),
                  {type(config): config})  # fmt: skip
        return make_plan([loaded], {self._name: config}, {}, run)

    def _terms(self, net: Net, batch: Batch) -> dict[str, Term]:
        """Attack and terms, as the step makes them."""
        plan = self._plan(net, net.module[-1].out_features)  # type: ignore[index]
        with net.attack_mode():
            attacked = plan.attacker(net, batch)
        check_attacked(attacked, batch, THREAT, self.plugin, getattr(plan.attacker, "reach", 1.0))
        ctx = StepContext(batch, attacked.x, attacked.info, net, 0, 0, 0.0, len(batch), plan.clean_first)
        return plan.terms(ctx)

    def _config_class(self) -> type[PluginConfig]:
        return plugins.load(self.plugin).config_class

    def test_is_found_by_its_entry_point(self) -> None:
        known = plugins.is_file(self.plugin) or self.plugin in plugins.installed()
        assert known, f"no entry point named {self.plugin} in the group abatis.plugins"

    def test_options_are_frozen_described_and_bounded(self) -> None:
        config_class = self._config_class()
        assert config_class.model_config.get("frozen"), "options can be changed after they were checked"
        assert config_class.model_config.get("extra") == "forbid", "unknown options are accepted"
        for name, field in config_class.model_fields.items():
            assert field.description, f"option {name} has no description"
            if field.annotation in (int, float):
                assert "[" in field.description, f"option {name} is a number without a bound"

    def test_options_survive_json(self) -> None:
        config = self._config_class().model_validate(self.options)
        assert self._config_class().model_validate_json(config.model_dump_json()) == config

    def test_options_can_be_given_on_the_command_line(self) -> None:
        words = ["--plugin", self.plugin]
        expected = self._config_class().model_validate(self.options)
        for name, value in expected.model_dump(mode="json").items():
            flag = f"--{self._name}.{name.replace('_', '-')}"
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-", 1))
            elif value is not None:
                words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
        assert parse_run(words).options[self._name] == expected

    def test_terms_and_gradients_are_finite_for_any_classes_and_batch(self) -> None:
        for num_classes, size in ((2, 1), (2, 8), (10, 1), (10, 8)):
            for scale in (1.0, 1e4):
                module = tiny_network(num_classes).eval() if size == 1 else tiny_network(num_classes)
                with torch.no_grad():
                    module[-1].weight.mul_(scale)  # type: ignore[index]
                value = total(self._terms(Net(module), tiny_batch(size, num_classes)))
                gradients = torch.autograd.grad(value, list(module.parameters()), allow_unused=True)
                case = f"K={num_classes}, B={size}, logits times {scale:g}"
                assert bool(torch.isfinite(value)), f"the total is {value.item()} at {case}"
                assert all(bool(torch.isfinite(part).all()) for part in gradients if part is not None), (
                    f"a gradient is not finite at {case}"
                )

    def test_leaves_everything_as_found(self) -> None:
        module, batch = tiny_network(10).eval(), tiny_batch(8, 10)
        before, x, y, index = _state(module), batch.x.clone(), batch.y.clone(), batch.index.clone()
        random_state = torch.get_rng_state()
        self._terms(Net(module), batch)
        assert torch.equal(batch.x, x), "the plugin changed the images in place"
        assert torch.equal(batch.y, y), "the plugin changed the labels in place"
        assert torch.equal(batch.index, index), "the plugin changed the index in place"
        assert not batch.x.requires_grad, "the plugin left requires_grad on the images"
        assert torch.equal(torch.get_rng_state(), random_state), "the plugin drew from the global generator; use run.random"
        after = _state(module)
        for key, value in before.items():
            same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
            assert same, f"the plugin changed {key}"

    def test_the_order_of_the_batch_does_not_matter(self) -> None:
        batch, order = tiny_batch(8, 10), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
        module, random = tiny_network(10), Randomness(0)
        plan = self._plan(Net(module), 10, random=random)
        totals = []
        for rows in (torch.arange(8), order):
            shuffled = Batch(batch.x[rows], batch.y[rows], batch.index[rows])
            random.at(0, rows, 8)  # draws belong to samples, so they are shuffled with them
            # perturbed by a function of the image, so that both orders see the same adversarial images
            x_adv = (shuffled.x + THREAT.eps * (50 * shuffled.x).sin()).clamp(0, 1)
            info = {"steps_correct": shuffled.index % 3}
            ctx = StepContext(shuffled, x_adv, info, Net(copy.deepcopy(module)), 0, 0, 0.0, 8, plan.clean_first)
            totals.append(total(plan.terms(ctx)).item())
        assert abs(totals[0] - totals[1]) <= 1e-10 * max(1.0, abs(totals[0])), f"{totals[0]} became {totals[1]}"

    def test_the_same_seed_gives_the_same_total(self) -> None:
        totals = [total(self._terms(Net(tiny_network(10)), tiny_batch(8, 10))).item() for _ in range(2)]
        assert totals[0] == totals[1], f"{totals[0]} and {totals[1]} from the same seed"

    def test_switched_off_equals_absent(self) -> None:
        neutral = dict(self._config_class().neutral)
        if neutral:
            plan = self._plan(Net(tiny_network(10)), 10, {**self.options, **neutral})
            found = {row.role for row in plan.rows if row.provider == self._name}
            assert found == {"unused"}, f"with {neutral} the plugin still provides {found}"

    def test_twenty_steps_lower_the_total(self) -> None:
        net, batch = Net(tiny_network(10)), tiny_batch(8, 10)
        plan = self._plan(net, 10)
        optimizer = torch.optim.SGD(net.module.parameters(), lr=0.01)
        step = Step(net, plan, optimizer, THREAT, Randomness(0))
        with seeded(0, "contract"):
            totals = [float(step(batch, number, 0, number / 20).total) for number in range(20)]
        assert totals[-1] < totals[0], f"the total went from {totals[0]:.6g} to {totals[-1]:.6g} in 20 steps"


def _state(module: nn.Module) -> dict[str, Any]:
    """Everything about a network that a plugin must not change."""
    state: dict[str, Any] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for name, part in module.named_modules():
        state[f"the mode of {name or 'the network'}"] = part.training
    for name, parameter in module.named_parameters():
        state[f"requires_grad of {name}"] = parameter.requires_grad
        state[f"the gradient of {name}"] = parameter.grad is None
    return state
