"""The report of a run: what it says, that it loads nothing, and that no record breaks it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from abatis.errors import DataError
from abatis.report.html import (
    Badge,
    Code,
    Figure,
    Folded,
    Items,
    Lead,
    NameAndDetail,
    Section,
    Table,
    page,
)
from abatis.report.run_report import write_report
from abatis.report.svg import lines
from tests.report import record, run_folder
from tests.report.reading import EVIL, Read, report, row, seen


@pytest.fixture
def folder(tmp_path) -> Path:
    return run_folder(tmp_path / "a-run", epochs=4)


def whole_page(word: str) -> str:
    """Every kind of block, with this word wherever a word may stand."""
    figure = Figure(lines({word: [(0, 1)]}, x_label=word, y_label=word, title=word), word)
    table = Table(
        (word, word),
        [(word, NameAndDetail(word, word)), (word, Badge(word))],
        word,
        frozenset({1}),
        header=1,
    )
    lead = Lead(word, word, [word], word, [word], [(word, word)], word)
    return page(
        word,
        lead,
        [Section(word, [word, table, figure, Code(word), Items([word]), Folded(word, [table])])]
        * 3,
    )


def test_nothing_on_the_page_can_run_or_load(folder):
    for text in (report(folder), whole_page(EVIL)):
        read = Read(text)
        tags = {tag for tag, _ in read.tags}
        assert not tags & {
            "script",
            "img",
            "iframe",
            "object",
            "embed",
            "form",
            "base",
            "image",
            "use",
            "foreignobject",
        }
        for tag, attributes in read.tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (
                tag
            )
            links = [
                attributes[name] or ""
                for name in ("href", "src", "xlink:href")
                if name in attributes
            ]
            assert all(link.startswith("#part-") or link == "data:," for link in links)
        assert "http:" not in text.replace("http-equiv", "")
        assert "https:" not in text


def test_the_policy_names_the_one_style(folder):
    text = report(folder)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    (policy,) = (
        facts["content"]
        for tag, facts in Read(text).tags
        if facts.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style


def test_foreign_text_stays_text():
    text = whole_page(EVIL)
    assert "<script" not in text
    assert "<img" not in text
    assert "49" not in seen(text)
    assert seen(text).count(EVIL) > 40


def test_equal_arguments_give_equal_bytes():
    assert whole_page("word") == whole_page("word")


def test_the_page_can_be_read_by_ear(folder):
    read = Read(report(folder))
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels == [1, *[2] * 10]
    assert all(facts["scope"] in ("col", "row") for tag, facts in read.tags if tag == "th")
    order = [tag for tag, _ in read.tags]
    plots = [place for place, tag in enumerate(order) if tag == "svg"]
    assert len(plots) == 5
    assert all(order[place + 1 : place + 3] == ["title", "desc"] for place in plots)
    boxes = [facts for tag, facts in read.tags if facts.get("class") == "scroll"]
    assert all(facts["tabindex"] == "0" and facts["aria-label"] for facts in boxes)
    assert next(facts for tag, facts in read.tags if tag == "html")["lang"] == "en"


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb as WCAG 2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_suffices_in_both_themes():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)
    palettes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        for block in whole_page("x").split(":root")[1:3]
    ]
    assert [len(palette) for palette in palettes] == [18, 18]
    for palette in palettes:
        pairs = [
            (text, ground) for text in ("ink", "quiet", "link") for ground in ("paper", "wash")
        ]
        pairs += [(tone, f"{tone}-wash") for tone in ("pass", "warn", "fail")]
        assert {
            pair: contrast(*(palette[name] for name in pair))
            for pair in pairs
            if contrast(*(palette[name] for name in pair)) < 4.5
        } == {}
        assert [
            name
            for name in palette
            if re.fullmatch(r"s\d", name) and contrast(palette[name], palette["paper"]) < 3
        ] == []


def test_a_badge_has_a_sign_and_a_grey_one_makes_its_row_grey():
    tones = {
        word: (Badge(word).tone, Badge(word).sign)
        for word in ("PASS", "warn", "fail", "not applicable")
    }
    assert tones == {
        "PASS": ("pass", "✓"),
        "warn": ("warn", "!"),
        "fail": ("fail", "✕"),
        "not applicable": ("quiet", "·"),
    }
    text = page(
        "t", None, [Section("s", [Table(("a", "b"), [("x", Badge("note")), ("y", Badge("pass"))])])]
    )
    assert text.count('<tr class="quiet">') == 1


def test_a_section_without_blocks_is_left_out():
    assert Read(page("t", None, [Section("one", ["text"]), Section("two", [])])).under("h2") == [
        "one"
    ]


def test_the_number_comes_first_and_its_verdict_beside_it(folder):
    text = seen(report(folder))
    start = text[: text.index("Findings")]
    assert (
        "a-run robust accuracy 45.40 % 95 % confidence interval (Wilson): 41.09 % to 49.78 % "
        "227 of 500 test images" in start
    )
    assert "threat Linf:8/255; data cifar10 gradient masking ✓ PASS" in start
    assert "11 tests found no sign of masking no adaptive attack supplied" in start
    assert "clean accuracy 84.00 % PGD-20 accuracy 50.00 %" in start


def test_too_little_to_judge_is_said_first_and_is_not_green(folder):
    shortage = "only 3 of 24 points are right without an attack; 50 are needed for a verdict"
    edited = record() | {"verdict": "UNDECIDED", "findings": [f"too little to judge: {shortage}"]}
    edited["masking"]["shortage"] = shortage
    (folder / "eval.json").write_text(json.dumps(edited))
    text = report(folder)
    lead = text[: text.index("<section")]
    assert f"gradient masking · too little to judge {shortage}" in seen(text)
    assert '<div class="verdict quiet">' in lead
    assert "PASS" not in lead
    assert "no sign of masking" not in lead
    assert "UNDECIDED" not in text


def test_a_test_that_failed_is_named(folder):
    text = report(run_folder(folder, failed="D10", epochs=4))
    assert "✕ FAIL 1 of 11 tests warned or failed: D10 white-box beats Square (fail)" in seen(text)
    assert "<details open>" in text
    assert "D10 white-box beats Square: beyond its threshold" in Read(text).under("li")


def test_sections_stand_in_their_order(folder):
    assert Read(report(folder)).under("h2") == [
        "Findings",
        "Attacks",
        "Accuracy by radius",
        "Masking diagnostics",
        "Margins",
        "Classes",
        "Training",
        "Plan",
        "Data, weights and versions",
        "How to repeat it",
    ]


def test_tables_hold_the_numbers_of_the_record(folder):
    text = report(folder)
    assert row(text, "none (clean images)") == ["-", "-", "-", "84.00 %", "80 of 500"]
    assert row(text, "APGD-T") == ["targeted DLR", "100", "1", "46.20 %", "13 of 244"]
    assert row(text, "Square") == ["margin", "5000 queries", "1", "46.00 %", "1 of 231"]
    assert row(text, "AutoAttack") == [
        "apgd-ce, apgd-t, fab-t, square",
        "-",
        "-",
        "46.00 %",
        "190 of 420",
    ]
    assert row(text, "all attacks and diagnostics") == ["-", "-", "-", "45.40 %", "193 of 420"]
    square = "white-box beats Square Square broke 1 point beyond the white-box attacks"
    assert row(text, "D10") == [
        "✓ pass",
        square,
        "0.48 %",
        "1 of 210",
        "0.00 % to 2.48 %",
        "> 1 %",
        "> 2 %",
    ]
    assert row(text, "D5")[2:5] == ["1.004", "-", "-"]
    assert row(text, "logit") == [
        "logits",
        "2.247",
        "-3.36",
        "-1.05",
        "0.63",
        "2.1",
        "3.78",
        "6.09",
    ]
    assert "Images without a finite margin: input L2 2." in seen(text)
    assert row(text, "regularizer") == ["smooth", "0.1.0", "weight 0.05, decay_epochs 60, 90"]
    assert row(text, "sha256 of the weights") == ["3f7a" * 16]
    assert row(text, "device") == ["NVIDIA A100"]


def test_robust_overfitting_is_told(tmp_path):
    rows = [(1, 0.5, 0.4), (2, 0.75, 0.5), (3, 0.9, 0.45)]
    folder = run_folder(tmp_path / "run")
    (folder / "eval.json").write_text(json.dumps({"selected_at_epoch": 2}))
    found = [
        {"epoch": epoch, "loss": 1.0, "train_robust_acc": train, "val_robust_acc": val}
        for epoch, train, val in rows
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in found) + '{"epoch": 4, "lo'
    )
    text = seen(report(folder))
    assert "+25.0 points in epoch 2, the selected one (75.00 % minus 50.00 %); +45.0" in text
    assert "+45.0 points in epoch 3 (90.00 % minus 45.00 %)." in text


def test_how_to_repeat_it(tmp_path, folder):
    assert Read(report(folder)).under("code") == [
        "defense-run --config run.toml",
        "defense-run --plugin boosted --plugin smooth --data cifar10",
    ]
    (folder / "run.toml").write_text('backbone = "python:Mine"\n')
    assert Read(report(folder)).under("code") == []
    judged = tmp_path / "judged"
    judged.mkdir()
    (judged / "eval.json").write_text(
        json.dumps(record() | {"command": ["/bin/defense", "eval", "w x.safetensors"]})
    )
    assert Read(report(judged)).under("code") == ["defense eval 'w x.safetensors'"]


def test_many_classes_show_the_weakest(tmp_path):
    counts = {
        "n": [50] * 100,
        "clean": [50] * 100,
        "robust": [number % 50 for number in range(100)],
    }
    (tmp_path / "eval.json").write_text(json.dumps(record() | {"per_class": counts}))
    text = report(tmp_path)
    assert "the 20 of 100 classes with the lowest robust accuracy" in seen(text)
    assert text.count('class="bar s1"') == 21  # and one in the legend
    assert ">59</text>" in text
    assert ">49</text>" not in text


def test_an_old_record_says_what_was_not_measured(tmp_path):
    keep = (
        "n",
        "clean_acc",
        "pgd20_acc",
        "autoattack_acc",
        "attacks",
        "findings",
        "per_point",
        "threat",
        "data",
    )
    (tmp_path / "eval.json").write_text(
        json.dumps({key: value for key, value in record().items() if key in keep})
    )
    text = report(tmp_path)
    assert (
        "AutoAttack accuracy 46.00 % 95 % confidence interval (Wilson): not measured "
        "500 test images"
    ) in seen(text)
    assert "not measured no masking diagnostics in this record no adaptive attack supplied" in seen(
        text
    )
    assert "Not measured accuracy by radius, masking diagnostics, margins, classes." in seen(text)
    assert row(text, "PGD-20") == ["cross-entropy", "20", "1", "50.00 %", "170 of 420"]


def test_a_run_that_was_never_judged_has_a_report(folder):
    (folder / "eval.json").unlink()
    text = report(folder)
    assert "robust accuracy not measured" in seen(text)
    assert "Training" in Read(text).under("h2")


def test_nothing_to_report_on(tmp_path):
    with pytest.raises(DataError, match="nothing to report on"):
        write_report(tmp_path)
    (tmp_path / "eval.json").write_text('{"n": ')
    with pytest.raises(DataError, match=r"cannot read eval\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
