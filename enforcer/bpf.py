"""Classic BPF as bytes: join filters, compute what a filter answers, and put instructions before a filter.

Some of these instructions protect the helper.  The program runs as the same user as its helper, so a policy that allows
`kill` or `prlimit64` with any pid would let it stop the helper, and one that allows `ptrace` or `pidfd_open` might let it take
the helper's descriptors.  These calls fail with EPERM if they name the helper, as for a process of another user
(`tracer.pids`).  So do the ioctl commands by which a supervisor answers calls: a program that got hold of a listener could
otherwise let its own denied calls run.

Every start of `enforce` imports this, so it imports little itself; `policygen.filter.bpf` knows the whole language.
"""

from __future__ import annotations

import errno
import os

from callfence.enforcer.importer import read_file
from callfence.tracer import TYPE_CHECKING, linux, machine
from callfence.tracer.machine import MACHINE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    Line = str | tuple[int, int | str] | tuple[int, int, str, str]
    """A label; an instruction with its operand, or with the label that it jumps to; a conditional jump with the labels for
    true and false, "" for the next instruction."""

LOAD, EQUAL, GREATER, AT_LEAST, HAS, AND = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54
"""BPF_LD|BPF_W|BPF_ABS; BPF_JMP with BPF_JEQ, BPF_JGT, BPF_JGE and BPF_JSET, and BPF_ALU|BPF_AND, each with BPF_K
(linux/bpf_common.h)."""
JUMP, RETURN = linux.BPF_JA, linux.BPF_RET_K
KEEP, KEPT, RETURN_KEPT = 0x01, 0x87, 0x16
"""BPF_LDX|BPF_IMM, BPF_MISC|BPF_TXA and BPF_RET|BPF_A, by which `chain` keeps an answer in the index register.  The operand of
the last, which the kernel ignores, is the action of the answer, SECCOMP_RET_*, without its data."""
NUMBER, ARCH, ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data (linux/seccomp.h)."""
ALL_RUN = RETURN.to_bytes(4, "little") + linux.SECCOMP_RET_ALLOW.to_bytes(4, "little")
"""A filter that allows every call."""
SHIELD_ROOM, RECEIVING_ROOM, EXITS_ROOM, LISTENER_ROOM, KEY_ROOM = 161, 9, 13, 17, 81
"""The most instructions that `shielded` (these two), `notifying_on_exit`, `without_listener` and `arming.inject.Key.passing`
add."""
ROOM = SHIELD_ROOM + RECEIVING_ROOM + EXITS_ROOM + LISTENER_ROOM + KEY_ROOM
_SIZE = linux.BPF_INSTRUCTION
_WORD = 0xFFFFFFFF
_RUNS = (linux.SECCOMP_RET_ALLOW, linux.SECCOMP_RET_LOG)
_DENIALS = (
    linux.SECCOMP_RET_KILL_PROCESS, linux.SECCOMP_RET_KILL_THREAD, linux.SECCOMP_RET_TRAP, linux.SECCOMP_RET_ERRNO
)  # fmt: skip
_WORDS = 16
"""32-bit words of struct seccomp_data."""


def assembled(lines: Sequence[Line]) -> bytes:
    """Assemble instructions and labels (strings) into the bytes of a program."""
    places: dict[str, int] = {}
    count = 0
    for line in lines:
        if isinstance(line, str):
            places[line] = count
        else:
            count += 1
    program = b""
    count = 0
    for line in lines:
        if isinstance(line, str):
            continue
        count += 1
        code, operand, *targets = line
        k = places[operand] - count if isinstance(operand, str) else operand
        jumps = bytes(places[target] - count if target else 0 for target in targets or ("", ""))
        program += code.to_bytes(2, "little") + jumps + k.to_bytes(4, "little")
    return program


_CODES = frozenset((LOAD, EQUAL, GREATER, AT_LEAST, HAS, AND, JUMP, RETURN, KEEP, KEPT, RETURN_KEPT))


class Filter:
    """A filter whose answers are computed in this process, as the kernel computes them.  Its methods raise ValueError at an
    instruction that our compilers never emit."""

    def __init__(self, program: bytes) -> None:
        """`program`: an array of struct sock_filter."""
        self._program = program
        self._instructions: dict[int, tuple[int, int, int, int]] = {}
        """Those that were looked at, by their place: to look at all takes half a millisecond of a start."""
        self._constant: dict[tuple[int, int], int | None] = {}
        """The answer by architecture and number of a call; None if the answer depends on the arguments."""

    def answer(self, arch: int, number: int, ip: int, arguments: Sequence[int]) -> int:
        """Return the 32-bit answer to a call: SECCOMP_RET_* with its data."""
        call = arch, number
        if call not in self._constant:
            self._constant[call] = self.constant({NUMBER: number, ARCH: arch})
        answer = self._constant[call]
        if answer is None:
            words = [half for value in (ip, *arguments) for half in (value & _WORD, value >> 32)]
            answer = self._answer([number, arch, *words])
            assert answer is not None
        return answer

    def constant(self, known: Mapping[int, int]) -> int | None:
        """Return the answer to each call with these 32-bit words, by where they are in struct seccomp_data; None if it depends
        on the others."""
        return self._answer([known.get(place) for place in range(0, 4 * _WORDS, 4)])

    def allows(self, arch: int, number: int, ip: int, arguments: Sequence[int]) -> bool:
        """Return whether the filter allows the call, perhaps logging it."""
        return self.answer(arch, number, ip, arguments) & linux.SECCOMP_RET_ACTION_FULL in _RUNS

    def _answer(self, words: Sequence[int | None]) -> int | None:
        """Return the answer for the 32-bit words of struct seccomp_data; None if it depends on an unknown word, None."""
        accumulator: int | None = 0
        place = kept = 0
        while True:
            code, if_true, if_false, operand = self._instruction(place)
            place += 1
            if code == LOAD:
                accumulator = words[operand >> 2]
            elif code == RETURN:
                return operand
            elif code == JUMP:
                place += operand
            elif code == KEEP:
                kept = operand
            elif code == KEPT:
                accumulator = kept
            elif code == RETURN_KEPT:
                return accumulator
            elif accumulator is None:
                return None
            elif code == AND:
                accumulator &= operand
            else:
                place += if_true if _holds(code, accumulator, operand) else if_false

    def _instruction(self, place: int) -> tuple[int, int, int, int]:
        """Return the code, the jumps and the operand of the instruction at a place."""
        if place not in self._instructions:
            part = self._program[_SIZE * place : _SIZE * (place + 1)]
            code = int.from_bytes(part[:2], "little")
            if code not in _CODES:
                raise ValueError(f"a filter has the instruction {code:#x}")
            self._instructions[place] = code, part[2], part[3], int.from_bytes(part[4:], "little")
        return self._instructions[place]

    def may_allow(self, arch: int, number: int, *, reports: bool, known: Mapping[int, int] | None = None) -> bool:
        """Return whether the filter might let a call run with some arguments: by allowing it, or by notifying a tracer or a
        supervisor.  With `reports`, the supervisor is the helper, which lets no call run.  `known`: words of the call, by
        where they are in struct seccomp_data."""
        words = {ARCH: arch, NUMBER: number, **(known or {})}
        reached: set[tuple[int, int | None]] = set()
        ahead: list[tuple[int, int | None]] = [(0, None)]
        while ahead:
            at = ahead.pop()
            if at in reached:
                continue
            reached.add(at)
            place, accumulator = at
            code, if_true, if_false, operand = self._instruction(place)
            if code in (RETURN, RETURN_KEPT):
                action = operand & linux.SECCOMP_RET_ACTION_FULL
                if action not in _DENIALS and not (reports and action == linux.SECCOMP_RET_USER_NOTIF):
                    return True
            elif code == LOAD:
                ahead.append((place + 1, words.get(operand)))
            elif code == JUMP:
                ahead.append((place + 1 + operand, accumulator))
            elif code in (KEEP, KEPT):
                ahead.append((place + 1, None))
            elif code == AND:
                ahead.append((place + 1, None if accumulator is None else accumulator & operand))
            elif accumulator is None:
                ahead += [(place + 1 + if_true, None), (place + 1 + if_false, None)]
            else:
                ahead.append((place + 1 + (if_true if _holds(code, accumulator, operand) else if_false), accumulator))
        return False


def _holds(code: int, accumulator: int, operand: int) -> bool:
    """Return whether the condition of a jump is true for these unsigned words."""
    if code == EQUAL:
        return accumulator == operand
    if code == GREATER:
        return accumulator > operand
    if code == AT_LEAST:
        return accumulator >= operand
    return accumulator & operand != 0


def chain(filters: Sequence[bytes], *, reports: bool = False) -> bytes:
    """Return one program for all of `filters`, each an array of struct sock_filter that returns constants.

    The program gives the strictest answer of the filters, in the kernel's order (seccomp(2)); of equally strict ones, the first
    filter's.  With `reports`, a notification is stricter than all but a kill, because the helper judges by all policies, and
    ROOM instructions must be left.  Raises ValueError if there are no filters, or more instructions than the kernel takes.

    The filters cannot be installed one by one: the first would judge the `seccomp` call that installs the second, and a process
    can have only one listener (seccomp(2), EBUSY).  So each answer of a filter becomes a jump into a copy of the next filter,
    whose answers are at least as strict.  Classic BPF has no subroutines; but filters have few different actions, and answers
    with one action share a copy.  Where all filters allow a call, nothing is kept: so the kernel, which tries the program with
    each number once, still knows which calls need no run (kernel/seccomp.c, seccomp_is_const_allow)."""
    if not filters:
        raise ValueError("no filter")
    whole = filters[0]
    for filter_ in filters[1:]:
        whole = _followed(whole, filter_, reports)
    linux.check_length(whole, room=ROOM if reports else LISTENER_ROOM)
    return whole


def _followed(first: bytes, second: bytes, reports: bool) -> bytes:
    """Return a program that gives the stricter answer of two filters, of which the second keeps no answer."""
    whole, others = bytearray(first), {*_answers(second)}
    by_action: dict[int, list[tuple[int, int, bool]]] = {}
    for returned in _returns(first):
        by_action.setdefault(returned[1] & linux.SECCOMP_RET_ACTION_FULL, []).append(returned)
    for action, places in by_action.items():
        stricter = {other for other in others if _rank(other, reports) < _rank(action, reports)}
        if not stricter:
            continue
        keeps = action != linux.SECCOMP_RET_ALLOW  # of which there is one answer, the weakest
        values = sorted({answer for _, answer, is_kept in places if not is_kept}) if keeps else []
        entries = {value: len(whole) + 2 * _SIZE * index for index, value in enumerate(values)}
        begin = len(whole) + 2 * _SIZE * len(values)
        for start, answer, is_kept in places:
            _jump(whole, start, begin if is_kept else entries.get(answer, begin))
        for value in values:
            whole += assembled([(KEEP, value), (JUMP, (begin - entries[value]) // _SIZE - 2)])
        whole += _keeping(second, stricter, action) if keeps else second
    return bytes(whole)


def _keeping(program: bytes, stricter: Collection[int], action: int) -> bytes:
    """Return the program with the answer that is kept, one with this action, in place of all but the stricter ones."""
    whole = bytearray(program)
    for start, answer, _ in _returns(program):
        if answer not in stricter:
            _jump(whole, start, len(program))
    return bytes(whole) + assembled([(KEPT, 0), (RETURN_KEPT, action)])


def _jump(program: bytearray, start: int, to: int) -> None:
    """Replace the instruction at an offset by a jump ahead to another offset."""
    program[start : start + _SIZE] = linux.BPF_JA.to_bytes(4, "little") + _word((to - start) // _SIZE - 1)


def _answers(program: bytes) -> list[int]:
    """Return the constants that the program returns, and the actions of the answers that it keeps."""
    return [answer for _, answer, _ in _returns(program)]


def _returns(program: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield where each instruction begins by which the program returns, its operand, and whether it returns an answer that is
    kept.  No code has a second byte."""
    codes = program[::_SIZE]
    for code in (RETURN, RETURN_KEPT):
        place = -1
        while (place := codes.find(code, place + 1)) >= 0:
            start = _SIZE * place
            yield start, int.from_bytes(program[start + 4 : start + _SIZE], "little"), code == RETURN_KEPT


