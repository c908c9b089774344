"""For mkdocs: pages of the repository's root among those of docs/, with links that hold in both places."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = {"README.md": "index.md"} | {
    name: name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
}


def on_files(files: Files, config: Any) -> Files:
    """The pages of the root, under the names they have on the site."""
    for name, there in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, there, content=moved(text, from_root=True)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of docs/ to the root lead to the site's page."""
    return markdown if page.file.src_uri in ROOT_PAGES.values() else moved(markdown, from_root=False)


def moved(text: str, *, from_root: bool) -> str:
    """The text with links that hold on the site, where all pages lie in one folder."""
    if from_root:
        text = text.replace("](docs/", "](")
    for name, there in ROOT_PAGES.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}", f"]({there}", text)
    return text
