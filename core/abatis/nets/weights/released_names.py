"""Names of tensors in released weights of networks that are ours under other names.

The wide ResNets and ResNets for small images of Zhang et al., of Gowal et al. and of many after
them are our nets with other names. Where only the names differ, they are changed. Where the
function differs, such as by padding, the names do not fit and the weights are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from abatis.nets.weights.contents import Contents

OURS = "features.stem.weight"  # a tensor of each of our nets for small images
PREACT, RESNET = "features.stage1_0.activate1.0.weight", "features.stage1_0.path.0.weight"


@dataclass(frozen=True)
class Family:
    """How one family of released networks names its tensors.

    Attributes:
        title: what they are called in messages.
        mark: a tensor that each of them has.
        blocks: the names inside of a block, with ours.
        place: a pattern of a block; its groups are stage, number and the name inside.
        first: the number of the first stage.
        outside: the other names, with ours.
        design: a tensor that tells our nets of this design from others.
        padded: does a block that halves the map pad only right and below?
        normalises: do its networks normalise by the data's mean and standard deviation?
    """

    title: str
    mark: str
    place: str
    first: int
    blocks: Mapping[str, str]
    outside: Mapping[str, str]
    design: str = PREACT
    padded: bool = False
    normalises: bool = False

    def translate(self, name: str) -> str:
        """Our name of a tensor; the name itself where it is none of this family."""
        if match := re.fullmatch(self.place, name):
            stage, number, inside = match.groups()
            layer, _, last = inside.rpartition(".")
            if layer not in self.blocks:
                return name
            place = int(stage) - self.first + 1
            ours = self.blocks[layer]
            halves = self.padded and place > 1 and number == "0"
            if halves and ours in ("conv1", "shortcut-3x3"):
                ours += ".1"
            return f"features.stage{place}_{number}.{ours.replace('-3x3', '')}.{last}"
        layer, _, last = name.rpartition(".")
        return f"{self.outside[layer]}.{last}" if layer in self.outside else name

    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors by our names, behind the prefixes that the file has."""
        ends = [key for key in tensors if key == self.mark or key.endswith(f".{self.mark}")]
        prefixes = sorted((key.removesuffix(self.mark) for key in ends), key=len, reverse=True)
        renamed = {}
        for key, value in tensors.items():
            prefix = next((one for one in prefixes if key.startswith(one)), None)
            new = key if prefix is None else prefix + self.translate(key.removeprefix(prefix))
            renamed[new] = value
        return renamed


IN_BLOCK = {
    "bn1": "activate1.0",
    "conv1": "conv1",
    "bn2": "activate2.0",
    "conv2": "conv2",
    "convShortcut": "shortcut",
    "shortcut.0": "shortcut",
}
FAMILIES = (
    Family(
        "Zhang et al., 2019",
        "block1.layer.0.conv1.weight",
        r"block(\d)\.layer\.(\d+)\.(.+)",
        1,
        IN_BLOCK,
        {"conv1": "features.stem", "bn1": "features.norm", "fc": "fc"},
    ),
    Family(
        "Huang et al., 2021",
        "blocks.0.layer.0.conv1.weight",
        r"blocks\.(\d)\.layer\.(\d+)\.(.+)",
        0,
        IN_BLOCK,
        {"stem_conv": "features.stem", "bn1": "features.norm", "fc": "fc"},
    ),
    Family(
        "Gowal et al., 2020",
        "layer.0.block.0.conv_0.weight",
        r"layer\.(\d)\.block\.(\d+)\.(.+)",
        0,
        {
            "batchnorm_0": "activate1.0",
            "conv_0": "conv1",
            "batchnorm_1": "activate2.0",
            "conv_1": "conv2",
            "shortcut": "shortcut",
        },
        {"init_conv": "features.stem", "batchnorm": "features.norm", "logits": "fc"},
        padded=True,
        normalises=True,
    ),
    Family(
        "Gowal et al., 2020",
        "layer_0.0.conv_2d_1.weight",
        r"layer_(\d)\.(\d+)\.(.+)",
        0,
        {
            "batchnorm_0": "activate1.0",
            "conv_2d_1": "conv1",
            "batchnorm_1": "activate2.0",
            "conv_2d_2": "conv2",
            "shortcut": "shortcut-3x3",
        },
        {"conv_2d": "features.stem", "batchnorm": "features.norm", "logits": "fc"},
        padded=True,
        normalises=True,
    ),
    Family(
        "pre-activation ResNets",
        "layer1.0.conv1.weight",
        r"layer(\d)\.(\d+)\.(.+)",
        1,
        IN_BLOCK,
        {"conv1": "features.stem", "bn": "features.norm", "linear": "fc"},
    ),
    Family(
        "ResNets for small images",
        "layer1.0.conv1.weight",
        r"layer(\d)\.(\d+)\.(.+)",
        1,
        {
            "conv1": "path.0",
            "bn1": "path.1",
            "conv2": "path.3",
            "bn2": "path.4",
            "conv3": "path.6",
            "bn3": "path.7",
            "shortcut.0": "shortcut.0",
            "shortcut.1": "shortcut.1",
        },
        {"conv1": "features.stem", "bn1": "features.norm", "linear": "fc"},
        RESNET,
    ),
)


def translate_released(contents: Contents, module: nn.Module) -> tuple[Contents, Family | None]:
    """Weights of a released network by our names, where the network is one of ours.

    Args:
        contents: of a weights file.
        module: the network they are for.

    Returns:
        The weights, and the family whose names they had; None where nothing was changed.
    """
    own = [*module.state_dict()]
    if not any(name.endswith(OURS) for name in own):
        return contents, None
    for family in FAMILIES:
        if not any(name.endswith(family.design) for name in own):
            continue
        if any(_has(family.mark, tensors) for tensors in contents.sets.values()):
            rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = family.rename
            sets = {label: rename(tensors) for label, tensors in contents.sets.items()}
            return replace(contents, sets=sets), family
    return contents, None


def _has(mark: str, tensors: Mapping[str, Tensor]) -> bool:
    return any(key == mark or key.endswith(f".{mark}") for key in tensors)
