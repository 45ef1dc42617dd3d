"""`python -m callfence`."""

from callfence import memory

memory.end_in_a_line()

from callfence.cli import main  # noqa: E402

main()
