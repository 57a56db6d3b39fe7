"""The standard tests: one class, each of whose methods checks one promise of a plugin."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from abatis.api.batch import Batch
from abatis.api.context import TrainerHooks
from abatis.api.options import PluginConfig
from abatis.api.randomness import Randomness, seeded
from abatis.api.term import total
from abatis.config import discovery
from abatis.config.command_line import parse_run
from abatis.nets.auxiliaries import check_frozen, load_trained, read_auxiliaries
from abatis.nets.module_state import read_tensors
from abatis.nets.net import Net
from abatis.system import distributed
from abatis.testing.contract.bench import (
    Bench,
    digits_batch,
    find_last_layer,
    flatten_trained,
    flatten_weights,
    smooth_network,
    tiny_batch,
    tiny_network,
    tiny_vit,
)
from abatis.testing.contract.lockstep import Lockstep
from abatis.testing.contract.options import has_unbounded_numbers, say_how_to_bound
from abatis.testing.exempt import require_reasons
from abatis.train.micro_batches import RowShare
from abatis.train.plan import Plan

SAMPLES = 7  # two processes have 3 and 4


class PluginContract:
    """The standard tests of one plugin: inherit from it and set ``plugin``.

    Attributes:
        plugin: the plugin's name, or ``./FILE.py``.
        options: its options, if its defaults do nothing or cost much.
        exempt: the standard tests that a subclass leaves out or replaces, each with the reason,
            which pytest prints.
    """

    plugin: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    exempt: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_reasons(cls, STANDARD, cls.exempt)

    def options_for(self, module: nn.Module, num_classes: int) -> Mapping[str, Any]:
        """Return the options for a network, if they need a file made for it.

        It is called once for each network of a test, before the network is trained.

        Args:
            module: one of the tiny networks.
            num_classes: K.
        """
        return self.options

    @property
    def bench(self) -> Bench:
        """The plugin at work on tiny networks."""
        return Bench(self.plugin, self._ask_once)

    def _ask_once(self, module: nn.Module, num_classes: int) -> Mapping[str, Any]:
        """Return the options for a network, also where it has been trained since."""
        known: list[tuple[nn.Module, Mapping[str, Any]]] = self.__dict__.setdefault("_asked", [])
        for asked, options in known:
            if asked is module:
                return options
        known.append((module, self.options_for(module, num_classes)))
        return known[-1][1]

    def _config(self) -> PluginConfig:
        return self.bench.config(tiny_network(10))

    def test_is_found_and_loads(self) -> None:
        loaded = discovery.load_plugin(self.plugin)
        if not discovery.is_file(self.plugin):
            assert loaded.name in discovery.list_installed(), (
                f"no entry point named {self.plugin} in the group abatis.plugins"
            )

    def test_options_are_frozen_and_closed(self) -> None:
        config = self._config()
        for name in type(config).model_fields:
            changed = _is_allowed(setattr, config, name, getattr(config, name))
            assert not changed, (
                f"option {name} can be changed after validation: keep frozen=True in model_config"
            )
        taken = _is_allowed(
            type(config).model_validate, {**config.model_dump(), "no_such_option": 1}
        )
        assert not taken, 'unknown options are accepted: keep extra="forbid" in model_config'

    def test_options_are_described_and_bounded(self) -> None:
        for name, field in type(self._config()).model_fields.items():
            assert (field.description or "").partition("[")[0].strip(), (
                f"option {name} has no description"
            )
            assert not has_unbounded_numbers(field), (
                f"option {name} holds a number without a bound: {say_how_to_bound(field)}"
            )

    def test_options_survive_json(self) -> None:
        config = self._config()
        again = type(config).model_validate_json(config.model_dump_json())
        assert again == config, f"{config!r} came back as {again!r}"

    def test_options_can_be_given_on_the_command_line(self) -> None:
        loaded, config, shown = discovery.load_plugin(self.plugin), self._config(), io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            parse_run(["--plugin", self.plugin, "--help"])
        words = ["--plugin", self.plugin]
        for name, value in config.model_dump(mode="json").items():
            flag = f"--{loaded.name}.{name.replace('_', '-')}"
            assert flag in shown.getvalue(), f"option {name} is not on the command line as {flag}"
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-", 1))
            elif value is not None:
                words += [
                    flag,
                    ",".join(map(str, value)) if isinstance(value, list) else str(value),
                ]
        given = parse_run(words).options[loaded.name]
        assert given == config, f"the command line made {given!r} of {config!r}"

    def _make_network(self) -> nn.Module:
        """Return the tiny network as the plugin changes it."""
        return self.bench.change(tiny_network(10))

    def test_terms_are_legal_for_any_network_classes_and_batch(self) -> None:
        for make in (tiny_network, tiny_vit):
            for num_classes, size in ((2, 1), (2, 8), (10, 1), (10, 8)):
                module = self.bench.change(make(num_classes))
                with _name_case(f"{make.__name__}, K={num_classes}, B={size}"):
                    terms = self.bench.terms(
                        Net(module.eval() if size == 1 else module), tiny_batch(size, num_classes)
                    )
                    assert total(terms).requires_grad, "the total does not depend on the network"

    def test_values_and_gradients_are_finite_at_extreme_logits(self) -> None:
        for num_classes, size in ((2, 1), (2, 8), (10, 1), (10, 8)):
            for scale in (0.0, 1.0, 1e4):
                module = self.bench.change(tiny_network(num_classes)).train(size > 1)
                last = find_last_layer(module)
                with torch.no_grad():
                    last.weight.mul_(scale)
                    if last.bias is not None:
                        last.bias.mul_(min(scale, 1))  # at 0 all logits, gradients too, are equal
                value = total(self.bench.terms(Net(module), tiny_batch(size, num_classes)))
                gradients = torch.autograd.grad(value, list(module.parameters()), allow_unused=True)
                case = f"K={num_classes}, B={size}, logits times {scale:g}"
                assert bool(torch.isfinite(value)), f"the total is {value.item()} at {case}"
                finite = all(
                    bool(torch.isfinite(part).all()) for part in gradients if part is not None
                )
                assert finite, f"a gradient is not finite at {case}"

    def test_leaves_everything_as_found(self) -> None:
        module, batch = self._make_network().eval(), tiny_batch(8, 10)
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        net = Net(module)
        plan, before = self.bench.plan(net), _read_state(module, batch)
        plan.terms(self.bench.context(plan, net, batch))
        for _, hooks in plan.trainers:
            hooks.epoch_end(0)
        after = _read_state(module, batch)
        for key, value in before.items():
            same = (
                torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
            )
            assert same, f"the plugin changed {key}"

    def test_the_order_of_the_batch_does_not_matter(self) -> None:
        batch, order, totals = tiny_batch(8, 10), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4]), []
        for rows in (torch.arange(8), order):
            net, draws = Net(self._make_network()), Randomness(0)
            plan = self.bench.plan(net, random=draws)
            draws.at(0, rows, 8)  # draws belong to samples, so they are shuffled with them
            shuffled = Batch(batch.x[rows], batch.y[rows], batch.index[rows])
            totals.append(total(plan.terms(self.bench.context(plan, net, shuffled))).item())
        assert abs(totals[0] - totals[1]) <= 1e-10 * max(1.0, abs(totals[0])), (
            f"the total depends on the order of the samples: {totals[0]} became {totals[1]}"
        )

    def test_the_same_seed_gives_the_same_total(self) -> None:
        totals = [
            total(self.bench.terms(Net(self._make_network()), tiny_batch(8, 10))).item()
            for _ in range(2)
        ]
        assert totals[0] == totals[1], f"{totals[0]} and {totals[1]} from the same seed"

    def test_processes_and_micro_batches_make_the_update_of_one(self) -> None:
        alone, micro = self._two_steps(), self._two_steps(accumulate=2)
        for found, what in (
            (micro, "two micro-batches make"),
            *((each, "two processes make") for each in self._play_two_processes()),
        ):
            worst = float((found - alone).abs().max())
            assert worst <= 1e-10, (
                f"{what} a different update from that of one process (weights differ by"
                f" {worst:.3g}): couple samples through ctx.gather and ctx.global_size, draw from"
                " run.random, read the step from run.now, and sum over the batch by"
                " ctx.sum_over_processes"
            )

    def _play_two_processes(self) -> list[Tensor]:
        return Lockstep(2).play(self._two_steps)

    def _two_steps(self, accumulate: int = 1) -> Tensor:
        """Return the weights after two steps on this process's rows, with averaged gradients."""
        module, rows = self.bench.change(smooth_network(10)), distributed.rows_of(SAMPLES)
        step = self.bench.step(module, accumulate=accumulate)
        step.optimizer.register_step_pre_hook(lambda *_: _average_gradients(step.net))
        with seeded(0, "contract"):
            for number in range(2):
                batch = tiny_batch(SAMPLES, 10).rows(rows)
                step(batch, number, 0, number / 2, RowShare(rows.start, SAMPLES))
        return torch.cat([flatten_trained(step.net), *_flatten_judged(step.plan)])

    def test_switched_off_equals_absent(self) -> None:
        config = self._config()
        if not config.neutral:
            assert "weight" not in type(config).model_fields, (
                'weight=0 must switch the plugin off: declare neutral = {"weight": 0}'
            )
            return
        net = Net(tiny_network(10))
        plan = self.bench.plan(net, config.neutral)
        found = {
            row.role for row in plan.rows if row.provider == discovery.load_plugin(self.plugin).name
        }
        assert found == {"unused"}, f"with {dict(config.neutral)} the plugin still provides {found}"
        weights = []
        for bench, changes in ((self.bench, config.neutral), (Bench(None), None)):
            module = tiny_network(10)
            with seeded(0, "contract"):
                bench.step(module, changes)(tiny_batch(8, 10), 0, 0, 0.0)
            weights.append(flatten_weights(module))
        assert torch.equal(*weights), (
            f"with {dict(config.neutral)} the update differs from a run without the plugin"
        )

    def test_goes_on_from_its_state(self) -> None:
        with seeded(0, "contract"):
            straight = self._steps(self._make_network(), range(4))
            again = self._steps(self._make_network(), range(4))
            first = self._steps(self._make_network(), range(2))
            found = self._steps(self._make_network(), range(2, 4), first.state)
        assert torch.equal(straight.weights, again.weights), (
            "two runs from the start make different updates: draw from run.random, and keep"
            " nothing in variables of a module or class, which outlive a run"
        )
        assert torch.equal(straight.weights, found.weights), (
            "a resumed run makes different updates: keep what lasts from step to step in"
            " TrainerHooks.state_dict and load_state_dict, or in a network of run.auxiliary,"
            " nowhere else"
        )
        for one, other in zip(straight.judged, found.judged, strict=True):
            assert torch.equal(one, other), (
                "a resumed run judges different weights: keep the weights and the running"
                " statistics that judged() returns in TrainerHooks.state_dict"
            )

    def _steps(
        self, module: nn.Module, numbers: range, state: Mapping[str, Any] | None = None
    ) -> _Left:
        """Make some steps with a new plugin; a state is loaded behind its hooks, as in a run."""
        step, file = self.bench.step(module), io.BytesIO()
        if state is not None:
            module.load_state_dict(state["network"])
            check_frozen(step.net, state["auxiliaries"])
            load_trained(step.net, state["auxiliaries"])
            for name, hooks in step.plan.trainers:
                hooks.load_state_dict(state["trainers"][name])
        for number in numbers:
            step(tiny_batch(8, 10), number, 0, number / 4)
        kept = {name: hooks.state_dict() for name, hooks in step.plan.trainers}
        others = read_auxiliaries(step.net)
        torch.save({"network": module.state_dict(), "auxiliaries": others, "trainers": kept}, file)
        file.seek(0)
        try:
            loaded: dict[str, Any] = torch.load(file, weights_only=True)
        except pickle.UnpicklingError as error:
            raise AssertionError(
                "state_dict returns what a checkpoint cannot hold: it may hold numbers, strings,"
                " lists, dicts and tensors"
            ) from error
        return _Left(loaded, flatten_trained(step.net), _flatten_judged(step.plan))

    def test_twenty_steps_on_digits_lower_the_total(self) -> None:
        step, batch = self.bench.step(self._make_network()), digits_batch(16)
        with seeded(0, "contract"):
            totals = [float(step(batch, number, 0, number / 20).total) for number in range(20)]
        assert totals[-1] < totals[0], (
            f"the total went from {totals[0]:.6g} to {totals[-1]:.6g} in 20 steps"
        )


