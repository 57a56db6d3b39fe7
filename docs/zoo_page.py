"""Makes the tables of docs/robustbench.md from the package's own: python docs/zoo_page.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from abatis.nets.backbones.zoo.table import ZooNetwork, read_table

PAGE = Path(__file__).with_name("robustbench.md")
MARK = "<!-- The rest is made by: python docs/zoo_page.py -->\n"
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


def make_tables() -> str:
    """The tables of all networks, and how many are covered."""
    table = read_table()
    covered = sum(bool(one.architecture) for one in table)
    parts = [f"\n{covered} of {len(table)} networks are covered.\n"]
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
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.partition(MARK)[0] + MARK + make_tables(), encoding="utf-8")
