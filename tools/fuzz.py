"""Coverage-guided fuzzing of everything that reads files from others (`make fuzz`).

    fuzz.py TARGET [SECONDS [FOLDER]]

TARGET is policy, recording, filter, lift or formats.  FOLDER (build/fuzz/TARGET) keeps the inputs that reached new code
from one time to the next; an input that breaks something is left there as crash-*, timeout-* or oom-*, and the exit status
is not 0.
Needs atheris (`pip install atheris`), which the project itself does not depend on.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["callfence.policygen", "callfence.tracer.abi", "json"]):
    from callfence.policygen import formats
    from callfence.policygen.filter import bpf, symbolic
    from callfence.policygen.filter.compile import compile_policy
    from callfence.policygen.filter.lift import lift
    from callfence.policygen.language.document import PolicyError, new_document, parse
    from callfence.policygen.language.lexer import decode
    from callfence.policygen.model import Policy
    from callfence.policygen.recording import recording_file
    from callfence.policygen.recording.many import merge
    from callfence.policygen.recording.model import Recording
    from callfence.policygen.sets import region
    from callfence.policygen.sets.algebra import Space, TooComplexError
    from callfence.tracer.errors import CallfenceError

ROOT = Path(__file__).parent.parent
SLOWEST = 10
"""Seconds one input may take: more is a hang."""
LONGEST = 8192
"""Bytes of one input: longer ones only slow the search down."""
MENDED = 24
"""Instructions of a program made from an input that is none."""
POINTS = 8
"""Calls that a followed filter is compared with the interpreter on."""


def policy(data: bytes) -> None:
    """A text is a document, which reads back from its canonical form, or a PolicyError."""

    def read(name: str) -> str:
        return decode(data[::-1], name)

    try:
        document = parse(decode(data, "it"), "it", read=read)
    except PolicyError as error:
        assert str(error).startswith(("it:", error.filename))
        return
    text = document.text()
    again = parse(text, "it", read=read)
    assert again == document, text
    assert again.text() == text


def recording(data: bytes) -> None:
    """Bytes are a recording, which is written as it was read, or a RecordingError."""
    try:
        found = recording_file.parse(data, "it")
    except recording_file.RecordingError as error:
        assert str(error).startswith("it:")
        return
    assert recording_file.parse(recording_file.text(found).encode("ascii"), "it") == found
    assert merge(found, found) == merge(found, Recording()) == found


def filter_(data: bytes) -> None:
    """A program that the kernel would load is followed exactly or refused; any other is an InvalidProgramError."""
    points = [int.from_bytes((data[place:] + data)[:64].ljust(64, b"\0"), "big") for place in range(POINTS)]
    try:
        program = bpf.encode(bpf.decode(data))
    except bpf.InvalidProgramError:
        program = _mended(data)
    assert bpf.disassemble(program)
    space = Space(region.BITS, limit=5_000)
    try:
        function = symbolic.function(space, program)
    except (symbolic.UnsupportedError, TooComplexError):
        return
    for point in points:
        terminal = space.fixed(function, ((1 << space.bits) - 1, point))
        assert space.value(terminal) == symbolic.meaning(bpf.run(program, region.event(point)))


CODES = sorted(bpf.OPCODES)


def _mended(data: bytes) -> bytes:
    """The nearest program that the kernel would load, without scratch words: mutated bytes are hardly ever one."""
    fields = list(bpf.STRUCT.iter_unpack(data[: min(len(data), 8 * MENDED) & ~7]))
    made = []
    for place, (code, jt, jf, k) in enumerate(fields):
        code = code if code in bpf.OPCODES else CODES[code % len(CODES)]
        kind, left = code & 7, len(fields) - place
        if code & 0xE7 in (bpf.LD | bpf.MEM, bpf.LDX | bpf.MEM) or kind in (bpf.ST, bpf.STX):
            code, kind = bpf.LD | bpf.ABS, bpf.LD
        if code == bpf.LD | bpf.ABS:
            k = k % bpf.DATA_SIZE & ~3
        elif code == bpf.JMP | bpf.JA:
            k %= left
        elif kind == bpf.ALU and code & 0xF0 in (bpf.LSH, bpf.RSH):
            k %= 32
        elif code == bpf.ALU | bpf.DIV | bpf.K:
            k |= 1
        made.append(bpf.Instruction(code, jt % left, jf % left, k))
    return bpf.encode(bpf.decode(bpf.encode([*made, bpf.Instruction(bpf.RET | bpf.K, k=bpf.KILL_PROCESS)])))


def lifted(data: bytes) -> None:
    """Any filter that can be followed is read back into a policy, which `lift` proves; that reads back from its text."""
    program = _mended(data)
    try:
        symbolic.function(Space(region.BITS, limit=5_000), program)
        found = lift(program)
    except (symbolic.UnsupportedError, TooComplexError):
        return
    if not found.remarks:
        assert parse(new_document(found.policy, "it").text()).policy == found.policy


READERS = ("oci", "strace", "audit", "violations")


def foreign(data: bytes) -> None:
    """What another program reads or writes is a policy that reads back from its text, a recording that is written as it
    was read, or an ImportFormatError.  The first byte says which format."""
    name, rest = READERS[data[0] % len(READERS)] if data else "oci", data[1:]
    try:
        if formats.FORMATS[name].record:
            found = formats.recorder(name)(BytesIO(rest), "it", formats.FormatOptions())
            assert recording_file.parse(recording_file.text(found).encode("ascii"), "it") == found
        else:
            made = formats.reader(name)(rest, "it", formats.FormatOptions()).policy
            assert parse(new_document(made, "it").text()).policy == made
    except formats.ImportFormatError as error:
        assert str(error)
    except TooComplexError:
        return


TARGETS = {"policy": policy, "recording": recording, "filter": filter_, "lift": lifted, "formats": foreign}
WORDS = ("allow", "errno", "else", "if", "in", "has", "include", "arch", "mmap: ", "prot", "flags", "&&", "||", "!(", "#")
"""What a search by single bytes would be long in finding."""


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with."""
    policies = sorted((ROOT / "samples").glob("*.policy"))
    if target == "policy":
        return [one.read_bytes() for one in policies]
    if target == "formats":
        profiles = [b"\0" + one.read_bytes() for one in sorted((ROOT / "tests/data/profiles").glob("*.json"))]
        return [bytes([place]) + text.encode() for place, text in enumerate(_FOREIGN)] + profiles
    if target == "recording":
        return [recording_file.text(Recording()).encode(), _RECORDING.encode()]
    made = []
    for one in policies:
        try:
            made.append(compile_policy(parse(one.read_text()).policy))
        except CallfenceError as error:
            print(f"fuzz: {one.name}: {error}", file=sys.stderr)
    return [*made, compile_policy(Policy({}))]


