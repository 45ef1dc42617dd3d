"""Read DNS messages (RFC 1035): the question, and from an answer the addresses that belong to the name that was asked for.

Only what judging needs is read.  A message that is malformed, or longer than a few hundred records, has no question or no
answer here, and is not forwarded.
"""

from __future__ import annotations

from callfence.tracer import TYPE_CHECKING
from callfence.tracer.named import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

A, CNAME, PTR, AAAA, SRV, OPT, SVCB, HTTPS = 1, 5, 12, 28, 33, 41, 64, 65
"""Types of records (RFC 1035, 2782, 3596, 6891, 9460)."""
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
"""Response codes (RFC 1035, 4.1.1)."""
INTERNET = 1
"""The class IN."""
HEAD = 12
"""Bytes of the header."""
MAX_RECORDS = 512
"""The most records, and the most addresses, of an answer that are read."""
_MAX_OF_QUERY = 4
"""The most records of a query that are read: programs send an OPT and perhaps a signature (RFC 6891, 8945)."""
_ANSWERS, _TRUNCATED, _WANTS_RECURSION, _CAN_RECUR = 1 << 15, 1 << 9, 1 << 8, 1 << 7
_POINTER, _LABEL = 0xC0, 63
_POINTERS = 127
"""The most pointers in a name: as many as labels, of which each that is compressed needs one."""
_HINTS = {4: 4, 6: 16}
"""The SvcParamKeys ipv4hint and ipv6hint (RFC 9460, 14.3.2) -> the bytes of an address."""


class DnsError(ValueError):
    """The bytes are no DNS message, or one with more than is read."""


class Question(NamedTuple):
    """The only question of a message."""

    id: int
    """The message's id, 16 bits."""
    name: str
    """The name in lower case, without the dot at its end; a byte that is no printable ASCII is `\\DDD` (RFC 1035, 5.1)."""
    type: int
    end: int
    """The number of bytes up to the end of the question."""


class Answer(NamedTuple):
    """What an answer says of the name that was asked for."""

    code: int
    """The response code."""
    truncated: bool
    """Whether the answer is incomplete, so that it is asked for again by TCP."""
    names: tuple[str, ...]
    """The name, and those that it leads to: by CNAME, SRV, SVCB and HTTPS records."""
    addresses: tuple[bytes, ...]
    """The addresses of these names: 4 or 16 bytes each."""
    ttl: int
    """Seconds for which they may be kept: the least of the records."""


class _Record(NamedTuple):
    name: str
    type: int
    ttl: int
    start: int
    """Where its data begins."""
    length: int


def question_of(message: bytes, *, is_answer: bool = False) -> Question:
    """Return the question of a query, or of an answer.  Raises DnsError, also if there is not exactly one, of class IN."""
    flags, questions = _word(message, 2), _word(message, 4)
    if len(message) < HEAD or questions != 1 or bool(flags & _ANSWERS) is not is_answer or (flags >> 11) & 15:
        raise DnsError("no single question")
    name, end = _name(message, HEAD, may_point=False)
    kind, group = _word(message, end), _word(message, end + 2)
    if group != INTERNET or end + 4 > len(message):
        raise DnsError("no question of class IN")
    return Question(_word(message, 0), name, kind, end + 4)


def answer_of(message: bytes) -> Answer:
    """Return what an answer says of the name that it was asked for.  Raises DnsError."""
    question = question_of(message, is_answer=True)
    flags = _word(message, 2)
    counts = [_word(message, at) for at in (6, 8, 10)]
    if sum(counts) > MAX_RECORDS:
        raise DnsError("too many records")
    records = [*_records(message, question.end, sum(counts), truncated=bool(flags & _TRUNCATED))]
    names: dict[str, None] = {question.name: None}
    addresses: dict[bytes, None] = {}
    ttl = 0xFFFFFFFF
    reached = records
    while reached:  # the records may be in any order
        reached, records = ([record for record in records if (record.name in names) is wanted] for wanted in (True, False))
        for record in reached:
            if record.type in (CNAME, SRV, SVCB, HTTPS):
                skipped = {CNAME: 0, SRV: 6}.get(record.type, 2)
                target = _name(message, record.start + skipped)[0] if record.length > skipped else ""
                names |= {target: None} if target else {}
                addresses |= dict.fromkeys(_hints(message, record)) if record.type in (SVCB, HTTPS) else {}
            elif (record.type, record.length) in ((A, 4), (AAAA, 16)):
                addresses[message[record.start : record.start + record.length]] = None
            else:
                continue
            if len(addresses) > MAX_RECORDS:
                raise DnsError("too many addresses")
            ttl = min(ttl, record.ttl)
    return Answer(flags & 15, bool(flags & _TRUNCATED), tuple(names), tuple(addresses), 0 if ttl == 0xFFFFFFFF else ttl)


def refusal(query: bytes, code: int) -> bytes:
    """Return the answer to a query that has no records and this response code.  Raises DnsError if it has no question."""
    question = question_of(query)
    flags = _ANSWERS | (_word(query, 2) & _WANTS_RECURSION) | _CAN_RECUR | code
    return query[:2] + flags.to_bytes(2, "big") + b"\0\1" + bytes(6) + query[HEAD : question.end]


def truncated(answer: bytes) -> bytes:
    """Return an answer without its records that asks for the question to be sent by TCP.  Raises DnsError."""
    question = question_of(answer, is_answer=True)
    flags = _word(answer, 2) | _TRUNCATED
    return answer[:2] + flags.to_bytes(2, "big") + b"\0\1" + bytes(6) + answer[HEAD : question.end]


