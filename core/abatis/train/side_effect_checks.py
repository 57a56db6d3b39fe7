"""What a plugin's code must leave as it found it: the network's modes, weights and gradients, and the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from abatis.api.context import Network
from abatis.errors import PluginError


class SideEffectChecks:
    """Looks on at the first call of every plugin and role. Later calls are believed: looking takes milliseconds."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    @contextmanager
    def watched(self, plugin: str, role: str, net: Network, **tensors: Tensor) -> Iterator[bool]:
        """Around one call; yields whether it is looked at. Raises PluginError naming what was changed.

        tensors: what may not be written on, by name. Trainer hooks may change weights.
        """
        first = (plugin, role) not in self._known
        before = _condition(net, tensors, role) if first else {}
        yield first
        if not first:
            return
        after = _condition(net, tensors, role)
        changed = [what for what in before if after.get(what) != before[what]]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise PluginError(
                f"plugin '{plugin}' changed {', '.join(changed[:3])}{more} in its {role}",
                fix="leave all as found: work on copies, use torch.autograd.grad, restore modes",
            )
        self._known.add((plugin, role))


def _condition(net: Network, tensors: dict[str, Tensor], role: str) -> dict[str, object]:
    """Everything in question, in values that can be compared; torch counts the writes on a tensor."""
    found: dict[str, object] = {
        f"the {name}": (tensor._version, tensor.requires_grad) for name, tensor in tensors.items()
    }
    for name, module in net.module.named_modules():
        found[f"the mode of {name or 'the network'}"] = module.training
    for name, weight in net.module.named_parameters():
        found[f"requires_grad of {name}"] = weight.requires_grad
        found[f"the gradient of {name}"] = (
            None if weight.grad is None else (id(weight.grad), weight.grad._version)
        )
        if role in ("attacker", "loss", "regularizer"):
            found[f"the values of {name}"] = weight._version
    return found
