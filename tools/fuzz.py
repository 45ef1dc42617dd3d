"""Coverage-guided fuzzing of everything that reads a file somebody else may have written (`make fuzz`).

    fuzz.py TARGET [SECONDS [FOLDER]]

TARGET is policy, recording or filter.  FOLDER keeps the inputs that reached new code from one time to the next; an
input that breaks something is left in the current folder as crash-*, timeout-* or oom-*, and the exit status is not 0.
Needs atheris (`pip install atheris`), which the project itself does not depend on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["policygen", "tracer.abi", "json"]):
    from policygen import bpf, recording_file, region, symbolic
    from policygen.algebra import Space, TooComplexError
    from policygen.compile import CompileError, compile_policy
    from policygen.document import PolicyError, parse
    from policygen.lexer import decode
    from policygen.model import Policy
    from policygen.recording import Recording, merge

ROOT = Path(__file__).parent.parent
SLOWEST = 10
"""Seconds one input may take: more is a hang."""
LONGEST = 4096
"""Bytes of one input: what matters fits, and longer ones only slow the search down."""
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
        program = bpf.encode(bpf.decode(data[: len(data) & ~7]))
    except bpf.InvalidProgramError:
        return
    assert bpf.disassemble(program)
    space = Space(region.BITS, limit=20_000)
    try:
        function = symbolic.function(space, program)
    except (symbolic.UnsupportedError, TooComplexError):
        return
    for point in points:
        assert space.value(space.at(function, point)) == symbolic.meaning(bpf.run(program, region.event(point)))


TARGETS = {"policy": policy, "recording": recording, "filter": filter_}
WORDS = ("allow", "deny", "errno", "else", "if", "in", "has", "include", "arch", "table", "mmap: ", "prot", "flags", "&&", "||", "!(")
"""What a search by single bytes would be long in finding."""


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with."""
    policies = sorted((ROOT / "samples").glob("*.policy"))
    if target == "policy":
        return [one.read_bytes() for one in policies]
    if target == "recording":
        return [recording_file.text(Recording()).encode(), _RECORDING.encode()]
    made = []
    for one in policies:
        try:
            made.append(compile_policy(parse(one.read_text()).policy))
        except CompileError as error:
            print(f"fuzz: {one.name}: {error}", file=sys.stderr)
    return [*made, compile_policy(Policy({}))]


_RECORDING = """\
{"callfence recording": 1, "runs": 1, "observations": 2}
{"id": "9f2c", "started": 17, "command": ["./app", "-x"], "status": 0, "complete": true, "gaps": [], "warm": false}
{"arch": 3221225534, "number": 3, "arguments": [3], "executable": "/a", "counts": [1], "site": "a+1", "example": [3, 0, 0, 0, 0, 0]}
{"arch": 3221225534, "number": 9, "arguments": [null], "executable": "", "counts": [2], "site": "", "example": [0, 0, 0, 0, 0, 0]}
"""


def main() -> None:
    target, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "seeds").mkdir()
        for number, seed in enumerate(seeds(target)):
            (folder / "seeds" / str(number)).write_bytes(seed)
        (folder / "words").write_text("".join(f'"{word}"\n' for word in WORDS))
        corpus = Path(sys.argv[3]) if len(sys.argv) > 3 else folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        options = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-max_len={max(LONGEST, 32768)}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, f"-dict={folder / 'words'}", str(corpus), str(folder / "seeds")], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