def reduced(query: bytes, id_: int, size: int) -> bytes:
    """Return a query for the same name and type with another id that has nothing else of the query: its name is in lower case,
    and it takes answers by UDP of up to `size` bytes.  Raises DnsError."""
    question = question_of(query)
    flags = _word(query, 2) & _WANTS_RECURSION
    option = b"\0" + OPT.to_bytes(2, "big") + size.to_bytes(2, "big") + bytes(6)
    head = id_.to_bytes(2, "big") + flags.to_bytes(2, "big") + b"\0\1\0\0\0\0\0\1"
    return head + query[HEAD : question.end - 4].lower() + query[question.end - 4 : question.end] + option


def query(name: str, kind: int, id_: int) -> bytes:
    """Return a query for a name of plain labels."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    head = id_.to_bytes(2, "big") + _WANTS_RECURSION.to_bytes(2, "big") + b"\0\1" + bytes(6)
    return head + labels + b"\0" + kind.to_bytes(2, "big") + INTERNET.to_bytes(2, "big")


def restored(answer: bytes, query: bytes) -> bytes:
    """Return an answer to the `reduced` query as the answer to the original: with its id and its spelling of the name, and
    without EDNS if that had none.  Raises DnsError if the answer is to another question, or malformed."""
    asked, answered = question_of(query), question_of(answer, is_answer=True)
    if (asked.name, asked.type, asked.end) != (answered.name, answered.type, answered.end):
        raise DnsError("the answer is to another question")
    counts = [_word(answer, at) for at in (6, 8, 10)]
    records, end = answer[asked.end :], asked.end
    if _option(query, asked.end) is None:
        for place, record in enumerate(_records(answer, asked.end, min(sum(counts), MAX_RECORDS), truncated=True)):
            if record.type == OPT:  # its name is the root: one byte
                if place < counts[0] + counts[1]:
                    raise DnsError("an OPT record that is none of the additional records")
                records = answer[asked.end : end] + answer[record.start + record.length :]
                counts[2] -= 1
                break
            end = record.start + record.length
    head = query[:2] + answer[2:6] + b"".join(count.to_bytes(2, "big") for count in counts)
    return head + query[HEAD : asked.end] + records


def payload_size(query: bytes) -> int:
    """Return how many bytes of an answer by UDP the sender of a query takes (RFC 6891, 6.2.3); 512 without EDNS."""
    try:
        if option := _option(query, question_of(query).end):
            return max(512, _word(query, option.start - 8))
    except DnsError:
        pass
    return 512


def _option(query: bytes, end: int) -> _Record | None:
    """Return the OPT record of a query whose question ends there, if it is among the first records; else None.  Raises
    DnsError."""
    records = _records(query, end, min(sum(_word(query, at) for at in (6, 8, 10)), _MAX_OF_QUERY))
    return next((record for record in records if record.type == OPT), None)


def _records(message: bytes, at: int, count: int, *, truncated: bool = False) -> Iterator[_Record]:
    """Yield the records from a place on.  `truncated`: the message may end anywhere, also within a record."""
    for _ in range(count):
        try:
            name, at = _name(message, at)
            length = _word(message, at + 8)
            if at + 10 + length > len(message):
                raise DnsError("a record ends after the message")
        except DnsError:
            if truncated:
                return
            raise
        yield _Record(name, _word(message, at), _word(message, at + 4) << 16 | _word(message, at + 6), at + 10, length)
        at += 10 + length


def _hints(message: bytes, record: _Record) -> Iterator[bytes]:
    """Yield the addresses in an SVCB or HTTPS record."""
    end = record.start + record.length
    at = _name(message, record.start + 2)[1]
    while at + 4 <= end:
        key, length = _word(message, at), _word(message, at + 2)
        if size := _HINTS.get(key, 0):
            for start in range(at + 4, min(at + 4 + length, end) - size + 1, size):
                yield message[start : start + size]
        at += 4 + length


def _name(message: bytes, at: int, *, may_point: bool = True) -> tuple[str, int]:
    """Return the name at a place in a message, and the place after it."""
    labels: list[str] = []
    end = total = pointers = 0
    while True:
        if at >= len(message):
            raise DnsError("a name ends after the message")
        length = message[at]
        if length & _POINTER == _POINTER and may_point:
            target = _word(message, at) & 0x3FFF
            end = end or at + 2
            pointers += 1
            if target >= at or pointers > _POINTERS:  # it can only lead back, so this ends
                raise DnsError("a name leads forward, or too often back")
            at = target
            continue
        if length > _LABEL:
            raise DnsError("a label of an unknown kind")
        total += length + 1
        if total > 255:
            raise DnsError("a name is too long")
        at += 1
        if not length:
            return ".".join(labels), end or at
        if at + length > len(message):
            raise DnsError("a name ends after the message")
        labels.append(_label(message[at : at + length]))
        at += length


def _label(label: bytes) -> str:
    plain = all(33 <= byte <= 126 and byte not in b".\\" for byte in label)
    if plain:
        return label.decode("ascii").lower()
    return "".join(chr(byte) if 33 <= byte <= 126 and byte not in b".\\" else f"\\{byte:03d}" for byte in label).lower()


def _word(message: bytes, at: int) -> int:
    return int.from_bytes(message[at : at + 2], "big")
