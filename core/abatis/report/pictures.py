"""The pictures of an evaluation on a page: images under attack, and input gradients.

They come from ``pictures.json``, of which nothing is taken for granted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from abatis.report.html import Badge, Block, Card, Gallery, Picture
from abatis.report.json_part import Part
from abatis.report.words import NO_BREAK_SPACE

BASE64 = re.compile(r"[A-Za-z0-9+/]+=*")
DIAGNOSTIC = "masking: "  # before the names of attacks of the masking tests
WITHSTOOD, WRONG = "withstood all", "wrong without an attack"


def show_pictures(pictures: Mapping[str, Any], names: Sequence[str]) -> list[Block]:
    """Clean image, adversarial image and their difference, of a few test images.

    Args:
        pictures: what pictures.json holds.
        names: of the classes; empty where they have none.
    """
    found = Part(pictures)
    cards = make_cards(pictures, names)
    if not cards:
        return []
    caption = (
        f"{len(cards)} test images of all classes, the same in every evaluation on these images, "
        f"under {found['threat']}: clean, adversarial, and the difference, enlarged around grey. "
        "Below each image is what the network sees, with its probability. Of an image that "
        "withstood every attack, the adversarial image with the smallest logit margin is shown."
        f"{_describe_scale(found)}"
    )
    return [Gallery(caption, cards)]


def show_gradients(pictures: Mapping[str, Any], names: Sequence[str]) -> list[Block]:
    """The gradient of the loss at the same clean images, beside that of an undefended network."""
    found = Part(pictures)
    cards = []
    for one in found["images"].parts():
        other = str(found["twin"]).removeprefix("an ").removeprefix("a ")
        maps = [(one["gradient"], "this network"), (one["twin_gradient"], other)]
        shown = [Picture(str(png), text, (text,)) for png, text in maps if is_png(png)]
        if shown:
            cards.append(Card(name_class(one["label"], names), None, shown))
    if not cards:
        return []
    caption = (
        "Gradient of the cross-entropy by the pixels of the clean image, summed over the channels: "
        "grey is 0, black and white are three standard deviations of its own values."
    )
    return [Gallery(f"{caption}{_describe_scale(found)}", cards)]


def make_cards(pictures: Mapping[str, Any], names: Sequence[str]) -> list[Card]:
    """Of each image: clean, adversarial and the difference, as far as they are known."""
    images = Part(pictures)["images"].parts()
    return [_make_card(one, names) for one in images if is_png(one["clean"])]


def _make_card(one: Part, names: Sequence[str]) -> Card:
    label = name_class(one["label"], names)
    images = [
        Picture(
            str(one["clean"]),
            f"test image {one['index']}, {label}",
            ("clean", describe_answer(one["clean_answer"], names)),
        )
    ]
    if is_png(one["adversarial"]):
        seen = describe_answer(one["adversarial_answer"], names)
        images.append(
            Picture(str(one["adversarial"]), f"under attack: {seen}", ("adversarial", seen))
        )
    times = one["times"].number
    if is_png(one["difference"]) and times is not None:
        text = f"times{NO_BREAK_SPACE}{times:.3g}"
        images.append(Picture(str(one["difference"]), "the difference", ("difference", text)))
    return Card(label, describe_fate(one), images)


def describe_fate(one: Part) -> Badge:
    """What became of an image under attack."""
    if one["correct"].value is not True:
        return Badge(WRONG)
    breaker = one["broken_by"].value
    if breaker is None:
        return Badge(WITHSTOOD, "pass")
    return Badge(f"broken by {str(breaker).removeprefix(DIAGNOSTIC)}", "fail")


def describe_answer(answer: Part, names: Sequence[str]) -> str:
    """A class and its probability, like ``cat, 93 %``."""
    top, share = (*answer.parts(), Part(), Part())[:2]
    if top.number is None or share.number is None:
        return "-"
    return f"{name_class(top, names)}, {100 * share.number:.0f}{NO_BREAK_SPACE}%"


def name_class(label: Part, names: Sequence[str]) -> str:
    """The name of a class, or its number."""
    place = label.number
    known = place is not None and 0 <= place < len(names)
    return names[int(place)] if known and place is not None else f"class {label}"


def _describe_scale(found: Part) -> str:
    side, shown = found["pixels"].number, found["shown_pixels"].number
    if side is None or shown is None or side == shown:
        return ""
    return f" Scaled down from {side:g} to {shown:g} pixels a side."


def is_png(part: Part) -> bool:
    """Is it a text in base64, as a page can insert it?"""
    return isinstance(part.value, str) and BASE64.fullmatch(part.value) is not None
