"""Networks as their authors released them, as functions of tensors by the authors' names.

Written from the descriptions of the architectures, not from our nets, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
WIDTHS = (6, 8, 10)


def make_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Random tensors; variances are positive."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=draw) * 0.5
        state[name] = value.abs() + 0.5 if name.endswith("running_var") else value
    return state


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")
    }


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def strided(x: Tensor, weight: Tensor, stride: int, same: bool) -> Tensor:
    """A 3x3 convolution; ``same`` pads right and below only where it is strided."""
    if same and stride == 2:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, stride=2)
    return F.conv2d(x, weight, stride=stride, padding=1)


class Released:
    """A pre-activation network of one block a stage, with the names of one family.

    Args:
        block: the name of the block of a stage, counted from 0.
        inside: the names of norm 1, convolution 1, norm 2, convolution 2 and shortcut in a block.
        outside: the names of the stem, the last norm and the head.
        act: the activation.
        same: the padding of Gowal et al.
        kernel: of the shortcut, 1 or 3.
        raw: does the shortcut read the input itself?
        ends: is there a norm before the pooling?
    """

    def __init__(
        self,
        block: Callable[[int], str],
        inside: tuple[str, ...],
        outside: tuple[str, str, str],
        act: Callable[[Tensor], Tensor] = F.relu,
        same: bool = False,
        kernel: int = 1,
        raw: bool = False,
        ends: bool = True,
    ) -> None:
        self.block, self.inside, self.outside = block, inside, outside
        self.act, self.same, self.kernel, self.raw, self.ends = act, same, kernel, raw, ends

    def make_state(self, stem: int = 4, classes: int = 5) -> State:
        shapes: dict[str, tuple[int, ...]] = {f"{self.outside[0]}.weight": (stem, 3, 3, 3)}
        before = stem
        for stage, width in enumerate(WIDTHS):
            first, conv1, second, conv2, shortcut = self._names(stage)
            shapes |= norm_shapes(first, before) | norm_shapes(second, width)
            shapes |= {f"{conv1}.weight": (width, before, 3, 3)}
            shapes |= {f"{conv2}.weight": (width, width, 3, 3)}
            shapes |= {f"{shortcut}.weight": (width, before, self.kernel, self.kernel)}
            before = width
        if self.ends:
            shapes |= norm_shapes(self.outside[1], before)
        shapes |= {f"{self.outside[2]}.weight": (classes, before)}
        return make_state(shapes | {f"{self.outside[2]}.bias": (classes,)})

    def run(self, state: State, x: Tensor) -> Tensor:
        x = F.conv2d(x, state[f"{self.outside[0]}.weight"], padding=1)
        for stage in range(len(WIDTHS)):
            stride = 1 if stage == 0 else 2
            first, conv1, second, conv2, shortcut = self._names(stage)
            active = self.act(norm(state, first, x))
            source, weight = x if self.raw else active, state[f"{shortcut}.weight"]
            kept = (
                F.conv2d(source, weight, stride=stride)
                if self.kernel == 1
                else strided(source, weight, stride, self.same)
            )
            inner = strided(active, state[f"{conv1}.weight"], stride, self.same)
            inner = self.act(norm(state, second, inner))
            x = kept + F.conv2d(inner, state[f"{conv2}.weight"], padding=1)
        if self.ends:
            x = self.act(norm(state, self.outside[1], x))
        head = self.outside[2]
        return F.linear(x.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])

    def _names(self, stage: int) -> tuple[str, ...]:
        return tuple(f"{self.block(stage)}.{name}" for name in self.inside)


USUAL = ("bn1", "conv1", "bn2", "conv2")
TRADES = Released(
    lambda stage: f"block{stage + 1}.layer.0", (*USUAL, "convShortcut"), ("conv1", "bn1", "fc")
)
NARROWER = Released(
    lambda stage: f"blocks.{stage}.layer.0", (*USUAL, "convShortcut"), ("stem_conv", "bn1", "fc")
)
GOWAL = Released(
    lambda stage: f"layer.{stage}.block.0",
    ("batchnorm_0", "conv_0", "batchnorm_1", "conv_1", "shortcut"),
    ("init_conv", "batchnorm", "logits"),
    act=lambda x: x * torch.sigmoid(x),
    same=True,
)
GOWAL_PREACT = Released(
    lambda stage: f"layer_{stage}.0",
    ("batchnorm_0", "conv_2d_1", "batchnorm_1", "conv_2d_2", "shortcut"),
    ("conv_2d", "batchnorm", "logits"),
    act=lambda x: x * torch.sigmoid(x),
    same=True,
    kernel=3,
    raw=True,
)
PREACT = Released(
    lambda stage: f"layer{stage + 1}.0", (*USUAL, "shortcut.0"), ("conv1", "bn", "linear")
)
PREACT_V1 = Released(
    lambda stage: f"layer{stage + 1}.0",
    (*USUAL, "shortcut.0"),
    ("conv1", "bn", "linear"),
    raw=True,
    ends=False,
)
