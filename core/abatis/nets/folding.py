"""Batch norms folded into the convolutions before them, for forwards with running statistics.

    norm(conv(x; W, b)) = conv(x; s W, s (b - mean) + beta),   s = gamma / sqrt(var + eps)

Exact up to rounding. One forward pass shows which pairs there are: a convolution's output must
have one reader, the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from abatis.errors import PluginError

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Place = tuple[dict[str, Any], str]
"""A table of a module, and a key in it."""


@dataclass(frozen=True)
class Pair:
    """A convolution and the norm behind it.

    Attributes:
        conv: the convolution.
        norm: the batch norm.
        rest: what the norm's module does besides, for example an activation.
    """

    conv: nn.Module
    norm: Any
    rest: nn.Module


class _Folded(nn.Module):
    """In the place of a folded norm: refuses a hook that was put on the pair meanwhile."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.rest = pair.rest
        self._pair = (pair,)  # not a module of this one

    def forward(self, x: Tensor) -> Tensor:
        (pair,) = self._pair
        if _has_hooks(pair):
            raise PluginError(
                "a hook was put on a convolution or norm while both are folded into one, so it"
                " would miss the call, or see what is not its own",
                where=f"the norm is {pair.norm}",
                fix="register it before the attack begins, or give --no-fold",
            )
        out: Tensor = self.rest(x)
        return out


class Folding:
    """The pairs of one network; ``with folding.active():`` runs it without their norms.

    Pairs that have module hooks when it is entered run as they are, so that their hooks do too.
    """

    def __init__(self, module: nn.Module, pairs: list[Pair]) -> None:
        self.pairs = pairs
        numbers = {id(pair.norm): number for number, pair in enumerate(pairs)}
        folded = [_Folded(pair) for pair in pairs]
        # where each pair's norm stands, by the number of the pair
        self._places: list[tuple[int, Place, Any]] = [
            (numbers[id(child)], (parent._modules, name), folded[numbers[id(child)]])
            for parent in module.modules()
            for name, child in parent._modules.items()
            if id(child) in numbers
        ]
        # weight and bias of every pair, in the same memory at every use
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._layout = torch.channels_last  # of the folded weights of 2-D convolutions
        self._active = False
        self._holding = self._held = False  # see hold

    def keep_in(self, layout: torch.memory_format) -> None:
        """Make weights in another layout from now on: a convolution computes in its weight's."""
        if layout != self._layout:
            self._layout, self._kept = layout, []

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Inside, the network does not change, so its constants are folded once."""
        self._holding, self._held = True, False
        try:
            yield
        finally:
            self._holding = False

    @contextmanager
    def active(
        self, differentiable: bool = False, dtype: torch.dtype | None = None
    ) -> Iterator[None]:
        """Inside, the convolutions apply the norms too, as these are now.

        Args:
            differentiable: the folded weights are functions of the parameters, not constants.
            dtype: the type of constant folded weights; that of the parameters if not given.
        """
        if self._active:  # already folded
            yield
            return
        hooked = [_has_hooks(pair) for pair in self.pairs]
        places = [(place, value) for number, place, value in self._places if not hooked[number]]
        folded = self._fold_all() if differentiable else self._fold_constant(dtype)
        for pair, (weight, bias), kept in zip(self.pairs, folded, hooked, strict=True):
            if kept:
                continue
            places += [
                ((pair.conv._parameters, "weight"), weight),
                ((pair.conv._parameters, "bias"), bias),
            ]
        own = [table[name] for (table, name), _ in places]
        for (table, name), value in places:
            table[name] = value
        self._active = True
        try:
            yield
        finally:
            self._active = False
            for ((table, name), _), value in zip(places, own, strict=True):
                table[name] = value

    def _fold_all(self) -> list[tuple[Tensor, Tensor]]:
        return [_fold_pair(pair.conv, pair.norm, self._layout) for pair in self.pairs]

    @torch.no_grad()
    def _fold_constant(self, dtype: torch.dtype | None) -> list[tuple[Tensor, Tensor]]:
        if self._holding and self._held and self._kept:
            return self._kept
        made = [
            (weight.to(dtype or weight.dtype), bias.to(dtype or bias.dtype))
            for weight, bias in self._fold_all()
        ]
        if self._kept and all(
            _is_alike(new, old) for new, old in zip(made, self._kept, strict=True)
        ):
            torch._foreach_copy_(
                [part for both in self._kept for part in both],
                [part for both in made for part in both],
            )
        else:  # the first time, or the network has moved to another device or type
            self._kept = made
        self._held = True
        return self._kept


def _has_hooks(pair: Pair) -> bool:
    """Is there a module hook, of any kind, on the convolution or the norm?"""
    return any(
        getattr(module, table)
        for module in (pair.conv, pair.norm)
        for table in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_backward_hooks",
            "_backward_pre_hooks",
        )
    )


def _fold_pair(conv: Any, norm: Any, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does both; the weight of a 2-D one in a layout."""
    scale = (norm.running_var + norm.eps).rsqrt()  # (out,)
    if norm.weight is not None:
        scale = scale * norm.weight
    bias = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = bias * scale if norm.bias is None else torch.addcmul(norm.bias, bias, scale)
    weight = conv.weight * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    if weight.dim() == 4:
        weight = weight.contiguous(memory_format=layout)
    return weight, bias


