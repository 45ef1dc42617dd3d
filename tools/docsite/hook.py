"""What `mkdocs build` does beside mkdocs.yml: pages outside of docs/, links to files of the repository, and pictures.

Links in the pages are those of the repository.  In the site, a link to a file outside of docs/ leads to a copy of it."""

from __future__ import annotations

import os.path
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import pictures

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""The pages of the site that are not in docs/."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
COMMENT = re.compile(r"<!--(.*?)-->\n?", re.DOTALL)
ONLY_HERE = " site: "
"""How a comment begins whose text is shown in the site alone."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of docs/, the files that pages link to, and the pictures, which are made anew."""
    for name in PAGES:
        files.append(File(name, str(ROOT), config.site_dir, use_directory_urls=False))
    for page in files.documentation_pages():
        for link in LINK.findall(page.content_string):
            path = linked(page.src_uri, link)
            if files.get_file_from_path(in_site(path)) is None and (ROOT / path).is_file():
                files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
    with tempfile.TemporaryDirectory() as folder:
        for picture in pictures.make(Path(folder)):
            files.append(File.generated(config, f"pictures/{picture.name}", content=picture.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page with its links as the site needs them, and without comments."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation", "toc"]  # so that it is wide enough
    text = LINK.sub(lambda match: in_site(linked(page.file.src_uri, match[0])), markdown)
    return COMMENT.sub(lambda match: match[1].removeprefix(ONLY_HERE) if match[1].startswith(ONLY_HERE) else "", text)


def linked(page: str, link: str) -> str:
    """The path in the repository to which a link of a page leads."""
    return os.path.normpath(f"{'' if page in PAGES else 'docs/'}{link}")


def in_site(path: str) -> str:
    """The path in the site of a file of the repository; all pages are in its topmost folder."""
    if path == "README.md":
        return "index.md"
    if path in PAGES:
        return path
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.txt"
