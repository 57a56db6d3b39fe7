"""Makes docs/robustbench.md from the table of RobustBench's networks: python docs/zoo_page.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from abatis.nets.backbones.zoo.table import ZooNetwork, read_table

PAGE = Path(__file__).with_name("robustbench.md")
HEAD = """# RobustBench's networks

`rb:NAME` is a network of [RobustBench](https://robustbench.github.io)'s zoo (Croce et al., 2021), wherever a network is named:

```
defense eval rb:Carmon2019Unlabeled --data cifar10
defense-run --backbone rb:cifar10/Linf/Wang2023Better_WRN-28-10 --pretrained
```

```python
model = abatis.load("rb:cifar10/L2/Wang2023Better_WRN-28-10", zoo_dir="models")
```

RobustBench itself is not needed, and its code is not used: it cannot be installed beside a current timm. The weights are yours to get. They lie where RobustBench puts them, `models/DATASET/THREAT/NAME.pt`, or below `--zoo-dir`; XCiT, DeiT, AlexNet and the standard ResNet-50 may also lie in torch's cache. Where a file is missing, the message says where it belongs, where it comes from and how large it is. Only tensors of a file are loaded; no code in it runs.

A name that several tables have is the network whose weights are there; else write `rb:DATASET/THREAT/NAME`. The threat of the table is the default of `--threat`, and image files are resized and cropped as RobustBench does it for the network.

The table of names is that of RobustBench {version}: {covered} of {all} networks are covered. Each architecture was compared with RobustBench's own class on random weights while this was written; no released weights were at hand. The tests compare ours with functions written from the papers, and count parameters.

The normalisation is part of the network, as there: *none* means that images in [0, 1] go in as they are. What would load and compute something else is refused: strided convolutions that pad on another side, windows of another size, another normalisation in the file. With your own `--backbone`, weights by the names of these families load too, for example `--backbone wrn28-silu --weights FILE`.

The accuracies are those that RobustBench publishes, in percent; nothing here was measured by us. *Robust* is AutoAttack's number, or a lower one of a stronger evaluation; for corruptions, the mean accuracy under them. A dash means that we have no number at hand. Of networks that are not covered, the last column says why.
"""
TITLES = {
    ("cifar10", "Linf"): "CIFAR-10, Linf, 8/255",
    ("cifar10", "L2"): "CIFAR-10, L2, 0.5",
    ("cifar10", "corruptions"): "CIFAR-10, corruptions",
    ("cifar100", "Linf"): "CIFAR-100, Linf, 8/255",
    ("cifar100", "corruptions"): "CIFAR-100, corruptions",
    ("imagenet", "Linf"): "ImageNet, Linf, 4/255",
    ("imagenet", "corruptions"): "ImageNet, corruptions",
}
COLUMNS = ("NAME", "architecture", "parameters", "normalisation", "clean", "robust", "licence")
VERSION = "1.1.1"


def make_page() -> str:
    """The text of the page."""
    table = read_table()
    covered = sum(bool(one.architecture) for one in table)
    parts = [HEAD.format(version=VERSION, covered=covered, all=len(table))]
    for place, title in TITLES.items():
        rows = [one for one in table if (one.dataset, one.threat) == place]
        rows.sort(key=lambda one: -float(one.robust or -1))
        parts.append(f"## {title}\n\n" + "\n".join(_list_rows(rows)) + "\n")
    return "\n".join(parts)


def _list_rows(rows: list[ZooNetwork]) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * len(COLUMNS)
    for one in rows:
        what = f"`{one.architecture}`" if one.architecture else f"not covered: {one.left_out}"
        size = f"{one.parameters / 1e6:.1f} M" if one.parameters else "-"
        cells = (
            one.name.replace("_", "\\_"),
            what,
            size,
            _describe_normalisation(one),
            one.clean or "-",
            one.robust or "-",
            one.licence,
        )
        yield f"| {' | '.join(cells)} |"


def _describe_normalisation(one: ZooNetwork) -> str:
    if not one.architecture:
        return "-"
    words = {"none": "none", "image": "each image by itself", "file": "in the file"}
    if one.normalize in words:
        return words[one.normalize]
    mean, std = one.statistics
    return " / ".join(" ".join(f"{value:.4g}" for value in part) for part in (mean, std))


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
