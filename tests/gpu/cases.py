"""Trainings on the pretended device, in one process: python -m tests.gpu.cases GUARD FOLDER TABLE.

Writes a table as JSON: for each case what the host waited for in a step, the devices of all that a
training keeps, and the types that convolutions and products computed in.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.gpu.pretended import load_guard, pretend

CLASSES = 10
EPOCH = 150  # behind the burn-in of every method
ON_CPU = ("at", "trades+awp")  # cases that run on the CPU, too
FIRST = 1  # number of the first step: one in which no method checks itself


@dataclass(frozen=True)
class Case:
    """One way of training.

    Attributes:
        plugins: Their names.
        options: Those of the plugins, by name.
        backbone: The network.
        size: Pixels a side.
        batch: Images in a batch.
        precision: Of the training forward and of the attack's.
        optimizer: Its name.
        attack: Options of the attack.
        threat: Norm and radius.
        use: Who provides a role.
        ema: Decay of the average; 0 averages nothing.
        mix: Are images mixed?
        setup: Further settings of the step.
        keeps_layout: Are kernels kept in channels_last, as in runs on a GPU?
        sabotage: Changes the parts of the training before it starts, for planted faults.
    """

    plugins: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "cnn"
    size: int = 8
    batch: int = 6
    precision: str = "float32"
    optimizer: str = "sgd"
    attack: Mapping[str, Any] = field(default_factory=lambda: {"steps": 2})
    threat: str = "Linf:8/255"
    use: Mapping[str, str] = field(default_factory=dict)
    ema: float = 0.0
    mix: bool = False
    setup: Mapping[str, Any] = field(default_factory=dict)
    keeps_layout: bool = True
    sabotage: Callable[[dict[str, Any]], None] | None = None


def list_cases() -> dict[str, Case]:
    """Every plugin alone, the papers' pairs, and what a step can be made of."""
    from tests.helpers import our_plugins
    from tests.several import PAIRS

    alone = {name: Case((name,)) for name in our_plugins()}
    pairs = {pair: Case(tuple(pair.split("+"))) for pair in PAIRS}
    vit = {"backbone": "test_vit", "size": 32, "batch": 4}  # timm's, of two blocks
    convnext = {"backbone": "test_convnext", "size": 32, "batch": 4}
    resnet = {"backbone": "resnet8", "size": 16}
    return {
        "at": Case(),
        **alone,
        **pairs,
        "fast, n-fgsm": Case(("fast",), {"variant": "n-fgsm"}),
        "jacobian, exact": Case(("jacobian",), {"projections": 0}),
        "mail, mean and dif": Case(("mail",), {"normalization": "mean", "margin": "dif"}),
        "amm, avg": Case(("amm",), {"aggregation": "avg"}),
        "adamw": Case(optimizer="adamw"),
        "ema": Case(ema=0.99),
        "mixing": Case(mix=True),
        "L2": Case(threat="L2:0.5"),
        "a normal start": Case(attack={"steps": 2, "start": "normal"}),
        "apgd": Case(use={"attacker": "apgd"}, attack={"steps": 4}),
        "accumulate": Case(setup={"accumulate": 2}),
        "accumulate, sovr": Case(("sovr",), setup={"accumulate": 2}),
        "clipping": Case(setup={"clip_grad": 1.0}),
        "batch statistics": Case(**resnet, setup={"batch_statistics": True}),
        "resnet8": Case(**resnet),
        "resnet8, emr": Case(("emr",), **resnet),
        "resnet8, bf16": Case(**resnet, precision="bf16"),
        "bf16 with everything": Case(
            ("awp", "trades"), precision="bf16", ema=0.9, setup={"accumulate": 2, "clip_grad": 1.0}
        ),
        "convnext": Case(**convnext),
        "convnext, bf16": Case(**convnext, precision="bf16"),
        "vit": Case(**vit, optimizer="adamw"),
        "vit, emr": Case(("emr",), **vit),
        "vit, bf16": Case(**vit, precision="bf16"),
    }


def list_faults() -> dict[str, Case]:
    """Trainings with a fault that a test must see."""
    return {
        "an index on the CPU": Case(sabotage=_wrap_attacker(_index_on_cpu)),
        "a read": Case(sabotage=_wrap_attacker(_read)),
        "a mask": Case(sabotage=_wrap_attacker(_mask)),
        "a condition": Case(sabotage=_wrap_attacker(_ask)),
        "a copy to the host": Case(sabotage=_wrap_attacker(_copy_back)),
        "a blocking copy": Case(sabotage=_wrap_attacker(_copy_there)),
        "a generator of the CPU": Case(sabotage=_wrap_attacker(_draw_wrongly)),
        "two devices": Case(sabotage=_wrap_attacker(_mix_devices)),
        "a moment left on the CPU": Case(optimizer="adamw", sabotage=_leave_moment),
    }


