"""Parameters, shapes and outputs of the stems against the authors' code."""

from __future__ import annotations

import pytest
import torch
from tests.frontier import frontier, is_close, tensor_of
from torch import nn

from abatis import UsageError
from abatis.testing import network_of
from abatis_convstem.stem import make_convnext_stem, make_stem, make_vit_stem

STEMS = {
    "vit_s": lambda: make_vit_stem(3, 16, 384),
    "vit_m": lambda: make_vit_stem(3, 16, 512),
    "vit_b": lambda: make_vit_stem(3, 16, 768),
    "convnext_t": lambda: make_convnext_stem(3, 96),
    "convnext_b": lambda: make_convnext_stem(3, 128),
    "convnext_l": lambda: make_convnext_stem(3, 192),
}
TINY = {
    "vit_tiny": lambda: make_stem(3, [2, 4, 8, 16], 4, 16),
    "cnx1_tiny": lambda: make_convnext_stem(3, 8),
    "cnx3_tiny": lambda: make_stem(3, [4, 6, 8], 2),
}


@pytest.mark.parametrize("name", STEMS)
def test_parameters_and_shapes_are_the_released_ones(name):
    arrays, stem = frontier("convstem"), STEMS[name]()
    assert sum(weight.numel() for weight in stem.parameters()) == int(arrays[f"params_{name}"])
    with torch.device("meta"):
        shape = STEMS[name]()(torch.empty(1, 3, 224, 224)).shape
    assert list(shape) == arrays[f"shape_{name}"].tolist()


@pytest.mark.parametrize("name", TINY)
def test_the_outputs_are_the_released_ones(name):
    arrays, stem = frontier("convstem"), TINY[name]().double()
    stem.load_state_dict(
        {key: tensor_of(arrays, f"{name}_stem.{key}") for key in stem.state_dict()}
    )
    found = stem(tensor_of(arrays, f"{name}_x")).detach()
    assert is_close(found, arrays[f"{name}_out"])


def test_a_vit_and_a_convnext_get_the_stem():
    timm = pytest.importorskip("timm")
    vit = timm.models.VisionTransformer(img_size=32, embed_dim=8, depth=1, num_heads=2)
    changed = network_of("convstem", module=nn.Sequential(vit), num_classes=1000)
    assert [part.out_channels for part in changed.modules() if isinstance(part, nn.Conv2d)] == [
        48,
        96,
        192,
        384,
        8,
    ]
    convnext = timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=4)
    changed = network_of("convstem", module=convnext, num_classes=4)
    assert [part.stride for part in changed.stem if isinstance(part, nn.Conv2d)] == [(2, 2)] * 2
    assert changed(torch.rand(1, 3, 64, 64)).shape == (1, 4)


def test_a_network_without_patches_is_refused_or_kept():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(UsageError, match="has no stem of square patches"):
        network_of("convstem", module=module, num_classes=10)
    kept = network_of("convstem", module=module, num_classes=10, options={"other": "keep"})
    assert kept is module