_FOREIGN = (
    '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read", "socket"], "action": "SCMP_ACT_ALLOW", "args": '
    '[{"index": 0, "value": 1, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]}]}',
    '12 openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3\n12 read(3, "x"..., 832) = 832\n12 +++ exited with 0 +++\n',
    'type=SECCOMP msg=audit(1.2:3): auid=0 uid=0 gid=0 ses=1 pid=1 comm="a" exe="/bin/a" sig=31 arch=c000003e '
    "syscall=59 compat=0 ip=0x7f code=0x0\n",
    'type=LANDLOCK_ACCESS msg=audit(1.2:3): domain=1f blockers=fs.read_file,fs.execute path="/bin/a" dev="vda" ino=1\n'
    'type=SYSCALL msg=audit(1.2:3): exe="/bin/a"\ntype=1423 audit(1.2:4): blockers=net.connect_tcp dest=80\n',
    '{"time": "2026-01-02T03:04:05.678+00:00", "arch": "x86_64", "number": 83, "arguments": ["0x1", "0x1c0", '
    '"0x0", "0x0", "0x0", "0x0"], "executable": "/bin/a", "site": "a", '
    '"allow": [{"file": "a.policy", "line": ""}], "ungranted": ["path ./a: read"]}\n',
)

_RECORDING = """\
{"callfence recording": 3, "runs": 1, "observations": 2}
{"id": "9", "started": 1, "command": ["a"], "status": 0, "complete": true, "gaps": [], "warm": true, "executed": [["","/"]], \
"rehearsed": "x", "circumstances": ["a file", "", "", "root", "C"]}
{"arch": 3221225534, "number": 3, "arguments": [3], "executable": "/", "counts": [1], "site": "a", "example": [3,0,0,0,0,0]}
{"arch": 3221225534, "number": 9, "arguments": [null], "executable": "", "counts": [2], "site": "", "example": [0,0,0,0,0,0]}
"""


def main() -> None:
    target, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else ROOT / "build" / "fuzz" / target
    for name in ("corpus", "seeds"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (folder / "seeds" / str(number)).write_bytes(seed)
    (folder / "words").write_text("".join(f'"{word}"\n' for word in WORDS))
    options = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-max_len={LONGEST}", "-print_final_stats=1"]
    options += [f"-dict={folder / 'words'}", f"-artifact_prefix={folder}/", str(folder / "corpus"), str(folder / "seeds")]
    atheris.Setup([sys.argv[0], *options], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
