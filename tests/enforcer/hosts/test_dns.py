"""Which DNS messages have a question that can be judged."""

from __future__ import annotations

import struct

import pytest

from callfence.enforcer.hosts.names.dns import OPT, Answer, DnsError, Question, answer_of, question_of, restored

NAME = b"\x03api\x07example\0"
QUERY = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + NAME + struct.pack(">HH", 28, 1)


def test_a_question() -> None:
    assert question_of(QUERY) == Question(7, "api.example", 28, len(QUERY))
    assert question_of(QUERY + b"further records") == question_of(QUERY)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(QUERY[:-2] + struct.pack(">H", 3), id="of class CHAOS"),
        pytest.param(QUERY[:-1], id="cut in its class"),
        pytest.param(QUERY[:-3], id="cut in its type"),
        pytest.param(QUERY[: len(QUERY) - 8], id="cut in its name"),
        pytest.param(QUERY[:11], id="cut in its head"),
        pytest.param(b"", id="empty"),
        pytest.param(QUERY[:4] + struct.pack(">H", 2) + QUERY[6:], id="two questions"),
        pytest.param(QUERY[:4] + struct.pack(">H", 0) + QUERY[6:], id="no question"),
        pytest.param(QUERY[:2] + struct.pack(">H", 0x8100) + QUERY[4:], id="an answer"),
        pytest.param(QUERY[:2] + struct.pack(">H", 0x2800) + QUERY[4:], id="an update"),
        pytest.param(QUERY[:12] + b"\xc0\x0c" + QUERY[-4:], id="a name that leads to itself"),
    ],
)
def test_no_question(message: bytes) -> None:
    with pytest.raises(DnsError):
        question_of(message)


@pytest.mark.parametrize("flags", [0x8380, 0x8180])
def test_a_truncated_answer_may_end_within_a_record(flags: int) -> None:
    """Resolvers then ask by TCP, whatever else it has."""
    record = b"\xc0\x0c" + struct.pack(">HHIH", 28, 1, 60, 16) + bytes(15) + b"\2"
    whole = struct.pack(">6H", 7, flags, 1, 2, 0, 0) + QUERY[12:] + 2 * record
    for cut in range(1, len(record)):
        message = whole[:-cut]
        if flags == 0x8380:
            assert answer_of(restored(message, QUERY)) == Answer(0, True, ("api.example",), (record[-16:],), 60)
            continue
        with pytest.raises(DnsError):
            answer_of(restored(message, QUERY))


@pytest.mark.parametrize("counts", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_edns_belongs_to_the_additional_records(counts: tuple[int, int, int]) -> None:
    """An answer of a name server that had it elsewhere ended the helper."""
    answer = struct.pack(">6H", 9, 0x8180, 1, *counts) + QUERY[12:] + struct.pack(">BHHIH", 0, OPT, 1232, 0, 0)
    if counts[2]:
        assert restored(answer, QUERY) == struct.pack(">6H", 7, 0x8180, 1, 0, 0, 0) + QUERY[12:]
    else:
        with pytest.raises(DnsError):
            restored(answer, QUERY)