def _is_alike(new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor]) -> bool:
    return all(
        one.device == other.device and one.dtype == other.dtype
        for one, other in zip(new, old, strict=True)
    )


def find_folding(module: nn.Module, forward: Callable[[], object]) -> Folding:
    """The pairs that one ``forward`` of the network passes, made with running statistics.

    There are none where it passes a batch norm by, such as one of a second set of norms: another
    forward could send what is folded through it.
    """
    watching = _Watching(module)
    with watching:
        forward()
    return Folding(module, [] if watching.passes_norm_by() else watching.pairs())


class _Watching(TorchFunctionMode):
    """Watches which convolutions make an output, and what reads it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.convs: dict[int, list[nn.Module]] = {}  # by the identity of their weight
        self.norms: dict[int, list[nn.Module]] = {}  # by that of their running mean
        for part in module.modules():
            if isinstance(part, torch.jit.ScriptModule):
                continue  # its tables cannot be changed
            weight, mean = part._parameters.get("weight"), part._buffers.get("running_mean")
            if mean is not None:
                self.norms.setdefault(id(mean), []).append(part)
            elif weight is not None:
                self.convs.setdefault(id(weight), []).append(part)
        # outputs, kept alive, and the weight that made them
        self.made: dict[int, tuple[Tensor, int]] = {}
        self.readers: dict[int, list[int]] = {}  # of every output: the running mean of a norm, or 0
        self.calls: list[int] = []  # of convolutions and norms, by the same identities

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        # a function without a tensor in its result, like a look at the shape, reads no values
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
            norm = _argument(args, kwargs, 1, "running_mean") if func is F.batch_norm else None
            for leaf in tree_leaves((args, kwargs)):
                if id(leaf) in self.made:
                    reader = 0 if norm is None else id(norm)
                    self.readers.setdefault(id(leaf), []).append(reader)
            self.calls += [id(norm)] if norm is not None else []
        if func in CONVOLUTIONS:
            weight = _argument(args, kwargs, 1, "weight")
            self.made[id(out)] = out, id(weight)
            self.calls.append(id(weight))
        return out

    def passes_norm_by(self) -> bool:
        """Is there a norm with running statistics that was not called?"""
        return not self.norms.keys() <= set(self.calls)

    def pairs(self) -> list[Pair]:
        """Convolutions and norms, each called once and in one place, with nothing between them."""
        found = []
        for output, (_, weight) in self.made.items():
            mean, *others = self.readers.get(output, [0])
            convs, norms = self.convs.get(weight, []), self.norms.get(mean, [])
            once = self.calls.count(weight) == 1 and self.calls.count(mean) == 1
            if others or len(convs) != 1 or len(norms) != 1 or not once:
                continue
            rest = _rest(norms[0])
            if rest is not None:
                found.append(Pair(convs[0], norms[0], rest))
        return found


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


def _rest(norm: Any) -> nn.Module | None:
    """What a norm's module does behind the normalisation; None where that is not known."""
    if type(norm) in PLAIN_NORMS:
        return nn.Identity()
    more = [getattr(norm, part, None) for part in ("drop", "act")]  # timm's norms with activation
    known = [part for part in more if isinstance(part, nn.Module)]
    return nn.Sequential(*known) if isinstance(norm, PLAIN_NORMS) and len(known) == 2 else None