def _rank(answer: int, reports: bool) -> int:
    """Return how strict an answer is: the smaller, the stricter."""
    action = answer & linux.SECCOMP_RET_ACTION_FULL
    if action in (linux.SECCOMP_RET_KILL_PROCESS, linux.SECCOMP_RET_KILL_THREAD):
        return -2 if action == linux.SECCOMP_RET_KILL_PROCESS else -1
    return 0 if reports and action == linux.SECCOMP_RET_USER_NOTIF else action


_COMMANDS = (0xC0502100, 0xC0182101, 0x40082102, 0x80082102, 0x40182103, 0x40082104)
"""SECCOMP_IOCTL_NOTIF_RECV, _SEND, _ID_VALID and _ID_VALID_WRONG_DIR, _ADDFD, _SET_FLAGS (linux/seccomp.h)."""
ARCHITECTURES = tuple(convention.audit for convention in MACHINE.conventions)
"""AUDIT_ARCH_* of the calls that programs can make here."""
DENY: Line = (RETURN, linux.SECCOMP_RET_ERRNO | errno.EPERM)

EXITS = MACHINE.numbers_by_arch("exit", "exit_group")


def read_shield() -> bytes:
    """Read the instructions that deny calls on the helper (`make commands`, tools/make_helper_filter.py).  Raises OSError."""
    return read_file(f"{os.path.dirname(__file__)}/filters/{machine.NAME}/shield.filter")


