"""The documentation as a site: mkdocs.yml, which `make site` builds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from needed import require

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
KINDS = ["Tutorials", "How-to guides", "Reference", "Explanation"]


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the site in a folder, with HTTP going nowhere.  With --quiet, --strict would not see warnings."""
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder, *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("git", "gcc", "libc6-dev", "chromium")
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_are_shown_as_a_forge_shows_them(site: Path) -> None:
    """mkdocs reads lists and code in lists in another way than CommonMark."""
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / name for name in ("ARCHITECTURE.md", "SECURITY.md"))]
    for page in pages:
        text = re.sub(r"<!--.*?-->\n?", "", page.read_text(), flags=re.DOTALL)
        expected = MarkdownIt("commonmark").enable("table").render(text)
        whole = (site / page.name).with_suffix(".html").read_text()
        article = whole.partition("<article")[2].partition("</article>")[0]
        for tag in ("li", "pre", "table", "tr", "h2", "h3"):
            numbers = [len(re.findall(rf"<{tag}[ >]", shown)) for shown in (article, expected)]
            added = (page.name == "index.md") * (tag == "h2")  # `<!-- site: ... -->`
            assert numbers[0] == numbers[1] + added, (page.name, tag)
        assert "<!--" not in article and "](" not in re.sub(r"<(code|pre).*?</\1>", "", article, flags=re.DOTALL)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|link|img|iframe|object)\b[^>]*?(?:src|href|data)=\"?((?:https?:)?//[^\" >]+)")
    for page in site.rglob("*.html"):
        assert loads.findall(page.read_text()) == [], page
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text(), style
    assert re.findall(r"url\((?!#)", (site / "pictures" / "terminal.svg").read_text()) == []


def test_the_pictures_show_what_happened(site: Path) -> None:
    pictures = site / "pictures"
    words = (pictures / "terminal.svg").read_text().replace("&#160;", " ")
    assert "enforce: denied socket(" in words and "wider: NEW allows every call" in words and "notes.txt" in words
    assert "cat > tally.c" not in words  # from a comment of the page
    assert (pictures / "report.png").stat().st_size > 10_000
    assert "risks newly allowed" in (pictures / "report.html").read_text()
    assert 'src="pictures/terminal.svg"' in (site / "index.html").read_text()


def test_each_page_is_of_one_kind() -> None:
    text = re.sub(r"!!python\S+ \{.*\}", "null", (ROOT / "mkdocs.yml").read_text())
    home, *kinds = yaml.safe_load(text)["nav"]
    assert home == {"callfence": "index.md"}
    assert [name for kind in kinds for name in kind] == KINDS
    pages = re.findall(r"(?m)^ +- (\S+\.md)$", text)
    assert len(pages) == len({*pages})
    assert {*pages} >= {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}


def test_links_that_lead_nowhere_and_pages_that_nothing_names_fail(tmp_path: Path) -> None:
    require("git", "gcc", "libc6-dev", "chromium")
    docs = tmp_path / "docs"
    docs.mkdir()
    for page in (ROOT / "docs").iterdir():
        (docs / page.name).write_text(page.read_text())
    (docs / "limits.md").write_text("# Limits\n\n[x](nothing.md) [x](hosts.md#nothing) [x](../nothing.py)\n")
    (docs / "forgotten.md").write_text("# Forgotten\n")
    settings = (ROOT / "mkdocs.yml").read_text().replace("docs_dir: docs", f"docs_dir: {docs}")
    (tmp_path / "mkdocs.yml").write_text(settings.replace("tools/docsite/hook.py", str(ROOT / "tools/docsite/hook.py")))
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode == 1
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING") or "forgotten.md" in line]
    for words in ("forgotten.md", "'nothing.md'", "'#nothing'", "source/nothing.py.txt"):
        assert any(words in line for line in warnings), (words, done.stderr)