def _wrap_attacker(act: Callable[[Any], None]) -> Callable[[dict[str, Any]], None]:
    """A sabotage that acts on the images before every attack."""

    def sabotage(parts: dict[str, Any]) -> None:
        own = parts["plan"].attacker

        def attack(forward, batch):
            act(batch.x)
            return own(forward, batch)

        parts["plan"] = replace(parts["plan"], attacker=attack)

    return sabotage


def _index_on_cpu(x: Any) -> None:
    import torch

    _ = x[torch.tensor([0, 1])]


def _read(x: Any) -> None:
    x.sum().item()


def _mask(x: Any) -> None:
    _ = x[x > 0.5]


def _ask(x: Any) -> None:
    if x.sum() > 0:
        pass


def _copy_back(x: Any) -> None:
    x.cpu()


def _copy_there(x: Any) -> None:
    import torch

    torch.zeros(2).to(x.device, non_blocking=True)  # its memory is not pinned


def _draw_wrongly(x: Any) -> None:
    import torch

    torch.rand(2, device=x.device, generator=torch.Generator())


def _mix_devices(x: Any) -> None:
    import torch

    x + torch.zeros(x.shape)


def _leave_moment(parts: dict[str, Any]) -> None:
    import torch

    weight = next(parts["module"].parameters())
    moments = {name: torch.zeros_like(weight, device="cpu") for name in ("exp_avg", "exp_avg_sq")}
    parts["optimizer"].state[weight] = {"step": torch.zeros((), device=weight.device), **moments}


def run_case(case: Case, watching: Any, device: str = "cuda") -> dict[str, Any]:
    """Make three steps; the first one may read, as it checks the plugins."""
    import torch

    from abatis.data.arrays import ArraySplit
    from abatis.train.epoch_metrics import EpochMetrics
    from abatis.train.optimizer import set_rate

    parts = make_parts(case, device)
    images = torch.arange(16 * 3 * case.size**2).view(16, 3, case.size, case.size) % 251
    data = ArraySplit(images.to(torch.uint8).to(device), torch.arange(16) % CLASSES, "crop-flip")
    numbered = ((FIRST + i, (torch.arange(case.batch) + i) % 16) for i in range(3))
    metrics = EpochMetrics()
    for number, batch in enumerate(data.train_batches(numbered, 0), start=FIRST):
        set_rate(parts["optimizer"], 0.05)
        metrics.add(parts["step"](batch, number, EPOCH, 0.9))
        if number == FIRST:
            watching.clear()
    found = {
        "waits": dict(watching.waits),
        "kernels": sum(watching.kernels.values()),
        "types": {name: sorted(types) for name, types in watching.dtypes.items()},
        "doubles": list_doubles(watching),
    }
    parts["step"].check()
    tensors = _list_kept(parts, metrics)
    return {
        **found,
        "devices": sorted({str(tensor.device) for tensor in tensors}),
        "finite": all(bool(torch.isfinite(tensor).all()) for tensor in tensors),
        "digest": _digest(tensors),
    }


def list_doubles(watching: Any) -> list[str]:
    """Operations on float64 on the device, which not every kind of device has."""
    return sorted(name for name, types in watching.dtypes.items() if "torch.float64" in types)


def make_parts(case: Case, device: str) -> dict[str, Any]:
    """Network, plan, optimizer and step of a case."""
    import torch

    from abatis import Threat
    from abatis.api.randomness import Randomness, seeded
    from abatis.config.option_groups import AttackConfig, OptimConfig
    from abatis.nets.backbones import build
    from abatis.nets.net import Net
    from abatis.testing import plan_of, step_of
    from abatis.train.optimizer import make_optimizer

    with seeded(0, "a pretended device"):
        module = build(
            case.backbone,
            num_classes=CLASSES,
            channels=3,
            image_size=case.size,
            mean=[0.5] * 3,
            std=[0.25] * 3,
        )
    module = module.to(device).train()
    net, random = Net(module, case.precision), Randomness(0)
    net.tune(torch.rand(2, 3, case.size, case.size, device=device))
    if case.keeps_layout:
        net.keep_layout()
    options = {case.plugins[0]: case.options} if case.options else None
    plan = plan_of(
        *case.plugins,
        net=net,
        num_classes=CLASSES,
        options=options,
        attack=AttackConfig(**case.attack),
        random=random,
        use=case.use,
        threat=case.threat,
    )
    parts = {"module": module, "plan": _add_hooks(case, plan, net, random)}
    optim = OptimConfig(name=case.optimizer)
    parts["optimizer"] = make_optimizer(optim, net.list_modules(), fused=True)
    if case.sabotage is not None:
        case.sabotage(parts)
    threat = Threat.parse(case.threat)
    parts["step"] = step_of(
        net, parts["plan"], parts["optimizer"], threat, random, deferred=True, **case.setup
    )
    return parts


