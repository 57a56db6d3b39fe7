"""What a comparison shows of single images: the same ones across methods, and their margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abatis.commands.compare.tables import Compared, Row
from abatis.errors import DataError
from abatis.report.eval_record import read_pictures, read_record
from abatis.report.html import Badge, Block, Card, Figure, Gallery, Picture
from abatis.report.json_part import Part
from abatis.report.pictures import describe_answer, describe_fate, is_png, name_class
from abatis.report.svg import Point, scatter

LARGEST = 350_000  # characters of all pictures together; beyond that fewer images are shown
CAPTION = (
    "The same test images, as each method's own attacks left them: those of its first run. Below "
    "each is what the network sees, with its probability, and the attack that broke it first. Of "
    "an image that withstood every attack, the one with the smallest logit margin is shown."
)
GRADIENTS = (
    "Gradient of the cross-entropy by the pixels of the clean image: grey is 0, black and white "
    "are three standard deviations of its own values."
)


def show_pictures(compared: Compared) -> list[Block]:
    """The same images under the attacks on each method."""
    found = _read_all(compared)
    cards = [
        Card(label, None, [clean, *(_draw_attacked(name, one, names) for name, one in row)])
        for label, clean, row, names in _list_images(found)
    ]
    return [Gallery(CAPTION, _cut(cards))] if cards else []


def show_gradients(compared: Compared) -> list[Block]:
    """The input gradients of each method at the same images."""
    cards = []
    for label, clean, row, _ in _list_images(_read_all(compared)):
        maps = [
            Picture(str(one["gradient"]), f"gradient of {name}", (name,))
            for name, one in row
            if is_png(one["gradient"])
        ]
        if maps:
            cards.append(Card(label, None, [clean, *maps]))
    return [Gallery(GRADIENTS, _cut(cards))] if cards else []


def show_margins(compared: Compared) -> list[Block]:
    """The margins of two methods at the same images: the baseline, and the first other one."""
    rows = {row["method"]: row for row in compared["rows"] if row["runs"]}
    base = rows.get(compared["baseline"])
    other = next((row for row in rows.values() if row is not base), None)
    if base is None or other is None:
        return []
    for seed, folder in zip(base["seeds"], base["runs"], strict=True):
        if seed in other["seeds"]:
            pair = (folder, other["runs"][other["seeds"].index(seed)])
            return _plot_margins((base["method"], other["method"]), *map(_read_margins, pair))
    return []


def _plot_margins(
    names: tuple[str, str], first: Mapping[int, float], second: Mapping[int, float]
) -> list[Block]:
    points: list[Point] = [(first[place], second[place]) for place in first if place in second]
    if not points:
        return []
    above = sum(b > a for a, b in points)
    plot = scatter(
        points,
        x_label=f"L2 margin, {names[0]}",
        y_label=f"L2 margin, {names[1]}",
        title=f"Margins of {names[1]} against {names[0]}",
    )
    caption = (
        f"Input margin (DeepFool, L2) of {len(points)} test images under both methods; it is "
        f"negative where the image is misclassified. {above} images have the larger margin with "
        f"{names[1]}."
    )
    return [Figure(plot, caption)]


def _read_margins(folder: str) -> dict[int, float]:
    """The finite L2 margins of the diagnosed points, by position; empty in older records."""
    record = Part(_read(folder))
    values = [part.number for part in record["margins"]["per_point"]["input_L2"].parts()]
    where = record["masking"]["positions"]
    places = [part.number for part in where.parts()] or [
        float(place) for place in range(len(values))
    ]
    pairs = zip(places, values, strict=False)
    return {int(at): value for at, value in pairs if at is not None and value is not None}


def _read(folder: str) -> Mapping[str, Any]:
    try:
        return read_record(Path(folder))
    except DataError:
        return {}


def _read_all(compared: Compared) -> dict[str, tuple[Part, Sequence[str]]]:
    """The pictures of each method's first run, and the names of the classes, by method."""
    found: dict[str, tuple[Part, Sequence[str]]] = {}
    for row in compared["rows"]:
        if row["runs"]:
            folder = row["runs"][0]
            record = _read(folder)
            pictures = Part(read_pictures(Path(folder), record))
            names = [str(name) for name in Part(record)["class_names"].parts()]
            if pictures["images"].parts():
                found[_label(row)] = (pictures["images"], names)
    return found


def _label(row: Row) -> str:
    return f"{row['method']} (FAIL)" if row["verdict"] == "FAIL" else str(row["method"])


def _list_images(
    found: Mapping[str, tuple[Part, Sequence[str]]],
) -> list[tuple[str, Picture, list[tuple[str, Part]], Sequence[str]]]:
    """Of each image that all methods show: its class, the clean image, and each method's part."""
    if not found:
        return []
    first, names = next(iter(found.values()))
    tables = {
        method: {str(one["position"]): one for one in images.parts()}
        for method, (images, _) in found.items()
    }
    rows = []
    for one in first.parts():
        place, label = str(one["position"]), name_class(one["label"], names)
        if is_png(one["clean"]) and all(place in table for table in tables.values()):
            clean = Picture(str(one["clean"]), f"test image {one['index']}, {label}", ("clean",))
            row = [(method, table[place]) for method, table in tables.items()]
            rows.append((label, clean, row, names))
    return rows


def _draw_attacked(name: str, one: Part, names: Sequence[str]) -> Picture:
    """An image under the attacks on one method; the clean one where none is kept."""
    kept = is_png(one["adversarial"])
    answer = describe_answer(one["adversarial_answer" if kept else "clean_answer"], names)
    fate: Badge = describe_fate(one)
    png = str(one["adversarial"] if kept else one["clean"])
    return Picture(png, f"{name}: {answer}", (name, answer, fate.text))


def _cut(cards: Sequence[Card]) -> list[Card]:
    """Fewer cards, at even distances, where all would be too large."""
    size = sum(len(image.png) for card in cards for image in card.images)
    return list(cards[:: -(-size // LARGEST)])