@dataclass(frozen=True)
class _Left:
    """What some steps leave behind.

    Attributes:
        state: as a checkpoint keeps it.
        weights: all that were trained, detached.
        judged: the state of every network that hooks give to be judged.
    """

    state: dict[str, Any]
    weights: Tensor
    judged: list[Tensor]


STANDARD = {
    name: function for name, function in vars(PluginContract).items() if name.startswith("test_")
}


def _flatten_judged(plan: Plan) -> list[Tensor]:
    """End an epoch; return the state of every network that hooks give to be judged, (n,) each."""
    found = []
    for _, hooks in plan.trainers:
        if type(hooks).judged is TrainerHooks.judged:
            continue
        hooks.epoch_end(0)
        if (module := hooks.judged()) is not None:
            state = [tensor.flatten().double() for tensor in read_tensors(module).values()]
            found.append(torch.cat(state).detach())
    return found


def _is_allowed(act: Callable[..., object], *arguments: object) -> bool:
    try:
        act(*arguments)
    except ValidationError:
        return False
    return True


@contextlib.contextmanager
def _name_case(case: str) -> Iterator[None]:
    """Name the case in which an error occurs."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"at {case}: {error}") from error


def _average_gradients(net: Net) -> None:
    weights = net.list_parameters()
    own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    for weight, whole in zip(weights, distributed.sum_over_processes(own), strict=True):
        weight.grad = whole / distributed.world_size()


def _read_state(module: nn.Module, batch: Batch) -> dict[str, Any]:
    """Return everything that a plugin must not change."""
    state: dict[str, Any] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for name, part in module.named_modules():
        state[f"the mode of {name or 'the network'}"] = part.training
    for name, parameter in module.named_parameters():
        state[f"requires_grad of {name}"] = parameter.requires_grad
        state[f"the gradient of {name}"] = (
            None if parameter.grad is None else parameter.grad.clone()
        )
    images = {"the images": batch.x, "the labels": batch.y, "the index": batch.index}
    state |= {name: tensor.clone() for name, tensor in images.items()}
    state |= {f"requires_grad of {name}": tensor.requires_grad for name, tensor in images.items()}
    drawn = {
        "torch": torch.get_rng_state(),
        "numpy": repr(np.random.get_state()),
        "Python": random.getstate(),
    }
    return state | {
        f"the global generator of {name}; draw from run.random": value
        for name, value in drawn.items()
    }
