"""Text of policies, logs and messages without names: for reports that strangers read.

`masked` of policygen.evidence.words replaces what looks like a secret; this replaces every word but those of the policy
language, of the kernel's interface and of our records, so that no path, host, user or value of an argument is left.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Collection
from functools import cache

from callfence.policygen.evidence.words import masked
from callfence.policygen.language.layout import SETTINGS
from callfence.tracer.abi import Arch, constants, table

_LANGUAGE = """
    after allow any arch bind connect create deny device dns else errno execute exec entry fifo floor if in include kill later
    learned list many move none notify now on_next_syscall opaque optional path phase query read remove required secret send
    signals sockets abstract socket start symlink tcp trap udp unix until why without write
"""
_RECORDS = """
    version event time host unit container pod image sequence run policies file sha256 mode best_effort pid parent executable
    command folder call number arguments verdict action ungranted ungrantable site evidence line risk level rule grants
    count answer who calls message status signal denied lost complete name namespace uid start answered refused end enforce
    audit audited once always no true false null danger warning note
"""
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]{1,4}|\d{1,4}|\d{1,5}-\d{1,5}|\d\.\d{1,2})", re.ASCII)
"""Numbers that are kept: small ones, ranges of ports, and versions of Linux; not pids, addresses and pointers."""
_WORD = re.compile(r"[^\s,|&=!<>(){}\[\]\"\\]+")


def own_names() -> set[str]:
    """Return the names of this machine and of this user, and the user's home."""
    names = {os.uname().nodename, os.environ.get("USER", ""), os.environ.get("HOME", "")}
    try:
        user = pwd.getpwuid(os.getuid())
        names |= {user.pw_name, user.pw_dir}
    except KeyError:  # it has no name
        pass
    return names - {"", "/", "root", "/root"}


def without_secrets(text: str) -> str:
    """Return the text with `<secret>` in place of what looks like one."""
    return "\n".join(map(masked, text.split("\n")))


def without_names(text: str, own: Collection[str]) -> str:
    """Return the text of a policy or a log with `<N>` in place of each word that is none of the language, the ABI or our
    records; a word has the same number each time.  The words `own` are replaced even if they are."""
    numbers: dict[str, int] = {}

    def replaced(match: re.Match[str]) -> str:
        bare = match[0].strip(":")
        if not bare or (bare not in own and (bare in _known() or _NUMBER.fullmatch(bare) or not re.search(r"\w", bare))):
            return match[0]
        return match[0].replace(bare, f"<{numbers.setdefault(bare, len(numbers) + 1)}>")

    return _WORD.sub(replaced, text)


def without_places(text: str, own: Collection[str]) -> str:
    """Return a message of ours with `<path>` in place of each path, and `<name>` in place of the words `own`."""
    text = re.sub(r"(?<![\w.])~?/(?!proc/|sys/|dev/null|dev/full)[^\s:;,'\")]+", "<path>", text)
    for name in sorted(own, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", text)
    return text


@cache
def _known() -> frozenset[str]:
    words = {*_LANGUAGE.split(), *_RECORDS.split(), *SETTINGS, *Arch}
    for arch in Arch:
        for call in table(arch).by_number.values():
            words |= {call.name, *(argument.name for argument in call.arguments)}
    for family in constants.families():
        for arch in Arch:
            words |= constants.family(family, arch).names.keys()
    return frozenset(words)
