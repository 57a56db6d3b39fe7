"""Reads the tensors of torch's pickles and runs nothing.

Whatever a pickle names besides tensors and plain containers becomes an inert object: it can be
built and filled, and does nothing.
"""

from __future__ import annotations

import collections
import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch

from abatis.errors import UsageError
from abatis.system import torch_messages

STORAGES = (
    "BFloat16Storage",
    "BoolStorage",
    "ByteStorage",
    "CharStorage",
    "ComplexDoubleStorage",
    "ComplexFloatStorage",
    "DoubleStorage",
    "FloatStorage",
    "HalfStorage",
    "IntStorage",
    "LongStorage",
    "ShortStorage",
)


class Inert:
    """An object of a class that is not loaded.

    Attributes:
        origin: ``module.Class``, as the pickle names it.
    """

    origin = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return type(self)()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Do nothing, as the methods below: a pickle may call them."""

    extend = add = update = append


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


def _rebuild_typed(function: Any, kind: Any, args: Any, state: Any) -> Any:
    """A tensor of a subclass, or with attributes of its own, as a plain tensor."""
    return function(*args)


def _make_table(*args: Any) -> OrderedDict[Any, Any]:
    """In place of a defaultdict, whose first argument is a function."""
    return OrderedDict()


def _list_allowed() -> dict[tuple[str, str], Any]:
    utils: Any = torch._utils
    allowed: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "Counter"): collections.Counter,
        ("collections", "defaultdict"): _make_table,
        ("builtins", "set"): set,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
        ("torch._utils", "_rebuild_tensor"): utils._rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_tensor_v3"): utils._rebuild_tensor_v3,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
        ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_typed,
    }
    allowed |= {("torch", name): getattr(torch, name) for name in STORAGES}
    kinds = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    return allowed | {("torch", name): value for name, value in kinds.items()}


ALLOWED = _list_allowed()


def read_pickle(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The content of a file that torch.save wrote.

    Args:
        path: the file; its kind must be a pickle.

    Returns:
        The content, and the classes and functions that it names and that were not loaded.

    Raises:
        UsageError: it cannot be read.
    """
    left_out: dict[str, None] = {}

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in ALLOWED:
                return ALLOWED[module, name]
            origin = f"{module}.{name}"
            left_out[origin] = None
            return type(name.rpartition(".")[2], (Inert,), {"origin": origin})

    def load(file: IO[bytes], **options: Any) -> Any:
        return Reader(file, **options).load()

    reading: Any = SimpleNamespace(Unpickler=Reader, load=load, __name__="abatis")
    try:
        with path.open("rb") as file:  # of a path, torch would believe the suffix
            found = torch.load(file, map_location="cpu", weights_only=False, pickle_module=reading)
    except Exception as error:  # a damaged pickle can fail in any way
        raise UsageError(
            f"cannot read weights: {torch_messages.describe_unreadable(error)}",
            where=str(path),
            fix="copy or download it again; or save a plain state_dict, or a .safetensors file",
        ) from error
    return found, tuple(left_out)


def name_origin(value: object) -> str:
    """The class of an object that was not loaded; empty for other values."""
    return value.origin if isinstance(value, Inert) else ""
