"""Put questions to a person, on the terminal of the program."""

from __future__ import annotations

import errno
import os
import re
import sys
import termios
import time
from contextlib import suppress
from io import StringIO

from callfence.asking.questions import MEANINGS, Given, Question
from callfence.enforcer.reporting.asker import ALWAYS, GRANTING, KILL, NO
from callfence.shared.terminal import folded, print_lines
from callfence.shared.text import printable
from callfence.tracer.proc import fields

_MAX_LINE = 4096
_REFUSALS = (NO, KILL)
_LETTERS = {*"".join(_REFUSALS)}
"""The program may take letters away from what is typed, by reading them or by the terminal's settings (VERASE): what is left
of a refusal must not grant, so a grant needs another letter."""
_PROOF = "bdfghjkmpqtvxz"
"""What the letters are chosen from that a grant needs.  The program can have the terminal type: its reports, as of the cursor's
place, cut to size by keys that the program has set (VKILL, VEOF).  But nothing lets it read what another process has shown."""
_LENGTH = 3
_COLUMNS = 20, 80
"""The fewest and the most columns that lines are folded for: the program can set them (TIOCSWINSZ), and forges nothing."""
_PAUSE = 0.05
"""Seconds until what is typed is read again, if another group of processes has the terminal."""
_MAX_WRONG = 10
"""The most grants with wrong letters, after which there is only a no: the program could guess."""


def _is_short_for(word: str, answer: str) -> bool:
    """Return whether a word is the beginning of an answer, and enough of it."""
    return answer.startswith(word) and (bool({*word} - _LETTERS) if answer not in _REFUSALS else bool(word))


def _marked(answer: str) -> str:
    """Return an answer with the part in brackets that is enough of it."""
    end = next(end for end in range(1, len(answer) + 1) if _is_short_for(answer[:end], answer))
    return f"[{answer[:end]}]{answer[end:]}"


def _has_more_filters(group: int) -> bool:
    """Return whether a process of a group has more seccomp filters than this one: it is the program's.  The shell in which
    `enforce` runs in the background reads the terminal for itself."""
    own = int(fields("/proc/self").get("Seccomp_filters", 0))
    found = (fields(f"/proc/{name}") for name in os.listdir("/proc") if name.isdigit())
    return any(
        int(each.get("Seccomp_filters", 0)) > own for each in found if each.get("NSpgid", "").split()[:1] == [str(group)]
    )


class _Shown(StringIO):
    """Text for a terminal, coloured as for one."""

    def isatty(self) -> bool:
        return True