def shielded(filter_: bytes, processes: Sequence[int], before: bytes = b"") -> bytes:
    """Return the filter after instructions that deny calls on these processes: the helper, and its stand-in if there is one;
    before all stand those of `_receiving_at_once`.

    kill(-1), which reaches every process of the user, is denied with SIGKILL and SIGSTOP: the helper ignores other signals.
    `before`: the result of `read_shield`, if that has been called already.  Raises OSError."""
    before = before or read_shield()
    for placeholder, pid in zip(NO_PIDS, processes, strict=False):
        for sign in (1, -1):
            before = before.replace(_word(sign * placeholder), _word(sign * pid))
    return _receiving_at_once(before + filter_)


def _receiving_at_once(filter_: bytes) -> bytes:
    """Return the filter after RECEIVING_ROOM instructions that let recvfrom(2) run at once if its fifth argument is NULL, where
    the filter lets it run whatever the others are; the filter alone where it does not.  Servers receive often, and the kernel
    keeps no answer that depends on an argument."""
    halves = ARGUMENTS + 8 * 4, ARGUMENTS + 8 * 4 + 4
    looks = LOAD.to_bytes(4, "little") + _word(halves[0])
    known = {NUMBER: MACHINE.native.numbers["recvfrom"], ARCH: MACHINE.native.audit, **dict.fromkeys(halves, 0)}
    if looks not in filter_ or Filter(filter_).constant(known) != linux.SECCOMP_RET_ALLOW:
        return filter_
    same = [line for place in (ARCH, NUMBER, *halves) for line in ((LOAD, place), (EQUAL, known[place], "", "on"))]
    return assembled([*same, (RETURN, linux.SECCOMP_RET_ALLOW), "on"]) + filter_


