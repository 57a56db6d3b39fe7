"""``abatis.judge``: judges any network on any images, from Python."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from abatis.api.randomness import untouched
from abatis.api.threat import Threat
from abatis.config.ladders import LADDERS, AttackLadder, Ladder
from abatis.data import Data, DataInfo, DataRequest, View, open_data
from abatis.data.info import Split
from abatis.data.user import open_judged
from abatis.errors import DataError, UsageError, did_you_mean
from abatis.evaluate import Evaluation, EvaluationRequest, evaluate
from abatis.evaluate.clean import CleanEvaluation, evaluate_clean
from abatis.evaluate.isolation import isolate
from abatis.nets.first_pass import try_network
from abatis.nets.layout import find_layout
from abatis.nets.outputs import adapt_images, adapt_outputs, unwrap_parallel
from abatis.report.terminal import Reporter
from abatis.runs.model_spec import Kind, ModelSpec, Wishes, find_model
from abatis.runs.open_model import Sizes, finish, open_model, open_network
from abatis.runs.own_images import describe_own_run, find_run, open_own_data
from abatis.runs.own_run import describe_data
from abatis.runs.rebuild import describe_origin
from abatis.runs.result import Result
from abatis.system.device import pick_device

TRIED = 8  # images on which the network is tried before the evaluation
AT_ONCE = 256  # images at a time, at most
UNUSED = "Linf:8/255"  # threat of the clean ladder, which attacks nothing


@dataclass(frozen=True)
class Images:
    """The images to judge on.

    Attributes:
        info: their facts.
        points: the images.
        whole: the data set that they are from; None where they were given from Python.
        run: the run whose test images they are.
    """

    info: DataInfo
    points: Split
    whole: Data | None = None
    run: ModelSpec | None = None

    @property
    def few(self) -> Tensor:
        """Some of the images, (B, C, H, W)."""
        return next(iter(self.points.eval_batches(TRIED))).x

    def count_classes(self, asked: int | None, outputs: int) -> int:
        """Of a data set, its own; of images from Python as asked for, else one for each output."""
        return self.info.num_classes if self.whole is not None else asked or outputs


@dataclass(frozen=True)
class Opened:
    """The network, in eval mode unless it was given.

    Attributes:
        module: from images to logits.
        outputs: their number.
        notes: for the user.
        doubts: reasons to doubt the numbers.
    """

    module: nn.Module
    outputs: int
    notes: list[str]
    doubts: list[str]


@overload
def judge(
    model: nn.Module | str | Path | Result,
    data: object = ...,
    *,
    threat: str | Threat | None = ...,
    ladder: AttackLadder = ...,
    num_classes: int | None = ...,
    output: str | None = ...,
    seed: int | None = ...,
    batch_size: int = ...,
    device: str = ...,
    layout: str = ...,
    quiet: bool = ...,
) -> Evaluation: ...


@overload
def judge(
    model: nn.Module | str | Path | Result,
    data: object = ...,
    *,
    threat: str | Threat | None = ...,
    ladder: Literal["clean"],
    num_classes: int | None = ...,
    output: str | None = ...,
    seed: int | None = ...,
    batch_size: int = ...,
    device: str = ...,
    layout: str = ...,
    quiet: bool = ...,
) -> CleanEvaluation: ...


def judge(
    model: nn.Module | str | Path | Result,
    data: object = None,
    *,
    threat: str | Threat | None = None,
    ladder: Ladder = "standard",
    num_classes: int | None = None,
    output: str | None = None,
    seed: int | None = None,
    batch_size: int = AT_ONCE,
    device: str = "auto",
    layout: str = "auto",
    quiet: bool = False,
) -> Evaluation | CleanEvaluation:
    """Judge a network: attacks, masking verdict, margins. No file is written.

    The network and all global state are left as they were.

    Args:
        model: your own module, from images in [0, 1] to logits (B, K); the result of
            :func:`abatis.run`; or what ``defense eval`` takes as MODEL, such as a run folder.
        data: a pair (x, y) of arrays, with x as uint8 (N, H, W, C), (N, C, H, W) or (N, H, W), or
            float (N, C, H, W) in [0, 1]; a torch Dataset of (image in [0, 1], label); a run, for
            its test images; a name, as in ``--data``; or None for a run's own test images.
        threat: such as ``"Linf:8/255"``; that of the run if None. The clean ladder needs none.
        ladder: "clean", "quick", "standard", "thorough" or "rand".
        num_classes: of images from Python; if None, one for each output. One output more abstains.
        output: which of the network's outputs are the logits, as ``--output`` says it.
        seed: of the attacks; that of the run, else 0, if None.
        batch_size: images at a time, at most.
        device: of a run or a named network; a module stays where it is.
        layout: of tensors inside the network, in attacks: "auto", "contiguous" or "channels_last".
        quiet: show no progress.

    Returns:
        The results, also by point. ``accuracies["robust_acc"]`` is the number to report; it is
        missing where ``verdict`` is FAIL. The clean ladder gives clean accuracy and no verdict.

    Raises:
        AbatisError: one of its subclasses, for everything that can go wrong.
    """
    _check_ladder(ladder)
    spec, reporter = _find_spec(model, output), Reporter(quiet)
    with untouched():
        where = find_device(model) if isinstance(model, nn.Module) else pick_device(device)
        images = _open_images(data, spec, where)
        wanted = _choose_threat(threat, spec, images, UNUSED if ladder == "clean" else None)
        opened = _open_network(model, spec, images, where, num_classes, output)
        request = EvaluationRequest(
            images.points,
            wanted,
            ladder,
            _find_seed(spec) if seed is None else seed,
            batch_size,
            where,
            _count_classes(images, num_classes, opened.outputs),
            layout=find_layout(layout),
            **_describe_history(spec, images, opened.module, wanted, where),
        )
        return _evaluate(opened, request, images.info.note, reporter)


def _evaluate(
    opened: Opened, request: EvaluationRequest, note: str, reporter: Reporter
) -> Evaluation | CleanEvaluation:
    """Judge, with progress; what is doubtful about the network is among the findings."""
    for text in filter(None, [note, *opened.notes, *opened.doubts]):
        reporter.note(f"note: {text}")
    found: Evaluation | CleanEvaluation
    with reporter.judging() as progress:
        request = replace(request, progress=progress)
        if request.ladder == "clean":
            found = evaluate_clean(opened.module, request)
        else:
            found = evaluate(opened.module, request)
    return replace(found, findings=(*found.findings, *opened.doubts))


def _check_ladder(ladder: str) -> None:
    if ladder not in LADDERS:
        raise UsageError(
            f"ladder {ladder!r}: {did_you_mean(str(ladder), LADDERS)}",
            fix=f"use one of {', '.join(LADDERS)}",
        )


def _find_seed(spec: ModelSpec | None) -> int:
    """The seed of a run; 0 of what is no run."""
    return 0 if spec is None or spec.run is None else spec.run.seed


def _find_spec(model: object, output: str | None) -> ModelSpec | None:
    """What a folder or name means; None for a module."""
    if isinstance(model, nn.Module):
        return None
    if isinstance(model, Result | str | Path):
        name = model.folder if isinstance(model, Result) else model
        return find_model(str(name), wishes=Wishes(output=output))
    raise UsageError(
        f"model is not a torch module, but {model!r:.80}",
        fix="give an instance, model=Net(), the folder of a run, or the name of a network",
    )


def find_device(module: nn.Module) -> torch.device:
    """Where a module is; the CPU where it has no tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _open_images(data: object, spec: ModelSpec | None, device: torch.device) -> Images:
    """Open what is judged on; raises DataError, UsageError."""
    if data is None and (spec is None or spec.kind is not Kind.RUN):
        raise UsageError(
            "no data given to judge on",
            fix="give a pair (x, y) of arrays, a Dataset, a run folder or the name of a data set",
        )
    if data is None or isinstance(data, Result | Path) or _is_folder(data):
        run = spec if data is None else find_run(data)  # type: ignore[arg-type]
        assert run is not None
        whole = open_own_data(run, device)
        return Images(whole.info, whole.test, whole, run)
    if isinstance(data, str):
        view, names = (View(), ()) if spec is None else (spec.view, spec.class_names)
        request = DataRequest(
            data, augment="none", device=device, view=view, class_names=names, trains=False
        )
        whole = open_data(request)
        return Images(whole.info, whole.test, whole)
    info, points = open_judged(data, device)
    return Images(info, points)


