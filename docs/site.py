"""Hooks for mkdocs: the navigation, pages from outside ``docs/``, and pages made from the code.

The front page is README.md; records, changelog and contribution guide are added to the pages of
``docs/``. Links are written for the repository and rewritten for the site; files that pages name
are shown on the site, too, and a link to anything else becomes plain text. Formulas, in fences with
the word ``math``, become MathML, which browsers show without a script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import abatis
from abatis.commands.registry.actions import describe_method
from abatis.commands.registry.entries import list_methods, origin_of
from abatis.report.verdicts import format_verdict

ROOT = Path(__file__).resolve().parents[1]
ROOTED = ("CONTRIBUTING.md", "CHANGELOG.md")  # beside README.md, which is the front page
GUIDE = [
    "index",
    "quickstart",
    "data",
    "bring-your-own",
    "robustbench",
    "concepts",
    "evaluation",
    "reliability",
    "evidence",
    "speed",
    "large-models",
    "scaling",
    "sweeps",
    "publishing",
    "faq",
]
PLUGINS = [
    "writing-a-plugin",
    "from-paper-to-plugin",
    "testing-a-plugin",
    "hooks",
    "adding-a-command",
]
REFERENCE = ["reference/api.md", "reference/hooks.md", "reference/testing.md", "architecture.md"]
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"```math\n(.*?)```", re.DOTALL)
IMAGE = re.compile(r"(!\[[^\]]*\]\()docs/")
NAMED = re.compile(r"`((?:tests|benchmarks|core|examples)/[\w./-]+\.\w+)`")  # files in a text
SOURCES = "source"  # folder of the pages that show files
LANGUAGES = {".py": "python", ".toml": "toml", ".cff": "yaml"}
TITLES = {
    "autoattack-speed-cifar10": "Cost of AutoAttack: CIFAR-10 images",
    "autoattack-speed-digits": "Cost of AutoAttack: digits",
    "broken-defences": "Masking verdicts on broken defences",
    "calibration": "How often each masking test speaks",
    "compare-digits": "A comparison of methods on digits",
    "forecast": "Forecast of memory, and memory taken",
    "growth": "How cost grows with images and batch",
    "loading": "Cost of loading images",
    "methods-cifar10-small": "All methods on 2,000 CIFAR-10 images",
    "methods-digits": "All methods on digits, three seeds",
    "methods-digits-sweep": "All methods on digits, options varied",
    "robustbench-check": "An exported run in RobustBench",
    "scaling": "What several processes exchange",
    "startup": "Start-up time of the commands",
    "step-resnet8": "Cost of a training step: ResNet-8",
    "step-resnet18": "Cost of a training step: ResNet-18",
}
"""Of records, whose own headings are those of the scripts that wrote them."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the navigation: known pages in their order, then new ones."""
    docs = Path(config.docs_dir)
    pages = {path.stem: path.name for path in sorted(docs.glob("*.md"))} | {"index": "index.md"}
    apart = {*PLUGINS, "architecture"}
    guide = [*GUIDE, *(name for name in pages if name not in GUIDE and name not in apart)]
    config.nav = [
        {"Guide": [pages[name] for name in guide if name in pages]},
        {"Plugins": [pages[name] for name in PLUGINS if name in pages]},
        {"Methods": ["registry.md", *_list_files("docs/methods/*.md", "docs")]},
        {"Reference": REFERENCE},
        {
            "Records": [
                *_list_files("benchmarks/records/*.md", "."),
                *map(_name_record, _list_files("benchmarks/results/*.md", ".")),
            ]
        },
        {"Project": [*ROOTED, *_list_files("docs/decisions/*.md", "docs")]},
        {"Files": [{name: _place_source(name)} for name in find_sources()]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside ``docs/``, and the generated ones."""
    made = {
        "index.md": (ROOT / "README.md").read_text(encoding="utf-8"),
        "registry.md": render_registry(),
        "reference/api.md": render_api(),
    }
    records = [
        name
        for kind in ("records/*.md", "results/*.md", "results/*.json")
        for name in _list_files(f"benchmarks/{kind}", ".")
    ]
    for name in (*ROOTED, *records):
        made[name] = (ROOT / name).read_text(encoding="utf-8")
    for name in find_sources():
        made[_place_source(name)] = render_source(name)
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links, and put the registry entry below the title of a method's page."""
    here = page.file.src_uri
    source = (
        "README.md" if here == "index.md" else here if (ROOT / here).is_file() else f"docs/{here}"
    )
    if here.startswith(SOURCES):
        return markdown
    parts = FENCE.split(markdown)
    parts[::2] = [
        LINK.sub(lambda found: _rewrite_link(found, source, here, files), part)
        for part in parts[::2]
    ]
    parts[1::2] = [_rewrite_code(part, here, files) for part in parts[1::2]]
    markdown = IMAGE.sub(r"\1", "".join(parts)) if here == "index.md" else "".join(parts)
    title = TITLES.get(Path(here).stem) if here.startswith("benchmarks/results/") else None
    if title is not None:
        markdown = f"# {title}\n" + markdown.partition("\n")[2]
    row = {f"methods/{row['name']}.md": row for row in list_methods()}.get(here)
    return markdown.replace("\n", f"\n\n{render_card(row)}\n", 1) if row else markdown


def _list_files(pattern: str, folder: str) -> list[str]:
    return [path.relative_to(ROOT / folder).as_posix() for path in sorted(ROOT.glob(pattern))]


def _name_record(place: str) -> Any:
    """A record in the navigation, with a title where it has one."""
    title = TITLES.get(Path(place).stem)
    return place if title is None else {title: place}


def find_sources() -> list[str]:
    """The files, as paths from the root, that pages name or link to and that are no pages."""
    found: set[str] = set()
    for page in [*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", *ROOTED))]:
        text = page.read_text(encoding="utf-8")
        found |= {*NAMED.findall(text), *_list_linked(page, text)}
    kept = [name for name in found if (ROOT / name).is_file() and _is_source(name)]
    return sorted(kept)


def _list_linked(page: Path, text: str) -> Iterator[str]:
    for _, target, _ in LINK.findall(text):
        path = (page.parent / target).resolve()
        if target and "://" not in target and path.is_relative_to(ROOT):
            yield path.relative_to(ROOT).as_posix()


def _is_source(name: str) -> bool:
    is_page = name.startswith("docs/") or name in ("README.md", *ROOTED)
    return not is_page and not name.startswith(("benchmarks/results/", "benchmarks/records/"))


def _place_source(name: str) -> str:
    return f"{SOURCES}/{name}.md"


def render_source(name: str) -> str:
    """The page that shows a file of the repository."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        return LINK.sub(r"\1", text)
    language = LANGUAGES.get(Path(name).suffix, "text")
    return f"# {name}\n\n````{language}\n{text.rstrip()}\n````\n"


def _rewrite_code(part: str, here: str, files: Files) -> str:
    """A formula as MathML, and the name of a file as a link to it; other code as it is."""
    formula = FORMULA.fullmatch(part)
    if formula is not None:
        return f'<div class="formula">{render_formula(formula[1])}</div>'
    named = NAMED.fullmatch(part)
    if named is None or files.get_file_from_path(_place_source(named[1])) is None:
        return part
    return f"[{part}]({relpath(_place_source(named[1]), dirname(here) or '.')})"


def render_formula(text: str) -> str:
    """LaTeX as MathML; the rows of ``aligned`` become rows of a table."""
    rows = re.fullmatch(r"\s*\\begin\{aligned\}(.*)\\end\{aligned\}\s*", text, re.DOTALL)
    if rows is None:
        return _join_lines(convert(text.strip(), display="block"))
    cells = [[_convert_part(part) for part in row.split("&")] for row in rows[1].split("\\\\")]
    drawn = "".join(f"<mtr>{''.join(f'<mtd>{part}</mtd>' for part in row)}</mtr>" for row in cells)
    return f'<math display="block"><mtable displaystyle="true">{drawn}</mtable></math>'


def _convert_part(text: str) -> str:
    """The inside of a formula."""
    math = _join_lines(convert(text.strip(), display="block")) if text.strip() else ""
    return re.sub(r"^<math[^>]*>|</math>$", "", math)


def _join_lines(text: str) -> str:
    return " ".join(text.split("\n"))


def _rewrite_link(found: re.Match[str], source: str, here: str, files: Files) -> str:
    """Rewrite one link of the repository for the site."""
    text, target, anchor = found[1], found[2], found[3] or ""
    if not target or "://" in target:
        return found[0]
    place = normpath(join(dirname(source), target))
    page = "index.md" if place == "README.md" else place.removeprefix("docs/")
    if files.get_file_from_path(page) is None:
        page = _place_source(place)
    if files.get_file_from_path(page) is None:
        return text
    return f"[{text}]({relpath(page, dirname(here) or '.')}{anchor})"


def render_card(row: dict[str, Any]) -> str:
    """Render the card of one method."""
    hidden = ("name", "title", "installed")
    shown = [(key, value) for key, value in describe_method(row) if key not in hidden]
    lines = "".join(
        f"<tr><th>{escape(key)}</th><td>{_escape_lines(value)}</td></tr>" for key, value in shown
    )
    return f'<div class="card"><table><tbody>{lines}</tbody></table></div>\n'


def _escape_lines(value: str) -> str:
    return escape(value).replace("\n", "<br>")


def render_registry() -> str:
    """Render all methods as a table, then the cards of those without a page."""
    rows = [row for row in list_methods() if row["registered"]]
    lines = "".join(_render_row(row) for row in rows)
    heads = "".join(
        f"<th>{head}</th>"
        for head in ("plugin", "method", "origin", "provides", "masking verdict", "paper")
    )
    foreign = "".join(
        f"\n## {row['title']}\n\n{render_card(row)}" for row in rows if not _has_page(row)
    )
    return (
        "# Registry\n\nThis page is generated from `registry.toml`. In a terminal, use `defense "
        "registry list`, or `defense registry show NAME` for one card. The masking verdict is the "
        "worst in the committed runs that the evidence of an entry names, with their ladder; most "
        "have none. Community "
        "plugins are maintained by others and have not been reviewed by us.\n\n"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>\n{foreign}"
    )


def _has_page(row: dict[str, Any]) -> bool:
    return (ROOT / "docs" / "methods" / f"{row['name']}.md").is_file()


def _render_row(row: dict[str, Any]) -> str:
    name = (
        f'<a href="methods/{row["name"]}.html">{row["name"]}</a>'
        if _has_page(row)
        else escape(row["name"])
    )
    cells = (
        escape(row["title"]),
        origin_of(row),
        ", ".join(row["hooks"]),
        escape(_describe_verdicts(row["evidence"])),
        escape(row["paper"]),
    )
    return f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _describe_verdicts(evidence: Sequence[Mapping[str, Any]] | str) -> str:
    """The masking verdicts of an entry's evidence, with the ladders they come from."""
    shown = () if isinstance(evidence, str) else evidence
    verdicts = {
        f"{format_verdict(one['masking_verdict'])} ({one['ladder']} ladder)": None
        for one in shown
        if one["masking_verdict"]
    }
    return ", ".join(verdicts) or "not measured"


def render_api() -> str:
    """Render the page of everything in ``abatis.__all__``."""
    names = [name for name in abatis.__all__ if name not in ("DEFENSE_API", "hookimpl")]
    return "# Python API\n\n" + "\n".join(f"::: abatis.{name}\n" for name in names)