def without_listener(filter_: bytes) -> bytes:
    """Return the filter after instructions that deny receiving and answering notifications of any listener."""
    lines: list[Line] = [(LOAD, ARCH)]
    for arch, number in MACHINE.calls("ioctl"):
        lines += [(EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER), (EQUAL, number, "ioctl", "end"), f"not {arch}"]
    lines += [(JUMP, "end"), "ioctl", (LOAD, ARGUMENTS + 8), *((EQUAL, command, "deny", "") for command in _COMMANDS)]
    return assembled([*lines, (JUMP, "end"), "deny", DENY, "end"]) + filter_


def notifying(program: bytes) -> bytes:
    """Return instructions that notify the helper where these fail a call.  Without a listener such a call fails with ENOSYS; a
    filter that is installed later is heard about it all the same, since a notification is less strict than an errno."""
    ask = linux.SECCOMP_RET_USER_NOTIF
    whole = bytearray(program)
    for start, answer, _ in _returns(program):
        if answer & linux.SECCOMP_RET_ACTION_FULL == linux.SECCOMP_RET_ERRNO:
            whole[start : start + _SIZE] = assembled([(RETURN, ask)])
    return bytes(whole)


def notifying_on_exit(filter_: bytes) -> bytes:
    """Return the filter after EXITS_ROOM instructions that notify the helper before a process or a thread exits."""
    lines: list[Line] = [(LOAD, ARCH)]
    for arch, numbers in EXITS.items():
        lines += [(EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER), *((EQUAL, number, "ask", "") for number in numbers)]
        lines += [(JUMP, "end"), f"not {arch}"]
    return assembled([*lines, (JUMP, "end"), "ask", (RETURN, linux.SECCOMP_RET_USER_NOTIF), "end"]) + filter_


def notifying_filter(calls: Sequence[tuple[int, int]], with_address: Sequence[tuple[int, int]] = ()) -> bytes:
    """Return a filter that notifies the helper of these calls (AUDIT_ARCH_* and number, ascending), of those `with_address`
    only if their fifth argument is not NULL, and lets all others run."""
    lines: list[Line] = [(LOAD, ARCH)]
    for arch in dict.fromkeys(arch for arch, _ in (*calls, *with_address)):
        lines += [(EQUAL, arch, "", f"not {arch}"), (LOAD, NUMBER)]
        lines += [(EQUAL, number, "ask", "") for of, number in calls if of == arch]
        lines += [(EQUAL, number, "look", "") for of, number in with_address if of == arch]
        lines += [(JUMP, "end"), f"not {arch}"]
    halves = (ARGUMENTS + 8 * 4, ARGUMENTS + 8 * 4 + 4)
    lines += [(JUMP, "end"), "look", (LOAD, halves[0]), (EQUAL, 0, "", "ask"), (LOAD, halves[1]), (EQUAL, 0, "end", "ask")]
    return assembled([*lines, "ask", (RETURN, linux.SECCOMP_RET_USER_NOTIF), "end", (RETURN, linux.SECCOMP_RET_ALLOW)])


def _word(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


NO_PIDS = (0x7FFFFF01, 0x7FFFFF02)
"""The placeholders for the pids of the helper and its stand-in in shield.filter: no pid is as large (linux/threads.h)."""