def _count_classes(images: Images, asked: int | None, outputs: int) -> int:
    """The number of classes; labels from Python that are none would count as wrong: DataError."""
    classes = images.count_classes(asked, outputs)
    largest = images.info.num_classes - 1
    if images.whole is None and largest >= classes:
        raise DataError(
            f"y has the label {largest}, but there are {classes} classes",
            where="data",
            fix="number the classes from 0, or leave out images of classes the network lacks",
        )
    return classes


def _is_folder(data: object) -> bool:
    return isinstance(data, str) and (Path(data).expanduser() / "run.toml").is_file()


def _choose_threat(
    asked: str | Threat | None, spec: ModelSpec | None, images: Images, default: str | None
) -> Threat:
    """The threat that was asked for, else that of the network, else that of the run of the data."""
    if isinstance(asked, Threat):
        return asked
    known = [one.threat for one in (spec, images.run) if one is not None]
    wanted = asked or next((threat for threat in known if threat), default)
    if wanted is None:
        raise UsageError("no threat given", fix='say norm and radius, like threat="Linf:8/255"')
    return Threat.parse(wanted)


def adapt_module(
    module: nn.Module, images: Images, classes: int | None, output: str | None
) -> Opened:
    """A module that returns logits; the one that was given, or one around it, as it needs hooks.

    Raises UsageError where its outputs cannot be logits.
    """
    inner, notes = unwrap_parallel(module)
    around, name = nn.Sequential(inner), type(inner).__name__
    known = images.info.num_classes if images.whole is not None else classes
    adapt_images(around, notes)
    with isolate(around):
        few = images.few
        found = try_network(around, few, name)
        notes += adapt_outputs(around, found, len(few), known, output, name)
        outputs = try_network(around, few, name).shape[1]
    hooked = around._forward_hooks or around._forward_pre_hooks
    return Opened(around if hooked else inner, outputs, notes, [])


