"""The memory that a convolution takes while it runs: by hand, and as torch's allocator saw it."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from abatis.system.convolution_memory import count_scratch

LAYOUTS = {"plain": torch.contiguous_format, "channels_last": torch.channels_last}
KIB = 1024
PAGES = 25 * KIB  # what the libraries allocate besides: padding of blocks, a few pages


def make(*shape, layout="plain", dtype=torch.float32):
    return torch.rand(*shape, dtype=dtype).to(memory_format=LAYOUTS[layout])


def convolve(layout, dtype=torch.float32, kernel=3):
    """16 x 32 x 16 x 16 images are 512 KiB, 64 x 32 x 3 x 3 kernels 72, the result is 1024."""
    x = make(16, 32, 16, 16, layout=layout, dtype=dtype)
    w = make(64, 32, kernel, kernel, layout=layout, dtype=dtype)
    return torch.ops.aten.convolution, (x, w, *settle(kernel // 2))


def differentiate(layout, to_weight):
    x, w = make(16, 32, 16, 16, layout=layout), make(64, 32, 3, 3, layout=layout)
    gradient = make(16, 64, 16, 16, layout=layout)
    call = torch.ops.aten.convolution_backward
    return call, (gradient, x, w, *settle(1), [True, to_weight, False])


def exchange_rows_and_channels():
    """As in a double backward pass: images of 512 KiB and gradients of 784 in neither layout."""
    x, w = make(16, 32, 16, 16).transpose(0, 1), make(16, 64, 14, 14).transpose(0, 1)
    return torch.ops.aten.convolution, (x, w, *settle(0))


def settle(padding):
    """No bias, stride, padding, dilation, not transposed, no output padding, one group."""
    return None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1


CALLS = {
    "forward": (lambda: convolve("plain"), 1024),
    "forward, channels_last": (lambda: convolve("channels_last"), 72),
    "backward": (lambda: differentiate("plain", True), 512 + 1024),
    "backward to the images": (lambda: differentiate("plain", False), 1024 + 72),
    "backward, channels_last": (lambda: differentiate("channels_last", True), 2 * 72),
    "backward to the images, channels_last": (lambda: differentiate("channels_last", False), 72),
    "double backward": (exchange_rows_and_channels, 2 * (512 + 784)),
    # a column for each of 16 x 16 x 16 places has 32 x 3 x 3 numbers of 2 bytes
    "bf16": (lambda: convolve("plain", torch.bfloat16), 9 * 256),
    "bf16, a kernel of one pixel": (lambda: convolve("plain", torch.bfloat16, kernel=1), 0),
}


@pytest.fixture(params=CALLS)
def call(request):
    if "bf16" in request.param and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has arithmetic for bfloat16 here")
    make_call, kib = CALLS[request.param]
    return *make_call(), kib * KIB


class Scratch(TorchDispatchMode):
    """What the rule says of the operations inside."""

    def __init__(self):
        super().__init__()
        self.counted = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.counted.append(count_scratch(func, args, out, on_cpu=True))
        return out


def test_by_hand(call):
    func, args, expected = call
    with Scratch() as scratch:
        func(*args)
    assert scratch.counted == [expected]


@pytest.mark.slow
def test_as_it_was_taken(call):
    func, args, expected = call
    func(*args)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        results = func(*args)
    events = [one for one in found.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert results is not None  # they are held, and not counted
    assert expected <= peak - held <= expected + PAGES


def test_only_the_copies_are_known_of_a_gpu():
    x, w = make(16, 32, 16, 16).transpose(0, 1), make(64, 16, 3, 3)
    args = (x, w, *settle(0))
    convolution = torch.ops.aten.convolution.default
    out = convolution(*args)
    assert count_scratch(convolution, args, out, on_cpu=False) == 512 * KIB
    assert count_scratch(torch.ops.aten.relu.default, (x,), out, on_cpu=True) == 0
