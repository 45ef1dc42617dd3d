"""Run a command that a language model chose, confined by a policy, and let the harness answer what the policy denies.

    python harness.py POLICY COMMAND...

Rules that are cheap to check come first, then the model is told what its command was denied and may say why it needs it; what
would be dangerous is left to a person, and is denied here.
"""

import sys

import callfence

NEVER = ("ptrace", "bpf", "mount", "setns", "init_module")
HOSTS = ("api.example.org:", "packages.example.org:")
PLACES = ("tcp connect", "udp send", "dns query", "unix connect")


def ask_model(text: str) -> str:
    """What a real harness sends to its model: here, the model always has the same reason."""
    print(f"to the model: {text}", file=sys.stderr)
    return "the command needs it for its work"


def decide(question: callfence.Question) -> str | tuple[str, str]:
    """The answer to one question, with a reason."""
    call = question.record["call"]
    lines = [line.split("\n")[-1] for line in question.lines]  # `arch NAME` may come before it
    if question.danger or any(line.startswith(NEVER) for line in lines):
        return "no", f"left to a person: {question.danger or call}"
    if any(line.startswith(PLACES) and not line.split()[2].startswith(HOSTS) for line in lines):
        return "no", "not one of the hosts of this project"
    if question.takes_effect == "next start":
        return "no", "files are granted by people"
    reason = ask_model(f"`{call}` was denied. Why does the command need it?")
    return "run", reason


if __name__ == "__main__":
    done = callfence.run(sys.argv[2:], sys.argv[1], decide, name="the harness")
    sys.exit(done.returncode)
