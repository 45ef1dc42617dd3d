"""Pictures for the site: the terminal of a reader who types what docs/index.md has, and the report of the policy made there.

    python tools/docsite/pictures.py FOLDER

writes them.  Everything is run anew each time, on a terminal (pty(7)), so a picture is never older than the program."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import console  # noqa: E402

COLUMNS, ROWS = 128, 50
COMMENT = re.compile(r"(<!--.*?-->)", re.DOTALL)


def make(folder: Path) -> list[Path]:
    """Write the pictures into an empty folder; their paths."""
    parts = COMMENT.split((ROOT / "docs" / "index.md").read_text())
    typed = [(command, not part.startswith("<!--")) for part in parts for command in console.commands(part)]
    session = folder / "session"
    session.mkdir()
    report = "callfence report tally.policy --against old.policy -o report.html"
    script = [*(command for command, _ in typed), "git show HEAD:tally.policy > old.policy", report]
    results = console.session(script, session, [], on_a_terminal)
    seen = [f"\x1b[1m$ {command}\x1b[0m\n{output}" for (command, is_seen), (output, _) in zip(typed, results) if is_seen]  # noqa: B905
    terminal = folder / "terminal.svg"
    terminal.write_text(drawn("".join(seen)))
    page_of_report = folder / "report.html"
    shutil.move(session / "work" / "report.html", page_of_report)
    picture = folder / "report.png"
    photograph(page_of_report, picture)
    return [terminal, page_of_report, picture]


def on_a_terminal(command: list[str], work: Path, environment: dict[str, str]) -> str:
    """What a command writes to a terminal of its own."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (ROWS, COLUMNS))
    environment |= {"TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=work, env=environment, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    written = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # EIO: nobody has the terminal any more
            break
        if not data:
            break
        written += data
    os.close(ours)
    process.wait(120)
    return written.decode().replace("\r\n", "\n")


def drawn(text: str) -> str:
    """An SVG picture of a terminal that shows this; it loads nothing."""
    recorder = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True, color_system="truecolor")  # noqa: SIM115
    for line in AnsiDecoder().decode(text):
        recorder.print(line, soft_wrap=False, highlight=False)
    picture = recorder.export_svg(title="callfence", unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


def photograph(page: Path, picture: Path) -> None:
    """Take a picture of the top of a page in a browser."""
    browser = shutil.which("chromium")
    if browser is None:
        raise SystemExit("chromium is missing, which takes the picture of the report (Debian: apt-get install chromium)")
    profile = f"--user-data-dir={picture.parent / 'browser'}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", profile]
    command = [browser, *flags, f"--screenshot={picture}", "--window-size=1100,1000", page.as_uri()]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(picture.parent), "LC_ALL": "C.UTF-8"}
    subprocess.run(command, check=True, timeout=100, env=environment, capture_output=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
