"""Published accuracies at Linf 8/255 on CIFAR-10, to hold a record at full scale against.

A record is inside its band where its 95 % interval and the band have a number in common; the
interval is that of its number of points. Otherwise it lies above or below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from abatis.report.intervals import wilson_interval

MAIR = "MAIR's table, checkpoint not stated"
ZOO = "PyTorch-Robust's table, best checkpoint"
AWP_LOG = "AWP's logs, PGD as logged there"


@dataclass(frozen=True)
class Band:
    """Published numbers of one method.

    Attributes:
        method: plugins of the record, joined by ``+``.
        network: its backbone.
        attack: name of the number.
        values: in percent; for PGD-20, at the best and the last checkpoint where there are two.
        source: where they stand.
    """

    method: str
    network: str
    attack: str
    values: tuple[float, ...]
    source: str

    def place(self, share: float, points: int) -> str:
        """Return "inside", "above" or "below", of a share of so many points."""
        low, high = (100 * bound for bound in wilson_interval(share * points, points))
        if low > max(self.values):
            return "above"
        return "below" if high < min(self.values) else "inside"


AUTOATTACK, PGD20 = "AutoAttack", "PGD-20"
BANDS = (
    Band("at", "resnet18", AUTOATTACK, (46.82, 47.63, 48.67, 48.72), f"{MAIR}; {ZOO}"),
    Band("mart", "resnet18", AUTOATTACK, (47.51,), MAIR),
    Band("trades", "resnet18", AUTOATTACK, (48.39, 49.19, 49.45, 49.54), f"{MAIR}; {ZOO}"),
    Band("sovr", "resnet18", AUTOATTACK, (49.40,), "quoted by the authors of DUCAT"),
    Band("awp+at", "resnet18", AUTOATTACK, (50.80,), MAIR),
    Band("awp+mart", "resnet18", AUTOATTACK, (50.03,), MAIR),
    Band("awp+trades", "resnet18", AUTOATTACK, (51.62,), MAIR),
    Band("at", "preactresnet18", PGD20, (52.79, 43.75), AWP_LOG),
    Band("awp+at", "preactresnet18", PGD20, (55.39, 54.30), AWP_LOG),
    Band("at", "wrn34", PGD20, (56.80, 48.56), AWP_LOG),
    Band("awp+at", "wrn34", PGD20, (58.30, 57.38), AWP_LOG),
    Band("awp+trades", "wrn34", AUTOATTACK, (56.17,), "RobustBench"),
)


def find_band(method: str, network: str) -> Band | None:
    """The AutoAttack numbers of a method and network; None where none is published."""
    found = (
        band
        for band in BANDS
        if (band.method, band.network, band.attack) == (method, network, AUTOATTACK)
    )
    return next(found, None)


def describe_place(record: dict[str, Any]) -> str:
    """Where a record at full scale lies, like "inside 46.82-48.72"; empty where it has no band."""
    method = record["record"].partition("-seed")[0]
    band = find_band(method, record["config"].get("backbone", ""))
    if band is None or record["scale"] != "full":
        return ""
    place = band.place(record["autoattack_acc"], record["points"])
    return (
        f"{place} {'-'.join(f'{end:.2f}' for end in sorted({min(band.values), max(band.values)}))}"
    )


def list_bands() -> Iterator[str]:
    """The table of published numbers."""
    yield "| method | network | attack | published | source |"
    yield "|---|---|---|---|---|"
    for band in BANDS:
        values = " / ".join(f"{value:.2f}" for value in band.values)
        yield f"| {band.method} | {band.network} | {band.attack} | {values} | {band.source} |"
