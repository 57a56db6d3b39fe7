"""What a plugin may not change: the network's modes, weights and gradients, and the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from abatis.api.context import Network
from abatis.errors import PluginError
from abatis.nets.net import Net


class SideEffectChecks:
    """Checks the first call of every plugin and role; a check takes milliseconds."""

    def __init__(self) -> None:
        self._checked: set[tuple[str, str]] = set()

    @contextmanager
    def watch(self, plugin: str, role: str, net: Network, **tensors: Tensor) -> Iterator[bool]:
        """Around one call. Trainer hooks may change weights.

        Args:
            plugin: The plugin's name.
            role: What it is called for, such as "loss".
            net: The network.
            tensors: What else the call may not write on, by name.

        Yields:
            Is this call checked?

        Raises:
            PluginError: The call changed something, which the error names.
        """
        if (plugin, role) in self._checked:
            yield False
            return
        before = _record_state(net, tensors, role)
        yield True
        after = _record_state(net, tensors, role)
        changed = [what for what in before if after.get(what) != before[what]]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise PluginError(
                f"plugin '{plugin}' changed {', '.join(changed[:3])}{more} in its {role}",
                fix="work on copies, use torch.autograd.grad, and restore the modes you set",
            )
        self._checked.add((plugin, role))


def _record_state(net: Network, tensors: dict[str, Tensor], role: str) -> dict[str, object]:
    """Everything that is checked, as values that compare; torch counts the writes on a tensor."""
    state: dict[str, object] = {
        f"the {name}": (tensor._version, tensor.requires_grad) for name, tensor in tensors.items()
    }
    _record_network(state, net, "", "the network", role)
    for name, other in net.auxiliaries.items() if isinstance(net, Net) else ():
        _record_network(state, other, f"{name}: ", f"the auxiliary network '{name}'", role)
    return state


def _record_network(
    state: dict[str, object], net: Network, prefix: str, whole: str, role: str
) -> None:
    """Add modes, gradients and values of one network."""
    for own, module in net.module.named_modules():
        state[f"the mode of {prefix + own if own else whole}"] = module.training
    for own, weight in net.module.named_parameters():
        name = prefix + own
        state[f"requires_grad of {name}"] = weight.requires_grad
        state[f"the gradient of {name}"] = (
            None if weight.grad is None else (id(weight.grad), weight.grad._version)
        )
        if role in ("attacker", "loss", "regularizer"):
            state[f"the values of {name}"] = weight._version
