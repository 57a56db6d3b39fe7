"""The same numbers as Markdown, LaTeX, JSON, HTML and on terminals of several widths."""

from __future__ import annotations

import io
import json
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from abatis.commands.compare.files import write_files
from abatis.commands.compare.finished_runs import FailedRun, JudgedRun
from abatis.commands.compare.ranking import rank_methods
from abatis.commands.compare.tables import make_columns, show, to_latex, to_markdown
from abatis.report.html import SIGNS
from tests.commands.compare.run_folders import margins, record

STRANGE = "a|b_c & 5% <i>"


@pytest.fixture(scope="module")
def compared():
    """Four methods: 'at' with 2 and 3 of 4 points, a strange name with all 4, a FAIL, a failure."""
    right = {
        "at": ([1, 1, 0, 0], [1, 1, 1, 0]),
        STRANGE: ([1, 1, 1, 1],),
        "masked": ([1, 1, 1, 1],),
    }
    runs = []
    for method, seeds in right.items():
        for seed, flags in enumerate(seeds):
            evaluation = record([1] * 4, flags, flags, margins=margins(1.25, 0.5))
            runs.append(
                JudgedRun(
                    method, Path(f"{method}-s{seed}"), Path(), evaluation, {"seed": seed}, 2, 100
                )
            )
    runs[-1].record["verdict"] = "FAIL"
    failed = [FailedRun("broken", 0, Path("broken-s0"), "PluginConflict: [red]two[/red] losses")]
    found = rank_methods(runs, failed, [*right, "broken"], "at")
    found["notes"] = ["broken, seed 0 failed: PluginConflict: [red]two[/red] losses"]
    return found


def table_of(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [
        [
            cell.strip().replace("\\|", "|")
            for cell in line.replace("\\|", "\0").strip("|").split("|")
        ]
        for line in lines
    ]
    cells = [[cell.replace("\0", "|") for cell in line] for line in cells]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def test_markdown(compared):
    rows = {row["method"]: row for row in table_of(to_markdown(compared))}
    assert list(rows) == [STRANGE, "at", "masked", "broken"]
    assert rows["at"] == {
        "rank": "2",
        "method": "at",
        "seeds": "2",
        "clean %": "100.00 ± 0.00",
        "PGD-20 %": "62.50 ± 17.68",
        "AutoAttack %": "-",
        "robust %": "62.50 ± 17.68",
        "verdict": "no masking found",
        "vs at [95 %]": "baseline",
        "logit margin": "1.25 ± 0.00",
        "L2 margin": "0.500 ± 0.000",
        "train s": "2.0 ± 0.0",
        "MB": "100 ± 0",
    }
    assert (rows["masked"]["rank"], rows["masked"]["verdict"]) == ("-", "FAIL")
    assert (rows["broken"]["rank"], rows["broken"]["verdict"], rows["broken"]["seeds"]) == (
        "-",
        "failed",
        "0 of 1",
    )
    found = next(row for row in compared["rows"] if row["method"] == STRANGE)["difference"]
    low, high = found["interval"]
    star = " *" if found["excludes_zero"] else ""
    assert rows[STRANGE]["vs at [95 %]"] == f"+37.50 [{low:+.2f}, {high:+.2f}]{star}"
    assert "- broken, seed 0 failed" in to_markdown(compared)
    assert "10,000 resamples" in to_markdown(compared)


def test_a_difference_is_marked_only_where_its_interval_excludes_nothing(compared):
    cell = next(column for column in make_columns(compared) if column.heading.startswith("vs")).text
    row = {
        "method": "b",
        "difference": {"points": 1.234, "interval": [0.1, 2], "excludes_zero": True},
    }
    assert cell(row) == "+1.23 [+0.10, +2.00] *"
    row["difference"] |= {"interval": [-0.1, 2], "excludes_zero": False}
    assert cell(row) == "+1.23 [-0.10, +2.00]"


def test_latex_is_escaped_and_complete(compared):
    text = to_latex(compared)
    body = text[text.index(r"\begin{tabular}{rlrrrrrlrrrrr}") :]
    assert all(
        rule in body for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}")
    )
    rows = [line for line in body.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 5
    assert all(line.replace(r"\&", "").count("&") == 12 for line in rows)
    assert r"a|b\_c \& 5\% \textless{}i\textgreater{}" in body
    assert r"62.50 $\pm$ 17.68" in body
    assert "%" not in body.replace(r"\%", "")
    assert all(line.startswith("%") for line in text[: text.index(r"\begin")].splitlines())


def shown(compared, width, **options):
    stream = io.StringIO()
    show(compared, Console(file=stream, width=width, highlight=False, **options))
    return stream.getvalue()


def test_a_wide_terminal_shows_everything(compared):
    text = shown(compared, 250)
    assert all(
        column.heading in text
        for column in make_columns(compared)
        if column.heading != "AutoAttack %"
    )
    assert "AutoAttack %" not in text  # nobody measured it
    assert "Not shown" not in text
    assert "PluginConflict: [red]two[/red] losses" in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_narrow_terminal_shows_what_matters_most(compared, width):
    text = shown(compared, width, force_terminal=True, color_system=None)
    assert max(map(len, text.splitlines())) <= width
    assert all(word in text for word in ("rank", "method", "verdict", "FAIL", "failed"))
    assert "Not shown, because the terminal is too narrow" in " ".join(text.split())
    if width >= 80:
        assert "+37.5 [" in text
        assert "62.5 ± 17.7" in text


def test_piped_text_is_plain(compared):
    assert "\x1b" not in shown(compared, 80)
    assert "\x1b" in shown(compared, 80, force_terminal=True, color_system="standard")


class Cells(HTMLParser):
    """Table cells of a page, and its tags."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_every_file_has_the_numbers_of_the_json(compared, tmp_path):
    paths = write_files(compared, tmp_path / "out")
    assert [path.name for path in paths] == [
        "compare.json",
        "compare.md",
        "compare.tex",
        "compare.html",
    ]
    read = json.loads(paths[0].read_text())
    assert read == compared
    assert (to_markdown(read), to_latex(read)) == (paths[1].read_text(), paths[2].read_text())
    page = Cells(paths[3].read_text())
    signs = tuple(f"{sign} " for sign in SIGNS.values())  # of the badges
    cells = [[cell[2:] if cell.startswith(signs) else cell for cell in row] for row in page.rows]
    tables = [
        dict(zip(cells[start], row, strict=True))
        for start in (0, 5)
        for row in cells[start + 1 : start + 5]
    ]
    shown = [first | second for first, second in zip(tables[:4], tables[4:], strict=True)]
    assert shown == [
        {column.heading: column.text(row) for column in make_columns(compared)}
        for row in compared["rows"]
    ]
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.tags.count("svg") == 2


def test_the_page_begins_with_the_first_method_and_its_verdict(compared, tmp_path):
    """Four images do not tell 4 right from 2.5: nothing is called the best."""
    text = write_files(compared, tmp_path)[3].read_text()
    lead = unescape(text[: text.index("<section")])
    within = f"tied: {STRANGE}, at (differences within the 95 % interval over test images)"
    assert all(
        word in lead
        for word in ("100.00\u00a0%", "no masking found", within, "4 test images", "Linf:0.1")
    )
    assert "best" not in lead.replace(STRANGE, "")


def test_a_page_without_any_ranked_method(tmp_path):
    found = {
        **rank_methods([], [FailedRun("at", 0, Path("at-s0"), "why")], ["at"], "at"),
        "notes": ["at, seed 0 failed: why"],
    }
    assert "at, seed 0 failed: why" in write_files(found, tmp_path)[3].read_text()
