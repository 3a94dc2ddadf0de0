"""A hook of mkdocs (`make docs`): pages that lie at the top of the checkout are pages of the site too."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them, with their links as seen from docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=from_docs((ROOT / name).read_text(encoding="utf-8"))))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links from a page of docs/ to those pages."""
    for name, page in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown


def from_docs(markdown: str) -> str:
    """A page of the top folder with its links made relative to docs/."""
    markdown = re.sub(r"\]\(docs/", "](", markdown)
    return re.sub(r"\]\((\w+\.md)", lambda link: f"]({PAGES.get(link[1], link[1])}", markdown)
