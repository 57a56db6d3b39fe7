"""A CUDA device that is not there: its tensors are computed on the CPU and call themselves CUDA.

Everything that a program can see is as on a GPU (devices, autograd, autocast, generators, pinned
memory), and values are real, so that whole runs go through. What a GPU refuses raises here too:
tensors of two devices in one operation, a generator of another device. What makes the host wait for
a GPU is noted: values it reads, shapes that depend on values, copies between the two that are not
asynchronous from pinned memory.

:func:`load_guard` comes before torch is imported, so this module imports it nowhere else.
"""

from __future__ import annotations

import collections
import ctypes
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

READS = {
    "_local_scalar_dense",
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
"""Operations that wait for the device, or whose result's shape depends on values."""
INDEXED = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
NO_KERNEL = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty",
    "empty_like", "empty_strided", "expand", "is_pinned", "lift_fresh", "new_empty",
    "new_empty_strided", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unfold", "unsqueeze", "view",
}  # fmt: skip
"""Operations that launch nothing."""
PINNED = "lies_in_pinned_memory"
"""An attribute of tensors."""


def load_guard(library: Path) -> None:
    """Load the device guard; torch asks for CUDA's hooks once, while it is imported."""
    if "torch" in sys.modules:
        raise RuntimeError("the guard must be loaded before torch")
    torch_folder = Path(str(importlib.util.find_spec("torch").origin)).parent / "lib"
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch_folder / name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))


def check_layouts(func: Any, lists: list[Any]) -> None:
    """Refuse what a fused update refuses: gradients or moments that lie otherwise than weights."""
    weights, *others = (tensors for tensors in lists if tensors and tensors[0].dim())
    for tensors in others:
        for weight, tensor in zip(weights, tensors, strict=True):
            strides = zip(weight.shape, weight.stride(), tensor.stride(), strict=True)
            if any(own != other for size, own, other in strides if size > 1):
                raise RuntimeError(f"{func}: weights and their moments differ in their layout")