def _add_hooks(case: Case, plan: Any, net: Any, random: Any) -> Any:
    """The plan with the hooks for averaging and mixing."""
    import torch

    from abatis import Run, Threat
    from abatis.config.option_groups import AttackConfig, MixConfig
    from abatis.config.plan_row import BUILT_IN, PlanRow
    from abatis.testing import add_averaging
    from abatis.train.builtin.mixing import Mixing

    if case.ema:
        plan, _ = add_averaging(plan, net.module, case.ema, None)
    if case.mix:
        device = next(net.module.parameters()).device
        threat, attack = Threat.parse(case.threat), AttackConfig(**case.attack)
        run = Run(net, CLASSES, 1, 1, threat, torch.device(device), attack, random, {}, 16)
        mixing = Mixing(MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1), run)
        row = PlanRow("trainer", "mixing", BUILT_IN, {})
        plan = plan.with_trainer("mixing", mixing, row, first=True)
    return plan


def _list_kept(parts: Mapping[str, Any], metrics: Any) -> list[Any]:
    """Every tensor that stays between two steps."""
    import torch

    averaging = parts["plan"].averaging
    modules = [parts["module"], *([] if averaging is None else [averaging.averaged])]
    return [
        *(tensor for module in modules for tensor in module.parameters()),
        *(tensor for module in modules for tensor in module.buffers()),
        *(
            value
            for state in parts["optimizer"].state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ),
        *metrics.sums.values(),
    ]


def _digest(tensors: list[Any]) -> str:
    """Equal for tensors that are equal bit for bit."""
    content = b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(content).hexdigest()


def run_all() -> dict[str, Any]:
    """All cases and faults; an error stands in the place of what was found."""
    found: dict[str, Any] = {}
    with pretend() as watching:
        for name in ON_CPU:
            plain = replace(list_cases()[name], keeps_layout=False)
            for device in ("cpu", "cuda"):
                found[f"{name} on {device}"] = run_case(plain, watching, device)
        for name, case in {**list_cases(), **list_faults()}.items():
            try:
                found[name] = run_case(case, watching)
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"}
    return found


def watch_steps() -> dict[str, Any]:
    """From here on, every step notes how torch computes in it, and how the weights lie."""
    import torch

    from abatis.train.step import Step

    seen: dict[str, Any] = {}
    own = Step.__call__

    def call(step, *args, **kwargs):
        kernels = [weight for weight in step.net.module.parameters() if weight.dim() == 4]
        layout = {"memory_format": torch.channels_last}
        seen["search"] = torch.backends.cudnn.benchmark
        seen["products"] = torch.backends.cuda.matmul.fp32_precision
        seen["convolutions"] = torch.backends.cudnn.conv.fp32_precision
        seen["channels_last"] = all(kernel.is_contiguous(**layout) for kernel in kernels)
        seen["fused"] = step.optimizer.param_groups[0]["fused"]
        return own(step, *args, **kwargs)

    Step.__call__ = call
    return seen


def move_runs(folder: Path) -> dict[str, Any]:
    """Runs that begin on the CPU and go on on the device, with validation and an evaluation."""
    import abatis
    from tests.helpers import tiny

    found, seen = {}, watch_steps()
    with pretend() as watching:
        for name, ladder in (("sgd", "quick"), ("adamw", "none")):
            options = {"optim": {"name": name}, "name": name, "limit": 30, "batch_size": 12}
            options["layout"] = "channels_last"  # which is not left to a clock
            abatis.run(tiny(folder, device="cpu", epochs=1, **options))
            watching.clear()
            moved = tiny(folder, device="cuda", epochs=2, resume=True, eval=ladder, **options)
            result = abatis.run(moved)
            kernels = sum(watching.kernels.values())
            environment = json.loads((result.folder / "environment.json").read_text("utf-8"))
            found[name] = {
                "kernels": kernels,
                "device": environment["device"],
                "resumed": environment["resumed"],
                "clean_acc": result.clean_acc,
                "in a step": dict(seen),
            }
            # and back again
            back = tiny(folder, device="cpu", epochs=3, resume=True, **options)
            abatis.run(back)
            found[name]["back in a step"] = dict(seen)
            rows = (result.folder / "metrics.jsonl").read_text("utf-8").splitlines()
            found[name]["epochs"] = [json.loads(row)["epoch"] for row in rows]
    return found


if __name__ == "__main__":
    load_guard(Path(sys.argv[1]))
    table = {"cases": run_all(), "moved": move_runs(Path(sys.argv[2]))}
    Path(sys.argv[3]).write_text(json.dumps(table), encoding="utf-8")
