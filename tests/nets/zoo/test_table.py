"""RobustBench's networks by name: the table, the architectures, the files."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import abatis
from abatis.data import DataInfo
from abatis.errors import UsageError
from abatis.nets.backbones import build, view_of
from abatis.nets.backbones.timm_names import translate_to_timm
from abatis.nets.backbones.zoo.architectures import build_zoo
from abatis.nets.backbones.zoo.loading import choose_set, start_from_zoo
from abatis.nets.backbones.zoo.stems import ChannelNorm, convnext_stem, shrink_patches, vit_stem
from abatis.nets.backbones.zoo.table import ZOO_DIR, find_zoo, read_table
from abatis.nets.normalising import Normalized, StandardizedImages
from abatis.nets.weights import Contents
from abatis.runs.model_spec import Wishes, find_model
from abatis.runs.open_model import open_model
from abatis.runs.rebuild import describe_origin
from abatis.system.timm_import import timm
from tests.nets.zoo import released

CPU = torch.device("cpu")
COVERED = [one for one in read_table() if one.architecture]
DISTINCT = {one.architecture: one for one in COVERED}
FAST = ("wrn28-10-silu", "preactresnet18-silu", "preactresnet18-v1", "cifar-resnet50")
SMALL = "cifar10/corruptions/Hendrycks2020AugMix_WRN"  # WRN-40-2


def test_every_network_is_in_the_table_once():
    counts = Counter((one.dataset, one.threat) for one in read_table())
    assert counts == {
        ("cifar10", "Linf"): 76,
        ("cifar10", "L2"): 21,
        ("cifar10", "corruptions"): 17,
        ("cifar100", "Linf"): 38,
        ("cifar100", "corruptions"): 12,
        ("imagenet", "Linf"): 30,
        ("imagenet", "corruptions"): 12,
    }
    assert len({one.key for one in read_table()}) == 206
    assert all(bool(one.architecture) != bool(one.left_out) for one in read_table())
    assert len(COVERED) == 176


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(one, id=name, marks=[] if name in FAST else pytest.mark.slow)
        for name, one in DISTINCT.items()
    ],
)
def test_architectures_have_the_published_sizes(one):
    with torch.device("meta"):
        net = build_zoo(one)
    assert sum(part.numel() for part in net.parameters()) == one.parameters
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.eps == 1e-5
        if isinstance(part, nn.LayerNorm):
            first = one.architecture.startswith("swin_")
            assert part.eps == (1e-5 if first else 1e-6), type(part)


def test_every_network_has_a_view_and_a_normalisation():
    for one in COVERED:
        assert one.seen_as.image_size >= one.image_size or one.dataset != "imagenet"
        mean, std = one.statistics
        assert len(mean) == len(std) == 3
        assert min(std) > 0
    assert view_of("rb:imagenet/Linf/Wong2020Fast").image_size == 288
    assert view_of("rb:Mo2022When_ViT-B").resize == "squash"


def test_what_the_networks_do_to_their_images():
    def shown(name):
        return find_zoo(f"rb:{name}").normalize

    assert shown("Carmon2019Unlabeled") == "none"
    assert shown("cifar10/Linf/Wang2023Better_WRN-28-10").startswith("0.4914 0.4822 0.4465 / 0.247")
    assert shown("cifar100/Linf/Wang2023Better_WRN-28-10").startswith("0.5071 0.4865 0.4409")
    assert shown("cifar100/Linf/Debenedetti2022Light_XCiT-S12").startswith("0.5071 0.4867 0.4408")
    assert shown("cifar10/Linf/Engstrom2019Robustness").endswith("0.2023 0.1994 0.2010")
    assert shown("cifar10/L2/Ding2020MMA") == "image"
    assert shown("Singh2023Revisiting_ViT-S-ConvStem").startswith("0.485 0.456 0.406")
    assert shown("Singh2023Revisiting_ViT-B-ConvStem") == "none"
    assert shown("Xu2024MIMIR_Swin-L") == "none"


def test_convolutional_stems():
    net = SimpleNamespace()
    convnext_stem(net, (96, 144, 192))
    vit = SimpleNamespace(embed_dim=8, patch_embed=SimpleNamespace())
    vit_stem(vit)
    strides = [part.stride[0] for part in net.stem.stem if isinstance(part, nn.Conv2d)]
    widths = [part.out_channels for part in net.stem.stem if isinstance(part, nn.Conv2d)]
    assert (strides, widths) == ([2, 2, 1], [96, 144, 192])
    strides = [part.stride[0] for part in vit.patch_embed.proj.stem if isinstance(part, nn.Conv2d)]
    assert strides == [2, 2, 2, 2, 1]
    x = torch.randn(2, 3, 4, 4)
    expected = nn.functional.layer_norm(x.movedim(1, 3), (3,), eps=1e-6).movedim(3, 1)
    torch.testing.assert_close(ChannelNorm(3)(x), expected)


def test_an_xcit_for_small_images_has_patches_of_4_pixels():
    net = timm.create_model("xcit_nano_12_p16_224", depth=1, num_classes=2)
    shrink_patches(net)
    assert net.patch_embed.patch_size == 4
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 2)
    assert net.patch_embed(torch.rand(1, 3, 32, 32))[1] == (8, 8)


def make_swin(window):
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=56,
        embed_dim=12,
        depths=(2, 1),
        num_heads=(2, 2),
        num_classes=3,
        window_size=window,
    )


def test_windows_of_another_size_are_refused_not_resized(tmp_path):
    weights = make_swin(7).state_dict()
    contents = Contents(
        tmp_path / "w.pth", {"file": {f"module.{k}": v for k, v in weights.items()}}
    )
    same = translate_to_timm(contents, make_swin(7))
    assert set(same.sets["file"]) == set(weights)
    with pytest.raises(UsageError, match=r"is for another size: .*relative_position_bias_table"):
        translate_to_timm(contents, make_swin(14))


def test_each_image_is_standardised_by_itself():
    net = StandardizedImages(nn.Flatten())
    x = torch.rand(2, 3, 4, 4)
    flat = x.flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    torch.testing.assert_close(net(x), expected)
    grey = net(torch.full((1, 3, 4, 4), 0.5))  # a constant image divides by 1 / sqrt(48)
    assert not grey.any()


# --- names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rb:Wang2023Beter_WRN-28-10", "did you mean 'Wang2023Better_WRN-28-10'"),
        ("rb:cifar10/Linf/Carmon", "RobustBench has no network"),
        ("rb:Wang2023Better_WRN-28-10", "several networks are called"),
        ("rb:Kang2021Stable", "not covered: ends in a neural ODE"),
        ("rb:cifar10/Linf/Carmon2019Unlabeled", "15tUx-gkZMYx7BfEOw1GY5OKC-jECIsPQ"),
    ],
)
def test_names_that_cannot_be_loaded(name, words, tmp_path):
    with pytest.raises(UsageError, match=words) as caught:
        abatis.load(name, zoo_dir=tmp_path)
    assert len(str(caught.value).splitlines()) <= 4


def test_a_missing_file_is_told_with_its_place_size_and_source(tmp_path):
    with pytest.raises(UsageError) as caught:
        abatis.load("rb:cifar10/L2/Wang2023Better_WRN-28-10", zoo_dir=tmp_path)
    text = str(caught.value)
    assert str(tmp_path / "cifar10" / "L2" / "Wang2023Better_WRN-28-10.pt") in text
    assert "146 MB" in text
    assert "--zoo-dir" in text


def test_a_name_in_several_tables_is_the_one_that_is_there(tmp_path):
    name = "Wang2023Better_WRN-28-10"
    for where in ("cifar10/L2", "cifar100/Linf"):
        path = tmp_path / where / f"{name}.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        if where == "cifar10/L2":
            assert find_zoo(f"rb:{name}", tmp_path).key == f"cifar10/L2/{name}"
    with pytest.raises(UsageError, match=r"cifar10/L2/.*, cifar100/Linf/"):
        find_zoo(f"rb:{name}", tmp_path)
    assert find_zoo(f"rb:cifar100/{name}", tmp_path).dataset == "cifar100"
    assert find_zoo("rb:Standard").dataset == "cifar10"  # one file in three tables
    assert find_zoo(f"rb:{name}").architecture == "wrn28-10-silu"  # the same in all tables


def test_the_set_that_robustbench_takes(tmp_path):
    path = tmp_path / "w.pt"
    several = Contents(path, {"last": {}, "best": {}})
    assert choose_set(find_zoo("rb:Andriushchenko2020Understanding"), several) == "last"
    assert choose_set(find_zoo("rb:Kireev2021Effectiveness_RLAT"), several) == "last"
    both = Contents(path, {"state_dict": {}, "state_dict_ema": {}})
    assert choose_set(find_zoo("rb:Carmon2019Unlabeled"), both) == "state_dict"
    assert choose_set(find_zoo("rb:Mo2022When_ViT-B"), Contents(path, {"file": {}})) is None


# --- files

THEIRS = {
    "features.stem": "conv1",
    "features.norm": "bn1",
    ".activate1.0": ".bn1",
    ".activate2.0": ".bn2",
    ".shortcut": ".convShortcut",
    "features.stage1_": "block1.layer.",
    "features.stage2_": "block2.layer.",
    "features.stage3_": "block3.layer.",
}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A folder with random weights of one network, by the names that its authors use."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = build_zoo(find_zoo(f"rb:{SMALL}"))
    for name, value in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    state = {}
    for name, value in net.backbone.state_dict().items():
        theirs = name
        for ours, other in THEIRS.items():
            theirs = theirs.replace(ours, other)
        state[f"module.{theirs}"] = value
    path = tmp_path / "models" / f"{SMALL}.pt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path, state, net.eval()


def test_a_network_of_the_zoo_is_loaded_by_its_name(zoo):
    _, _, net = zoo
    found = abatis.load(f"rb:{SMALL}")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(found(x), net(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(found(x), found.backbone(2 * x - 1), rtol=0, atol=1e-5)


def test_a_network_of_the_zoo_is_a_backbone(zoo):
    _, state, _ = zoo
    options = {"num_classes": 4, "channels": 3, "image_size": 32, "mean": [0] * 3, "std": [1] * 3}
    fresh = build(f"rb:{SMALL}", **options)
    assert isinstance(fresh, Normalized)
    assert fresh.backbone.fc.out_features == 4
    started = build(f"rb:{SMALL}", pretrained=True, **options)
    stem = started.backbone.features.stem.weight
    assert torch.equal(stem, state["module.conv1.weight"])
    assert started.normalize.mean.flatten().tolist() == [0.5] * 3


def test_a_training_starts_from_weights_of_the_zoo(zoo):
    _, state, _ = zoo
    shape = {"num_classes": 4, "channels": 3, "image_size": 32}
    net = build("wrn40-2", **shape, mean=[0.1] * 3, std=[0.2] * 3)
    done = start_from_zoo(net, f"rb:{SMALL}", ZOO_DIR, "wrn40-2")
    assert torch.equal(net.backbone.features.stem.weight, state["module.conv1.weight"])
    assert net.normalize.mean.flatten().tolist() == [0.5] * 3
    assert "new head" in done
    assert "weights under MIT" in done
    silu = build("wrn40-2-silu", **shape, mean=[0.1] * 3, std=[0.2] * 3)
    with pytest.raises(UsageError, match="are missing"):
        start_from_zoo(silu, f"rb:{SMALL}", ZOO_DIR, "wrn40-2-silu")


def test_a_network_of_the_zoo_is_judged_with_what_is_published_of_it(zoo):
    _, _, net = zoo
    info = DataInfo("cifar10", 10, 3, 32, (0.1,) * 3, (0.2,) * 3, "none")
    spec = find_model(f"rb:{SMALL}")
    module, notes, doubts = open_model(spec, info, torch.device("cpu"))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(module(x), net(x), rtol=0, atol=1e-6)
    assert not doubts
    assert "weights under MIT; published: clean 95.08 %, corruptions 88.82 %" in " ".join(notes)
    again = describe_origin(spec, info, module).build()
    torch.testing.assert_close(again(x), module(x), rtol=0, atol=0)
    with pytest.raises(UsageError, match="--normalize"):
        open_model(find_model(f"rb:{SMALL}", wishes=Wishes(normalize="none")), info, CPU)
    with pytest.raises(UsageError, match="10 outputs, but the data have 7"):
        open_model(spec, replace(info, num_classes=7), CPU)


def test_a_file_is_read_into_an_architecture_of_the_zoo(zoo):
    """Which also says how images are normalised; without it the user must."""
    path, _, net = zoo
    info = DataInfo("cifar10", 10, 3, 32, (0.1,) * 3, (0.2,) * 3, "none")
    spec = find_model(str(path), f"rb:{SMALL}", allow_pickle=True)
    module, notes, _ = open_model(spec, info, CPU)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(module(x), net(x), rtol=0, atol=1e-6)
    assert f"normalised as rb:{SMALL} says: the file does not" in notes
    with pytest.raises(UsageError, match="--normalize none"):
        open_model(find_model(str(path), "wrn40-2", allow_pickle=True), info, CPU)
    wishes = Wishes(allow_pickle=True, normalize="0.5,0.5,0.5 0.5,0.5,0.5")
    module, _, _ = open_model(find_model(str(path), "wrn40-2", wishes=wishes), info, CPU)
    torch.testing.assert_close(module(x), net(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path, state: path.write_bytes(b"<!doctype html>quota"), "web page"),
        (lambda path, state: torch.save(dict(list(state.items())[9:]), path), "missing"),
        (lambda path, state: torch.save(released.GOWAL.make_state(), path), "does not fit"),
    ],
)
def test_files_that_are_not_the_network(zoo, change, words):
    path, state, _ = zoo
    change(path, state)
    with pytest.raises(UsageError, match=words) as caught:
        abatis.load(f"rb:{SMALL}")
    assert len(str(caught.value).splitlines()) <= 4