def make_pretending() -> tuple[type, type]:
    """Import torch; returns the class of pretended tensors and the mode that makes them."""
    import torch
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
    from torch.utils._pytree import tree_leaves, tree_map

    class Pretended(Tensor):
        """A tensor of ``cuda:0``; ``held`` has its values, on the CPU."""

        held: Tensor
        __torch_function__ = torch._C._disabled_torch_function_impl

        @staticmethod
        def __new__(cls, real: Tensor) -> Pretended:
            made = Tensor._make_wrapper_subclass(
                cls,
                real.shape,
                strides=real.stride(),
                storage_offset=real.storage_offset(),
                dtype=real.dtype,
                layout=real.layout,
                device="cuda:0",
                requires_grad=False,
            )
            made.held = real
            return made

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise RuntimeError(f"{func} on a pretended device, outside of pretending()")

        @property
        def data(self) -> Tensor:
            return self.detach()

        @data.setter
        def data(self, value: Tensor) -> None:
            Tensor.data.__set__(self, value)
            self.held = value.held

        def __repr__(self, **_: Any) -> str:
            return f"Pretended({tuple(self.shape)}, {self.dtype})"

        def __reduce_ex__(self, protocol: int) -> Any:
            return self.detach().cpu().__reduce_ex__(protocol)

        def __format__(self, how: str) -> str:
            return format(self.item(), how) if not self.dim() else repr(self)

        def tolist(self) -> Any:
            return self.cpu().tolist()

        def numpy(self, **_: Any) -> Any:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    class Pretending(TorchDispatchMode):
        """Makes the tensors of ``cuda:0``, and notes what the host waits for."""

        def __init__(self) -> None:
            super().__init__()
            self.waits: collections.Counter[str] = collections.Counter()
            self.kernels: collections.Counter[str] = collections.Counter()
            self.dtypes: dict[str, set[str]] = collections.defaultdict(set)

        def clear(self) -> None:
            self.waits.clear()
            self.kernels.clear()
            self.dtypes.clear()

        def note(self, what: str) -> None:
            frames = [
                f"{Path(frame.filename).name}:{frame.lineno}"
                for frame in traceback.extract_stack()
                if "abatis" in frame.filename and "site-packages" not in frame.filename
            ]
            self.waits[f"{what} at {' < '.join(frames[-1:-3:-1]) or 'a test'}"] += 1

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs = dict(kwargs or {})
            name = func.overloadpacket.__name__
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            on_gpu = any(isinstance(leaf, Pretended) for leaf in given)
            if name in ("_pin_memory", "is_pinned"):
                return self.pin(name, args[0])
            if name in ("_to_copy", "copy_"):
                self.look_at_copy(name, args, kwargs)
            elif on_gpu:
                self.look_at(func, name, args, given)
            device = kwargs.get("device")
            onto = torch.device(device).type if device is not None else None
            if onto == "cuda":
                kwargs["device"] = torch.device("cpu")
            makes_gpu = onto == "cuda" or (onto is None and on_gpu)
            if makes_gpu and name not in NO_KERNEL:
                self.kernels[name] += 1
                floats = {str(leaf.dtype) for leaf in given if leaf.is_floating_point()}
                self.dtypes[name] |= floats
            with self.own_generator(func, kwargs, makes_gpu):
                out = self.compute(func, name, args, kwargs)
            if not makes_gpu or name == "_local_scalar_dense":
                return out
            if isinstance(out, Tensor) and name == "copy_":
                return args[0]
            wrapped = tree_map(
                lambda leaf: Pretended(leaf) if isinstance(leaf, Tensor) else leaf, out
            )
            if not on_gpu:
                return wrapped
            return return_and_correct_aliasing(func, args, kwargs, wrapped)

        def compute(self, func, name, args, kwargs):
            if name == "_fused_sdp_choice":
                return 0  # the plain mathematics, which every device has
            open_up = lambda leaf: leaf.held if isinstance(leaf, Pretended) else leaf  # noqa: E731
            return func(*tree_map(open_up, args), **tree_map(open_up, kwargs))

        def pin(self, name: str, tensor: Tensor) -> Any:
            if name == "is_pinned":
                return hasattr(tensor, PINNED)
            if isinstance(tensor, Pretended):
                raise RuntimeError("cannot pin a tensor of cuda:0")
            made = tensor.clone()
            setattr(made, PINNED, True)
            return made

        def look_at(self, func, name: str, args, given) -> None:
            """An operation with at least one tensor of the device."""
            if name.startswith("_fused_"):
                check_layouts(func, [part for part in args if isinstance(part, (list, tuple))])
            strangers = [
                leaf for leaf in given if not isinstance(leaf, Pretended) and leaf.dim() > 0
            ]
            if name in READS:
                self.note(name)
            if name in INDEXED:
                for index in args[1]:
                    if index is None:
                        continue
                    if not isinstance(index, Pretended):
                        self.note("an index on the CPU")
                    elif index.dtype in (torch.bool, torch.uint8):
                        self.note("a mask as an index")
                strangers = [one for one in strangers if not any(one is part for part in args[1])]
            if strangers:
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two devices,"
                    f" cuda:0 and cpu! ({func})"
                )

        def look_at_copy(self, name: str, args, kwargs) -> None:
            """A copy, perhaps between host and device."""
            if name == "_to_copy":
                source, asynchronous = args[0], kwargs.get("non_blocking", False)
                device = kwargs.get("device")
                to_gpu = (
                    isinstance(source, Pretended)
                    if device is None
                    else torch.device(device).type == "cuda"
                )
            else:
                source = args[1]
                asynchronous = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
                to_gpu = isinstance(args[0], Pretended)
            from_gpu = isinstance(source, Pretended)
            if from_gpu and not to_gpu:
                self.note("a copy to the host")
            if to_gpu and not from_gpu and not (asynchronous and hasattr(source, PINNED)):
                self.note("a copy to the device that the host waits for")

        @contextmanager
        def own_generator(self, func, kwargs, makes_gpu: bool) -> Iterator[None]:
            """Let the device's own generator draw; refuse one of another device."""
            own = kwargs.get("generator")
            wanted = "cuda" if makes_gpu else "cpu"
            if own is not None and own.device.type != wanted:
                raise RuntimeError(
                    f"Expected a '{wanted}' device type for generator but found "
                    f"'{own.device.type}' ({func})"
                )
            if not makes_gpu or torch.Tag.nondeterministic_seeded not in func.tags:
                yield
                return
            own = torch.cuda.default_generators[0] if own is None else own
            if "generator" in kwargs:
                kwargs["generator"] = None
            before = torch.get_rng_state()
            torch.set_rng_state(own.get_state())
            try:
                yield
            finally:
                own.set_state(torch.get_rng_state())
                torch.set_rng_state(before)

    return Pretended, Pretending


@contextmanager
def pretend() -> Iterator[Any]:
    """Inside, torch has one CUDA device; yields the mode, which notes what the host waits for."""
    import torch

    _, mode = make_pretending()
    patches = {
        (torch.cuda, "is_available"): lambda: True,
        (torch.cuda, "is_initialized"): lambda: True,
        (torch.cuda, "is_bf16_supported"): lambda including_emulation=True: True,
        (torch.cuda, "default_generators"): (torch.Generator("cuda"),),
        (torch.cuda, "device_count"): lambda: 1,
        (torch.cuda, "current_device"): lambda: 0,
        (torch.cuda.random, "current_device"): lambda: 0,
        (torch.cuda.random, "device_count"): lambda: 1,
        (torch.cuda, "get_device_name"): lambda device=None: "pretended",
        (torch.cuda, "get_device_properties"): lambda device=None: SimpleNamespace(
            name="pretended", total_memory=8 * 2**30, uuid=""
        ),
        (torch.cuda, "max_memory_allocated"): lambda device=None: 0,
    }
    own = {place: getattr(*place) for place in patches}
    # a parameter moves to the device as another object, since its class is another
    replaces = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    for (home, name), value in patches.items():
        setattr(home, name, value)
    try:
        with mode() as watching:
            yield watching
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaces)
        for (home, name), value in own.items():
            setattr(home, name, value)
