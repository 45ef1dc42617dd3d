"""The dialogue of `callfence review` on a terminal: asks for a decision on each change of a policy."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from callfence.policygen.language.document import Document, PolicyError, parse
from callfence.policygen.lint.catalogue import combinations
from callfence.policygen.lint.findings import WHY, Finding
from callfence.policygen.model import Entry
from callfence.policygen.review.changes import EntryChange, PolicyChange, with_differences
from callfence.policygen.review.decisions import Answer, Decision, reasons_needed, takes_reason
from callfence.policygen.values import replace
from callfence.shared.inputs import parse_entries
from callfence.shared.text import on_one_line
from callfence.tracer.abi import name_of

QUESTION: Final = "[a]ccept [r]eject [e]dit [s]kip [b]ack [all] [q]uit [?]: "
HELP: Final = """\
  a  accept the change: it stays in the policy
  r  reject the change: the policy gets its former line back.  The next run that makes these calls adds them again,
     unless the policy has the line `NAME: deny`
  e  edit the new line, in $VISUAL or $EDITOR, or here; what was allowed before stays allowed
  s  skip the change: it stays in the policy, undecided
  b  go back to the change before
  all (in full)  accept this change and all that follow; the riskiest come first
  q  quit: write the decisions; this change and all that follow stay undecided.  ^D does the same
  ^C quit and leave the file unchanged"""
WORDS: Final = ("accept", "reject", "edit", "skip", "back", "quit", "help")


class Asker:
    """The dialogue about the changes of one policy."""

    def __init__(
        self,
        old: Document,
        new: Document,
        changes: Sequence[PolicyChange],
        describe: Callable[[PolicyChange], Iterable[str]],
        findings: Iterable[Finding],
    ) -> None:
        """`findings` are those of the new policy.  `describe` yields the lines that describe a change."""
        self._old = old
        self._new = new
        self._changes = changes
        self._describe = describe
        self._findings = findings
        self._settled: set[str] = set()
        """The combinations that an earlier reason names."""

    def ask(self) -> dict[PolicyChange, Decision]:
        """Ask about each change; return the decisions made until the last change, q or ^D.  Raises KeyboardInterrupt for ^C."""
        decisions: dict[PolicyChange, Decision] = {}
        index = 0
        try:
            while index < len(self._changes):
                decision, step = self._decide(index, self._changes[index])
                if decision is not None:
                    decisions[self._changes[index]] = decision
                if step == "all":
                    return decisions | dict.fromkeys(self._changes[index + 1 :], Decision(Answer.ACCEPT))
                index = max(0, index - 1) if step == "back" else index + 1
        except EOFError:
            print()
        return decisions

    def _decide(self, index: int, change: PolicyChange) -> tuple[Decision | None, Literal["on", "back", "all"]]:
        """Return the decision on a change, if any, and the change to go to.  EOFError ends the dialogue."""
        shown = change
        self._show(index, shown)
        while True:
            word = read_line(QUESTION).strip().lower()
            instead = shown.after if isinstance(shown, EntryChange) and shown is not change else None
            if word == "all":
                return Decision(Answer.ACCEPT, instead), "all"
            match next((whole for whole in WORDS if word and whole.startswith(word)), ""):
                case "accept":
                    return Decision(Answer.ACCEPT, instead, self._why(shown)), "on"
                case "reject":
                    return Decision(Answer.REJECT), "on"
                case "skip":
                    return Decision(Answer.SKIP), "on"
                case "back":
                    return None, "back"
                case "quit":
                    raise EOFError
                case "edit" if isinstance(shown, EntryChange) and shown.after is not None:
                    edited = self._edit(shown, shown.after)
                    if edited is not None:
                        shown = edited
                        self._show(index, shown)
                case "edit":
                    print("  this change has no line to edit: accept or reject it, or edit the policy's file later")
                case _:
                    print(HELP)

    def _show(self, index: int, change: PolicyChange) -> None:
        print(f"\n({index + 1} of {len(self._changes)})")
        for line in self._describe(change):
            print(line)

    def _why(self, change: PolicyChange) -> str:
        """Ask for the reason to accept a change that lint would warn of, and return it; '' if none is given or needed."""
        needed = {*reasons_needed(self._new, self._findings, change)} - self._settled
        if not needed or not takes_reason(self._new, change):
            return ""
        while True:
            reason = read_line(f"reason for accepting it (written as a `{WHY}` comment; empty for none): ").strip()
            try:
                parse(f"{WHY} {reason}")
            except PolicyError as error:
                print(f"  {error.message}")
            else:
                if reason:
                    self._settled |= needed & {row.id for row in combinations()}
                return reason

    def _edit(self, change: EntryChange, entry: Entry) -> EntryChange | None:
        """Return the change with an edited entry; None if it is unchanged."""
        text = on_one_line(change.arch, change.number, entry)
        while True:
            text = _edited(text)
            if not text.strip():
                return None
            try:
                return with_differences(
                    self._old.policy, replace(change, after=_parsed(change, entry, text)), self._new.policy.table
                )
            except PolicyError as error:
                print(error)
            if _editor() and read_line("Enter edits the line again, b keeps it unchanged: ").strip():
                return None


def _parsed(change: EntryChange, entry: Entry, text: str) -> Entry:
    """Return the entry that an edited text has for the call of a change.  Raises PolicyError for another call or action."""
    policy = parse_entries(text, change.arch)
    entries = policy.entries.get(change.arch, {})
    line = text.strip().splitlines()[0]
    if [*entries] != [change.number] or len(policy.entries) > 1:
        message = f"the line must be an entry of {name_of(change.arch, change.number)}, and the only one"
        raise PolicyError("LINE", 1, 1, message, line, length=len(line))
    edited = entries[change.number]
    if not change.whole and (edited.action, edited.otherwise) != (entry.action, entry.otherwise):
        message = "the action must not change, only the conditions"
        raise PolicyError("LINE", 1, 1, message, line, "to remove the entry, reject the change", len(line))
    return edited


def read_line(prompt: str, text: str = "") -> str:
    """Print `prompt`, and return a line from the terminal; `text` is offered for editing.  A byte that is not in the terminal's
    encoding becomes a surrogate (PEP 383), which no policy may have.  Raises EOFError for ^D, KeyboardInterrupt for ^C."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # otherwise one such byte loses all decisions
    try:
        import readline
    except ImportError:  # Python may be built without it: the prompt shows the text instead
        return input(f"{prompt}[{text}] " if text else prompt) or text
    readline.set_startup_hook((lambda: readline.insert_text(text)) if text else None)
    try:
        return input(prompt)
    finally:
        readline.set_startup_hook(None)


def _editor() -> str:
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""


def _edited(text: str) -> str:
    """Have the user edit a text, and return the result; '' to keep the text unchanged."""
    if not _editor():
        return read_line("edit (empty: unchanged): ", text)
    with tempfile.TemporaryDirectory(prefix="callfence-") as folder:
        path = Path(folder, "line.policy")
        path.write_bytes(f"{text.rstrip()}\n".encode(errors="surrogateescape"))
        # The editor gets the terminal's signals, as under git.
        editor = subprocess.Popen(["sh", "-c", f'{_editor()} "$@"', "sh", path])
        old = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            status = editor.wait()
        finally:
            signal.signal(signal.SIGINT, old)
        if status:
            print(f"  {_editor()} failed with exit status {status}; the line is unchanged")
            return ""
        try:
            return path.read_bytes().decode(errors="surrogateescape")
        except OSError as error:
            print(f"  the file that {_editor()} was given cannot be read: {error.strerror}; the line is unchanged")
            return ""
