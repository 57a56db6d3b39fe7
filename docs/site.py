"""Hooks for mkdocs: the navigation, pages from outside ``docs/``, and pages made from the code.

The front page is README.md; records, changelog and contribution guide are added to the pages of
``docs/``. Links are written for the repository and rewritten for the site. A link to a file that is
not a page becomes plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

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
                *_list_files("benchmarks/results/*.md", "."),
            ]
        },
        {"Project": [*ROOTED, *_list_files("docs/decisions/*.md", "docs")]},
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
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links, and put the registry entry below the title of a method's page."""
    here = page.file.src_uri
    source = (
        "README.md" if here == "index.md" else here if (ROOT / here).is_file() else f"docs/{here}"
    )
    parts = FENCE.split(markdown)
    parts[::2] = [
        LINK.sub(lambda found: _rewrite_link(found, source, here, files), part)
        for part in parts[::2]
    ]
    markdown = "".join(parts)
    row = {f"methods/{row['name']}.md": row for row in list_methods()}.get(here)
    return markdown.replace("\n", f"\n\n{render_card(row)}\n", 1) if row else markdown


def _list_files(pattern: str, folder: str) -> list[str]:
    return [path.relative_to(ROOT / folder).as_posix() for path in sorted(ROOT.glob(pattern))]


def _rewrite_link(found: re.Match[str], source: str, here: str, files: Files) -> str:
    """Rewrite one link of the repository for the site."""
    text, target, anchor = found[1], found[2], found[3] or ""
    if not target or "://" in target:
        return found[0]
    place = normpath(join(dirname(source), target))
    page = "index.md" if place == "README.md" else place.removeprefix("docs/")
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
