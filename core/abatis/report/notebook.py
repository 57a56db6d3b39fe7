"""The numbers of an evaluation as a notebook shows them: in its own colours and fonts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from abatis.report.html import Card
from abatis.report.intervals import wilson_interval
from abatis.report.numbers import CLEAN, ROBUST, UPPER, Number, format_share, list_measured
from abatis.report.pictures import make_cards
from abatis.report.verdicts import format_verdict
from abatis.report.words import NO_BREAK_SPACE
from abatis.system.printable import replace_controls

IMAGES = 6  # shown
FINDINGS = 8  # shown; the first ones matter most
RIGHT = Markup('<td style="text-align: right">{}</td>')


def show_numbers(
    record: Mapping[str, Any], facts: Sequence[str], pictures: Mapping[str, Any] | None = None
) -> str:
    """Return HTML: the strongest number, the masking verdict, and a table of all numbers.

    Args:
        record: what eval.json holds, as far as it is known.
        facts: short texts below the number.
        pictures: of some images, as in pictures.json.
    """
    measured = list_measured(record)
    if not measured:
        said = Markup("<p>not evaluated; {}</p>").format(", ".join(facts))
        return replace_controls(str(said))
    first, verdict = measured[-1], record.get("verdict")
    word = format_verdict(str(verdict or "not measured"), record.get("ladder"))
    head = Markup(
        '<p><strong style="font-size: 1.4em">{}</strong> {}<br>'
        "masking verdict <strong>{}</strong><br>{}</p>"
    ).format(
        format_share(record[first.key], verdict, first, NO_BREAK_SPACE),
        first.label,
        word,
        ", ".join([f"{record['n']} images", *facts]),
    )
    rows = Markup("").join(_show_row(record, number) for number in measured)
    heads = "<tr><th></th><th>accuracy</th><th>95 % interval</th></tr>"
    table = Markup("<table><thead>" + heads + "</thead><tbody>{}</tbody></table>").format(rows)
    findings = _show_findings(record.get("findings") or ())
    return replace_controls(str(head + table + findings + _show_images(pictures or {})))


def _show_row(record: Mapping[str, Any], number: Number) -> Markup:
    share, n = record[number.key], record["n"]
    known = number in (CLEAN, ROBUST, UPPER)
    low, high = wilson_interval(share * n, n) if known else (0.0, 1.0)
    interval = f"{100 * low:.1f} to {100 * high:.1f} %".replace(" ", NO_BREAK_SPACE)
    shown = format_share(share, record.get("verdict"), number, NO_BREAK_SPACE)
    cells = RIGHT.format(shown) + RIGHT.format(interval if known else "")
    return Markup('<tr><th style="text-align: left">{}</th>{}</tr>').format(number.label, cells)


def _show_findings(findings: Sequence[str]) -> Markup:
    """The findings as a list; nothing where there are none."""
    if not findings:
        return Markup("")
    shown = [*findings[:FINDINGS]]
    if len(findings) > FINDINGS:
        shown.append(f"and {len(findings) - FINDINGS} more, in .findings")
    items = Markup("").join(Markup("<li>{}</li>").format(text) for text in shown)
    return Markup("<p>findings</p><ul>{}</ul>").format(items)


def _show_images(pictures: Mapping[str, Any]) -> Markup:
    """A few images in a row: clean, and below it adversarial."""
    cards = [card for card in make_cards(pictures, ()) if len(card.images) > 1][:IMAGES]
    if not cards:
        return Markup("")
    columns = Markup("").join(Markup("<td>{}</td>").format(_show_card(card)) for card in cards)
    return Markup("<table><tbody><tr>{}</tr></tbody></table>").format(columns)


def _show_card(card: Card) -> Markup:
    """The clean and the adversarial image, with what the network sees."""
    shown = Markup(
        '<img src="data:image/png;base64,{}" alt="{}" width="72" height="72"'
        ' style="image-rendering: pixelated"><br>{}<br>'
    )
    images = [shown.format(one.png, one.alt, " ".join(one.lines)) for one in card.images[:2]]
    return Markup("").join([*images, card.badge.text if card.badge else ""])