class Terminal:
    """The controlling terminal.  One question is put at a time."""

    at_once = 1
    outlives = False  # the shell reads the terminal then

    def __init__(self) -> None:
        """Open the terminal.  Raises OSError if there is none."""
        # The program may read what is typed after poll(2) has seen it here, and it may stop the terminal (tcflow(3)).
        self._descriptor = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self.name = os.environ.get("USER") or os.environ.get("LOGNAME") or f"user {os.getuid()}"
        self._unsent = b""
        """What the terminal does not take yet."""
        self._group = os.getpgrp()
        """The group of processes in which `enforce` was started."""
        self._question: Question | None = None
        self._proof = ""
        self._wrong = 0
        """How many grants had wrong letters."""
        self._reason_for = False
        """Whether the next line is the reason for `always`."""
        self._typed = b""
        """The beginning of a line: the program may have switched off that a read waits for its end (termios(3), ICANON)."""

    def rehearse(self) -> None:
        print_lines(["danger: x", "y"], StringIO())

    def fileno(self) -> int:
        return self._descriptor

    def descriptors(self) -> tuple[int, ...]:
        return (self._descriptor,)

    @property
    def is_behind(self) -> bool:
        return bool(self._unsent)

    def send(self) -> None:
        with suppress(BlockingIOError):
            self._unsent = self._unsent[os.write(self._descriptor, self._unsent) :]

    def finish(self) -> None:
        pass

    def put(self, question: Question, timeout: float) -> None:
        self._question, self._reason_for, self._typed = question, False, b""
        with suppress(termios.error):  # what was typed before was not an answer
            termios.tcflush(self._descriptor, termios.TCIFLUSH)
        record = question.record
        who = f"{record.get('executable') or 'a program'} (pid {record.get('pid')})"
        command = " ".join(record.get("command") or ())
        waits = "waits" if question.holds else "was denied; an answer counts from the next start"
        self._print("")
        self._print(f"callfence: {record.get('call') or 'a call'} {waits}")
        self._print(f"  by       {who} at {record.get('site')}")
        if command:
            self._print(f"  command  {command}")
        for each in question.lines:
            for line in each.line.split("\n"):  # one that belongs to a section follows `arch NAME`
                self._print(f"  rule     {line}")
            self._print(f"  policy   {each.file}")
            if each.risk:
                self._print(f"  {each.risk['level']}: it {each.risk['grants']} [{each.risk['rule']}]")
        self._choose(question)
        self._ask(timeout)

    def _choose(self, question: Question) -> None:
        """Choose other letters, and show them."""
        self._proof = "".join(_PROOF[byte % len(_PROOF)] for byte in os.urandom(_LENGTH))
        example = next((each for each in question.answers if each in GRANTING), "")
        if example:
            self._print(f"  a yes    takes {self._proof} after it, as in `{example} {self._proof}`")

    def _ask(self, timeout: float = 0) -> None:
        if self._question:
            words = " ".join(map(_marked, self._question.answers))
            limit = f" ({timeout:g} s, then no)" if timeout else ""
            self._show(f"{words} [?]{limit}: ")

    def read(self) -> list[Given]:
        part = self._part()
        if part is None:
            return []
        line, *rest = re.split(rb"[\r\n]", (self._typed + part)[-_MAX_LINE:])
        self._typed = line if part and not rest else b""  # an empty part is ^D, which ends a line, too
        question = self._question
        if question is None or (part and not rest):
            return []
        text = line.decode(errors="replace").strip()
        if self._reason_for:
            return [Given(question.id, ALWAYS, text)]
        word, _, proof = text.lower().partition(" ")
        answer = next((each for each in question.answers if _is_short_for(word, each)), "")
        if answer in GRANTING and (proof.strip() != self._proof or self._wrong >= _MAX_WRONG):
            self._wrong += bool(proof)
            if self._wrong >= _MAX_WRONG:
                self._print("  too many had wrong letters: there is only a no from now on")
                return [Given(question.id, NO)]
            self._choose(question)
            self._ask()
            return []
        if not answer:
            for each in question.answers:
                self._print(f"  {each:7} {MEANINGS[each]}")
            self._ask()
            return []
        if answer == ALWAYS:
            self._reason_for = True
            self._show("reason (written as a `# why:` comment; empty for none): ")
            return []
        return [Given(question.id, answer)]

    def _part(self) -> bytes | None:
        """Return what has been typed; None if the program has read it, or another group of processes took the terminal.

        Only processes of the group in the foreground may read a terminal, and a confined shell with job control makes a group
        for each of its commands: this process joins that."""
        with suppress(OSError):  # all of that group have ended
            group = os.tcgetpgrp(self._descriptor)
            if group == self._group or _has_more_filters(group):
                os.setpgid(0, group)
        try:
            return os.read(self._descriptor, _MAX_LINE)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EIO or os.tcgetpgrp(self._descriptor) == os.getpgrp():
                raise
            time.sleep(_PAUSE)
            return None

    def done(self, question: Question, answer: str, problem: str) -> None:
        if problem:
            self._reason_for = False
            self._print(f"  {problem}")
            self._ask()
        else:
            self._end()

    def _end(self) -> None:
        """Ask nothing any more, and leave the program's processes, which may wait until their group is empty, or kill it."""
        self._question = None
        with suppress(OSError):
            os.setpgid(0, 0)

    def expired(self, question: Question) -> None:
        self._end()
        self._print("")
        self._print(f"callfence: not answered: {NO}")

    def _print(self, line: str) -> None:
        try:
            columns = os.get_terminal_size(self._descriptor).columns or _COLUMNS[1]
        except OSError:
            columns = _COLUMNS[1]
        shown = _Shown()
        print_lines(folded(printable(line), min(max(columns, _COLUMNS[0]), _COLUMNS[1])), shown)
        self._show(shown.getvalue())

    def _show(self, text: str) -> None:
        """Write to the terminal, as much of it as that takes without waiting, and the rest later."""
        self._unsent += text.encode(sys.getfilesystemencoding(), "backslashreplace")
        self.send()