def _open_network(
    model: object,
    spec: ModelSpec | None,
    images: Images,
    device: torch.device,
    classes: int | None,
    output: str | None,
) -> Opened:
    """Open a module, a run or a named network; raises DataError, UsageError."""
    if isinstance(model, nn.Module):
        return adapt_module(model, images, classes, output)
    assert spec is not None
    if images.whole is not None:
        module, notes, doubts = open_model(spec, images.info, device, images.few)
        return Opened(module, images.info.num_classes, notes, doubts)
    sizes = Sizes(classes, images.info.channels, images.info.image_size)
    loaded = open_network(spec, sizes, device)
    module, notes, outputs = finish(loaded, spec, device, images.few, classes)
    return Opened(module, outputs, notes, loaded.doubts)


def _describe_history(
    spec: ModelSpec | None, images: Images, module: nn.Module, threat: Threat, device: torch.device
) -> dict[str, Any]:
    """What the evaluation is told of the training, and how a copy of the network is built."""
    whole = images.whole
    if whole is None:
        return {}
    origin = {} if spec is None else {"origin": describe_origin(spec, images.info, module)}
    if spec is not None and images.run is not None and images.run.path == spec.path:
        return {**origin, **describe_own_run(spec, module, whole, device)}
    if len(whole.train):
        return {**origin, "training": describe_data(whole, threat, device)}
    return origin
