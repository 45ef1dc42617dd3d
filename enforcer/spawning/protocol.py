"""What a client and the spawner write to each other, byte for byte (docs/spawn.md).

Numbers have 32 bits, in the machine's order.  A request is MAGIC, the number of words, the number of variables and the size of
the strings, then the strings, each with a NUL: the words of an `enforce` command line, then the environment.  With its first
bytes come one or two descriptors: the working folder, and standard error unless that is closed.

An answer is MAGIC, a status, the number of rulesets, the index of the program among the words and the size of the text; then
for each ruleset its flags and a name of 16 bytes; then the text.  With status 0 that is the paths at which the program is
looked for, each with a NUL; otherwise it is a message, and the status is the client's.  With the first bytes come the
descriptors of the rulesets.
"""

from __future__ import annotations

from callfence.enforcer.errors import EnforceError
from callfence.tracer import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"cfspawn1"
REQUEST_HEAD, ANSWER_HEAD = len(MAGIC) + 3 * 4, len(MAGIC) + 4 * 4
"""The sizes of the two heads in bytes."""
NAME = 16
"""The size of a ruleset's name in bytes: that of a thread's (prctl(2), PR_SET_NAME)."""
MAX_STRINGS = 8 << 20
"""The most bytes of strings: more than execve(2) takes (6 MiB, fs/exec.c bprm_stack_limits())."""
DESCRIPTORS = 2
"""The most descriptors of a request."""
_WORD = 4


class Request:
    """What a client wants to be."""

    __slots__ = ("environment", "words")

    def __init__(self, words: list[bytes], environment: list[bytes]) -> None:
        self.words = words
        """The words of an `enforce` command line, without the command's name."""
        self.environment = environment
        """The program's, each NAME=VALUE."""


def number(content: bytes, place: int) -> int:
    """Return the number that begins at a byte of a message."""
    return int.from_bytes(content[place : place + _WORD], "little")


def request_size(head: bytes) -> int:
    """Return how many bytes of strings follow the head of a request.  Raises EnforceError if it is not one."""
    if head[: len(MAGIC)] != MAGIC:
        raise EnforceError("this is no request, or that of a client of another version of callfence")
    size = number(head, len(MAGIC) + 8)
    if size > MAX_STRINGS:
        raise EnforceError(
            f"the command line and the environment have {size} bytes, more than the {MAX_STRINGS} that `callfence spawn` "
            "takes: shorten the environment, or use enforce"
        )
    return size


def request(head: bytes, strings: bytes) -> Request:
    """Return the request of a head and its strings.  Raises EnforceError if they do not fit each other."""
    words, variables = number(head, len(MAGIC)), number(head, len(MAGIC) + 4)
    parts = strings.split(b"\0")
    if parts.pop() or len(parts) != words + variables:
        raise EnforceError("the request has other strings than its head says")
    return Request(parts[:words], parts[words:])


def encoded(words: Sequence[bytes], environment: Sequence[bytes]) -> bytes:
    """Return the request of a client."""
    strings = b"".join(text + b"\0" for text in (*words, *environment))
    return MAGIC + _numbers(len(words), len(environment), len(strings)) + strings


def answer(status: int, text: bytes, rulesets: Sequence[tuple[int, bytes]] = (), first: int = 0) -> bytes:
    """Return an answer.  `rulesets`: flags and name of each; `first`: the index of the program among the request's words."""
    names = b"".join(_numbers(flags) + name.ljust(NAME, b"\0") for flags, name in rulesets)
    return MAGIC + _numbers(status, len(rulesets), first, len(text)) + names + text


def descriptors(data: bytes) -> list[int]:
    """Return the descriptors of a message's part of type SCM_RIGHTS (unix(7))."""
    return [number(data, place) for place in range(0, len(data) // _WORD * _WORD, _WORD)]


def packed(numbers: Sequence[int]) -> bytes:
    """Return the part of a message that sends descriptors."""
    return _numbers(*numbers)


def _numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(_WORD, "little") for value in values)
