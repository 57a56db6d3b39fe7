"""A sharded network (``--shard``), by torch's FSDP2.

Every process keeps its part of each parameter, gradient and moment.

root     one unit: the whole network is gathered for a step
blocks   a unit for each block, gathered when its turn comes; whole only for the attack
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from abatis.nets.blocks import find_blocks
from abatis.nets.copying import copy_module
from abatis.system import distributed

Value = TypeVar("Value")


class Enclosing(nn.Module):
    """Functions that are called through it find the parameters of a sharded module gathered."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[Any], Value], argument: Any) -> Value:
        return function(argument)


class Sharding:
    """The shards of one network. It replaces the parameters, so it is made before they are used."""

    def __init__(self, module: nn.Module, how: str) -> None:
        self.module, self.how = module, how
        self.device = next(module.parameters()).device
        self._blank = copy_module(module).cpu()
        mesh = init_device_mesh(self.device.type, (distributed.world_size(),))
        parts = find_blocks(module) if how == "blocks" else []
        for part in parts:
            fully_shard(part, mesh=mesh)
        unit = Enclosing(module) if how == "root" else module
        # in blocks every pass leaves all units as it found them; at the root the backward pass
        # uses what the forward pass has gathered
        self.unit: Any = fully_shard(unit, mesh=mesh, reshard_after_forward=how == "blocks")
        self._units = [part for part in unit.modules() if isinstance(part, FSDPModule)]

    def share(self, objective: nn.Module) -> tuple[Callable[[Any], Any], distributed.Exchanging]:
        """The objective of a micro-batch, and the context in which its gradients are exchanged."""
        if self.how == "blocks":
            return objective, self._exchange
        return lambda ctx: self.unit(objective, ctx), self._exchange

    def _exchange(self, now: bool) -> AbstractContextManager[None]:
        self.unit.set_requires_gradient_sync(now)
        return nullcontext()

    def undivide(self, value: Tensor) -> Tensor:
        """The whole value of a tensor that may be sharded."""
        return value.full_tensor() if isinstance(value, DTensor) else value

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the module's parameters are plain tensors, and its passes exchange nothing.

        All processes enter together.
        """
        self._keep(True)
        for unit in self._units:
            unit.unshard()
        try:
            yield
        finally:
            self._keep(False)
            for unit in self._units:
                unit.reshard()

    def _keep(self, whole: bool) -> None:
        self.unit.set_reshard_after_forward(not whole and self.how == "blocks")
        self.unit.set_reshard_after_backward(not whole)

    def make_twin(self) -> nn.Module:
        """A copy of the network, sharded alike. It cannot be run: nothing is exchanged."""
        twin = copy_module(self._blank).to(self.device)
        for name, weight in self.module.named_parameters():
            owner, _, last = name.rpartition(".")
            setattr(
                twin.get_submodule(owner),
                last,
                nn.Parameter(weight.detach().clone(), requires_grad=False),
            )
        return twin

    def gather(self, module: nn.Module) -> nn.Module:
        """A plain network with the weights of the network or of a twin. All processes must ask."""
        weights = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True))
        network = copy_module(self._blank).to(self.device)
        network.load_state_dict(weights)
        return network

    def save(
        self, folder: Path | None, optimizer: torch.optim.Optimizer, twin: nn.Module | None
    ) -> None:
        """Write the shards of all processes into the folder of the first one.

        Raises OSError where one of them fails.
        """
        folder = distributed.first_says(folder) or Path()
        state = self._state(optimizer, twin)
        try:
            save(state, storage_writer=FileSystemWriter(folder))
        except CheckpointException as error:  # a BaseException
            raise OSError(
                f"a shard of the checkpoint was not written: {first_reason(error)}"
            ) from error
        if distributed.rank() == 0:
            named = {
                info.relative_path
                for info in FileSystemReader(folder).read_metadata().storage_data.values()
            }
            missing = [name for name in named if not (folder / name).is_file()]
            if missing:
                raise OSError(
                    f"{', '.join(missing)} of other processes are missing: "
                    "all processes must write to one file system"
                )

    def load(self, folder: Path, optimizer: torch.optim.Optimizer, twin: nn.Module | None) -> None:
        """Read what :meth:`save` wrote.

        The index is a pickle, so the folder's sha256 must have been verified.
        """
        state = self._state(optimizer, twin)
        try:
            load(state, storage_reader=FileSystemReader(folder))
        except CheckpointException as error:
            raise RuntimeError(first_reason(error)) from error
        set_state_dict(
            self.module,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )

    def join(self, folder: Path, twin: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Whole weights of a verified checkpoint, and those of its twin, read by this process."""
        weights = copy_module(self._blank).state_dict()
        averaged = copy_module(self._blank).state_dict() if twin else {}
        load(
            {"model": weights, "twin": averaged},
            storage_reader=FileSystemReader(folder),
            no_dist=True,
        )
        return weights, averaged

    def _state(self, optimizer: torch.optim.Optimizer, twin: nn.Module | None) -> dict[str, Any]:
        """The sharded tensors themselves: what is loaded is read into them."""
        weights, moments = get_state_dict(self.module, optimizer)
        return {
            "model": weights,
            "optimizer": moments,
            "twin": {} if twin is None else twin.state_dict(),
        }


def first_reason(error: CheckpointException) -> str:
    """The error of the first process that failed, in one line."""
    return next((str(reason) for reason, _ in error.failures.values()), str(error)).splitlines()[0]
