"""The network as plugins see it: a training forward, and a frozen one for penalties."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from abatis.errors import UsageError
from abatis.nets.digest import weights_digest
from abatis.nets.features import find_head, keep_input, widen
from abatis.nets.folding import Folding, find_folding
from abatis.nets.layout import CHANNELS_LAST, CONTIGUOUS, LAYOUTS, agrees, damages_memory
from abatis.system.arithmetic import use_full_float32

if TYPE_CHECKING:
    from abatis.nets.sharding import Sharding

BATCH_STATISTICS = (nn.modules.batchnorm._BatchNorm,)
RUNNING = ("running_mean", "running_var")


class Net:
    """``net(x)`` is the training forward, ``net.frozen(x)`` the one with eval statistics.

    x: (B, C, H, W) in [0, 1]; both return logits (B, K), in float32 or wider.
    """

    def __init__(
        self,
        module: nn.Module,
        precision: str = "float32",
        attack_precision: str | None = None,
        checkpointing: Callable[[bool], None] | None = None,
    ) -> None:
        """Take hold of a module.

        Args:
            module: the torch module, on its device.
            precision: "float32" or "bf16", of the training forward.
            attack_precision: that of the attack's forwards; the same where not given.
            checkpointing: switches on or off that the module recomputes activations in backward
                passes.
        """
        self.module = module
        self._checkpointing = checkpointing
        if checkpointing is not None:
            checkpointing(True)
        self.precision = precision
        self.attack_precision = attack_precision or precision
        self._modules = tuple(module.modules())
        # what is in eval mode inside of a network in train mode was put there by its owner
        self._still = [part for part in self._modules if module.training and not part.training]
        self.sharding: Sharding | None = None
        self.auxiliaries: dict[str, Net] = {}  # networks that are used beside this one, by name
        self.auxiliaries_closed = False  # from the first step on none is added
        self.is_trained = True  # not a frozen auxiliary network
        self._format = self._attack_format = torch.contiguous_format
        self.layout = CONTIGUOUS  # in attacks
        self._head: nn.Module | None = None  # the layer that makes the logits, once it is asked for
        self._folding: Folding | None = None
        self._folded_type: torch.dtype | None = None  # of folded weights in attacks
        self._run = self._run_attack = cast("Callable[[Tensor], Tensor]", module)

    def __call__(self, x: Tensor) -> Tensor:
        return self._forward(self._run, x)

    def _forward(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        # Autocast is entered for each forward: it caches cast weights, and would not see a weight
        # that was perturbed in between.
        with self._autocast(x):
            return widen(run(x.contiguous(memory_format=self._format)))

    def _autocast(self, x: Tensor) -> torch.autocast:
        low = self.precision == "bf16"
        return torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low)

    def features(self, x: Tensor) -> Tensor:
        """The features (B, D) of a forward pass, in float32 or wider."""
        return self.with_features(x)[1]

    def with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and features (B, D) of one forward pass, which is never compiled.

        Raises:
            UsageError: the network has no features, or it is sharded.
        """
        with keep_input(self.find_head(x)) as noted:
            logits = self._forward(self.module, x)
        return logits, widen(noted[-1])

    def find_head(self, x: Tensor) -> nn.Module:
        """The layer that makes the logits, found at the first call; UsageError where none does."""
        if self.sharding is not None:
            raise UsageError(
                "--shard is not supported with the features of a network", fix="leave out --shard"
            )
        if self._head is None:
            with self.frozen_mode(), torch.no_grad(), self._autocast(x):
                self._head = find_head(self.module, x[:2])
        return self._head

    def tune(
        self, x: Tensor, fold: bool = True, step: bool = True, layout: str = CHANNELS_LAST
    ) -> dict[str, str]:
        """Choose the fastest way of making forwards that leaves the logits as they are.

        Args:
            x: images (B, C, H, W) in [0, 1] to try it on.
            fold: norms may be folded into convolutions where running statistics are used.
            step: the choice holds for forwards outside attacks too.
            layout: of tensors inside the network; contiguous where it cannot be channels_last.

        Returns:
            What was chosen, in words: the layout, and how many norms are folded.
        """
        # in full float32: the rounding of TF32 is larger than the tolerance
        with use_full_float32(), self.frozen_mode(), torch.no_grad():
            plain = self.module(x)
            possible = not damages_memory(self.module, x.device) and agrees(
                plain, lambda: self.module(x.contiguous(memory_format=torch.channels_last))
            )
            found = find_folding(self.module, lambda: self.module(x)) if fold else None
            if found is not None and found.pairs:
                with found.active():
                    self._folding = found if agrees(plain, lambda: self.module(x)) else None
            self.use_layout(layout if possible else CONTIGUOUS, step)
            self._folded_type = self._find_folded_type(x)
        norms = sum(isinstance(module, BATCH_STATISTICS) for module in self._modules)
        folded = len(self._folding.pairs) if self._folding is not None else 0
        return {"layout": self.layout, "norms folded": f"{folded} of {norms}"}

    def use_layout(self, layout: str, step: bool = True) -> None:
        """Run in a layout that :meth:`tune` found possible, outside attacks too if ``step``."""
        self.layout, self._attack_format = layout, LAYOUTS[layout]
        self._format = self._attack_format if step else self._format
        if self._folding is not None:
            self._folding.keep_in(self._attack_format)

    def _find_folded_type(self, x: Tensor) -> torch.dtype | None:
        """bfloat16 for attacks in it, if the network then computes the same; None else.

        Autocast would cast the folded weights in every pass.
        """
        if self._folding is None or self.attack_precision != "bf16":
            return None
        logits = []
        for dtype in (None, torch.bfloat16):
            try:
                with (
                    self._folding.active(dtype=dtype),
                    torch.autocast(x.device.type, dtype=torch.bfloat16),
                ):
                    logits.append(self.module(x.contiguous(memory_format=self._attack_format)))
            except RuntimeError:  # the network switches autocast off somewhere
                return None
        return torch.bfloat16 if torch.equal(*logits) else None

    def keep_layout(self) -> None:
        """Keep the parameters in the layout that the training forwards have chosen.

        Each parameter stays the same object. Else every pass would convert them.
        """
        if self._format == torch.channels_last and self.sharding is None:
            for parameter in self.module.parameters():
                if parameter.dim() == 4:
                    parameter.data = parameter.data.contiguous(memory_format=self._format)

    def compile(self, attack: bool, step: bool) -> None:
        """Compile the forward of attacks, or that of losses.

        The frozen one is never compiled, because it is differentiated twice.
        """
        first = next(self.module.parameters(), None)
        graphs = "reduce-overhead" if first is not None and first.is_cuda else None  # CUDA graphs
        if attack:
            self._run_attack = torch.compile(self.module, dynamic=False, mode=graphs)
        if step:
            self._run = torch.compile(self.module, dynamic=False)

    def frozen(self, x: Tensor) -> Tensor:
        """Logits with eval statistics, twice differentiable, in the parameters' own precision."""
        with (
            self.frozen_mode(),
            torch.autocast(x.device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            self._fold(differentiable=True),
            self._keep_activations(),
        ):
            logits: Tensor = self.module(x.contiguous(memory_format=self._format))
        return logits

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights of a frozen network; read once."""
        return weights_digest(self.module)

    def list_trained(self) -> list[Net]:
        """This network, and the auxiliary ones that are trained with it."""
        return [self, *(one for one in self.auxiliaries.values() if one.is_trained)]

    def list_modules(self) -> list[nn.Module]:
        """The torch modules of :meth:`list_trained`."""
        return [net.module for net in self.list_trained()]

    def list_parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained, those of auxiliary networks too."""
        return [
            parameter
            for net in self.list_trained()
            for parameter in net.module.parameters()
            if parameter.requires_grad
        ]

    def list_buffers(self) -> list[Tensor]:
        """The buffers of this network and of the auxiliary ones that are trained."""
        return [buffer for net in self.list_trained() for buffer in net.module.buffers()]

    def train(self) -> None:
        """Train mode; what was in eval mode inside when this was made stays in eval mode."""
        for net in self.list_trained():
            net.module.train()
            for part in net._still:
                part.training = False

    def whole(self) -> AbstractContextManager[None]:
        """For passes outside of the training forward: inside, a sharded network is gathered.

        All processes enter together.
        """
        return nullcontext() if self.sharding is None else self.sharding.whole()

    @contextmanager
    def _keep_activations(self) -> Iterator[None]:
        """Inside, activations are not recomputed.

        The backward pass comes after the modes of a frozen forward have ended, and would
        recompute another function.
        """
        if self._checkpointing is None:
            yield
            return
        self._checkpointing(False)
        try:
            yield
        finally:
            self._checkpointing(True)

    @contextmanager
    def frozen_mode(self) -> Iterator[None]:
        """Eval statistics inside; every module's own flag is restored."""
        was_training = [module for module in self._modules if module.training]
        for module in was_training:
            module.training = False
        try:
            yield
        finally:
            for module in was_training:
                module.training = True

    @contextmanager
    def attack_mode(
        self, batch_statistics: bool = False, keep_statistics: bool = False
    ) -> Iterator[None]:
        """For an attack, entered once around all its steps: eval mode, and gradients of the input.

        Args:
            batch_statistics: batch norms use the statistics of the batch, and their running ones
                are restored.
            keep_statistics: the running ones stay as such an attack has moved them.
        """
        trainable = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        others = [one.attack_mode() for one in self.list_trained()[1:]]
        own = self.precision, self._run, self._format
        self.precision, self._run, self._format = (
            self.attack_precision,
            self._run_attack,
            self._attack_format,
        )
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            with ExitStack() as stack:
                for mode in (self.frozen_mode(), *others):
                    stack.enter_context(mode)
                stack.enter_context(self._set_norms(batch_statistics, keep_statistics))
                yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
            self.precision, self._run, self._format = own

    @contextmanager
    def _set_norms(self, batch_statistics: bool, keep_statistics: bool) -> Iterator[None]:
        """The norms of an attack: folded away, or with statistics of the batch."""
        if batch_statistics:
            # a compiled forward has recorded where the buffers lie
            compiled = self._run_attack is not self.module
            restored = self._write_back_buffers() if compiled else self.restore_buffers()
            kept = nullcontext() if keep_statistics else restored
            with kept, self._train_batch_norms():
                yield
        else:
            with self._fold(dtype=self._folded_type):
                yield

    def _fold(
        self, differentiable: bool = False, dtype: torch.dtype | None = None
    ) -> AbstractContextManager[None]:
        if self._folding is None:
            return nullcontext()
        return self._folding.active(differentiable, dtype)

    def hold_folded(self) -> AbstractContextManager[None]:
        """Inside, neither weights nor statistics change, so norms are folded once."""
        return nullcontext() if self._folding is None else self._folding.hold()

    @contextmanager
    def _write_back_buffers(self) -> Iterator[None]:
        """Restore the values of the buffers, which stay in the same memory."""
        buffers = list(self.module.buffers())
        values = [buffer.clone() for buffer in buffers]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in zip(buffers, values, strict=True):
                    buffer.copy_(value)

    @contextmanager
    def restore_buffers(self) -> Iterator[None]:
        """Inside, the network writes to copies of its buffers, its running statistics.

        Nothing is written in place, so a graph that was made inside can be differentiated later.
        """
        own = [
            (module._buffers, name, buffer)
            for net in self.list_trained()
            for module in net._modules
            if not isinstance(module, torch.jit.ScriptModule)
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        for table, name, buffer in own:
            table[name] = buffer.clone()
        try:
            yield
        finally:
            for table, name, buffer in own:
                table[name] = buffer

    @contextmanager
    def replace_statistics(self) -> Iterator[None]:
        """Inside, running statistics become those of each training forward, not averages."""
        norms = [part for part in self._modules if isinstance(part, BATCH_STATISTICS)]
        own = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, own, strict=True):
                norm.momentum = momentum

    def list_frozen(self) -> frozenset[str]:
        """Names of the modules that their owner put in eval mode, which stay there."""
        still = {id(part) for part in self._still}
        return frozenset(name for name, part in self.module.named_modules() if id(part) in still)

    def running_statistics(self) -> list[Tensor]:
        """Means and variances of all norms, to be averaged over processes; auxiliary ones last."""
        found = (
            getattr(module, name)
            for net in self.list_trained()
            for module in net._modules
            if isinstance(module, BATCH_STATISTICS)
            for name in RUNNING
        )
        return [tensor for tensor in found if tensor is not None]

    @contextmanager
    def _train_batch_norms(self) -> Iterator[None]:
        norms = [
            module
            for module in self._modules
            if isinstance(module, BATCH_STATISTICS) and module not in self._still
        ]
        for norm in norms:
            norm.training = True
        try:
            yield
        finally:
            for norm in norms:
                norm.training = False
