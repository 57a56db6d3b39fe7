"""The state of a network in two parts: tensors, and the extra state of modules that keep some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from abatis.errors import UsageError

EXTRA = "extra_state"  # its place among the facts of a weights file


def read_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a network, by name."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def read_extra_state(module: nn.Module) -> dict[str, Any]:
    """What modules keep besides tensors (``get_extra_state``), by name.

    Raises:
        UsageError: it is not plain values, which a weights file can hold.
    """
    extra = {
        name: value for name, value in module.state_dict().items() if not isinstance(value, Tensor)
    }
    for name, value in extra.items():
        try:
            plain = json.loads(json.dumps(value)) == value
        except (TypeError, ValueError, RecursionError):
            plain = False
        if not plain:
            raise UsageError(
                f"the extra state '{name}' of the network is a {type(value).__name__}, which a "
                "weights file cannot hold",
                fix="return numbers, texts, lists and tables with text keys from get_extra_state, "
                "or tensors",
            )
    return extra


def load_state(
    module: nn.Module, tensors: Mapping[str, Tensor], extra: Mapping[str, Any] | None = None
) -> None:
    """Load tensors and extra state; extra state that is not given stays as it is.

    Raises:
        RuntimeError: the tensors are not those of the network.
    """
    module.load_state_dict({**read_extra_state(module), **(extra or {}), **tensors})
